//! What can go wrong with a model.

use std::path::PathBuf;

/// A model that cannot be built, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// A weight file is missing or wrong.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// Sizes that contradict each other.
    #[error("model configuration: {0}")]
    Config(String),
    /// A checkpoint of the hub that cannot be used; the text names its file and key.
    #[error("{0}")]
    Checkpoint(String),
    /// A weight file without our configuration in it.
    #[error("{}: no model configuration in the file: was it written by Retrace?", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}
