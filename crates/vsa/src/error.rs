/// What goes wrong with names, sizes and bytes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A dimension of zero.
    #[error("a vector needs at least one dimension")]
    NoDimension,
    /// Two concepts with one name.
    #[error("`{name}` is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// A concept that the codebook does not have.
    #[error("there is no `{name}` among the {known} names of this codebook")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names there are.
        known: usize,
    },
    /// A memory that holds nothing as near as was asked for.
    #[error("the nearest item has a cosine of {best:.3}, below the threshold of {threshold}")]
    TooFar {
        /// Cosine of the nearest item.
        best: f64,
        /// What it had to reach.
        threshold: f64,
    },
    /// A memory without items.
    #[error("the memory is empty")]
    Empty,
    /// Bytes that are no codebook.
    #[error("not a codebook: {what}")]
    Bytes {
        /// What is wrong.
        what: String,
    },
}
