//! One run of one experiment: what it may use, and what it leaves behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use config::claims::Metric;
use config::{Code, Envelope, MANIFEST, Manifest};
use rand_chacha::ChaCha12Rng;
use serde::de::DeserializeOwned;
use storage::Lock;
use tables::Table;

use crate::progress::{self, Progress, Task};
use crate::{Seed, machine, streams};

/// A run that was asked to stop and has saved what is needed to go on.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; the same command continues where it stopped")
    }
}

impl std::error::Error for Interrupted {}

/// What an experiment may use, and where it leaves its results. Shared freely between threads.
#[derive(Debug)]
pub struct Run {
    config: Envelope,
    device: Device,
    rehearsal: bool,
    folder: PathBuf,
    work: PathBuf,
    needs: BTreeMap<String, PathBuf>,
    code: Code,
    progress: Progress,
    started: Instant,
    collected: Mutex<Collected>,
    _locks: [Lock; 2],
}

/// What has been reported so far.
#[derive(Debug, Default)]
struct Collected {
    tables: Vec<Table>,
    /// Of each draw, the first one first.
    metrics: Vec<Vec<Metric>>,
    streams: BTreeSet<String>,
    inputs: BTreeMap<String, String>,
    files: BTreeSet<String>,
    needed: BTreeMap<String, String>,
}

/// Where and how a run works; the command line says it.
pub(crate) struct Setting {
    pub(crate) config: Envelope,
    pub(crate) device: Device,
    pub(crate) rehearsal: bool,
    pub(crate) folder: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) needs: BTreeMap<String, PathBuf>,
    pub(crate) code: Code,
    pub(crate) progress: Progress,
    pub(crate) fresh: bool,
}

impl Run {
    pub(crate) fn open(setting: Setting) -> Result<Self> {
        let Setting { config, device, rehearsal, folder, work, needs, code, progress, fresh } = setting;
        let locks = [Lock::acquire(&folder)?, Lock::acquire(&work)?];
        if fresh {
            clear(&work)?;
        }
        if let Some(changed) = changed_input(&work) {
            tracing::warn!("the input {changed} has changed since this run was interrupted, so it starts over");
            clear(&work)?;
        }
        let collected = Mutex::default();
        Ok(Self {
            config,
            device,
            rehearsal,
            folder,
            work,
            needs,
            code,
            progress,
            started: Instant::now(),
            collected,
            _locks: locks,
        })
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resolved configuration.
    #[must_use]
    pub fn config(&self) -> &Envelope {
        &self.config
    }

    /// The device to compute on.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The random stream called `name`, split from the configuration's one seed.
    #[must_use]
    pub fn rng(&self, name: &str) -> ChaCha12Rng {
        self.collected().streams.insert(name.to_owned());
        streams::stream(self.config.body.seed, name)
    }

    /// `steps`, or two in a rehearsal.
    #[must_use]
    pub fn steps(&self, steps: u64) -> u64 {
        if self.rehearsal { steps.min(2) } else { steps }
    }

    /// `samples`, or four in a rehearsal.
    #[must_use]
    pub fn samples(&self, samples: usize) -> usize {
        if self.rehearsal { samples.min(4) } else { samples }
    }

    /// Whether only the plumbing is tried.
    #[must_use]
    pub fn is_rehearsal(&self) -> bool {
        self.rehearsal
    }

    /// Folder for the checkpoints of a part of the run; removed when the run is finished.
    #[must_use]
    pub fn work(&self, part: &str) -> PathBuf {
        self.work.join(part)
    }

    /// Hash of everything in the configuration that moves a number, the rehearsal flag included.
    #[must_use]
    pub fn identity(&self) -> String {
        let rehearsal = if self.rehearsal { " rehearsal" } else { "" };
        storage::hash_bytes(format!("{}{rehearsal}", self.config.identity()).as_bytes())
    }

    /// Hash of everything that decides what this run computes: [`Self::identity`], the code, the results that it needs, and
    /// the inputs that it has read so far. Intermediate files that outlive the run must carry it.
    ///
    /// # Errors
    /// When results that it needs are missing.
    pub fn provenance(&self) -> Result<String> {
        let needs = self.config.body.needs.iter().map(|need| Ok(self.need(need)?.manifest.run_id));
        let needs = needs.collect::<Result<Vec<String>>>()?;
        let inputs = &self.collected().inputs;
        let text = format!("{} {} {needs:?} {inputs:?}", self.identity(), self.code.hash);
        Ok(storage::hash_bytes(text.as_bytes()))
    }

    /// How many pieces of work to run side by side; results must not depend on it.
    #[must_use]
    pub fn threads(&self) -> usize {
        machine::threads()
    }

    /// Does each piece of work, a thread each as far as there are threads; none may depend on another. Results come in the
    /// order of the work.
    ///
    /// # Errors
    /// Of the first piece that failed, after all that had begun have come to their end.
    pub fn parallel_map<W: Sync, R: Send>(&self, work: &[W], each: impl Fn(&W) -> Result<R> + Sync) -> Result<Vec<R>> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(piece) = work.get(index) else { break };
                let result = each(piece);
                let failed = result.is_err();
                done.push((index, result));
                if failed {
                    break;
                }
            }
            done
        };
        let mut done: Vec<(usize, Result<R>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads().min(work.len())).map(|_| scope.spawn(worker)).collect();
            // all are joined before the first failure is told, so that each has saved
            let panicked = || vec![(0, Err(anyhow!("a thread of the run panicked")))];
            workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|_| panicked())).collect()
        });
        done.sort_by_key(|(index, _)| *index);
        done.into_iter().map(|(_, result)| result).collect()
    }

    /// A progress bar for one piece of work.
    #[must_use]
    pub fn task(&self, label: &str, total: u64, unit: &str) -> Task {
        self.progress.task(label, total, unit)
    }

    /// Stops the run when a signal has asked for it; for loops without a trainer.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub fn check_interrupted(&self) -> Result<()> {
        if progress::stopped() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Hands in a table; it is written when the run is finished.
    pub fn record(&self, table: Table) {
        self.collected().tables.push(table);
    }

    /// Shows tables while the run is still going; what starts it draws the figures that take them every so often. They are no
    /// results, and go when the run ends.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn preview(&self, tables: &[Table]) -> Result<()> {
        let folder = self.work.join(config::PREVIEW);
        for table in tables {
            table.write(&folder)?;
        }
        let index: Vec<_> = tables.iter().map(|table| (table.schema(), table.len())).collect();
        Ok(tables::write_index(&folder, &index)?)
    }

    /// Records a number that claims and published values are compared with. `None` where the configuration did not ask
    /// for it; its claims then stay open.
    pub fn metric(&self, name: &str, value: impl Into<Option<f64>>, unit: &str) {
        self.metric_of_seed(Seed::FIRST, name, value, unit);
    }

    /// As [`Self::metric`], for one of several seeds. A claim takes its number from all of them, as it does from the
    /// points of a sweep: the worst, unless it says `over:`.
    pub(crate) fn metric_of_seed(&self, seed: Seed, name: &str, value: impl Into<Option<f64>>, unit: &str) {
        let metric = Metric { name: name.to_owned(), value: value.into(), unit: unit.to_owned() };
        let mut collected = self.collected();
        let count = seed.number();
        if collected.metrics.len() < count {
            collected.metrics.resize(count, Vec::new());
        }
        collected.metrics[count - 1].push(metric);
    }

    /// Records the content hash of a local file or folder that the run reads: a model, a tokenizer, a corpus.
    ///
    /// The hash is part of the run's identity. A result whose inputs have changed since is stale, and an interrupted run
    /// whose inputs have changed starts over. The layer that opens models and texts (`subject`) calls this.
    ///
    /// # Errors
    /// When it cannot be read, or changed since the run first read it.
    pub fn read_input(&self, path: &Path) -> Result<()> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let path = self.relative(&path);
        if self.collected().inputs.contains_key(&path) {
            return Ok(());
        }
        let hash = storage::hash_path(Path::new(&path))?;
        let mut collected = self.collected();
        collected.inputs.insert(path, hash);
        // what is kept of an interrupted run is only worth as much as the inputs that it was made from
        let text = serde_json::to_string(&collected.inputs).context("cannot write the inputs as JSON")?;
        Ok(storage::write_atomic(&self.work.join(INPUTS), text.as_bytes())?)
    }

    /// A path below the working directory without it, so that a record means the same in every checkout.
    fn relative(&self, path: &Path) -> String {
        let here = std::env::current_dir().unwrap_or_default();
        let path = path.strip_prefix(here).unwrap_or(path);
        // an input may be the working directory itself
        if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
    }

    /// Path of a model file that stays with the results; note it by asking for it.
    #[must_use]
    pub fn model_path(&self, name: &str) -> PathBuf {
        self.output(&format!("models/{name}.safetensors"))
    }

    /// Path of a file of the experiment's own making that stays with the results, such as `models/toy/config.json`; it is
    /// noted by asking for it, and must be there at the end.
    #[must_use]
    pub fn output(&self, file: &str) -> PathBuf {
        self.collected().files.insert(file.to_owned());
        self.folder.join(file)
    }

    /// The finished results of an experiment that the configuration `needs:`.
    ///
    /// # Errors
    /// When it was not declared or has not been run.
    pub fn need(&self, name: &str) -> Result<Needed> {
        let folder = self.needs.get(name).ok_or_else(|| {
            anyhow!("results of `{name}` were not handed in: list it under `needs:` in the configuration")
        })?;
        let path = folder.join(MANIFEST);
        let text = storage::read_text(&path)
            .with_context(|| format!("`{name}` has no finished run; run it first: cargo xtask reproduce {name}"))?;
        let manifest: Manifest = config::yaml::from_str(&text, &path.display().to_string())?;
        if manifest.rehearsal && !self.rehearsal {
            bail!("{} is a rehearsal: its numbers mean nothing; run `{name}` itself", folder.display());
        }
        self.collected().needed.insert(name.to_owned(), manifest.run_id.clone());
        Ok(Needed { folder: folder.clone(), manifest })
    }

    /// Writes tables, metrics and the manifest, removes the checkpoints, and then evaluates the claims.
    ///
    /// A claim on an unknown metric fails neither the run nor the other claims: it is an error in `claims.csv`.
    pub(crate) fn finish(self) -> Result<()> {
        let collected = std::mem::take(&mut *self.collected());
        for need in &self.config.body.needs {
            if !collected.needed.contains_key(need) {
                bail!("the configuration needs `{need}`, but the experiment never read it");
            }
        }
        let metrics = tables::standard::metrics_table(&collected.metrics)?;
        let tables: Vec<&Table> = collected.tables.iter().chain([&metrics]).collect();
        let mut outputs = BTreeMap::new();
        // a folder without a manifest is an unfinished run, whatever lies in it
        let manifest_path = self.folder.join(MANIFEST);
        let before = previous_outputs(&manifest_path);
        remove(&manifest_path)?;
        for table in &tables {
            for path in table.write(&self.folder)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                outputs.insert(name, storage::hash_file(&path)?);
            }
        }
        let index: Vec<_> = tables.iter().map(|table| (table.schema(), table.len())).collect();
        tables::write_index(&self.folder, &index)?;
        for file in collected.files {
            let hash = storage::hash_file(&self.folder.join(&file))?;
            outputs.insert(file, hash);
        }
        for gone in before.iter().filter(|name| !outputs.contains_key(*name)) {
            remove(&self.folder.join(gone))?;
        }
        let inputs: Vec<String> = collected.inputs.iter().map(|(path, hash)| format!("{path} {hash}")).collect();
        let needs: Vec<String> = collected.needed.iter().map(|(name, id)| format!("{name} {id}")).collect();
        let everything = format!("{} {} {inputs:?} {needs:?}", self.identity(), self.code.hash);
        let run_id = storage::hash_bytes(everything.as_bytes())[..12].to_owned();
        let mut manifest = Manifest {
            run_id,
            rehearsal: self.rehearsal,
            points: Vec::new(),
            needs: collected.needed,
            inputs: collected.inputs,
            outputs,
            streams: collected.streams.into_iter().collect(),
            code: self.code.clone(),
            machine: machine::describe(&self.device),
            wall_seconds: ((self.started.elapsed().as_secs_f64() + self.earlier_seconds()) * 10.).round() / 10.,
            peak_mib: machine::peak_mib(),
            config: self.config.clone(),
        };
        storage::write_atomic(&manifest_path, config::yaml::to_string(&manifest)?.as_bytes())?;
        clear(&self.work)?;
        let folder = self.folder.display();
        let problems = tables::evaluate(&self.folder, &mut manifest)
            .with_context(|| format!("{folder}: the run is finished, but its claims could not be evaluated"))?;
        for problem in problems {
            tracing::warn!("{problem}: correct the configuration and draw again; the tables in {folder} are complete");
        }
        Ok(())
    }

    /// Notes how long an interrupted run has worked, for the manifest of the finished one.
    pub(crate) fn interrupted(&self) {
        let seconds = self.started.elapsed().as_secs_f64() + self.earlier_seconds();
        // the time is only informative: a disk that is full must not hide why the run stopped
        let _ = storage::write_atomic(&self.work.join("seconds"), seconds.to_string().as_bytes());
    }

    fn earlier_seconds(&self) -> f64 {
        storage::read_text(&self.work.join("seconds")).ok().and_then(|text| text.parse().ok()).unwrap_or(0.)
    }
}

fn previous_outputs(manifest: &Path) -> Vec<String> {
    let text = storage::read_text(manifest).unwrap_or_default();
    let manifest = config::yaml::from_str::<Manifest>(&text, "run.yaml");
    manifest.map(|manifest| manifest.outputs.into_keys().collect()).unwrap_or_default()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Name of the file in a work folder that holds the inputs that were read, by path, with their hashes.
const INPUTS: &str = "inputs.json";

/// The first input of an interrupted run that is no longer what the run read.
fn changed_input(work: &Path) -> Option<String> {
    let text = storage::read_text(&work.join(INPUTS)).ok()?;
    let inputs: BTreeMap<String, String> = serde_json::from_str(&text).ok()?;
    inputs
        .into_iter()
        .find(|(path, hash)| storage::hash_path(Path::new(path)).ok().as_ref() != Some(hash))
        .map(|(path, _)| path)
}

/// Empties a work folder, all but the lock that this process holds in it.
fn clear(work: &Path) -> Result<()> {
    let entries = fs::read_dir(work).with_context(|| format!("cannot list {}", work.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name == ".lock") {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Checks that every name of a list in the configuration, at `key`, is there once.
///
/// # Errors
/// With the first that comes twice.
pub fn distinct<'a>(key: &str, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut seen = BTreeSet::new();
    match names.into_iter().find(|name| !seen.insert(*name)) {
        Some(name) => bail!("{key}: `{name}` comes twice"),
        None => Ok(()),
    }
}

/// The finished results of another experiment.
#[derive(Debug)]
pub struct Needed {
    folder: PathBuf,
    manifest: Manifest,
}

impl Needed {
    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The parameters that it was run with.
    ///
    /// # Errors
    /// When they are of another version of the experiment.
    pub fn params<P: DeserializeOwned>(&self) -> Result<P> {
        let of = &self.manifest.config;
        serde_json::from_value(serde_json::to_value(&of.body.params)?).with_context(|| {
            format!("{}/{} was run with parameters of another version; run it again", of.paper, of.experiment)
        })
    }

    /// The random stream called `name` of its own seed: what it drew from its stream of that name can be drawn again.
    #[must_use]
    pub fn rng(&self, name: &str) -> ChaCha12Rng {
        streams::stream(self.manifest.config.body.seed, name)
    }

    /// One of its tables.
    ///
    /// # Errors
    /// When it has no such table.
    pub fn table(&self, name: &str) -> Result<Table> {
        Ok(Table::read(&self.folder, name)?)
    }

    /// Path of one of its models, checked to be the file that the manifest names.
    ///
    /// # Errors
    /// When there is none of that name (the message lists those there are), or the file has changed.
    pub fn model(&self, name: &str) -> Result<PathBuf> {
        let file = format!("models/{name}.safetensors");
        if !self.manifest.outputs.contains_key(&file) {
            let known: Vec<&str> = self
                .manifest
                .outputs
                .keys()
                .filter_map(|file| file.strip_prefix("models/")?.strip_suffix(".safetensors"))
                .collect();
            bail!("{} has no model `{name}`; it has {}", self.folder.display(), known.join(", "));
        }
        self.output(&file)
    }

    /// Path of a file that it made, checked to be the one that the manifest names.
    ///
    /// # Errors
    /// When it made none of that name, or the file has changed.
    pub fn output(&self, file: &str) -> Result<PathBuf> {
        let Some(expected) = self.manifest.outputs.get(file) else {
            bail!("{} has no `{file}`", self.folder.display());
        };
        let path = self.folder.join(file);
        if storage::hash_file(&path)? != *expected {
            bail!("{} is not the file that {MANIFEST} beside it names: run the experiment again", path.display());
        }
        Ok(path)
    }

    /// Path of a folder that it made, all of whose files are those that the manifest names.
    ///
    /// # Errors
    /// When it made no file below that folder, or one has changed.
    pub fn output_folder(&self, folder: &str) -> Result<PathBuf> {
        let inside = |file: &&String| file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let files: Vec<&String> = self.manifest.outputs.keys().filter(inside).collect();
        if files.is_empty() {
            let known: Vec<&str> = self.manifest.outputs.keys().map(String::as_str).collect();
            bail!("{} has nothing in `{folder}`; it has {}", self.folder.display(), known.join(", "));
        }
        for file in files {
            self.output(file)?;
        }
        Ok(self.folder.join(folder))
    }
}
