//! Progress: bars with rate and time left on a terminal, plain lines every few seconds elsewhere.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Bars on a terminal, plain lines elsewhere.
    Auto,
    /// A line every few seconds.
    Plain,
    /// Nothing.
    None,
}

/// Where bars and messages meet on one terminal.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bars: MultiProgress,
    plain: bool,
}

/// Seconds between plain lines.
const EVERY: Duration = Duration::from_secs(5);

/// Set by the first Ctrl-C or SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// Signals within this time are one: a terminal, `timeout` and `cargo xtask` may each pass the same one on.
const SAME_SIGNAL: Duration = Duration::from_secs(2);

/// Makes the first signal a request to save and stop, and the second an end at once.
pub(crate) fn listen_for_signals() -> Result<(), ctrlc::Error> {
    let mut first: Option<Instant> = None;
    ctrlc::set_handler(move || {
        STOP.store(true, Ordering::SeqCst);
        match first {
            Some(first) if first.elapsed() < SAME_SIGNAL => return,
            Some(_) => std::process::exit(130),
            None => first = Some(Instant::now()),
        }
        let _ = writeln!(io::stderr(), "stopping: saving first (once more to stop at once)");
    })
}

/// Whether a signal has asked to stop.
pub(crate) fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

impl Progress {
    pub(crate) fn new(mode: Mode) -> Self {
        let bars = mode == Mode::Auto && io::stderr().is_terminal();
        let target = if bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target), plain: !bars && mode != Mode::None }
    }

    pub(crate) fn task(&self, label: &str, total: u64, unit: &str) -> Task {
        let template = format!("{{prefix:12}} {{bar:30}} {{pos}}/{{len}} {unit} {{per_sec}} {{eta}} left {{msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(total).with_style(style).with_prefix(label.to_owned()));
        let now = Instant::now();
        Task {
            bar,
            label: label.to_owned(),
            unit: unit.to_owned(),
            total,
            plain: self.plain,
            first: None,
            started: now,
            spoke: now,
        }
    }
}

impl<'a> MakeWriter<'a> for Progress {
    type Writer = Above;

    fn make_writer(&'a self) -> Above {
        Above(self.bars.clone(), Vec::new())
    }
}

/// Collects a message and prints it above the bars.
pub(crate) struct Above(MultiProgress, Vec<u8>);

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Above {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.1);
        self.0.suspend(|| {
            // there is nobody left to tell when stderr is closed
            let _ = io::stderr().write_all(&text);
        });
    }
}

/// The progress of one piece of work.
#[derive(Debug)]
pub struct Task {
    bar: ProgressBar,
    label: String,
    unit: String,
    total: u64,
    plain: bool,
    first: Option<u64>,
    started: Instant,
    spoke: Instant,
}

impl Task {
    /// Says how much is done, with a few words such as the loss.
    pub fn at(&mut self, done: u64, words: &str) {
        if self.first.is_none() {
            // a resumed run starts in the middle; its rate must not count what was done before
            self.first = Some(done);
            self.started = Instant::now();
            self.bar.reset_eta();
        }
        self.bar.set_position(done);
        self.bar.set_message(words.to_owned());
        if self.plain && (self.spoke.elapsed() >= EVERY || done == self.total) {
            self.spoke = Instant::now();
            let (Self { label, total, unit, .. }, rate) = (&*self, self.rate(done));
            let _ = writeln!(io::stderr(), "{label}: {done}/{total} {unit}{rate} {words}");
        }
    }

    fn rate(&self, done: u64) -> String {
        let rate = (done - self.first.unwrap_or(done)) as f64 / self.started.elapsed().as_secs_f64();
        if rate > 0. && rate.is_finite() {
            let left = self.total.saturating_sub(done) as f64 / rate;
            format!(", {rate:.1}/s, {:.0}:{:02.0} left", (left / 60.).floor(), left % 60.)
        } else {
            String::new()
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.bar.finish();
    }
}

impl training::Observer for Task {
    fn step(&mut self, done: u64, loss: f64) {
        self.at(done, &format!("loss {loss:.4}"));
    }

    fn stop(&self) -> bool {
        stopped()
    }
}
