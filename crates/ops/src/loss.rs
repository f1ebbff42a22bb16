//! Next-token losses, in nats.

use candle_core::{D, DType, Result, Tensor};

use crate::custom::{self, TokenLosses};
use crate::kernel::loss::IGNORED;

/// Negative log-probability of each target in nats; 0, without a gradient, for [`IGNORED`] targets.
///
/// # Shapes
/// `logits` `[rows, d_vocab]`, `targets` `[rows]` (`u32`), output `[rows]`.
///
/// # Errors
/// When the shapes disagree or a target lies outside the vocabulary.
pub fn token_losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    if custom::takes(logits) {
        return logits.contiguous()?.apply_op1(TokenLosses::new(targets.to_vec1()?));
    }
    let counts = targets.ne(IGNORED)?;
    let targets = counts.where_cond(targets, &targets.zeros_like()?)?;
    let largest = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&largest)?;
    let log_sum = shifted.exp()?.sum(D::Minus1)?.log()?; // [rows]
    let chosen = shifted.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?; // [rows]
    let losses = (log_sum - chosen)?;
    // selected instead of multiplied by 0: an ignored row may hold NaN
    counts.where_cond(&losses, &losses.zeros_like()?)
}

/// Mean negative log-probability in nats over the targets that are not [`IGNORED`].
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// // uniform logits over four tokens cost ln 4 nats
/// let logits = Tensor::zeros((2, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let targets = Tensor::new(&[3, ops::IGNORED], &Device::Cpu)?;
/// let loss = ops::cross_entropy(&logits, &targets)?.to_scalar::<f32>()?;
/// assert!((loss - 4f32.ln()).abs() < 1e-6);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Shapes
/// `logits` `[rows, d_vocab]`, `targets` `[rows]` (`u32`), output a scalar.
///
/// # Errors
/// As for [`token_losses`].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    let counted = targets.ne(IGNORED)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    token_losses(logits, targets)?.sum_all()? / f64::from(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};
    use candle_core::Device;

    #[test]
    fn uniform_logits_cost_the_log_of_the_vocabulary() {
        let logits = Tensor::zeros((3, 10), DType::F64, &Device::Cpu).unwrap();
        let targets = Tensor::new(&[0u32, 5, 9], &Device::Cpu).unwrap();
        for loss in token_losses(&logits, &targets).unwrap().to_vec1::<f64>().unwrap() {
            assert!((loss - 10f64.ln()).abs() < 1e-12);
        }
    }

    #[test]
    fn large_logits_stay_finite_and_ignored_targets_do_not_count() {
        let logits = Tensor::new(&[[1e4f32, 0.], [0., 5.]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[0u32, IGNORED], &Device::Cpu).unwrap();
        assert_eq!(cross_entropy(&logits, &targets).unwrap().to_scalar::<f32>().unwrap(), 0.);
    }

    #[test]
    fn gradients() {
        let targets = Tensor::new(&[0u32, 2, 4], &Device::Cpu).unwrap();
        check_gradient(&[filled(&[3, 5], 1)], |t| token_losses(&t[0], &targets));
        let some = Tensor::new(&[0u32, IGNORED, 64], &Device::Cpu).unwrap();
        check_gradient(&[filled(&[3, 65], 1)], |t| cross_entropy(&t[0], &some));
    }
}
