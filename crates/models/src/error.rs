//! Errors of models.

use std::path::PathBuf;

/// A model could not be built, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A weight file is missing or invalid.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// An invalid configuration, such as sizes that contradict each other.
    #[error("model configuration: {0}")]
    Config(String),
    /// An unusable checkpoint of the hub; the message names its file and key.
    #[error("{0}")]
    Checkpoint(String),
    /// A weight file without a model configuration.
    #[error("{}: no model configuration in the file; load files that `models::save` wrote", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}
