//! What can keep a figure or a page from being made.

use std::path::PathBuf;

/// A failure to draw or report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration or manifest could not be read.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A table could not be read.
    #[error(transparent)]
    Table(#[from] tables::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A figure that cannot be drawn as its configuration says.
    #[error("figure `{figure}`: {what}")]
    Figure {
        /// Id of the figure.
        figure: String,
        /// What is wrong, in words.
        what: String,
    },
    /// A figure for which the table has no rows or not the values asked for.
    #[error("figure `{figure}`: {what}")]
    Empty {
        /// Id of the figure.
        figure: String,
        /// What is not there, in words.
        what: String,
    },
    /// A table of a figure could not be used.
    #[error("figure `{figure}`: {source}")]
    FigureTable {
        /// Id of the figure.
        figure: String,
        /// What the table said.
        source: Box<tables::Error>,
    },
    /// A back end failed.
    #[error("drawing failed: {0}")]
    Draw(String),
    /// A folder that is not a finished run.
    #[error("{}: {what}", .folder.display())]
    Run {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Points of a sweep that do not fit together.
    #[error("cannot join the sweep: {0}")]
    Join(String),
    /// A folder could not be listed.
    #[error("cannot read folder {}: {source}", .folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// JSON could not be made.
    #[error("index: {0}")]
    Json(#[from] serde_json::Error),
}
