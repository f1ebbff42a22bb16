//! Redraws the figures of a run in progress when it writes new preview tables, at a limited rate.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Minimum time between drawings.
const DRAW_INTERVAL: Duration = Duration::from_secs(20);
/// Time between checks for new tables.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The preview of a run in progress.
pub struct Follow {
    /// Folder that the run writes preview tables to.
    pub folder: PathBuf,
    /// The folder's name in messages.
    pub shown: String,
    /// The drawing program with its arguments.
    pub command: Command,
}

impl Follow {
    /// Redraws after each change until `stop` is set.
    pub fn until(mut self, stop: &AtomicBool) {
        let (mut drawn, mut last): (Option<SystemTime>, Option<Instant>) = (None, None);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(POLL_INTERVAL);
            let changed = fs::metadata(self.folder.join("tables.json")).and_then(|data| data.modified()).ok();
            if changed.is_none() || changed == drawn || last.is_some_and(|last| last.elapsed() < DRAW_INTERVAL) {
                continue;
            }
            // a figure that cannot be drawn yet does not stop the run
            let status = self.command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if last.is_none() && status.is_ok_and(|status| status.success()) {
                eprintln!("preview of the run: {}/report.md and the figures beside it", self.shown);
            }
            (drawn, last) = (changed, Some(Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn new_tables_are_drawn_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo x >> drawn"]).current_dir(folder.path());
        let follow = Follow { folder: folder.path().to_owned(), shown: "preview".to_owned(), command };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| follow.until(&stop));
            thread::sleep(POLL_INTERVAL * 2);
            assert!(!folder.path().join("drawn").exists());
            fs::write(folder.path().join("tables.json"), "[]").unwrap();
            let start = Instant::now();
            while !folder.path().join("drawn").exists() && start.elapsed() < Duration::from_secs(20) {
                thread::sleep(POLL_INTERVAL);
            }
            thread::sleep(POLL_INTERVAL * 3);
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_to_string(folder.path().join("drawn")).unwrap(), "x\n");
    }
}
