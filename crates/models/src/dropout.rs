//! Dropout as a function of a key: every mask of a training step follows from the step's key and the mask's number.

use candle_core::{Result, Tensor};
use ops::dropout;
use ops::kernel::Real;
use ops::kernel::random::Mask;

/// Probability and key of one step's dropout.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct DropoutKey {
    pub(crate) p: f64,
    pub(crate) key: u64,
}

impl DropoutKey {
    /// The key of a mask: number 1 is the embedding's, then each block has three.
    fn key(self, number: u64) -> u64 {
        // spread the counter over all 64 bits, so that masks of consecutive steps do not share keys
        self.key.wrapping_add(number).wrapping_mul(0xd134_2543_de82_ef95)
    }

    /// The mask with this number; `None` when nothing is dropped.
    pub(crate) fn mask<T: Real>(self, number: u64) -> Option<Mask<T>> {
        (self.p > 0.).then(|| Mask::new(self.p, self.key(number)))
    }
}

/// The masks of one composed pass, numbered in the order of use.
#[derive(Clone, Copy)]
pub(crate) struct DropoutMasks {
    key: DropoutKey,
    used: u64,
}

impl DropoutMasks {
    pub(crate) fn new(key: DropoutKey) -> Self {
        Self { key, used: 0 }
    }

    /// No dropout.
    pub(crate) fn none() -> Self {
        Self::new(DropoutKey::default())
    }

    pub(crate) fn p(&self) -> f64 {
        self.key.p
    }

    /// Applies the next mask.
    pub(crate) fn apply(&mut self, x: Tensor) -> Result<Tensor> {
        if self.key.p == 0. {
            return Ok(x);
        }
        self.used += 1;
        dropout(&x, self.key.p, self.key.key(self.used))
    }
}
