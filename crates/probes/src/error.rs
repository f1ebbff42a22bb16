/// A fit that cannot be computed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Matrices whose numbers of rows disagree.
    #[error("{what} must have {expected} rows, but there are {found}")]
    Rows {
        /// The matrix.
        what: &'static str,
        /// Its number of rows.
        found: usize,
        /// The required number of rows.
        expected: usize,
    },
    /// Matrices whose numbers of columns disagree.
    #[error("{what} must have {expected} columns, but there are {found}")]
    Columns {
        /// The matrix.
        what: &'static str,
        /// Its number of columns.
        found: usize,
        /// The required number of columns.
        expected: usize,
    },
    /// Fewer samples than the fit needs.
    #[error("{found} samples are too few: at least {least} are needed")]
    TooFew {
        /// The number of samples.
        found: usize,
        /// The required number of samples.
        least: usize,
    },
    /// A NaN or an infinity among the values.
    #[error("{what} must be finite, but row {row}, column {column} is NaN or infinite")]
    NotFinite {
        /// The matrix.
        what: &'static str,
        /// Row of the value.
        row: usize,
        /// Column of the value.
        column: usize,
    },
    /// The normal equations have no unique solution.
    #[error("the features are linearly dependent: raise the penalty above {penalty}")]
    Singular {
        /// Penalty of the fit.
        penalty: f64,
    },
    /// Data without any variance.
    #[error("{what} must vary, but every one is constant")]
    Constant {
        /// The data.
        what: &'static str,
    },
    /// A decomposition that did not converge.
    #[error("the decomposition did not converge")]
    NoConvergence,
    /// A number of components, clusters or frequencies that is out of range.
    #[error("{what} is {found}, but must lie between {least} and {most}")]
    Range {
        /// The parameter.
        what: &'static str,
        /// The requested value.
        found: usize,
        /// The smallest allowed value.
        least: usize,
        /// The largest allowed value.
        most: usize,
    },
    /// A failed tensor operation.
    #[error("{0}")]
    Candle(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Candle(error.to_string())
    }
}
