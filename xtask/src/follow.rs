//! Pictures of a run that is still going: drawn anew whenever it has shown new tables, but not too often.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Time from one drawing to the next.
const EVERY: Duration = Duration::from_secs(20);
/// Time from one look to the next.
const LOOK: Duration = Duration::from_millis(500);

/// What is drawn, and how.
pub struct Follow {
    /// Folder that the run shows tables in.
    pub folder: PathBuf,
    /// How the folder is called in messages.
    pub shown: String,
    /// The drawing program with its arguments.
    pub command: Command,
}

impl Follow {
    /// Draws until told to stop.
    pub fn until(mut self, stop: &AtomicBool) {
        let (mut drawn, mut last): (Option<SystemTime>, Option<Instant>) = (None, None);
        while !stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            let changed = fs::metadata(self.folder.join("tables.json")).and_then(|data| data.modified()).ok();
            if changed.is_none() || changed == drawn || last.is_some_and(|last| last.elapsed() < EVERY) {
                continue;
            }
            // a picture that cannot be drawn yet stops nothing
            let status = self.command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            if last.is_none() && status.is_ok_and(|status| status.success()) {
                eprintln!("growing: {}/report.md and the pictures beside it", self.shown);
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
            thread::sleep(LOOK * 2);
            assert!(!folder.path().join("drawn").exists());
            fs::write(folder.path().join("tables.json"), "[]").unwrap();
            let begun = Instant::now();
            while !folder.path().join("drawn").exists() && begun.elapsed() < Duration::from_secs(20) {
                thread::sleep(LOOK);
            }
            thread::sleep(LOOK * 3);
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_to_string(folder.path().join("drawn")).unwrap(), "x\n");
    }
}
