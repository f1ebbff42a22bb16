//! Next-token losses, in nats.

use candle_core::{D, DType, Result, Tensor};

use crate::fused;

/// Negative log-probability of each target.
///
/// # Shapes
/// `logits` `[rows, d_vocab]`, `targets` `[rows]` (`u32`), output `[rows]`.
///
/// # Errors
/// When the shapes do not fit or a target lies outside of the vocabulary.
pub fn token_losses(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    if fused::takes(logits) {
        return logits.contiguous()?.apply_op1(fused::TokenLosses { targets: targets.to_vec1()? });
    }
    let largest = logits.detach().max_keepdim(D::Minus1)?;
    let shifted = logits.broadcast_sub(&largest)?;
    let log_sum = shifted.exp()?.sum(D::Minus1)?.log()?; // [rows]
    let chosen = shifted.gather(&targets.unsqueeze(1)?, 1)?.squeeze(1)?; // [rows]
    log_sum - chosen
}

/// Mean negative log-probability over the rows whose weight is not zero: `sum(w * nll) / sum(w)`.
///
/// # Shapes
/// `logits` `[rows, d_vocab]`, `targets` `[rows]` (`u32`), `weights` `[rows]`, output a scalar.
///
/// # Errors
/// As [`token_losses`].
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let losses = token_losses(logits, targets)?.to_dtype(DType::F32)?;
    let weights = weights.to_dtype(DType::F32)?;
    (losses * &weights)?.sum_all()? / weights.sum_all()?
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
    fn large_logits_stay_finite_and_unweighted_rows_do_not_count() {
        let logits = Tensor::new(&[[1e4f32, 0.], [0., 5.]], &Device::Cpu).unwrap();
        let targets = Tensor::new(&[0u32, 0], &Device::Cpu).unwrap();
        let weights = Tensor::new(&[1f32, 0.], &Device::Cpu).unwrap();
        let loss = cross_entropy(&logits, &targets, &weights).unwrap().to_scalar::<f32>().unwrap();
        assert_eq!(loss, 0.);
    }

    #[test]
    fn gradients() {
        let targets = Tensor::new(&[0u32, 2, 4], &Device::Cpu).unwrap();
        check_gradient(&[filled(&[3, 5], 1)], |t| token_losses(&t[0], &targets));
    }
}
