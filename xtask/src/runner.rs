//! Starts child processes, passes signals to them, and reads their exit codes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

/// Exit code of a run that saved its state and can resume.
pub const INTERRUPTED: u8 = 130;

/// Exit code of a run that rejected its command line or configuration.
const USAGE: i32 = 2;

/// Message when a signal ended the command.
pub const CONTINUES: &str = "interrupted; the same command continues";

/// Number of last lines of a failed child to keep for the summary.
const TAIL: usize = 12;

static STOP: AtomicBool = AtomicBool::new(false);
static CHILDREN: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn children() -> MutexGuard<'static, Vec<u32>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Catches Ctrl-C, SIGTERM and SIGHUP: no new child starts, and the running ones save their state and stop.
///
/// A terminal's Ctrl-C reaches the children by itself, because they stay in our process group; a signal sent to us alone
/// does not, so away from a terminal it is passed on, and at a terminal the second one is.
/// (A child may take a second signal as an order to stop at once.)
///
/// # Errors
/// When the handler cannot be set.
pub fn catch_signals() -> Result<()> {
    let handler = || {
        let first = !STOP.swap(true, Ordering::SeqCst);
        let running = children().clone();
        if first && !running.is_empty() {
            eprintln!("\nstopping: waiting for the running experiments to save their state");
        }
        if first != std::io::stderr().is_terminal() {
            running.iter().for_each(|&child| tell(child));
        }
    };
    match ctrlc::set_handler(handler) {
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(()),
        Err(error) => Err(error).context("cannot catch signals"),
    }
}

/// Asks a child to stop.
fn tell(child: u32) {
    if cfg!(unix) {
        let _ = Command::new("kill").args(["-TERM", &child.to_string()]).stderr(Stdio::null()).status();
    }
}

/// Whether a signal asked us to stop.
pub fn interrupted() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// How a child's messages are printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Messages {
    /// The child writes to the terminal directly.
    Direct,
    /// Each line follows a prefix, because several children run in parallel.
    Prefixed(String),
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With exit code 0.
    Done,
    /// It saved its state and can resume.
    Interrupted,
    /// With an error.
    Failed {
        /// Description of the exit code or signal.
        why: String,
        /// Its last lines; empty when they went to the terminal directly.
        tail: Vec<String>,
    },
}

impl Exit {
    fn of(status: ExitStatus, tail: Vec<String>) -> Self {
        match status.code() {
            Some(0) => Self::Done,
            Some(code) if code == i32::from(INTERRUPTED) => Self::Interrupted,
            Some(USAGE) => Self::Failed { why: "refused its configuration (exit code 2)".to_owned(), tail },
            Some(code) => Self::Failed { why: format!("exit code {code}"), tail },
            None if interrupted() => Self::Interrupted,
            None => Self::Failed { why: killed(status), tail },
        }
    }
}

#[cfg(unix)]
fn killed(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.signal() {
        Some(9) => "killed (signal 9; out of memory?); saved state is kept; the same command continues".to_owned(),
        Some(signal) => format!("ended by signal {signal}; saved state is kept; the same command continues"),
        None => status.to_string(),
    }
}

#[cfg(not(unix))]
fn killed(status: ExitStatus) -> String {
    status.to_string()
}

/// A started child, known to the signal handler until it has ended.
struct Watched {
    child: Child,
}

impl Watched {
    fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        // hold the lock during the start, so that a signal cannot miss the new child
        let mut list = children();
        if interrupted() {
            bail!("not started: {program}");
        }
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        list.push(child.id());
        Ok(Self { child })
    }

    fn wait(mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("cannot wait for a child process")?;
        children().retain(|&id| id != self.child.id());
        Ok(status)
    }
}

/// Runs a child to its end.
///
/// # Errors
/// When it cannot be started; a failure of the child is returned as an [`Exit`].
pub fn run(command: &mut Command, messages: &Messages) -> Result<Exit> {
    command.stdin(Stdio::null());
    match messages {
        Messages::Direct => Ok(Exit::of(Watched::start(command)?.wait()?, Vec::new())),
        Messages::Prefixed(prefix) => {
            let mut watched = Watched::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
            let out = watched.child.stdout.take().map(|pipe| relay(pipe, prefix.clone()));
            let tail = watched.child.stderr.take().map(|pipe| relay(pipe, prefix.clone()));
            let join = |thread: Option<thread::JoinHandle<Vec<String>>>| {
                thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
            };
            join(out);
            let tail = join(tail);
            Ok(Exit::of(watched.wait()?, tail))
        }
    }
}

/// Prints a child's lines after a prefix and returns the last ones.
fn relay(pipe: impl std::io::Read + Send + 'static, prefix: String) -> thread::JoinHandle<Vec<String>> {
    thread::spawn(move || {
        let mut tail = VecDeque::new();
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            // one write per line, so that lines of several children do not mix
            let _ = std::io::stderr().write_all(format!("[{prefix}] {line}\n").as_bytes());
            tail.push_back(line);
            if tail.len() > TAIL {
                tail.pop_front();
            }
        }
        tail.into()
    })
}

/// Runs a child and returns its standard output; its messages go to the terminal.
///
/// # Errors
/// When it cannot be started, fails, or prints text that is not UTF-8.
pub fn ask(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut watched = Watched::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut answer = Vec::new();
    if let Some(mut pipe) = watched.child.stdout.take() {
        std::io::Read::read_to_end(&mut pipe, &mut answer).with_context(|| format!("cannot read from {program}"))?;
    }
    let status = watched.wait()?;
    if !status.success() {
        bail!("{program} failed ({status}): see its message above");
    }
    String::from_utf8(answer).with_context(|| format!("the output of {program} is not UTF-8"))
}

/// Whether a process is running.
pub fn alive(process: u32) -> bool {
    if cfg!(target_os = "linux") {
        std::path::Path::new("/proc").join(process.to_string()).exists()
    } else if cfg!(unix) {
        Command::new("kill")
            .args(["-0", &process.to_string()])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    } else {
        true
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn exit_codes_decide() {
        let prefixed = Messages::Prefixed("p/e".to_owned());
        let check = |script: &str| run(&mut shell(script), &prefixed).unwrap();
        assert_eq!(check("exit 0"), Exit::Done);
        assert_eq!(check("exit 130"), Exit::Interrupted);
        let failed = |script: &str| match check(script) {
            Exit::Failed { why, tail } => (why, tail),
            other => panic!("{other:?}"),
        };
        assert_eq!(failed("exit 1").0, "exit code 1");
        assert!(failed("exit 2").0.contains("configuration"));
        assert!(failed("kill -9 $$").0.contains("signal 9"));
        let (_, tail) = failed("for i in $(seq 30); do echo line $i >&2; done; exit 1");
        assert_eq!((tail.len(), tail.last().unwrap().as_str()), (TAIL, "line 30"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/no/such/program"), &Messages::Direct).unwrap_err();
        assert!(error.to_string().contains("/no/such/program"), "{error}");
    }

    #[test]
    fn answers_come_from_standard_output_and_failures_are_errors() {
        assert_eq!(ask(&mut shell("echo one; echo two")).unwrap(), "one\ntwo\n");
        assert!(ask(&mut shell("exit 3")).unwrap_err().to_string().contains("failed"));
    }

    #[test]
    fn this_process_is_alive() {
        assert!(alive(std::process::id()));
    }
}
