/// An error in the names, sizes or bytes of a codebook, or a failed clean-up.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A dimension of zero.
    #[error("a vector needs at least one dimension")]
    NoDimension,
    /// Two concepts with the same name.
    #[error("the codebook has two entries named `{name}`; every name must be unique")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A concept that the codebook does not have.
    #[error("no `{name}` among the {known} names of this codebook")]
    UnknownName {
        /// The requested name.
        name: String,
        /// Number of names in the codebook.
        known: usize,
    },
    /// No item reaches the similarity threshold of a clean-up.
    #[error("the nearest item has a cosine of {best:.3}, below the threshold of {threshold}")]
    TooFar {
        /// Cosine of the nearest item.
        best: f64,
        /// The required cosine.
        threshold: f64,
    },
    /// A memory without items.
    #[error("the memory is empty")]
    Empty,
    /// Bytes that do not encode a codebook of this kind of vector.
    #[error("not a valid codebook: {what}")]
    Bytes {
        /// The defect.
        what: String,
    },
}
