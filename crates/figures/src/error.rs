//! Reasons why a figure cannot be drawn.

/// A failure to draw a figure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A figure whose keys or columns do not fit together.
    #[error("figure `{figure}`: {problem}")]
    Figure {
        /// Id of the figure.
        figure: String,
        /// The mistake.
        problem: String,
    },
    /// A figure whose table does not have the rows or values that it asks for.
    #[error("figure `{figure}`: {problem}")]
    Empty {
        /// Id of the figure.
        figure: String,
        /// The missing rows or values.
        problem: String,
    },
    /// A table of a figure that cannot be used.
    #[error("figure `{figure}`: {source}")]
    Table {
        /// Id of the figure.
        figure: String,
        /// The error of the table.
        source: Box<tables::Error>,
    },
    /// plotters or the PNG encoder failed.
    #[error("drawing failed: {0}")]
    Backend(String),
}
