//! LayerNorm (arXiv 1607.06450, with the biased variance), RMSNorm (arXiv 1910.07467), and both with a fixed divisor.

use candle_core::{D, Result, Tensor};

use crate::custom::{self, Norm};
use crate::kernel::norm::{Divisor, Kind};

/// The intermediate results of a norm, for hook points.
#[derive(Clone, Debug)]
pub struct NormParts {
    /// `sqrt(var + eps)` of a LayerNorm, `sqrt(mean(x^2) + eps)` of an RMSNorm, `[.., 1]`.
    pub scale: Tensor,
    /// `(x - mean) / scale` or `x / scale`, `[.., d_model]`.
    pub normalized: Tensor,
}

/// Scale and normalised input of a LayerNorm over the last axis; the variance divides by `d_model`.
///
/// # Shapes
/// `x` `[.., d_model]` to scale `[.., 1]` and normalized `[.., d_model]`.
///
/// # Errors
/// When candle fails.
pub fn layer_norm_parts(x: &Tensor, eps: f64) -> Result<NormParts> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let scale = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let normalized = centred.broadcast_div(&scale)?;
    Ok(NormParts { scale, normalized })
}

/// LayerNorm over the last axis, `gain * (x - mean) / sqrt(var + eps) + bias`.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[1f64, 2., 3.]], &Device::Cpu)?;
/// let gain = Tensor::new(&[1f64, 1., 1.], &Device::Cpu)?;
/// let y = ops::layer_norm(&x, &gain, None, 0.)?.to_vec2::<f64>()?;
/// assert!((y[0][2] - 1.5f64.sqrt()).abs() < 1e-12 && y[0][1].abs() < 1e-12);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Shapes
/// `x` `[.., d_model]`, `gain` and `bias` `[d_model]`, output `[.., d_model]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn layer_norm(x: &Tensor, gain: &Tensor, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if custom::takes(x) {
        return fused(x, gain, bias, Norm { kind: Kind::Layer, by: Divisor::Own { eps } });
    }
    affine(layer_norm_parts(x, eps)?.normalized, gain, bias)
}

fn fused(x: &Tensor, gain: &Tensor, bias: Option<&Tensor>, norm: Norm) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if width == 0 || gain.dims() != [width] || bias.is_some_and(|bias| bias.dims() != [width]) {
        let bias = bias.map(Tensor::dims);
        candle_core::bail!(
            "a norm over {width} numbers needs a gain [{width}], found gain {:?} and bias {bias:?}",
            gain.dims()
        );
    }
    let (x, gain) = (x.contiguous()?, gain.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&gain, &bias.contiguous()?, norm),
        None => x.apply_op2(&gain, norm),
    }
}

fn affine(normalized: Tensor, gain: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = normalized.broadcast_mul(gain)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// A norm that divides every row by the same `scale`, which makes it an affine map (FakeLN, arXiv 2507.02559, section 2):
/// `gain * (x - mean) / scale + bias` for a LayerNorm, `gain * x / scale + bias` for an RMSNorm.
///
/// # Shapes
/// `x` `[.., d_model]`, `gain` and `bias` `[d_model]`, output `[.., d_model]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn fixed_norm(kind: Kind, x: &Tensor, gain: &Tensor, bias: Option<&Tensor>, scale: f64) -> Result<Tensor> {
    if custom::takes(x) {
        return fused(x, gain, bias, Norm { kind, by: Divisor::Fixed(scale) });
    }
    affine(fixed_norm_parts(kind, x, scale)?.normalized, gain, bias)
}

/// The scale and the normalised input of [`fixed_norm`].
///
/// # Shapes
/// `x` `[.., d_model]` to scale `[.., 1]` and normalized `[.., d_model]`.
///
/// # Errors
/// When candle fails.
pub fn fixed_norm_parts(kind: Kind, x: &Tensor, scale: f64) -> Result<NormParts> {
    let mean = x.mean_keepdim(D::Minus1)?;
    let centred = match kind {
        Kind::Layer => x.broadcast_sub(&mean)?,
        Kind::Rms => x.clone(),
    };
    Ok(NormParts { scale: mean.ones_like()?.detach().affine(scale, 0.)?, normalized: (centred / scale)? })
}

/// RMSNorm over the last axis, `gain * x / sqrt(mean(x^2) + eps)` (arXiv 1910.07467).
///
/// # Shapes
/// `x` `[.., d_model]`, `gain` `[d_model]`, output `[.., d_model]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn rms_norm(x: &Tensor, gain: &Tensor, eps: f64) -> Result<Tensor> {
    if custom::takes(x) {
        return fused(x, gain, None, Norm { kind: Kind::Rms, by: Divisor::Own { eps } });
    }
    affine(rms_norm_parts(x, eps)?.normalized, gain, None)
}

/// Scale and normalised input of an RMSNorm over the last axis.
///
/// # Shapes
/// `x` `[.., d_model]` to scale `[.., 1]` and normalized `[.., d_model]`.
///
/// # Errors
/// When candle fails.
pub fn rms_norm_parts(x: &Tensor, eps: f64) -> Result<NormParts> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    let normalized = x.broadcast_div(&scale)?;
    Ok(NormParts { scale, normalized })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    #[test]
    fn mean_zero_variance_one() {
        let y = layer_norm_parts(&filled(&[4, 7], 1), 0.).unwrap().normalized;
        for row in y.to_vec2::<f64>().unwrap() {
            let mean = row.iter().sum::<f64>() / 7.;
            let var = row.iter().map(|y| y * y).sum::<f64>() / 7.;
            assert!(mean.abs() < 1e-12 && (var - 1.).abs() < 1e-12);
        }
    }

    #[test]
    fn fused_and_composed_agree() {
        let (x, w, b) = (filled(&[5, 9], 1), filled(&[9], 2), filled(&[9], 3));
        let fused = layer_norm(&x, &w, Some(&b), 1e-5).unwrap();
        let composed = layer_norm_parts(&x, 1e-5).unwrap().normalized.broadcast_mul(&w).unwrap();
        let composed = composed.broadcast_add(&b).unwrap();
        let difference = (fused - composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
        assert!(difference < 1e-12);
    }

    /// LN(x) equals FakeLN(x) if the fixed scale is that of the row, and FakeLN is affine (arXiv 2507.02559, section 2).
    #[test]
    fn a_fixed_norm_is_the_norm_at_its_own_scale_and_affine() {
        let (w, b) = (filled(&[9], 2), filled(&[9], 3));
        for row in 0..5 {
            let x = filled(&[5, 9], 1).narrow(0, row, 1).unwrap();
            for (kind, parts) in [(Kind::Layer, layer_norm_parts(&x, 1e-5)), (Kind::Rms, rms_norm_parts(&x, 1e-5))] {
                let scale = parts.unwrap().scale.flatten_all().unwrap().to_vec1::<f64>().unwrap()[0];
                let own = match kind {
                    Kind::Layer => layer_norm(&x, &w, Some(&b), 1e-5).unwrap(),
                    Kind::Rms => rms_norm(&x, &w, 1e-5).unwrap().broadcast_add(&b).unwrap(),
                };
                let fixed = fixed_norm(kind, &x, &w, Some(&b), scale).unwrap();
                let parts = fixed_norm_parts(kind, &x, scale).unwrap();
                let composed = affine(parts.normalized, &w, Some(&b)).unwrap();
                assert!(distance(&own, &fixed) < 1e-6 && distance(&fixed, &composed) < 1e-12);
                let (y, at) = (filled(&[1, 9], 7), |x: &Tensor| fixed_norm(kind, x, &w, Some(&b), 0.7).unwrap());
                let mixed = ((&x * 0.3).unwrap() + (&y * 0.7).unwrap()).unwrap();
                let apart = ((at(&x) * 0.3).unwrap() + (at(&y) * 0.7).unwrap()).unwrap();
                assert!(distance(&at(&mixed), &apart) < 1e-10);
            }
        }
    }

    fn distance(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn gains_and_biases_of_the_wrong_width_are_refused() {
        let x = filled(&[2, 6], 1);
        for (gain, bias) in [(3, 6), (6, 3), (12, 12), (1, 6)] {
            let (gain, bias) = (filled(&[gain], 2), filled(&[bias], 3));
            let error = layer_norm(&x, &gain, Some(&bias), 1e-5).unwrap_err().to_string();
            assert!(error.contains("6 numbers"), "{error}");
        }
        assert!(rms_norm(&x, &filled(&[4], 2), 1e-5).is_err());
        assert_eq!(rms_norm(&x.narrow(0, 0, 0).unwrap(), &filled(&[6], 2), 1e-5).unwrap().dims(), [0, 6]);
    }

    #[test]
    fn gradients_reach_all_three_inputs() {
        for d in [1, 3, 17] {
            let inputs = [filled(&[2, 3, d], 1), filled(&[d], 2), filled(&[d], 3)];
            check_gradient(&inputs, |t| layer_norm(&t[0], &t[1], Some(&t[2]), 1e-5));
        }
        check_gradient(&[filled(&[2, 5], 1), filled(&[5], 2)], |t| layer_norm(&t[0], &t[1], None, 1e-5));
    }
}
