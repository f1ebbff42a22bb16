//! The record beside every result, `run.yaml`: what ran, on what, and what came out.
//!
//! Written last, so a folder with a readable manifest is a finished run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::envelope::Envelope;
use crate::ordered::Ordered;

/// File name of the manifest.
pub const MANIFEST: &str = "run.yaml";

/// Folder below a run's working folder in which it shows tables while it is still going.
pub const PREVIEW: &str = "preview";

/// What ran, on what, and what came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Twelve hex digits of the hash of the resolved configuration (without figures), the code and the inputs.
    pub run_id: String,
    /// True for a rehearsal: random weights, two steps, numbers without meaning.
    pub rehearsal: bool,
    /// The resolved configuration.
    pub config: Envelope,
    /// Swept keys of each point, for a joined sweep; empty otherwise.
    #[serde(default)]
    pub points: Vec<Point>,
    /// Run ids of the experiments it read.
    #[serde(default)]
    pub needs: BTreeMap<String, String>,
    /// Hashes of the data and weights it read, by path or repository.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// blake3 of every table and model it wrote, by file name.
    #[serde(default)]
    pub outputs: BTreeMap<String, String>,
    /// Names of the random streams it drew from, all split from `seed`.
    #[serde(default)]
    pub streams: Vec<String>,
    /// The code: commit and hash.
    pub code: Code,
    /// The machine.
    pub machine: Machine,
    /// Seconds from start to end, over all interruptions.
    pub wall_seconds: f64,
    /// Largest resident memory in MiB, where the system tells.
    #[serde(default)]
    pub peak_mib: Option<f64>,
}

/// One point of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Folder name of the point.
    pub id: String,
    /// Swept key to value, in file order.
    pub keys: Ordered<serde_json::Value>,
    /// Run id of the point.
    pub run_id: String,
}

/// What code ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Code {
    /// Version of the workspace.
    pub version: String,
    /// Git commit, where there is a repository.
    #[serde(default)]
    pub commit: Option<String>,
    /// Whether files differed from that commit.
    #[serde(default)]
    pub dirty: Option<bool>,
    /// Hash of the sources that the run depends on.
    #[serde(default)]
    pub hash: String,
}

/// What machine it ran on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Processor name.
    #[serde(default)]
    pub cpu: String,
    /// Threads used.
    pub threads: usize,
    /// Operating system and architecture.
    pub system: String,
}
