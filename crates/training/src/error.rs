//! What can stop a training.

use std::path::PathBuf;

/// A training that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// A file operation failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Some trainable tensors got no gradient in the first step.
    #[error(
        "no gradient reaches {names:?} in the first step: an operation without a backward pass cuts the graph (candle's fused norms and softmax_last_dim do)"
    )]
    NoGradient {
        /// The variables.
        names: Vec<String>,
    },
    /// A loss or gradient is NaN or infinite.
    #[error("step {step}: {what} is not finite; a lower learning rate, gradient clipping or f32 may help")]
    NotFinite {
        /// Optimiser step.
        step: u64,
        /// The loss, or the gradient of which variable.
        what: String,
    },
    /// A checkpoint of another run.
    #[error("{}: this checkpoint belongs to another configuration; delete the folder {} to start over", path.display(), path.parent().unwrap_or(path).display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// No checkpoint in the folder is whole.
    #[error("no checkpoint in {} can be read (newest: {newest}); delete the folder to start over", folder.display())]
    AllDamaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with the newest.
        newest: String,
    },
    /// The objective failed.
    #[error("{0}")]
    Objective(String),
}

impl Error {
    /// Wraps an error of an objective, with its causes.
    pub fn objective(error: impl std::fmt::Display) -> Self {
        Self::Objective(format!("{error:#}"))
    }
}
