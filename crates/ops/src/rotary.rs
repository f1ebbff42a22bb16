//! Rotary position embedding (arXiv 2104.09864), over all of a head or its first entries.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::custom::{self, Rotary};
pub use crate::kernel::rotary::Pairs;

/// Angles for every place of a sequence.
#[derive(Clone, Debug)]
pub struct Rotation {
    pairs: Pairs,
    rotary_dim: usize,
    /// `[seq, rotary_dim / 2]` each.
    cos: Vec<f64>,
    sin: Vec<f64>,
}

impl Rotation {
    /// Of these places; place `p` turns pair `i` by `p * frequencies[i]` radians; entries behind the last pair stay as they are.
    #[must_use]
    pub fn new(pairs: Pairs, frequencies: &[f64], places: Range<usize>) -> Self {
        let angles = places.flat_map(|place| frequencies.iter().map(move |f| place as f64 * f));
        let (cos, sin) = angles.map(|angle| (angle.cos(), angle.sin())).unzip();
        Self { pairs, rotary_dim: 2 * frequencies.len(), cos, sin }
    }

    /// The same turns, and what turns grows by `factor` (YaRN, arXiv 2309.00071, section 3.4).
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        self.cos.iter_mut().chain(&mut self.sin).for_each(|x| *x *= factor);
        self
    }

    /// Turns each head.
    ///
    /// # Shapes
    /// `[batch, seq, heads, d_head]` to the same.
    ///
    /// # Errors
    /// When the sequence is not the one the angles are for, or the heads are too narrow.
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

    /// The same from candle's operations.
    pub(crate) fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, seq, heads, width) = x.dims4()?;
        let half = self.rotary_dim / 2;
        if self.rotary_dim > width || self.cos.len() != seq * half {
            candle_core::bail!(
                "rotary: {} angles for {seq} places and {} of {width} entries",
                self.cos.len(),
                self.rotary_dim
            );
        }
        let angles =
            |values: &[f64]| Tensor::from_vec(values.to_vec(), (1, seq, 1, half), x.device())?.to_dtype(x.dtype());
        let (cos, sin) = (angles(&self.cos)?, angles(&self.sin)?);
        let (a, b) = match self.pairs {
            Pairs::Halves => (x.narrow(3, 0, half)?, x.narrow(3, half, half)?),
            Pairs::Neighbours => {
                let pairs = x.narrow(3, 0, self.rotary_dim)?.reshape((batch, seq, heads, half, 2))?;
                (pairs.narrow(4, 0, 1)?.squeeze(4)?, pairs.narrow(4, 1, 1)?.squeeze(4)?)
            }
        };
        let turned_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let turned_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rotated = match self.pairs {
            Pairs::Halves => Tensor::cat(&[turned_a, turned_b], 3)?,
            Pairs::Neighbours => {
                Tensor::stack(&[turned_a, turned_b], 4)?.reshape((batch, seq, heads, self.rotary_dim))?
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
    fn fused_and_composed_agree_and_gradients_reach_through() {
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
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
