//! Counter-based dropout masks: a function of a key and an index alone, so they need no state and no fixed order.

use super::Real;

/// Element `index` of the sequence of SplitMix64 (Steele, Lea, Flood 2014) with this key as its seed.
#[inline(always)]
fn splitmix(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A dropout mask: each entry is 0 with probability `p`, else `1 / (1 - p)`.
#[derive(Clone, Copy, Debug)]
pub struct Mask<T> {
    key: u64,
    threshold: u64,
    keep: T,
}

impl<T: Real> Mask<T> {
    /// The mask of a key; `p` in `[0, 1)`.
    #[must_use]
    pub fn new(p: f64, key: u64) -> Self {
        Self { key, threshold: (p * 2f64.powi(32)) as u64, keep: T::of(1. / (1. - p)) }
    }

    /// The entry at an index of the whole tensor.
    #[inline(always)]
    #[must_use]
    pub fn at(&self, index: u64) -> T {
        if splitmix(self.key, index) >> 32 < self.threshold { T::zero() } else { self.keep }
    }

    /// Multiplies a part of the tensor that begins at index `first`.
    pub fn apply(&self, x: &mut [T], first: u64) {
        for (x, index) in x.iter_mut().zip(first..) {
            *x *= self.at(index);
        }
    }
}
