//! Paths of the workspace's folders and of one run's folders.
//!
//! | files | path |
//! |---|---|
//! | committed results (`cpu`, `overnight`, no overrides) | `results/` |
//! | all other results | `results/.runs/<variant>/`, `results/.runs/sweeps/<variant>/` |
//! | checkpoints of unfinished runs | `results/.runs/work/` |
//! | frozen configurations and binaries | `results/.runs/frozen/`, `results/.runs/bin/` |
//! | local records of finished and attempted runs | `results/.runs/state/` |

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use config::{ExperimentId, Override, Profile};

/// The checkout that the command works on.
pub struct Workspace {
    /// The folder with the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Path of the cargo that started this program.
    pub cargo: OsString,
}

impl Workspace {
    /// Finds the workspace that contains `folder`.
    ///
    /// # Errors
    /// When no parent folder is a checkout of this workspace.
    pub fn find(folder: &Path) -> Result<Self> {
        let root = folder
            .ancestors()
            .find(|folder| folder.join("Cargo.toml").is_file() && folder.join("experiments").is_dir())
            .with_context(|| {
                format!("{} is not inside this workspace: change into a folder of the checkout", folder.display())
            })?;
        Ok(Self { root: root.to_owned(), cargo: env::var_os("CARGO").unwrap_or_else(|| "cargo".into()) })
    }

    /// A cargo command that sees the environment as a cargo called by hand does.
    ///
    /// `cargo run` sets variables about the package it runs, and build scripts that watch them (ring's does) would run
    /// again after every change between `cargo xtask` and a plain `cargo build`, with all that depends on them.
    pub fn cargo_command(&self) -> Command {
        let mut command = Command::new(&self.cargo);
        command.current_dir(&self.root);
        let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
            command.env_remove(name);
        }
        command
    }

    /// `configs/`.
    pub fn configs(&self) -> PathBuf {
        self.root.join("configs")
    }

    /// `results/`.
    pub fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    /// `results/.runs/`, which git ignores.
    pub fn local(&self) -> PathBuf {
        self.results().join(".runs")
    }

    /// `results/.runs/state/`.
    pub fn state(&self) -> PathBuf {
        self.local().join("state")
    }

    /// The papers: folders in `experiments/` that also exist in `configs/`, sorted.
    ///
    /// # Errors
    /// When `experiments/` cannot be listed.
    pub fn papers(&self) -> Result<Vec<String>> {
        let folder = self.root.join("experiments");
        let mut papers = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let name = entry.with_context(|| format!("cannot list {}", folder.display()))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if folder.join(&name).join("Cargo.toml").is_file() && self.configs().join(&name).is_dir() {
                papers.push(name);
            }
        }
        papers.sort();
        Ok(papers)
    }

    /// Fails when the paper's package is missing, and says how to create it.
    ///
    /// # Errors
    /// When `experiments/<paper>/Cargo.toml` does not exist.
    pub fn require_paper(&self, paper: &str) -> Result<()> {
        if !self.root.join("experiments").join(paper).join("Cargo.toml").is_file() {
            bail!(
                "configs/{paper} has no package experiments/{paper}: \
                 create it with `cargo xtask new {paper}`"
            );
        }
        Ok(())
    }

    /// A path for messages, relative to the root where possible.
    pub fn show(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// A family of runs that share one folder of results: a profile, with or without overrides, full or as a rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variant {
    /// The profile.
    pub profile: Profile,
    /// Whether to run only two steps with random weights.
    pub rehearse: bool,
    /// First eight hex digits of the hash of the overrides; `None` without overrides.
    pub set: Option<String>,
}

impl Variant {
    /// The variant of a profile under some overrides.
    pub fn new(profile: Profile, rehearse: bool, overrides: &[Override]) -> Self {
        let set = (!overrides.is_empty()).then(|| {
            let mut pairs: Vec<String> = overrides.iter().map(|set| format!("{}={}", set.key, set.value)).collect();
            pairs.sort();
            let text = format!("{profile}\n{rehearse}\n{}", pairs.join("\n"));
            short(&storage::hash_bytes(text.as_bytes()), 8)
        });
        Self { profile, rehearse, set }
    }

    /// Name in paths.
    pub fn key(&self) -> String {
        match (&self.set, self.rehearse) {
            (Some(hash), _) => format!("set-{hash}"),
            (None, true) => format!("rehearse-{}", self.profile),
            (None, false) => self.profile.to_string(),
        }
    }

    /// Whether its results are committed.
    pub fn committed(&self) -> bool {
        self.set.is_none() && !self.rehearse && matches!(self.profile, Profile::Cpu | Profile::Overnight)
    }

    /// Folder of all its results, which contains `index.html`.
    pub fn root(&self, workspace: &Workspace) -> PathBuf {
        if self.committed() { workspace.results() } else { workspace.local().join(self.key()) }
    }

    /// Folder of one experiment's results.
    pub fn folder(&self, workspace: &Workspace, id: &ExperimentId) -> PathBuf {
        let folder = self.root(workspace).join(&id.paper).join(&id.name);
        if self.committed() && self.profile == Profile::Overnight { folder.join("overnight") } else { folder }
    }

    /// Name of the records of one experiment's results.
    pub fn stem(&self, id: &ExperimentId) -> String {
        format!("{}.{}.{}", self.key(), id.paper, id.name)
    }

    /// Folder over the results of `cargo xtask sweep`.
    pub fn sweeps(&self, workspace: &Workspace) -> PathBuf {
        workspace.local().join("sweeps").join(self.key())
    }

    /// Folder of one experiment's sweep; its points lie below in `points/`.
    pub fn sweep_folder(&self, workspace: &Workspace, id: &ExperimentId) -> PathBuf {
        self.sweeps(workspace).join(&id.paper).join(&id.name)
    }

    /// Folder for the checkpoints of a run with this `identity`.
    pub fn work(&self, workspace: &Workspace, id: &ExperimentId, identity: &str) -> PathBuf {
        self.work_of(workspace, id).join(short(identity, 12))
    }

    /// Folder over the checkpoints of all runs of one experiment.
    pub fn work_of(&self, workspace: &Workspace, id: &ExperimentId) -> PathBuf {
        workspace.local().join("work").join(&id.paper).join(&id.name).join(self.key())
    }

    /// For messages: `cpu`, `cpu, rehearsal`, `cpu with overrides`.
    pub fn label(&self) -> String {
        let mut label = self.profile.to_string();
        if self.rehearse {
            label += ", rehearsal";
        }
        if self.set.is_some() {
            label += ", with overrides";
        }
        label
    }
}

/// The first digits of a hash.
pub fn short(hash: &str, digits: usize) -> String {
    hash.chars().take(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace { root: "/w".into(), cargo: "cargo".into() }
    }

    #[test]
    fn only_default_runs_of_cpu_and_overnight_write_committed_results() {
        let workspace = workspace();
        let id: ExperimentId = "icot-mult/train".parse().unwrap();
        let set: Override = "params.lr=0.1".parse().unwrap();
        let check = |profile, rehearse, overrides: &[Override], expected: &str| {
            let variant = Variant::new(profile, rehearse, overrides);
            assert_eq!(workspace.show(&variant.folder(&workspace, &id)), expected);
        };
        check(Profile::Cpu, false, &[], "results/icot-mult/train");
        check(Profile::Overnight, false, &[], "results/icot-mult/train/overnight");
        check(Profile::Smoke, false, &[], "results/.runs/smoke/icot-mult/train");
        check(Profile::Paper, false, &[], "results/.runs/paper/icot-mult/train");
        check(Profile::Cpu, true, &[], "results/.runs/rehearse-cpu/icot-mult/train");
        let key = Variant::new(Profile::Cpu, false, std::slice::from_ref(&set)).key();
        check(Profile::Cpu, false, &[set], &format!("results/.runs/{key}/icot-mult/train"));
        assert_eq!(key.len(), "set-".len() + 8);
    }

    #[test]
    fn overrides_give_the_same_folder_in_any_order_and_another_for_another_profile() {
        let one: Override = "params.lr=0.1".parse().unwrap();
        let two: Override = "seed=2".parse().unwrap();
        let key = |profile, sets: &[Override]| Variant::new(profile, false, sets).key();
        assert_eq!(key(Profile::Cpu, &[one.clone(), two.clone()]), key(Profile::Cpu, &[two.clone(), one.clone()]));
        let one = [one];
        assert_ne!(key(Profile::Cpu, &one), key(Profile::Cpu, &[two]));
        assert_ne!(key(Profile::Cpu, &one), key(Profile::Smoke, &one));
    }

    #[test]
    fn outside_a_checkout_the_error_says_what_to_do() {
        let error = Workspace::find(Path::new("/")).err().unwrap().to_string();
        assert!(error.contains("change into"), "{error}");
    }
}
