//! Rotary position embedding (arXiv 2104.09864), over a whole head or its first `rotary_dim` entries.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::custom::{self, Rotary};
pub use crate::kernel::rotary::Pairs;

/// The rotation angles for every position of a sequence.
#[derive(Clone, Debug)]
pub struct Rotation {
    pairs: Pairs,
    rotary_dim: usize,
    /// `[seq, rotary_dim / 2]` each.
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl Rotation {
    /// Angles for the given positions: position `p` rotates pair `i` by `p * frequencies[i]` radians. Entries of a head
    /// after the last pair are not changed.
    #[must_use]
    pub fn new(pairs: Pairs, frequencies: &[f64], positions: Range<usize>) -> Self {
        let angles = positions.flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self { pairs, rotary_dim: 2 * frequencies.len(), cos, sin }
    }

    /// The same rotation, which also scales the rotated entries by `factor` (YaRN, arXiv 2309.00071, section 3.4).
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        self.cos.iter_mut().chain(&mut self.sin).for_each(|x| *x *= factor);
        self
    }

    /// Rotates each head.
    ///
    /// # Shapes
    /// `[batch, seq, heads, d_head]` to the same.
    ///
    /// # Errors
    /// When the sequence does not have the length that the angles were made for, or `d_head` is less than `rotary_dim`.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let op = Rotary {
            pairs: self.pairs,
            rotary_dim: self.rotary_dim,
            cos: self.cos.clone(),
            sin: self.sin.clone(),
            inverse: false,
        };
        if custom::takes(x) {
            return x.contiguous()?.apply_op1(op);
        }
        self.composed(x)
    }

    /// [`Self::apply`] from candle's operations.
    pub(crate) fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, seq, heads, width) = x.dims4()?;
        let half = self.rotary_dim / 2;
        if self.rotary_dim > width || self.cos.len() != seq * half {
            candle_core::bail!(
                "rotary: {} angles for {seq} positions and {} of {width} entries",
                self.cos.len(),
                self.rotary_dim
            );
        }
        let angles =
            |values: &[f64]| Tensor::from_vec(values.to_vec(), (1, seq, 1, half), x.device())?.to_dtype(x.dtype());
        let (cos, sin) = (angles(&self.cos)?, angles(&self.sin)?);
        let (a, b) = match self.pairs {
            Pairs::Halves => (x.narrow(3, 0, half)?, x.narrow(3, half, half)?),
            Pairs::Interleaved => {
                let pairs = x.narrow(3, 0, self.rotary_dim)?.reshape((batch, seq, heads, half, 2))?;
                (pairs.narrow(4, 0, 1)?.squeeze(4)?, pairs.narrow(4, 1, 1)?.squeeze(4)?)
            }
        };
        let rotated_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let rotated_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rotated = match self.pairs {
            Pairs::Halves => Tensor::cat(&[rotated_a, rotated_b], 3)?,
            Pairs::Interleaved => {
                Tensor::stack(&[rotated_a, rotated_b], 4)?.reshape((batch, seq, heads, self.rotary_dim))?
            }
        };
        if self.rotary_dim == width {
            return Ok(rotated);
        }
        Tensor::cat(&[rotated, x.narrow(3, self.rotary_dim, width - self.rotary_dim)?], 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    #[test]
    fn fused_and_composed_agree_and_have_gradients() {
        for pairs in [Pairs::Halves, Pairs::Interleaved] {
            for (seq, heads, width, rotary_dim) in [(1, 1, 2, 2), (3, 2, 6, 4), (5, 3, 8, 8)] {
                let frequencies: Vec<f64> = (0..rotary_dim / 2).map(|i| 10f64.powi(-i)).collect();
                let rotation = Rotation::new(pairs, &frequencies, 0..seq);
                let x = filled(&[2, seq, heads, width], 3);
                let (fused, composed) = (rotation.apply(&x).unwrap(), rotation.composed(&x).unwrap());
                let difference = (fused - composed).unwrap().abs().unwrap().max_all().unwrap();
                assert!(difference.to_scalar::<f64>().unwrap() < 1e-12);
                check_gradient(&[x], |t| rotation.apply(&t[0]));
            }
        }
    }

    #[test]
    fn scores_depend_on_the_distance_alone() {
        let rotation = Rotation::new(Pairs::Halves, &[1., 0.1], 0..6);
        let row = filled(&[1, 1, 1, 4], 1).broadcast_as((1, 6, 1, 4)).unwrap().contiguous().unwrap();
        let rotated = rotation.apply(&row).unwrap().reshape((6, 4)).unwrap();
        let scores = rotated.matmul(&rotated.t().unwrap()).unwrap().to_vec2::<f64>().unwrap();
        assert!((scores[1][0] - scores[5][4]).abs() < 1e-12);
        assert!((scores[3][0] - scores[5][2]).abs() < 1e-12);
    }

    #[test]
    fn another_length_is_refused() {
        let rotation = Rotation::new(Pairs::Halves, &[1.], 0..3);
        assert!(rotation.apply(&filled(&[1, 4, 1, 2], 1)).is_err());
        assert!(rotation.apply(&filled(&[1, 3, 1, 1], 1)).is_err());
    }
}
