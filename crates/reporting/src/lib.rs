//! Run folders to pictures, reports, one page over all results, and a scoreboard.
//!
//! Nothing here measures: everything is read from the tables and manifests of runs, so it can be repeated at will.
//! The program `render` is this crate's command line.
//!
//! | function | reads | writes |
//! |---|---|---|
//! | [`experiment`] | one run folder | its pictures and `report.md`; claims and published numbers follow the configuration |
//! | [`join`] | the run folders of a sweep's points | one run folder with all their rows |
//! | [`index`] | all finished runs below a folder | `index.html`, which needs no other file, and `index.json` |
//! | [`scoreboard`] | all finished runs below a folder | text for a terminal |
//!
//! A run folder holds a manifest (`run.yaml`), tables (`*.csv`, described in `tables.json`), and the standard tables
//! `metrics`, `claims` and `published`. A folder with a readable manifest is a finished run.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use config::{Code, Envelope, MANIFEST, Machine, Manifest, yaml};
//! use tables::{Schema, Table, row, write_index};
//!
//! // what an experiment leaves behind: a table, and the manifest written last
//! let folder = tempfile::tempdir()?;
//! let schema = Schema::new("losses", "one step").int("step", "optimiser step").float("loss", "cross-entropy", "nats");
//! let table = Table::from_rows(schema, [row![0, 2.3], row![500, 1.1]])?;
//! table.write(folder.path())?;
//! write_index(folder.path(), &[(table.schema(), table.len())])?;
//! let config: Envelope = yaml::from_str(
//!     "{paper: example, experiment: train, profile: cpu, title: Training, seed: 1, params: {},
//!       artefacts: [{id: F1, title: Losses}],
//!       figures: [{id: losses, artefact: F1, title: Losses, kind: line, table: losses, x: step, y: loss}]}",
//!     "example",
//! )?;
//! let manifest = Manifest {
//!     run_id: "0123456789ab".into(),
//!     rehearsal: false,
//!     config,
//!     points: Vec::new(),
//!     needs: BTreeMap::new(),
//!     inputs: BTreeMap::new(),
//!     outputs: BTreeMap::new(),
//!     streams: Vec::new(),
//!     code: Code::default(),
//!     machine: Machine::default(),
//!     wall_seconds: 1.0,
//!     peak_mib: None,
//! };
//! std::fs::write(folder.path().join(MANIFEST), yaml::to_string(&manifest)?)?;
//!
//! reporting::experiment(folder.path(), &reporting::Options::default())?;
//! assert!(std::fs::read_to_string(folder.path().join("losses.svg"))?.contains("loss (nats)"));
//! assert!(std::fs::read_to_string(folder.path().join("report.md"))?.contains("![Losses](losses.svg)"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod board;
mod error;
mod experiment;
mod join;
mod page;
mod report;
mod run;

pub use crate::{
    board::scoreboard,
    error::Error,
    experiment::{Options, experiment},
    join::{PointFolder, join},
    page::index,
    run::{ClaimRow, Run, runs},
};

#[cfg(test)]
mod tests;
