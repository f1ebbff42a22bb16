use rand::Rng;

/// A hypervector: a vector that can be bound, bundled, permuted and compared.
///
/// Binary operations need vectors of the same dimension.
///
/// ```
/// use rand::SeedableRng;
/// use vsa::{Bipolar, Tie, Vector};
///
/// let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(1);
/// let [key, value, other] = std::array::from_fn(|_| Bipolar::random(2048, &mut rng));
/// // a bound pair resembles neither of its parts, and unbinding is exact
/// let pair = key.bind(&value);
/// assert!(pair.cosine(&key).abs() < 0.1);
/// assert_eq!(pair.unbind(&key), value);
/// // a bundle resembles each of its members
/// let set = Bipolar::bundle([&key, &value, &other]).sign(Tie::Negative);
/// assert!((set.cosine(&key) - 0.5).abs() < 0.1);
/// ```
pub trait Vector: Clone + Send + Sync + Sized {
    /// The type of a bundle: integer counts for bipolar vectors, the vector type itself for real ones.
    type Bundle;

    /// A random vector.
    fn random(dimension: usize, rng: &mut impl Rng) -> Self;

    /// The neutral element of binding.
    fn identity(dimension: usize) -> Self;

    /// Number of dimensions, D.
    fn dimension(&self) -> usize;

    /// Binds two vectors; the result is dissimilar to both.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    fn bind(&self, other: &Self) -> Self;

    /// The vector that undoes binding with this one, exactly or approximately.
    #[must_use]
    fn inverse(&self) -> Self;

    /// The negative of each component.
    #[must_use]
    fn negative(&self) -> Self;

    /// Rotates the components by `by` indices, to the right where it is positive; `permute(-by)` undoes it.
    #[must_use]
    fn permute(&self, by: isize) -> Self;

    /// Cosine of the angle between two vectors, -1 to 1.
    ///
    /// # Panics
    /// When the dimensions differ.
    fn cosine(&self, other: &Self) -> f64;

    /// The componentwise sum, which is similar to each of the vectors. Also called a multiset.
    ///
    /// # Panics
    /// When there are no vectors, or their dimensions differ.
    fn bundle<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Self::Bundle
    where
        Self: 'a;

    /// Recovers what was bound with `other`: binds with the inverse of `other`.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    fn unbind(&self, other: &Self) -> Self {
        self.bind(&other.inverse())
    }

    /// Binds all vectors together; `None` when there are none.
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

    /// The components as bytes, for storage.
    fn to_bytes(&self) -> Vec<u8>;

    /// A vector from [`Self::to_bytes`]; `None` when the bytes do not encode a vector of this dimension.
    fn from_bytes(dimension: usize, bytes: &[u8]) -> Option<Self>;

    /// Number of bytes that [`Self::to_bytes`] gives.
    fn byte_length(dimension: usize) -> usize;

    /// Identifies the vector type in stored codebooks.
    const KIND: u8;
}
