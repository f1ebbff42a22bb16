/// What a fit refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Samples and targets that do not belong together.
    #[error("{what}: {found} rows, but {expected} are needed")]
    Rows {
        /// Which matrix.
        what: &'static str,
        /// Its rows.
        found: usize,
        /// Rows that fit.
        expected: usize,
    },
    /// Columns that do not belong together.
    #[error("{what}: {found} columns, but {expected} are needed")]
    Columns {
        /// Which matrix.
        what: &'static str,
        /// Its columns.
        found: usize,
        /// Columns that fit.
        expected: usize,
    },
    /// Fewer samples than the fit needs.
    #[error("{found} samples are too few: at least {least} are needed")]
    TooFew {
        /// Samples there are.
        found: usize,
        /// Samples needed.
        least: usize,
    },
    /// A NaN or an infinity among the samples.
    #[error("{what} has a value that is not finite in row {row}, column {column}")]
    NotFinite {
        /// Which matrix.
        what: &'static str,
        /// Where.
        row: usize,
        /// Where.
        column: usize,
    },
    /// The equations have no single solution.
    #[error("the features depend on each other: raise the penalty above {penalty}")]
    Singular {
        /// Penalty of the fit.
        penalty: f64,
    },
    /// A decomposition that did not converge.
    #[error("the decomposition did not converge")]
    NoConvergence,
    /// A number of components, clusters or frequencies that is out of range.
    #[error("{what} is {found}, but must lie between {least} and {most}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What was asked for.
        found: usize,
        /// Least that works.
        least: usize,
        /// Most that works.
        most: usize,
    },
    /// candle refused an operation.
    #[error("{0}")]
    Candle(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error.to_string())
    }
}
