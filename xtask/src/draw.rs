//! Calls `render` to make figures, reports, the page and the scoreboard from the files on disk.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use config::{Envelope, MANIFEST};
use serde::{Deserialize, Serialize};

use crate::binaries::{self, Frozen, REPORTING, Wanted};
use crate::places::{Variant, Workspace, short};
use crate::plan::{Plan, Task};
use crate::runner::{self, Exit, Messages};
use crate::state::{Drawn, Records};

/// Name of the page in a folder of results.
pub const PAGE: &str = "index.html";

/// Name of an experiment's report.
const REPORT: &str = "report.md";

/// The drawing program, frozen.
pub struct Render<'a> {
    workspace: &'a Workspace,
    frozen: Frozen,
}

impl<'a> Render<'a> {
    /// Builds the drawing program if it is out of date.
    ///
    /// # Errors
    /// When the build fails.
    pub fn ready(workspace: &'a Workspace) -> Result<Self> {
        let wanted = Wanted { packages: vec![REPORTING.to_owned()], cuda: false };
        let mut frozen = binaries::ensure(workspace, &wanted)?;
        let frozen = frozen.remove(REPORTING).context("`render` was not built")?;
        Ok(Self { workspace, frozen })
    }

    /// Takes an already frozen drawing program.
    pub fn with(workspace: &'a Workspace, frozen: Frozen) -> Self {
        Self { workspace, frozen }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.frozen.path);
        command.current_dir(&self.workspace.root).arg(name);
        command
    }

    fn call(&self, command: &mut Command, what: &str) -> Result<()> {
        match runner::run(command, &Messages::Direct)? {
            Exit::Done => Ok(()),
            Exit::Interrupted => bail!("{what}: interrupted"),
            Exit::Failed { why, .. } => bail!("{what}: {why}; see the message of `render` above"),
        }
    }

    /// The command that joins the points of a sweep.
    pub fn join_command(&self, task: &Task, points: &[(String, PathBuf)], config: &Path, code: &str) -> Command {
        let mut command = self.command("join");
        command.arg("--config").arg(config).arg("--out").arg(&task.folder).args(["--code-hash", code]);
        for (id, folder) in points {
            let mut point = OsString::from(format!("{id}="));
            point.push(folder);
            command.arg("--point").arg(point);
        }
        command
    }

    /// Whether a task's figures match its current tables, configuration and drawing code.
    pub fn is_current(&self, task: &Task) -> bool {
        let drawn = Records::of(self.workspace, &task.stem).drawn();
        drawn.is_some_and(|drawn| self.drawn(&task.folder, &task.envelope).is_ok_and(|now| now == drawn))
    }

    fn drawn(&self, folder: &Path, envelope: &Envelope) -> Result<Drawn> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == REPORT || name == MANIFEST || name.ends_with(".svg") || name.ends_with(".png") {
                files.insert(name, storage::hash_file(&path)?);
            }
        }
        if !files.contains_key(REPORT) {
            bail!("{} has no {REPORT}", folder.display());
        }
        Ok(Drawn {
            files,
            picture: storage::hash_bytes(envelope.picture_identity().as_bytes()),
            figures: self.frozen.code.hash.clone(),
        })
    }

    /// Draws one experiment's figures and report with the claims and published numbers of `envelope`.
    ///
    /// With overrides, figures whose rows are missing are skipped with a message.
    ///
    /// # Errors
    /// When `render` fails.
    pub fn experiment(&self, variant: &Variant, stem: &str, folder: &Path, envelope: &Envelope) -> Result<()> {
        let config = freeze_config(self.workspace, envelope)?;
        self.folder(folder, Some(&config), &envelope.paper, variant.set.is_some())?;
        Records::of(self.workspace, stem).set_drawn(&self.drawn(folder, envelope)?)
    }

    /// The command that draws the tables of a run in progress.
    pub fn preview_command(&self, folder: &Path, config: &Path, paper: &str) -> Command {
        let mut command = self.command("experiment");
        command.arg("--folder").arg(folder).arg("--config").arg(config).arg("--partial");
        command.arg("--configs-dir").arg(self.workspace.configs().join(paper));
        command
    }

    /// Draws the tables in a folder.
    ///
    /// # Errors
    /// When `render` fails.
    pub fn folder(&self, folder: &Path, config: Option<&Path>, paper: &str, partial: bool) -> Result<()> {
        let mut command = self.command("experiment");
        command.arg("--folder").arg(folder);
        if let Some(config) = config {
            command.arg("--config").arg(config);
        }
        command.arg("--configs-dir").arg(self.workspace.configs().join(paper));
        if partial {
            command.arg("--partial");
        }
        self.call(&mut command, &format!("drawing {}", self.workspace.show(folder)))
    }

    /// Writes the page of all results below `root`. Skips this when the page is up to date, unless `always` is set.
    ///
    /// # Errors
    /// When `render` fails or the results cannot be read.
    pub fn index(&self, root: &Path, always: bool) -> Result<()> {
        let key = short(&storage::hash_bytes(self.workspace.show(root).as_bytes()), 12);
        let path = self.workspace.state().join(format!("index-{key}.json"));
        let record: Option<Index> = storage::read_text(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
        if !always && record.as_ref().is_some_and(|record| self.indexed(root).is_ok_and(|now| now == *record)) {
            return Ok(());
        }
        self.call(
            self.command("index").arg("--root").arg(root),
            &format!("writing {}", self.workspace.show(&root.join(PAGE))),
        )?;
        let text = serde_json::to_string_pretty(&self.indexed(root)?).context("cannot write a record as JSON")?;
        Ok(storage::write_atomic(&path, text.as_bytes())?)
    }

    fn indexed(&self, root: &Path) -> Result<Index> {
        let mut sources = BTreeMap::new();
        collect(root, root, &mut sources)?;
        Ok(Index { figures: self.frozen.code.hash.clone(), page: storage::hash_file(&root.join(PAGE))?, sources })
    }

    /// Prints the scoreboard of some papers or experiments; of all when `only` is empty.
    ///
    /// # Errors
    /// When `render` fails.
    pub fn scoreboard(&self, root: &Path, only: &[String]) -> Result<()> {
        let mut command = self.command("scoreboard");
        command.arg("--root").arg(root);
        for only in only {
            command.arg("--only").arg(only);
        }
        self.call(&mut command, "printing the scoreboard")
    }
}

/// Hashes of the files that a page was written from.
#[derive(PartialEq, Serialize, Deserialize)]
struct Index {
    figures: String,
    page: String,
    sources: BTreeMap<String, String>,
}

/// Collects the hashes of the files a page is made from: all files beside a manifest, except models.
fn collect(root: &Path, folder: &Path, sources: &mut BTreeMap<String, String>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let has_run = folder.join(MANIFEST).is_file();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if path.is_dir() {
            if !name.starts_with('.') && !["artifacts", "points", "models"].contains(&name.as_str()) {
                collect(root, &path, sources)?;
            }
        } else if has_run && !name.starts_with('.') {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            sources.insert(name, storage::hash_file(&path)?);
        }
    }
    Ok(())
}

/// Folders of a sweep's points.
pub fn point_folders(plan: &Plan, points: &[(String, usize)]) -> Vec<(String, PathBuf)> {
    points.iter().map(|(id, task)| (id.clone(), plan.tasks[*task].folder.clone())).collect()
}

/// Writes a resolved configuration to a file named by its hash, so that later edits cannot change a queued run.
///
/// # Errors
/// When it cannot be written.
pub fn freeze_config(workspace: &Workspace, envelope: &Envelope) -> Result<PathBuf> {
    let text = config::yaml::to_string(envelope)?;
    let name = format!("{}.yaml", short(&storage::hash_bytes(text.as_bytes()), 12));
    let path = workspace.local().join("frozen").join(name);
    if !storage::read_text(&path).is_ok_and(|there| there == text) {
        storage::write_atomic(&path, text.as_bytes())?;
    }
    Ok(path)
}
