//! `cargo xtask clean`: removes files that can be regenerated, and never a committed result.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::output::print_line;
use crate::places::Workspace;
use crate::runner;
use crate::state::{Attempt, Outcome};

const EXAMPLES: &str = "Examples:
  cargo xtask clean              frozen copies, rehearsals, results of --profile smoke and --set
  cargo xtask clean --all        also sweeps, checkpoints, artifacts and the records of finished runs
  cargo xtask clean --all --dry-run";

/// Remove files that can be regenerated; committed results are kept
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Also remove what takes hours to compute: sweeps, checkpoints, `paper` results, artifacts and the local records
    #[arg(long)]
    all: bool,
    /// Only list what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
///
/// # Errors
/// When a run is in progress, or something cannot be removed.
pub fn clean(workspace: &Workspace, args: &Args) -> Result<u8> {
    refuse_while_running(workspace)?;
    let mut targets = Vec::new();
    if args.all {
        targets.push(workspace.local());
        artifacts(&workspace.results(), &mut targets)?;
    } else {
        for path in list(&workspace.local())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let quick = ["frozen", "bin", "smoke", "page", "new"].contains(&name.as_str());
            if quick || name.starts_with("rehearse-") || name.starts_with("set-") {
                targets.push(path);
            }
        }
    }
    targets.retain(|path| path.exists());
    for path in &targets {
        let action = if args.dry_run { "would remove" } else { "removing" };
        print_line(format_args!("{action} {}", workspace.show(path)))?;
        if !args.dry_run {
            fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    if targets.is_empty() {
        print_line(format_args!("nothing to remove"))?;
    }
    Ok(0)
}

/// Fails when a record names a running process that is alive.
fn refuse_while_running(workspace: &Workspace) -> Result<()> {
    for path in list(&workspace.state())? {
        let attempt: Option<Attempt> = storage::read_text(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        if let Some(Attempt { outcome: Outcome::Running(process), .. }) = attempt
            && runner::alive(process)
        {
            bail!(
                "a run is in progress (process {process}): wait for it or stop it, then run `cargo xtask clean` again"
            );
        }
    }
    Ok(())
}

/// All folders called `artifacts` outside the local folder.
fn artifacts(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for path in list(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !path.is_dir() || name.starts_with('.') {
            continue;
        }
        if name == "artifacts" {
            found.push(path);
        } else {
            artifacts(&path, found)?;
        }
    }
    Ok(())
}

/// The entries of a folder, sorted; none when the folder does not exist.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        paths.push(entry.with_context(|| format!("cannot list {}", folder.display()))?.path());
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_up() -> (tempfile::TempDir, Workspace) {
        let folder = tempfile::tempdir().unwrap();
        for path in
            ["p/e/artifacts/a", "p/e/run.yaml", ".runs/smoke/a", ".runs/sweeps/a", ".runs/bin/a", ".runs/set-1/a"]
        {
            let path = folder.path().join("results").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let workspace = Workspace { root: folder.path().to_owned(), cargo: "cargo".into() };
        (folder, workspace)
    }

    #[test]
    fn committed_results_stay_and_hours_of_work_need_all() {
        let (folder, workspace) = made_up();
        let there = |path: &str| folder.path().join("results").join(path).exists();
        clean(&workspace, &Args { all: false, dry_run: true }).unwrap();
        assert!(there(".runs/smoke/a"));
        clean(&workspace, &Args { all: false, dry_run: false }).unwrap();
        assert!(!there(".runs/smoke") && !there(".runs/bin") && !there(".runs/set-1"));
        assert!(there(".runs/sweeps/a") && there("p/e/artifacts/a"));
        clean(&workspace, &Args { all: true, dry_run: false }).unwrap();
        assert!(!there(".runs") && !there("p/e/artifacts") && there("p/e/run.yaml"));
    }

    #[test]
    fn nothing_is_removed_during_a_run() {
        let (folder, workspace) = made_up();
        let attempt = Attempt {
            outcome: Outcome::Running(std::process::id()),
            identity: String::new(),
            code: String::new(),
            accepted: Vec::new(),
        };
        let path = folder.path().join("results/.runs/state/cpu.p.e.attempt.json");
        storage::write_atomic(&path, serde_json::to_string(&attempt).unwrap().as_bytes()).unwrap();
        let error = clean(&workspace, &Args { all: true, dry_run: false }).unwrap_err().to_string();
        assert!(error.contains("in progress"), "{error}");
    }
}
