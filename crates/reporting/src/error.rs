//! Reasons why results cannot be drawn or reported.

use std::path::PathBuf;

/// A failure to draw or report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration or manifest could not be read.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A table could not be read or written.
    #[error(transparent)]
    Table(#[from] tables::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A figure could not be drawn.
    #[error(transparent)]
    Figure(#[from] figures::Error),
    /// A folder that is not a run, or whose run cannot be reported.
    #[error("{}: {problem}", .folder.display())]
    Run {
        /// The folder.
        folder: PathBuf,
        /// The mistake.
        problem: String,
    },
    /// Points of a sweep that do not fit together.
    #[error("cannot join the sweep: {0}")]
    Join(String),
    /// A folder could not be listed.
    #[error("cannot read folder {}: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// JSON could not be written.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}
