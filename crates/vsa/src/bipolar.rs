//! Bipolar vectors, packed into bits: the MAP (multiply, add, permute) model with components +1 and -1.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use pulp::Arch;
use rayon::prelude::*;

use crate::Vector;

const BITS: usize = u64::BITS as usize;

/// A vector of +1 and -1, one bit per component (0 for +1, 1 for -1).
///
/// Binding is the componentwise product (XOR of bits), so every vector is its own inverse.
///
/// ```
/// use vsa::{Bipolar, Vector};
///
/// let x = Bipolar::from_signs(&[1, 1, -1, -1]);
/// let y = Bipolar::from_signs(&[1, -1, 1, -1]);
/// assert_eq!(x.bind(&y).signs(), [1, -1, -1, 1]);
/// assert_eq!((x.dot(&y), x.agreement(&y)), (0, 0.5));
/// assert_eq!(x.permute(1).signs(), [-1, 1, 1, -1]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bipolar {
    dimension: usize,
    /// Bits of the last word beyond the dimension are 0, so that words can be compared and counted whole.
    words: Vec<u64>,
}

/// Tie-breaking: the sign of the zero components of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tie {
    /// Always -1, as in arXiv 2509.25045 and torchhd: a bundle of two vectors is -1 wherever either of them is.
    Negative,
    /// Always +1.
    Positive,
    /// Sampled for each component from this seed, so that bundles of an even number of vectors have no bias.
    Random(u64),
}

impl Bipolar {
    /// A vector from its components.
    ///
    /// # Panics
    /// When a component is neither +1 nor -1.
    #[must_use]
    pub fn from_signs(signs: &[i8]) -> Self {
        let mut vector = Self::identity(signs.len());
        for (i, sign) in signs.iter().enumerate() {
            assert!(sign.abs() == 1, "component {i} is {sign}, not +1 or -1");
            vector.words[i / BITS] |= u64::from(*sign < 0) << (i % BITS);
        }
        vector
    }

    /// The sign of each number; zero and NaN give -1.
    #[must_use]
    pub fn from_numbers(numbers: &[f32]) -> Self {
        let mut vector = Self::identity(numbers.len());
        for (i, number) in numbers.iter().enumerate() {
            let negative = !matches!(number.partial_cmp(&0.), Some(std::cmp::Ordering::Greater));
            vector.words[i / BITS] |= u64::from(negative) << (i % BITS);
        }
        vector
    }

    /// The components.
    #[must_use]
    pub fn signs(&self) -> Vec<i8> {
        (0..self.dimension).map(|i| if self.is_negative(i) { -1 } else { 1 }).collect()
    }

    fn is_negative(&self, i: usize) -> bool {
        self.words[i / BITS] >> (i % BITS) & 1 == 1
    }

    /// Dot product, -D to D.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn dot(&self, other: &Self) -> i64 {
        self.check(other);
        let different: u32 = self.words.iter().zip(&other.words).map(|(a, b)| (a ^ b).count_ones()).sum();
        self.dimension as i64 - 2 * i64::from(different)
    }

    /// Mean of the components.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let negative: u32 = self.words.iter().map(|word| word.count_ones()).sum();
        1. - 2. * f64::from(negative) / self.dimension as f64
    }

    /// Fraction of components that are equal: (1 + cosine) / 2.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn agreement(&self, other: &Self) -> f64 {
        f64::midpoint(1., self.cosine(other))
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    fn check(&self, other: &Self) {
        assert_eq!(self.dimension, other.dimension, "vectors of different dimensions");
    }

    /// Clears the bits beyond the dimension.
    fn trim(mut self) -> Self {
        let rest = self.dimension % BITS;
        if let (1.., Some(last)) = (rest, self.words.last_mut()) {
            *last &= (1 << rest) - 1;
        }
        self
    }
}

impl Vector for Bipolar {
    type Bundle = Counts;
    const KIND: u8 = 1;

    fn random(dimension: usize, rng: &mut impl Rng) -> Self {
        let words = (0..dimension.div_ceil(BITS)).map(|_| rng.next_u64()).collect();
        Self { dimension, words }.trim()
    }

    fn identity(dimension: usize) -> Self {
        Self { dimension, words: vec![0; dimension.div_ceil(BITS)] }
    }

    fn dimension(&self) -> usize {
        self.dimension
    }

    fn bind(&self, other: &Self) -> Self {
        self.check(other);
        let words = self.words.iter().zip(&other.words).map(|(a, b)| a ^ b).collect();
        Self { dimension: self.dimension, words }
    }

    fn inverse(&self) -> Self {
        self.clone()
    }

    fn negative(&self) -> Self {
        Self { dimension: self.dimension, words: self.words.iter().map(|word| !word).collect() }.trim()
    }

    fn permute(&self, by: isize) -> Self {
        let d = self.dimension;
        if d == 0 {
            return self.clone();
        }
        let by = by.rem_euclid(d as isize) as usize;
        let mut rolled = Self::identity(d);
        if d.is_multiple_of(BITS) {
            let (words, bits, n) = (by / BITS, by % BITS, self.words.len());
            for (i, word) in self.words.iter().enumerate() {
                rolled.words[(i + words) % n] |= word << bits;
                if bits > 0 {
                    rolled.words[(i + words + 1) % n] |= word >> (BITS - bits);
                }
            }
        } else {
            for i in (0..d).filter(|i| self.is_negative(*i)) {
                let to = (i + by) % d;
                rolled.words[to / BITS] |= 1 << (to % BITS);
            }
        }
        rolled
    }

    fn cosine(&self, other: &Self) -> f64 {
        self.dot(other) as f64 / self.dimension as f64
    }

    fn bundle<'a>(vectors: impl IntoIterator<Item = &'a Self>) -> Counts {
        let mut vectors = vectors.into_iter();
        let first = vectors.next().expect("a bundle of at least one vector");
        let mut tally = Tally::new(first);
        vectors.for_each(|vector| tally.add(vector));
        tally.counts()
    }

    fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn from_bytes(dimension: usize, bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::byte_length(dimension) {
            return None;
        }
        let words = bytes.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes).collect();
        let vector = Self { dimension, words };
        (vector.clone().trim() == vector).then_some(vector)
    }

    fn byte_length(dimension: usize) -> usize {
        dimension.div_ceil(BITS) * 8
    }
}

/// Binds `left[i]` with `right[i]` for every i, on all cores.
///
/// # Panics
/// When the lengths or dimensions differ.
#[must_use]
pub fn bind_all(left: &[Bipolar], right: &[Bipolar]) -> Vec<Bipolar> {
    assert_eq!(left.len(), right.len(), "bind_all needs two lists of the same length");
    left.par_iter().zip(right).map(|(left, right)| left.bind(right)).collect()
}

/// Bundles many vectors on all cores; the result equals [`Vector::bundle`].
///
/// # Panics
/// When there are no vectors, or their dimensions differ.
#[must_use]
pub fn bundle_all(vectors: &[Bipolar]) -> Counts {
    let parts: Vec<Counts> = vectors.par_chunks(4096).map(Bipolar::bundle).collect();
    let mut parts = parts.into_iter();
    let mut sum = parts.next().expect("a bundle of at least one vector");
    for part in parts {
        assert_eq!(sum.values.len(), part.values.len(), "vectors of different dimensions");
        sum.values.iter_mut().zip(part.values).for_each(|(sum, value)| *sum += value);
    }
    sum
}

/// Bit-sliced counters of the -1s of every component: plane p holds bit p of each count, for 64 components per word.
/// Adding a vector is then a ripple-carry addition over whole words.
struct Tally {
    dimension: usize,
    added: u32,
    planes: Vec<Vec<u64>>,
    /// The carry into the next plane.
    carry: Vec<u64>,
}

impl Tally {
    fn new(first: &Bipolar) -> Self {
        Self { dimension: first.dimension, added: 1, planes: vec![first.words.clone()], carry: first.words.clone() }
    }

    fn add(&mut self, vector: &Bipolar) {
        assert_eq!(self.dimension, vector.dimension, "vectors of different dimensions");
        self.added += 1;
        // the last plane can only overflow once the number of vectors no longer fits
        if self.added >> self.planes.len() != 0 {
            self.planes.push(vec![0; vector.words.len()]);
        }
        self.carry.copy_from_slice(&vector.words);
        // plain bitwise loops, compiled for the widest vector instructions of the machine
        Arch::new().dispatch(|| {
            for plane in &mut self.planes {
                let mut any = 0;
                for (sum, carry) in plane.iter_mut().zip(&mut self.carry) {
                    let both = *sum & *carry;
                    *sum ^= *carry;
                    *carry = both;
                    any |= both;
                }
                if any == 0 {
                    break;
                }
            }
        });
    }

    fn counts(self) -> Counts {
        let added = self.added as i32;
        let value = |i: usize| {
            let bit = |(p, plane): (usize, &Vec<u64>)| ((plane[i / BITS] >> (i % BITS) & 1) as i32) << p;
            added - 2 * self.planes.iter().enumerate().map(bit).sum::<i32>()
        };
        Counts { values: (0..self.dimension).map(value).collect() }
    }
}

/// A bundle of bipolar vectors: integer sums, neither clipped nor normalised.
///
/// ```
/// use vsa::{Bipolar, Tie, Vector};
///
/// let x = Bipolar::from_signs(&[1, 1, -1, -1]);
/// let y = Bipolar::from_signs(&[1, -1, 1, -1]);
/// let mut bundle = Bipolar::bundle([&x, &y]);
/// assert_eq!(bundle.values(), [2, 0, 0, -2]);
/// assert_eq!(bundle.sign(Tie::Positive).signs(), [1, 1, 1, -1]);
/// // members can be removed again
/// bundle.add(&x, -1);
/// assert_eq!(bundle.sign(Tie::Negative), y);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    values: Vec<i32>,
}

impl Counts {
    /// The empty bundle: all zeros.
    #[must_use]
    pub fn empty(dimension: usize) -> Self {
        Self { values: vec![0; dimension] }
    }

    /// The components.
    #[must_use]
    pub fn values(&self) -> &[i32] {
        &self.values
    }

    /// Adds a vector `times` times; a negative number removes it.
    ///
    /// # Panics
    /// When the dimensions differ.
    pub fn add(&mut self, vector: &Bipolar, times: i32) {
        assert_eq!(self.values.len(), vector.dimension, "vectors of different dimensions");
        for (i, value) in self.values.iter_mut().enumerate() {
            *value += if vector.is_negative(i) { -times } else { times };
        }
    }

    /// The componentwise product with a vector, which binds all members with it at once.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn bind(&self, vector: &Bipolar) -> Self {
        assert_eq!(self.values.len(), vector.dimension, "vectors of different dimensions");
        let each = self.values.iter().enumerate();
        Self { values: each.map(|(i, value)| if vector.is_negative(i) { -value } else { *value }).collect() }
    }

    /// Each component clamped to -limit ..= limit.
    #[must_use]
    pub fn clipped(&self, limit: i32) -> Self {
        Self { values: self.values.iter().map(|value| (*value).clamp(-limit, limit)).collect() }
    }

    /// The sign of each component; `tie` decides those that are zero.
    #[must_use]
    pub fn sign(&self, tie: Tie) -> Bipolar {
        let mut rng = ChaCha8Rng::seed_from_u64(if let Tie::Random(seed) = tie { seed } else { 0 });
        let mut vector = Bipolar::identity(self.values.len());
        for (word, values) in vector.words.iter_mut().zip(self.values.chunks(BITS)) {
            let ties = match tie {
                Tie::Negative => u64::MAX,
                Tie::Positive => 0,
                Tie::Random(_) => rng.next_u64(),
            };
            for (bit, value) in values.iter().enumerate() {
                let negative = *value < 0 || (*value == 0 && ties >> bit & 1 == 1);
                *word |= u64::from(negative) << bit;
            }
        }
        vector
    }

    /// Cosine with a vector; 0 for an all-zero bundle.
    ///
    /// # Panics
    /// When the dimensions differ.
    #[must_use]
    pub fn cosine(&self, vector: &Bipolar) -> f64 {
        let dot: i64 = self.bind(vector).values.iter().map(|value| i64::from(*value)).sum();
        let square: i64 = self.values.iter().map(|value| i64::from(*value).pow(2)).sum();
        if square == 0 { 0. } else { dot as f64 / ((square as f64).sqrt() * (vector.dimension as f64).sqrt()) }
    }
}
