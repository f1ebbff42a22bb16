//! Affine maps and table look-ups.

use candle_core::{Result, Tensor};

use crate::custom::{self, Gather, Linear};

/// `x w + b` over the last axis.
///
/// # Shapes
/// `x` `[.., d_in]`, `w` `[d_in, d_out]`, `b` `[d_out]`, output `[.., d_out]`.
///
/// # Errors
/// When the shapes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (d_in, d_out) = w.dims2()?;
    let mut shape = x.dims().to_vec();
    if shape.last() != Some(&d_in) {
        candle_core::bail!("linear: input {shape:?} does not end in {d_in}, the rows of the weight [{d_in}, {d_out}]");
    }
    let rows = x.elem_count() / d_in;
    let x = x.reshape((rows, d_in))?;
    let y = match b {
        Some(b) if custom::takes(&x) => x.contiguous()?.apply_op3(&w.contiguous()?, &b.contiguous()?, Linear)?,
        None if custom::takes(&x) => x.contiguous()?.apply_op2(&w.contiguous()?, Linear)?,
        Some(b) => x.matmul(w)?.broadcast_add(b)?,
        None => x.matmul(w)?,
    }; // [rows, d_out]
    if let Some(last) = shape.last_mut() {
        *last = d_out;
    }
    y.reshape(shape)
}

/// Rows of `table` by id.
///
/// # Shapes
/// `ids` any shape, `u32`; `table` `[d_vocab, d_model]`; output `[ids.., d_model]`.
///
/// # Errors
/// When an id lies outside of the table.
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
        }
        let ids = Tensor::new(&[[0u32, 2], [2, 1]], &candle_core::Device::Cpu).unwrap();
        check_gradient(&[filled(&[4, 3], 4)], |t| embedding(&ids, &t[0]));
    }

    #[test]
    fn a_wrong_width_is_named() {
        let error = linear(&filled(&[2, 3], 1), &filled(&[4, 5], 2), None).unwrap_err().to_string();
        assert!(error.contains("[2, 3]") && error.contains("[4, 5]"), "{error}");
    }
}
