//! The parts of a block that have weights.

use candle_core::{Result, Tensor};
use ops::linear;

/// An affine map, `x w + b`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) w: Tensor,         // [d_in, d_out]
    pub(crate) b: Option<Tensor>, // [d_out]
}

/// Gain and bias of a norm.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub(crate) w: Tensor,         // [d_model]
    pub(crate) b: Option<Tensor>, // [d_model]
}

impl Linear {
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.w, self.b.as_ref())
    }

    /// Some columns of the output.
    pub(crate) fn forward_columns(&self, x: &Tensor, first: usize, count: usize) -> Result<Tensor> {
        let w = self.w.narrow(1, first, count)?.contiguous()?;
        let b = self.b.as_ref().map(|b| b.narrow(0, first, count)?.contiguous());
        linear(x, &w, b.transpose()?.as_ref())
    }

    pub(crate) fn detach(&self) -> Self {
        Self { w: self.w.detach(), b: self.b.as_ref().map(Tensor::detach) }
    }
}

impl Norm {
    pub(crate) fn detach(&self) -> Self {
        Self { w: self.w.detach(), b: self.b.as_ref().map(Tensor::detach) }
    }
}
