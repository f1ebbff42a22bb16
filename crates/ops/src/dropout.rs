//! Dropout from a counter-based generator: the mask is a function of a key and the index of the element.

use candle_core::{Result, Tensor};

use crate::custom::{self, Dropout};
use crate::kernel::random::Mask;

/// Sets each element to zero with probability `p` and scales the rest by `1 / (1 - p)`.
///
/// The mask depends on `key` and the index of each element alone. It is therefore the same with any number of threads and
/// on any device, and an interrupted run resumes without saving a generator. Every call of every step needs its own key.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::ones(1000, candle_core::DType::F32, &Device::Cpu)?;
/// let y = ops::dropout(&x, 0.5, 7)?.to_vec1::<f32>()?;
/// assert!(y.iter().all(|y| *y == 0. || *y == 2.));
/// assert_eq!(y, ops::dropout(&x, 0.5, 7)?.to_vec1::<f32>()?);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Shapes
/// Any shape; the output has the same.
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
    fn the_fraction_of_zeros_is_p_and_the_mean_is_kept() {
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
