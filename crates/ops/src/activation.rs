//! Pointwise nonlinearities.

use candle_core::{Result, Tensor};

use crate::custom::{self, Pointwise};
use crate::kernel::activation::Activation;

/// GELU in its tanh approximation, `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))` (arXiv 1606.08415; GPT-2's `gelu_new`).
///
/// # Errors
/// When candle fails.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if custom::takes(x) { x.contiguous()?.apply_op1(Pointwise(Activation::GeluTanh)) } else { x.gelu() }
}

/// Exact GELU, `x Phi(x)` (arXiv 1606.08415).
///
/// # Errors
/// When candle fails.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    if custom::takes(x) { x.contiguous()?.apply_op1(Pointwise(Activation::GeluErf)) } else { x.gelu_erf() }
}

/// `silu(gate) * up`, the activation of a gated MLP (arXiv 2002.05202).
///
/// # Shapes
/// `gate`, `up` and the output have the same shape.
///
/// # Errors
/// When the shapes differ.
pub fn silu_gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if custom::takes(gate) {
        return gate.contiguous()?.apply_op2(&up.contiguous()?, custom::SiluGate);
    }
    gate.silu()? * up
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    #[test]
    fn known_values() {
        let x = Tensor::new(&[-1f64, 0., 1., 2.], &candle_core::Device::Cpu).unwrap();
        let close = |y: Tensor, expected: [f64; 4]| {
            for (y, e) in y.to_vec1::<f64>().unwrap().iter().zip(expected) {
                assert!((y - e).abs() < 1e-5, "{y} {e}");
            }
        };
        close(gelu_tanh(&x).unwrap(), [-0.158_808, 0., 0.841_192, 1.954_598]);
        close(gelu_erf(&x).unwrap(), [-0.158_655, 0., 0.841_345, 1.954_500]);
    }

    #[test]
    fn gradients() {
        check_gradient(&[filled(&[3, 5], 1)], |x| gelu_tanh(&x[0]));
        check_gradient(&[filled(&[3, 5], 2)], |x| gelu_erf(&x[0]));
    }
}
