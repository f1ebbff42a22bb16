use rand::Rng;

/// A hypervector: what can be bound, bundled, rolled and compared.
///
/// Binary operations need vectors of the same dimension.
pub trait Vector: Clone + Send + Sync + Sized {
    /// What a bundle is: integers over bits, real numbers over real numbers.
    type Bundle;

    /// A random vector of the kind.
    fn random(dimension: usize, rng: &mut impl Rng) -> Self;

    /// The vector that binding leaves everything as it is with.
    fn identity(dimension: usize) -> Self;

    /// Number of dimensions, D.
    fn dimension(&self) -> usize;

    /// Ties two vectors together: the result is like neither.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    fn bind(&self, other: &Self) -> Self;

    /// What undoes binding with this vector, exactly or nearly.
    #[must_use]
    fn inverse(&self) -> Self;

    /// The minus of each component.
    #[must_use]
    fn negative(&self) -> Self;

    /// Rolls the components by some places, to the right where `by` is positive; the minus of it rolls back.
    #[must_use]
    fn permute(&self, by: isize) -> Self;

    /// Cosine of the angle between two vectors, -1 to 1.
    ///
    /// # Panics
    /// When the dimensions differ.
    fn cosine(&self, other: &Self) -> f64;

    /// The sum of some vectors, component by component: like each of them. Also called a multiset.
    ///
    /// # Panics
    /// When there are none, or their dimensions differ.
    fn bundle<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Self::Bundle
    where
        Self: 'a;

    /// Takes off what was bound with `other`.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    fn unbind(&self, other: &Self) -> Self {
        self.bind(&other.inverse())
    }

    /// All of them bound together; nothing for none.
    ///
    /// # Panics
    /// When the dimensions differ.
    fn multibind<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Option<Self>
    where
        Self: 'a,
    {
        let mut vectors = vectors.into_iter();
        let first = vectors.next()?.clone();
        Some(vectors.fold(first, |all, next| all.bind(next)))
    }

    /// The components as bytes, for files.
    fn to_bytes(&self) -> Vec<u8>;

    /// A vector from [`Self::to_bytes`]; nothing when the bytes are no such vector.
    fn from_bytes(dimension: usize, bytes: &[u8]) -> Option<Self>;

    /// Bytes that a vector takes in a file.
    fn byte_length(dimension: usize) -> usize;

    /// Tells the kinds apart in files.
    const KIND: u8;
}
