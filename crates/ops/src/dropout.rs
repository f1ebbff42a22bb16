//! Dropout from a counter-based generator: the mask is a function of a key and the element's index alone.

use candle_core::{Result, Tensor};

use crate::custom::{self, Dropout};
use crate::kernel::random::Mask;

/// Sets each element to zero with probability `p` and scales the rest by `1 / (1 - p)`.
///
/// The mask depends on `key` and each element's place, so it is the same at any thread count and on any device, and
/// needs no state to resume; give every call of every step its own key.
///
/// # Shapes
/// Any, to the same.
///
/// # Errors
/// When `p` is not in `[0, 1)`.
pub fn dropout(x: &Tensor, p: f64, key: u64) -> Result<Tensor> {
    if !(0. ..1.).contains(&p) {
        candle_core::bail!("dropout probability {p} is not in [0, 1)");
    }
    if p == 0. {
        return Ok(x.clone());
    }
    if custom::takes(x) {
        return x.contiguous()?.apply_op1(Dropout { p, key });
    }
    let mask = Mask::<f32>::new(p, key);
    let mask: Vec<f32> = (0..x.elem_count() as u64).map(|index| mask.at(index)).collect();
    x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    #[test]
    fn the_share_is_right_and_the_mean_stays() {
        let x = Tensor::ones((100, 100), candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let y = dropout(&x, 0.1, 7).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let zeros = y.iter().filter(|y| **y == 0.).count();
        assert!((850..1150).contains(&zeros), "{zeros} of 10000");
        assert!((y.iter().sum::<f32>() / 1e4 - 1.).abs() < 0.02);
        let other = dropout(&x, 0.1, 8).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_ne!(y, other);
    }

    #[test]
    fn gradients_and_limits() {
        check_gradient(&[filled(&[3, 4], 1)], |t| dropout(&t[0], 0.5, 3));
        assert!(dropout(&filled(&[1], 1), 1., 0).is_err());
    }
}
