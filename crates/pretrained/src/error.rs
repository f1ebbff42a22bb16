//! Why a model did not come.

use std::path::PathBuf;

/// A model that is nowhere, cannot be read, or does not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hub did not give a file.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// The name is no path here, and the hub did not have it either.
    #[error("`{name}` is no folder and no .gguf file here, so it was looked for on the hub: {error}")]
    NowhereAtAll {
        /// What was asked for.
        name: String,
        /// What the hub said.
        error: hub::Error,
    },
    /// A path that does not exist.
    #[error("{}: no such file or folder", path.display())]
    NoPath {
        /// The path.
        path: PathBuf,
    },
    /// A repository without safetensors.
    #[error("{repo} has no safetensors; pickled weights are refused: convert them first ({error})")]
    NoSafetensors {
        /// The repository.
        repo: String,
        /// What the hub said.
        error: hub::Error,
    },
    /// An index of shards that is none.
    #[error("{}: {reason}; fetch it anew with `cargo xtask fetch`", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The checkpoint is damaged, incomplete or of an unknown family.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// A weight file is damaged.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// It would not fit into memory.
    #[error("{name}: the weights take {needed} MiB as f32, and {free} MiB are free")]
    Memory {
        /// The model.
        name: String,
        /// MiB that the weights take.
        needed: usize,
        /// MiB that are free.
        free: usize,
    },
}
