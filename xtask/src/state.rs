//! Checks which results are up to date, and gives reasons for the others.
//!
//! A result is up to date if its folder has a readable manifest, the manifest's configuration, code and inputs are the
//! current ones, and every listed file has the recorded hash.
//! The records in `results/.runs/state/` hold what the folder does not: that it was made on this machine, which later
//! code was accepted as equivalent, how the last attempt ended, and which files the figures were drawn from.
//! Each record is a separate file that is written atomically, so two commands can run at the same time.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use config::{MANIFEST, Manifest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::code::CodeHash;
use crate::places::Workspace;
use crate::plan::Task;
use crate::runner;

/// A run that succeeded on this machine, or a committed result that was accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Run id in the manifest that this record describes.
    pub run_id: String,
    /// Hashes of the code that made it.
    pub code: CodeHash,
    /// Hashes of later code that was accepted as equivalent.
    #[serde(default)]
    pub accepted: Vec<String>,
}

/// The last attempt that failed, was interrupted, or is still running.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its outcome so far.
    pub outcome: Outcome,
    /// Hash of the resolved configuration.
    pub identity: String,
    /// Hash of the code that its checkpoints belong to.
    pub code: String,
    /// Hashes of later code that was accepted as equivalent: it may resume from these checkpoints.
    #[serde(default)]
    pub accepted: Vec<String>,
}

/// The outcome of an attempt so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Started by this process, with no end recorded.
    Running(u32),
    /// Stopped after saving its state.
    Interrupted,
    /// Failed for this reason.
    Failed(String),
}

/// Hashes of the files that the figures and the report were drawn from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Hashes of the manifest, the report and the figures.
    pub files: BTreeMap<String, String>,
    /// Hash of titles, figures, claims and published numbers.
    pub picture: String,
    /// Hash of the drawing code.
    pub figures: String,
}

/// The records of one task.
pub struct Records {
    folder: PathBuf,
    stem: String,
}

impl Records {
    /// The records of the task named `stem`.
    pub fn of(workspace: &Workspace, stem: &str) -> Self {
        Self { folder: workspace.state(), stem: stem.to_owned() }
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}.json", self.stem))
    }

    /// A damaged or missing record gives `None`, which costs at most one unneeded run.
    fn get<T: DeserializeOwned>(&self, kind: &str) -> Option<T> {
        serde_json::from_str(&storage::read_text(&self.path(kind)).ok()?).ok()
    }

    fn put<T: Serialize>(&self, kind: &str, record: &T) -> Result<()> {
        let text = serde_json::to_string_pretty(record).context("cannot write a record as JSON")?;
        Ok(storage::write_atomic(&self.path(kind), text.as_bytes())?)
    }

    /// The last success.
    pub fn done(&self) -> Option<Done> {
        self.get("done")
    }

    /// The last attempt, if it did not succeed.
    pub fn attempt(&self) -> Option<Attempt> {
        self.get("attempt")
    }

    /// The record of the last drawing.
    pub fn drawn(&self) -> Option<Drawn> {
        self.get("drawn")
    }

    /// Records a success and removes the record of the attempt.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_done(&self, done: &Done) -> Result<()> {
        self.put("done", done)?;
        let path = self.path("attempt");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Records an attempt.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_attempt(&self, attempt: &Attempt) -> Result<()> {
        self.put("attempt", attempt)
    }

    /// Records a drawing.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn set_drawn(&self, drawn: &Drawn) -> Result<()> {
        self.put("drawn", drawn)
    }
}

/// Why a result is not up to date.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// `--force`.
    Forced,
    /// There is no result and no attempt.
    NeverRun,
    /// Stopped after saving its state.
    Interrupted,
    /// Running now in this process.
    Running(u32),
    /// The last attempt failed.
    Failed(String),
    /// The manifest cannot be read.
    Unreadable(String),
    /// The result is committed and was not made on this machine.
    NotMadeHere,
    /// These keys of the configuration differ.
    Config(Vec<String>),
    /// One of the result and the request is a rehearsal, and the other is not.
    Rehearsal,
    /// These parts of the code differ.
    Code(Vec<String>),
    /// This need has new results since the run.
    Need(String),
    /// This need is itself not up to date.
    NeedStale(String),
    /// A local input, such as a model folder or a corpus file, is missing or has changed.
    Input(String),
    /// A file is missing or was changed.
    Output(String),
    /// It ran on the first device, but the second is requested.
    Device(String, String),
    /// The number of points that are up to date, and of all points.
    Points(usize, usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forced => f.write_str("--force"),
            Self::NeverRun => f.write_str("never run"),
            Self::Interrupted => f.write_str("interrupted; it will resume from its last checkpoint"),
            Self::Running(process) => write!(f, "running now, started by process {process}"),
            Self::Failed(why) => write!(f, "the last attempt failed: {why}"),
            Self::Unreadable(why) => write!(f, "its manifest cannot be read: {why}"),
            Self::NotMadeHere => {
                f.write_str("the committed result was not made on this machine (use --reuse to accept it)")
            }
            Self::Config(changes) => write!(f, "config: {}", changes.join(", ")),
            Self::Rehearsal => f.write_str("only rehearsed"),
            Self::Code(parts) if parts.is_empty() => {
                f.write_str("code changed (use --accept if the change is cosmetic)")
            }
            Self::Code(parts) => {
                write!(f, "code changed: {} (use --accept if the change is cosmetic)", parts.join(", "))
            }
            Self::Need(need) => write!(f, "{need} has new results"),
            Self::NeedStale(need) => write!(f, "{need} is not up to date"),
            Self::Input(problem) | Self::Output(problem) => f.write_str(problem),
            Self::Device(was, now) => write!(f, "it ran on {was}, not on {now}"),
            Self::Points(done, all) => write!(f, "{done} of {all} points up to date"),
        }
    }
}

/// The code and inputs that an up-to-date result of a task was made from.
pub struct Expected<'a> {
    /// The workspace's root, to which recorded inputs are relative.
    pub root: &'a Path,
    /// The task.
    pub task: &'a Task,
    /// The current code.
    pub code: &'a CodeHash,
    /// Run ids of its needs; `None` for a need without results.
    pub needs: BTreeMap<String, Option<String>>,
    /// Run ids of its points, by id.
    pub points: Vec<(String, Option<String>)>,
    /// The device, if the request names one.
    pub device: Option<String>,
}

/// The result of [`examine`].
pub struct Found {
    /// Why it is not up to date; empty when it is.
    pub reasons: Vec<Reason>,
    /// The manifest in the folder, if there is a readable one.
    pub manifest: Option<Manifest>,
}

impl Found {
    /// Whether the result is up to date.
    pub fn fresh(&self) -> bool {
        self.reasons.is_empty()
    }

    /// All reasons in one line.
    pub fn why(&self) -> String {
        self.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Reads the manifest of a folder; `None` when it does not exist.
///
/// # Errors
/// When it exists but cannot be read.
pub fn manifest(folder: &Path) -> Result<Option<Manifest>> {
    let path = folder.join(MANIFEST);
    match storage::read_text(&path) {
        Ok(text) => Ok(Some(config::yaml::from_str(&text, &path.display().to_string())?)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Checks a task's folder and records against what is expected.
pub fn examine(expected: &Expected<'_>, records: &Records) -> Found {
    let task = expected.task;
    let attempt = records.attempt();
    let manifest = match manifest(&task.folder) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return Found { reasons: vec![without_result(expected, attempt)], manifest: None },
        Err(error) => return Found { reasons: vec![Reason::Unreadable(format!("{error:#}"))], manifest: None },
    };
    let mut reasons = Vec::new();
    match records.done() {
        Some(done) if done.run_id == manifest.run_id => {
            let same = manifest.code.hash == expected.code.hash || done.accepted.contains(&expected.code.hash);
            if !same {
                let known = done.code.hash == manifest.code.hash && !done.code.parts.is_empty();
                reasons.push(Reason::Code(if known { expected.code.changed_since(&done.code) } else { Vec::new() }));
            }
        }
        _ => {
            reasons.push(Reason::NotMadeHere);
            if manifest.code.hash != expected.code.hash {
                reasons.push(Reason::Code(Vec::new()));
            }
        }
    }
    let changes = differences(&manifest.config.identity(), &task.envelope.identity());
    if !changes.is_empty() {
        reasons.push(Reason::Config(changes));
    }
    if manifest.rehearsal != task.variant.rehearse {
        reasons.push(Reason::Rehearsal);
    }
    for (need, run_id) in &expected.needs {
        if run_id.is_none() || manifest.needs.get(need) != run_id.as_ref() {
            reasons.push(Reason::Need(need.clone()));
        }
    }
    let points: Vec<(String, Option<String>)> =
        manifest.points.iter().map(|point| (point.id.clone(), Some(point.run_id.clone()))).collect();
    if points != expected.points {
        let same = expected.points.iter().filter(|point| points.contains(point)).count();
        reasons.push(Reason::Points(same, expected.points.len()));
    }
    if let Some(device) = &expected.device
        && *device != manifest.machine.device
    {
        reasons.push(Reason::Device(manifest.machine.device.clone(), device.clone()));
    }
    reasons.extend(changed_inputs(expected.root, &manifest).map(Reason::Input));
    reasons.extend(changed_output(&task.folder, &manifest).map(Reason::Output));
    if let Some(Attempt { outcome, .. }) = attempt
        && !reasons.is_empty()
    {
        reasons.push(reason_of(outcome));
    }
    Found { reasons, manifest: Some(manifest) }
}

/// Why there is no manifest.
fn without_result(expected: &Expected<'_>, attempt: Option<Attempt>) -> Reason {
    match attempt {
        Some(attempt) => reason_of(attempt.outcome),
        None if !expected.points.is_empty() => {
            let done = expected.points.iter().filter(|(_, run_id)| run_id.is_some()).count();
            if done == 0 { Reason::NeverRun } else { Reason::Points(done, expected.points.len()) }
        }
        None => Reason::NeverRun,
    }
}

fn reason_of(outcome: Outcome) -> Reason {
    match outcome {
        Outcome::Running(process) if runner::alive(process) => Reason::Running(process),
        Outcome::Running(_) | Outcome::Interrupted => Reason::Interrupted,
        Outcome::Failed(why) => Reason::Failed(why),
    }
}

/// Local inputs that are missing or have changed since the run.
fn changed_inputs(root: &Path, manifest: &Manifest) -> impl Iterator<Item = String> {
    manifest.inputs.iter().filter_map(|(name, hash)| {
        let path = root.join(name);
        if !path.exists() {
            return Some(format!("the input {name} is missing"));
        }
        match storage::hash_path(&path) {
            Ok(found) if found == *hash => None,
            Ok(_) => Some(format!("the input {name} has changed since the run")),
            Err(error) => Some(error.to_string()),
        }
    })
}

/// The first file that is missing or differs from its hash in the manifest.
fn changed_output(folder: &Path, manifest: &Manifest) -> Option<String> {
    manifest.outputs.iter().find_map(|(name, hash)| {
        let path = folder.join(name);
        if !path.is_file() {
            return Some(format!("{name} is missing"));
        }
        match storage::hash_file(&path) {
            Ok(found) if found == *hash => None,
            Ok(_) => Some(format!("{name} was changed after the run")),
            Err(error) => Some(error.to_string()),
        }
    })
}

/// The keys in which two identities differ, with both values: at most three, and the number of others.
fn differences(before: &str, now: &str) -> Vec<String> {
    const SHOWN: usize = 3;
    if before == now {
        return Vec::new();
    }
    let flat = |text: &str| {
        let mut leaves = BTreeMap::new();
        flatten(&serde_json::from_str(text).unwrap_or(Value::Null), String::new(), &mut leaves);
        leaves
    };
    let (before, now) = (flat(before), flat(now));
    let mut changes = Vec::new();
    for (key, value) in &now {
        match before.get(key) {
            Some(old) if old == value => {}
            Some(old) => changes.push(format!("{key} was {old}, is {value}")),
            None => changes.push(format!("{key} is new")),
        }
    }
    changes.extend(before.keys().filter(|key| !now.contains_key(*key)).map(|key| format!("{key} is gone")));
    if changes.is_empty() {
        changes.push("order of keys".to_owned());
    }
    let more = changes.len().saturating_sub(SHOWN);
    changes.truncate(SHOWN);
    if more > 0 {
        changes.push(format!("{more} more"));
    }
    changes
}

fn flatten(value: &Value, key: String, leaves: &mut BTreeMap<String, String>) {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (part, value) in map {
                flatten(value, below(part), leaves);
            }
        }
        Value::Array(list) if list.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, value) in list.iter().enumerate() {
                flatten(value, below(&index.to_string()), leaves);
            }
        }
        _ => {
            leaves.insert(key, value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use config::{Code, Envelope, Machine, Profile};

    use super::*;
    use crate::places::Variant;
    use crate::plan::Kind;

    const CONFIG: &str =
        "{paper: toy, experiment: first, profile: cpu, title: t, seed: 1, params: {lr: 0.1, steps: 5}}";

    /// A finished run in a temporary folder, its record, and the expected inputs.
    struct Made {
        _folder: tempfile::TempDir,
        workspace: Workspace,
        task: Task,
        code: CodeHash,
        manifest: Manifest,
        needs: BTreeMap<String, Option<String>>,
        device: Option<String>,
    }

    impl Made {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let workspace = Workspace { root: folder.path().to_owned(), cargo: "cargo".into() };
            let envelope: Envelope = config::yaml::from_str(CONFIG, "test").unwrap();
            let parts = BTreeMap::from([("core".to_owned(), "1".to_owned()), ("toy".to_owned(), "1".to_owned())]);
            let code = CodeHash { hash: "code".to_owned(), parts };
            let results = folder.path().join("results/toy/first");
            fs::create_dir_all(&results).unwrap();
            fs::write(results.join("table.csv"), "a\n1\n").unwrap();
            let manifest = Manifest {
                run_id: "run-1".to_owned(),
                rehearsal: false,
                config: envelope.clone(),
                points: Vec::new(),
                needs: BTreeMap::from([("toy/zero".to_owned(), "zero-1".to_owned())]),
                inputs: BTreeMap::new(),
                outputs: BTreeMap::from([("table.csv".to_owned(), storage::hash_bytes(b"a\n1\n"))]),
                streams: Vec::new(),
                code: Code { hash: "code".to_owned(), ..Code::default() },
                machine: Machine { device: "cpu".to_owned(), ..Machine::default() },
                wall_seconds: 1.0,
                peak_mib: None,
            };
            let task = Task {
                id: envelope.id(),
                point: None,
                kind: Kind::Run,
                variant: Variant { profile: Profile::Cpu, rehearse: false, set: None },
                envelope,
                folder: results,
                root: folder.path().join("results"),
                stem: "cpu.toy.first".to_owned(),
                selected: true,
                needs: Vec::new(),
            };
            let needs = BTreeMap::from([("toy/zero".to_owned(), Some("zero-1".to_owned()))]);
            let made = Self { _folder: folder, workspace, task, code, manifest, needs, device: None };
            made.write();
            let done = Done { run_id: "run-1".to_owned(), code: made.code.clone(), accepted: Vec::new() };
            made.records().set_done(&done).unwrap();
            made
        }

        fn records(&self) -> Records {
            Records::of(&self.workspace, &self.task.stem)
        }

        fn write(&self) {
            fs::write(self.task.folder.join(MANIFEST), config::yaml::to_string(&self.manifest).unwrap()).unwrap();
        }

        fn reasons(&self) -> Vec<Reason> {
            let expected = Expected {
                root: &self.workspace.root,
                task: &self.task,
                code: &self.code,
                needs: self.needs.clone(),
                points: Vec::new(),
                device: self.device.clone(),
            };
            examine(&expected, &self.records()).reasons
        }

        fn attempt(&self, outcome: Outcome) {
            let (identity, code) = (String::new(), String::new());
            self.records().set_attempt(&Attempt { outcome, identity, code, accepted: Vec::new() }).unwrap();
        }
    }

    #[test]
    fn an_untouched_run_is_fresh() {
        assert_eq!(Made::new().reasons(), []);
    }

    #[test]
    fn each_change_is_named() {
        let check = |change: fn(&mut Made), expected: &str| {
            let mut made = Made::new();
            change(&mut made);
            let said: Vec<String> = made.reasons().iter().map(ToString::to_string).collect();
            let said = said.join("; ");
            assert!(said.contains(expected), "wanted `{expected}`, got `{said}`");
        };
        check(|made| made.task.envelope.body.params["lr"] = 0.2.into(), "config: params.lr was 0.1, is 0.2");
        check(|made| made.task.envelope.body.seed = 2, "config: seed was 1, is 2");
        check(|made| made.task.variant.rehearse = true, "rehearsed");
        check(|made| made.device = Some("cuda:0".to_owned()), "it ran on cpu, not on cuda:0");
        check(
            |made| _ = made.needs.insert("toy/zero".to_owned(), Some("zero-2".to_owned())),
            "toy/zero has new results",
        );
        check(
            |made| {
                made.manifest.inputs.insert("models/base".to_owned(), "0".repeat(64));
                made.write();
            },
            "the input models/base is missing",
        );
        check(
            |made| {
                let model = made.workspace.root.join("models/base");
                fs::create_dir_all(&model).unwrap();
                fs::write(model.join("model.safetensors"), "one").unwrap();
                made.manifest.inputs.insert("models/base".to_owned(), storage::hash_path(&model).unwrap());
                made.write();
                assert_eq!(made.reasons(), []);
                fs::write(model.join("model.safetensors"), "two").unwrap();
            },
            "the input models/base has changed since the run",
        );
        check(|made| fs::remove_file(made.task.folder.join("table.csv")).unwrap(), "table.csv is missing");
        check(|made| fs::write(made.task.folder.join("table.csv"), "a\n2\n").unwrap(), "table.csv was changed");
        check(|made| fs::remove_file(made.task.folder.join(MANIFEST)).unwrap(), "never run");
        check(|made| fs::write(made.task.folder.join(MANIFEST), "run_id: x\n").unwrap(), "manifest cannot be read");
        check(|made| fs::remove_dir_all(made.workspace.state()).unwrap(), "--reuse");
        check(
            |made| {
                made.code.hash = "new".to_owned();
                made.code.parts.insert("core".to_owned(), "2".to_owned());
            },
            "code changed: core",
        );
        check(
            |made| {
                fs::remove_file(made.task.folder.join(MANIFEST)).unwrap();
                made.attempt(Outcome::Interrupted);
            },
            "interrupted",
        );
        check(
            |made| {
                fs::remove_file(made.task.folder.join(MANIFEST)).unwrap();
                made.attempt(Outcome::Running(std::process::id()));
            },
            "running now",
        );
        check(
            |made| {
                made.task.envelope.body.seed = 2;
                made.attempt(Outcome::Failed("exit code 1".to_owned()));
            },
            "seed was 1, is 2; the last attempt failed: exit code 1",
        );
    }

    #[test]
    fn titles_and_figures_change_no_number() {
        let mut made = Made::new();
        made.task.envelope.body.title = "another".to_owned();
        made.task.envelope.body.summary = "words".to_owned();
        assert_eq!(made.reasons(), []);
    }

    #[test]
    fn accepted_code_counts_as_the_same() {
        let mut made = Made::new();
        let mut done = made.records().done().unwrap();
        done.accepted.push("new".to_owned());
        made.records().set_done(&done).unwrap();
        made.code.hash = "new".to_owned();
        assert_eq!(made.reasons(), []);
    }

    #[test]
    fn a_record_about_another_run_does_not_count() {
        let mut made = Made::new();
        made.manifest.run_id = "run-2".to_owned();
        made.write();
        assert_eq!(made.reasons(), [Reason::NotMadeHere]);
    }

    #[test]
    fn a_damaged_record_costs_a_run_and_nothing_else() {
        let made = Made::new();
        fs::write(made.workspace.state().join("cpu.toy.first.done.json"), "{").unwrap();
        assert_eq!(made.reasons(), [Reason::NotMadeHere]);
    }

    #[test]
    fn many_differences_are_counted() {
        let changes = differences("{\"a\":1,\"b\":1,\"c\":1,\"d\":1}", "{\"a\":2,\"b\":2,\"c\":2,\"e\":1}");
        assert_eq!(changes, ["a was 1, is 2", "b was 1, is 2", "c was 1, is 2", "2 more"]);
        assert_eq!(differences("{\"a\":[1,2]}", "{\"a\":[1,3]}"), ["a was [1,2], is [1,3]"]);
        assert_eq!(differences("{}", "{}"), [""; 0]);
    }
}
