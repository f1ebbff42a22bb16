//! Affine maps and embedding look-ups.

use candle_core::{Result, Tensor};

use crate::custom::{self, Activated, Gather, Linear, Transpose};
use crate::kernel::activation::Activation;

/// `x w + b` over the last axis.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let x = Tensor::new(&[[1f32, 2.]], &Device::Cpu)?;
/// let w = Tensor::new(&[[1f32, 0., 3.], [0., 1., -1.]], &Device::Cpu)?;
/// let b = Tensor::new(&[10f32, 20., 30.], &Device::Cpu)?;
/// assert_eq!(ops::linear(&x, &w, Some(&b))?.to_vec2::<f32>()?, [[11., 22., 31.]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Shapes
/// `x` `[.., d_in]`, `w` `[d_in, d_out]`, `b` `[d_out]`, output `[.., d_out]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    map(x, w, b, Linear { transposed: false, activation: None })
}

/// `x w^T + b` over the last axis, for weights that are stored transposed, such as a tied unembedding.
///
/// # Shapes
/// `x` `[.., d_in]`, `w` `[d_out, d_in]`, `b` `[d_out]`, output `[.., d_out]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_transposed(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    map(x, w, b, Linear { transposed: true, activation: None })
}

/// `activation(x w + b)` over the last axis.
///
/// The inputs of the activation are kept for the backward pass only if one of the three tensors tracks gradients.
///
/// # Shapes
/// As [`linear`].
///
/// # Errors
/// When the shapes do not fit.
pub fn linear_activated(x: &Tensor, w: &Tensor, b: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    if custom::takes(x) {
        let backward = x.track_op() || w.track_op() || b.is_some_and(Tensor::track_op);
        return map(x, w, b, Linear { transposed: false, activation: Some(Activated::new(activation, backward)) });
    }
    let pre = linear(x, w, b)?;
    match activation {
        Activation::GeluTanh => pre.gelu(),
        Activation::GeluErf => pre.gelu_erf(),
        Activation::Silu => pre.silu(),
    }
}

fn map(x: &Tensor, w: &Tensor, b: Option<&Tensor>, op: Linear) -> Result<Tensor> {
    let transposed = op.transposed;
    let (d_in, d_out) = if transposed { w.t()?.dims2()? } else { w.dims2()? };
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&d_in) {
        let weight = w.dims();
        candle_core::bail!("linear: input {shape:?} must end in {d_in} for the weight {weight:?}");
    }
    if let Some(b) = b.filter(|b| b.dims() != [d_out]) {
        candle_core::bail!("linear: bias {:?} must be [{d_out}] for the weight {:?}", b.dims(), w.dims());
    }
    let rows = x.elem_count() / d_in.max(1);
    let x = x.reshape((rows, d_in))?;
    let y = if custom::takes(&x) {
        let (x, w) = (x.contiguous()?, w.contiguous()?);
        match b {
            Some(b) => x.apply_op3(&w, &b.contiguous()?, op)?,
            None => x.apply_op2(&w, op)?,
        }
    } else {
        let y = if transposed { x.matmul(&w.t()?)? } else { x.matmul(w)? };
        match b {
            Some(b) => y.broadcast_add(b)?,
            None => y,
        }
    }; // [rows, d_out]
    if let Some(last) = shape.last_mut() {
        *last = d_out;
    }
    y.reshape(shape)
}

/// The transpose of a matrix as a contiguous tensor without gradient. candle's own copy is slower: it moves one number at
/// a time.
///
/// # Shapes
/// `[rows, columns]` to `[columns, rows]`.
///
/// # Errors
/// When the tensor is not a matrix.
pub fn transposed(x: &Tensor) -> Result<Tensor> {
    let x = x.detach();
    x.dims2()?;
    if custom::takes(&x) { x.contiguous()?.apply_op1_no_bwd(&Transpose) } else { x.t()?.contiguous() }
}

/// Rows of `table` by id.
///
/// ```
/// use candle_core::{Device, Tensor};
///
/// let table = Tensor::new(&[[0f32, 1.], [2., 3.], [4., 5.]], &Device::Cpu)?;
/// let ids = Tensor::new(&[2u32, 0], &Device::Cpu)?;
/// assert_eq!(ops::embedding(&ids, &table)?.to_vec2::<f32>()?, [[4., 5.], [0., 1.]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Shapes
/// `ids` any shape, `u32`; `table` `[d_vocab, d_model]`; output `[ids.., d_model]`.
///
/// # Errors
/// When an id lies outside the table.
pub fn embedding(ids: &Tensor, table: &Tensor) -> Result<Tensor> {
    let (_, d_model) = table.dims2()?;
    let mut shape = ids.dims().to_vec();
    shape.push(d_model);
    let ids = ids.flatten_all()?;
    if custom::takes(table) {
        return table.contiguous()?.apply_op1(Gather { ids: ids.to_vec1()? })?.reshape(shape);
    }
    table.index_select(&ids, 0)?.reshape(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gradcheck::{check_gradient, filled};

    #[test]
    fn gradients() {
        for (d_in, d_out) in [(1, 1), (3, 17), (17, 3)] {
            let inputs = [filled(&[2, 4, d_in], 1), filled(&[d_in, d_out], 2), filled(&[d_out], 3)];
            check_gradient(&inputs, |t| linear(&t[0], &t[1], Some(&t[2])));
            let inputs = [inputs[0].clone(), filled(&[d_out, d_in], 2), inputs[2].clone()];
            check_gradient(&inputs, |t| linear_transposed(&t[0], &t[1], Some(&t[2])));
            check_gradient(&inputs[..2], |t| linear_transposed(&t[0], &t[1], None));
        }
        let ids = Tensor::new(&[[0u32, 2], [2, 1]], &candle_core::Device::Cpu).unwrap();
        check_gradient(&[filled(&[4, 3], 4)], |t| embedding(&ids, &t[0]));
    }

    #[test]
    fn a_fused_activation_gives_the_same_numbers() {
        for rows in [1, 5, 300] {
            let (x, w, b) = (filled(&[rows, 17], 1), filled(&[17, 130], 2), filled(&[130], 3));
            let pre = linear(&x, &w, Some(&b)).unwrap();
            let apart = [
                (Activation::GeluTanh, crate::gelu_tanh(&pre)),
                (Activation::GeluErf, crate::gelu_erf(&pre)),
                (Activation::Silu, crate::silu_gate(&pre, &pre.ones_like().unwrap())),
            ];
            for (activation, apart) in apart {
                let together = linear_activated(&x, &w, Some(&b), activation).unwrap();
                let difference = (together - apart.unwrap()).unwrap().abs().unwrap().max_all().unwrap();
                assert!(difference.to_scalar::<f64>().unwrap() == 0.);
            }
        }
    }

    #[test]
    fn both_orientations_agree_for_any_number_of_rows() {
        for (rows, d_in, d_out) in [(1, 5, 700), (16, 65, 300), (257, 3, 130), (300, 64, 17)] {
            let (x, w, b) = (filled(&[rows, d_in], 1), filled(&[d_in, d_out], 2), filled(&[d_out], 3));
            let w_transposed = transposed(&w).unwrap();
            assert_eq!(w_transposed.dims(), [d_out, d_in]);
            let composed = x.matmul(&w).unwrap().broadcast_add(&b).unwrap();
            for y in [linear(&x, &w, Some(&b)).unwrap(), linear_transposed(&x, &w_transposed, Some(&b)).unwrap()] {
                let difference =
                    (&y - &composed).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
                assert!(difference < 1e-12, "{rows} {d_in} {d_out}: {difference}");
            }
        }
    }

    #[test]
    fn frozen_weights_get_no_gradient() {
        let x = candle_core::Var::from_tensor(&filled(&[2, 3], 1)).unwrap();
        let w = filled(&[3, 4], 2);
        let store = crate::backward(&linear(x.as_tensor(), &w, None).unwrap().sum_all().unwrap()).unwrap();
        assert!(store.get(x.as_tensor()).is_some() && store.get(&w).is_none());
    }

    #[test]
    fn errors_name_both_shapes() {
        let error = linear(&filled(&[2, 3], 1), &filled(&[4, 5], 2), None).unwrap_err().to_string();
        assert!(error.contains("[2, 3]") && error.contains("[4, 5]"), "{error}");
        for width in [1, 4, 6] {
            let bias = filled(&[width], 3);
            let error = linear(&filled(&[2, 4], 1), &filled(&[4, 5], 2), Some(&bias)).unwrap_err().to_string();
            assert!(error.contains(&format!("[{width}]")) && error.contains("must be [5]"), "{error}");
        }
    }
}
