//! Run folders: the contents of one, and all those below a root.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use config::{Envelope, MANIFEST, Manifest, claims::Holds};
use tables::{Schema, Table, read_index};

use crate::error::Error;

/// A run folder, read.
#[derive(Clone, Debug)]
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// The folder relative to the results root, with `/`; empty where there is no root.
    pub path: String,
    /// The configuration: that of the manifest, or the resolved one while the run is still going.
    pub config: Envelope,
    /// The manifest; `None` while the run is still going.
    pub manifest: Option<Manifest>,
    /// The tables with their numbers of rows.
    pub tables: Vec<(Schema, usize)>,
    /// `claims.csv`, where there is one.
    pub claims: Option<Table>,
    /// `published.csv`, where there is one.
    pub published: Option<Table>,
}

impl Run {
    /// Reads a folder with a manifest.
    ///
    /// # Errors
    /// When the folder has no manifest, or the manifest or a table cannot be read.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(MANIFEST);
        if !path.exists() {
            let problem = format!("there is no {MANIFEST}, so this is not a finished run");
            return Err(Error::Run { folder: folder.into(), problem });
        }
        let manifest = read_manifest(folder)?;
        Self::with(folder, manifest.config.clone(), Some(manifest))
    }

    /// Reads the folder of a run that may still be going, under a resolved configuration.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn partial(folder: &Path, config: Envelope) -> Result<Self, Error> {
        let manifest = if folder.join(MANIFEST).exists() { Some(read_manifest(folder)?) } else { None };
        Self::with(folder, config, manifest)
    }

    fn with(folder: &Path, config: Envelope, manifest: Option<Manifest>) -> Result<Self, Error> {
        let partial = manifest.is_none();
        let tables = match read_index(folder) {
            Err(tables::Error::Storage(e)) if partial && e.is_not_found() => Vec::new(),
            tables => tables?,
        };
        let standard = |name: &str| match tables.iter().any(|(s, _)| s.name == name) {
            true => Table::read(folder, name).map(Some),
            false => Ok(None),
        };
        let (claims, published) = (standard("claims")?, standard("published")?);
        Ok(Self { folder: folder.into(), path: String::new(), config, manifest, tables, claims, published })
    }

    /// Whether the run was a rehearsal, whose numbers mean nothing.
    pub fn is_rehearsal(&self) -> bool {
        self.manifest.as_ref().is_some_and(|m| m.rehearsal)
    }

    /// `paper/experiment`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.config.paper, self.config.experiment)
    }

    /// The tables that only this experiment has: all but metrics, claims and published numbers.
    pub fn own_tables(&self) -> impl Iterator<Item = &(Schema, usize)> {
        self.tables.iter().filter(|(s, _)| !matches!(s.name.as_str(), "metrics" | "claims" | "published"))
    }

    /// The rows of `claims.csv`.
    ///
    /// # Errors
    /// When `claims.csv` lacks a column.
    pub fn claim_rows(&self) -> Result<Vec<ClaimRow>, Error> {
        let Some(table) = &self.claims else { return Ok(Vec::new()) };
        let texts = |column: &str| -> Result<Vec<String>, Error> {
            Ok(table.texts(column)?.into_iter().map(Option::unwrap_or_default).collect())
        };
        let floats = |column: &str| -> Result<Vec<Option<f64>>, Error> {
            Ok(table.floats(column)?.into_iter().map(|v| (!v.is_nan()).then_some(v)).collect())
        };
        let (id, artefact, statement) = (texts("id")?, texts("artefact")?, texts("statement")?);
        let note = texts("note")?;
        let (threshold, holds, unit, source) = (texts("threshold")?, texts("holds")?, texts("unit")?, texts("source")?);
        let (measured, published) = (floats("measured")?, floats("published")?);
        let n = table.ints("n")?;
        Ok((0..table.len())
            .map(|i| ClaimRow {
                id: id[i].clone(),
                artefact: artefact[i].clone(),
                statement: statement[i].clone(),
                measured: measured[i],
                published: published[i],
                threshold: threshold[i].clone(),
                outcome: Holds::from_name(&holds[i]).unwrap_or(Holds::Open),
                note: note[i].clone(),
                n: n[i].unwrap_or(0),
                unit: unit[i].clone(),
                source: source[i].clone(),
            })
            .collect())
    }
}

/// One row of `claims.csv`.
#[derive(Clone, Debug)]
pub struct ClaimRow {
    /// Id of the claim.
    pub id: String,
    /// Checklist id of the table or figure that it rests on.
    pub artefact: String,
    /// The claim as a sentence.
    pub statement: String,
    /// The measured value; `None` where nothing was measured.
    pub measured: Option<f64>,
    /// The paper's value.
    pub published: Option<f64>,
    /// The condition on the measured value, such as `>= 0.9`.
    pub threshold: String,
    /// The outcome.
    pub outcome: Holds,
    /// Why the claim was not evaluated.
    pub note: String,
    /// Number of points of the sweep that the value summarises.
    pub n: i64,
    /// Unit of both values.
    pub unit: String,
    /// Section, table or figure of the paper that makes the claim.
    pub source: String,
}

impl ClaimRow {
    /// Whether the measured value meets the threshold; `None` where the claim was not evaluated.
    pub fn holds(&self) -> Option<bool> {
        match self.outcome {
            Holds::Yes => Some(true),
            Holds::No => Some(false),
            Holds::Open | Holds::NotAsked | Holds::Error => None,
        }
    }

    /// A sign and a label, so that nothing depends on colour alone.
    pub fn verdict(&self) -> (&'static str, &'static str) {
        match self.outcome {
            Holds::Yes => ("✔", "holds"),
            Holds::No => ("✘", "fails"),
            Holds::Open => ("○", "not measured"),
            Holds::NotAsked => ("○", "not asked"),
            Holds::Error => ("!", "error"),
        }
    }
}

pub(crate) fn read_manifest(folder: &Path) -> Result<Manifest, Error> {
    let path = folder.join(MANIFEST);
    let text = storage::read_text(&path)?;
    Ok(config::yaml::from_str(&text, &path.display().to_string())?)
}

/// All finished runs below a root, ordered by paper, dependency, name and profile.
///
/// Hidden folders, `artifacts`, `models` and the `points` of sweeps are skipped.
///
/// # Errors
/// When a folder cannot be listed or a run cannot be read.
pub fn runs(root: &Path) -> Result<Vec<Run>, Error> {
    let mut found = Vec::new();
    walk(root, root, &mut found)?;
    Ok(in_order(found))
}

fn walk(root: &Path, folder: &Path, found: &mut Vec<Run>) -> Result<(), Error> {
    if folder.join(MANIFEST).exists() {
        let mut run = Run::open(folder)?;
        let parts = folder.strip_prefix(root).unwrap_or(folder).components();
        run.path = parts.map(|p| p.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        found.push(run);
    }
    let fail = |source| Error::Folder { folder: folder.into(), source };
    let mut inner = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped = name.starts_with('.') || matches!(name.as_str(), "artifacts" | "points" | "models");
        if !skipped && entry.file_type().map_err(fail)?.is_dir() {
            inner.insert(entry.path());
        }
    }
    inner.iter().try_for_each(|folder| walk(root, folder, found))
}

/// By paper; within a paper, what others need comes first; then by name and profile.
fn in_order(runs: Vec<Run>) -> Vec<Run> {
    let needs: BTreeMap<String, Vec<String>> = runs.iter().map(|r| (r.name(), r.config.body.needs.clone())).collect();
    let depths: BTreeMap<String, usize> =
        needs.keys().map(|name| (name.clone(), depth(name, &needs, needs.len()))).collect();
    let profile = |name: &str| ["cpu", "overnight", "paper", "smoke"].iter().position(|p| *p == name).unwrap_or(9);
    let mut runs = runs;
    runs.sort_by_cached_key(|r| {
        let name = r.name();
        let depth = depths.get(&name).copied().unwrap_or(0);
        (r.config.paper.clone(), depth, name, profile(&r.config.profile), r.path.clone())
    });
    runs
}

/// Length of the longest chain of needs, at most `left`, so that a cycle ends.
fn depth(name: &str, needs: &BTreeMap<String, Vec<String>>, left: usize) -> usize {
    if left == 0 {
        return 0;
    }
    let below = needs.get(name).into_iter().flatten().filter(|n| needs.contains_key(*n));
    below.map(|n| 1 + depth(n, needs, left - 1)).max().unwrap_or(0)
}
