//! Attention in three steps as candle custom operations: scores, softmax, mixed values.
//!
//! Queries, keys and values may be strided in memory, as long as the vector of each head is contiguous.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::custom::{Operand, by_dtype, slice, storage, takes, tensor, with, with_operand};
use crate::kernel::product::{Accumulate, Matrix, product};
use crate::kernel::{Real, softmax};
use crate::parallel::over_rows;

/// Whether the kernels accept the strides of a tensor `[batch, heads, rows, width]`: its rows must be contiguous.
pub(crate) fn has_usable_strides(x: &Tensor) -> bool {
    let fits = |layout: &Layout| match (layout.dims(), layout.stride()) {
        ([_, _, rows, width], [_, _, row, 1]) => row >= width || *rows <= 1,
        _ => false,
    };
    takes(x) && fits(x.layout())
}

/// The matrices `[rows, width]` of a tensor `[batch, heads, rows, width]`.
struct Stack<'a, T> {
    data: &'a [T],
    dims: [usize; 4],
    strides: [usize; 3],
}

impl<'a, T: Real> Stack<'a, T> {
    fn of((storage, layout): Operand<'a>) -> Result<Self> {
        let (dims, strides) = (layout.shape().dims4()?, layout.stride());
        let data = &storage.as_slice::<T>()?[layout.start_offset()..];
        Ok(Self { data, dims: [dims.0, dims.1, dims.2, dims.3], strides: [strides[0], strides[1], strides[2]] })
    }

    fn matrix(&self, batch: usize, head: usize) -> Matrix<'a, T> {
        let [_, _, rows, width] = self.dims;
        let [b, h, row] = self.strides;
        Matrix::strided(&self.data[batch * b + head * h..], rows, width, if rows > 1 { row } else { width })
    }
}

/// The number of query heads per key head.
pub(crate) fn group(heads: usize, kv_heads: usize) -> Result<usize> {
    if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
        bail!("{heads} query heads cannot be divided among {kv_heads} key heads");
    }
    Ok(heads / kv_heads)
}

/// Scaled scores of queries and keys, at minus infinity for hidden keys.
pub(crate) struct Scores {
    pub(crate) window: Option<usize>,
}

impl Scores {
    fn scale<T: Real>(width: usize) -> T {
        T::of(1. / (width as f64).sqrt())
    }

    /// Writes `hidden` to the entries of keys that a query must not see.
    fn hide<T: Real>(&self, block: &mut [T], keys: usize, hidden: T) {
        let past = keys - block.len() / keys.max(1);
        for (query, row) in block.chunks_exact_mut(keys.max(1)).enumerate() {
            let end = past + query + 1;
            row[end..].fill(hidden);
            let before = self.window.map_or(0, |window| end.saturating_sub(window));
            row[..before].fill(hidden);
        }
    }

    fn forward<T: Real>(&self, q: Operand<'_>, k: Operand<'_>) -> Result<CpuStorage> {
        let (q, k) = (Stack::<T>::of(q)?, Stack::<T>::of(k)?);
        let ([batch, heads, queries, width], [_, kv_heads, keys, _]) = (q.dims, k.dims);
        let group = group(heads, kv_heads)?;
        let mut out = vec![T::zero(); batch * heads * queries * keys];
        out.par_chunks_mut((queries * keys).max(1)).enumerate().for_each(|(i, out)| {
            let (batch, head) = (i / heads, i % heads);
            let keys_of = k.matrix(batch, head / group).t();
            product(out, keys, Accumulate::Replace, q.matrix(batch, head), keys_of, Self::scale(width));
            self.hide(out, keys, T::neg_infinity());
        });
        Ok(storage(out))
    }

    fn backward<T: Real>(&self, q: &Tensor, k: &Tensor, d: &Tensor) -> Result<[Tensor; 2]> {
        let (mut dq, mut dk) = (vec![T::zero(); q.elem_count()], vec![T::zero(); k.elem_count()]);
        let mut d = with(d, |d: &[T]| Ok(d.to_vec()))?;
        with_operand(q, |q_at| {
            with_operand(k, |k_at| {
                let (q, k) = (Stack::<T>::of(q_at)?, Stack::<T>::of(k_at)?);
                let ([_, heads, queries, width], [_, kv_heads, keys, _]) = (q.dims, k.dims);
                let group = group(heads, kv_heads)?;
                let (each, scale) = (queries * keys, Self::scale(width));
                d.par_chunks_mut((group * each).max(1))
                    .zip(dq.par_chunks_mut((group * queries * width).max(1)))
                    .zip(dk.par_chunks_mut((keys * width).max(1)))
                    .enumerate()
                    .for_each(|(i, ((d, dq), dk))| {
                        let (batch, kv_head) = (i / kv_heads, i % kv_heads);
                        let parts = d.chunks_exact_mut(each).zip(dq.chunks_exact_mut(queries * width));
                        for (j, (d, dq)) in parts.enumerate() {
                            self.hide(d, keys, T::zero());
                            let d = Matrix::new(&*d, queries, keys);
                            product(dq, width, Accumulate::Replace, d, k.matrix(batch, kv_head), scale);
                            let q = q.matrix(batch, kv_head * group + j);
                            product(dk, width, Accumulate::Add, d.t(), q, scale);
                        }
                    });
                Ok(())
            })
        })?;
        Ok([tensor(dq, q.shape())?, tensor(dk, k.shape())?])
    }
}

impl CustomOp2 for Scores {
    fn name(&self) -> &'static str {
        "attention-scores"
    }

    fn cpu_fwd(&self, q: &CpuStorage, q_at: &Layout, k: &CpuStorage, k_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((batch, heads, queries, width), (others, _, keys, same)) = (q_at.shape().dims4()?, k_at.shape().dims4()?);
        if batch != others || width != same || queries > keys {
            bail!("queries {:?} for keys {:?}", q_at.shape(), k_at.shape());
        }
        let out = by_dtype!(q.dtype(), self.forward((q, q_at), (k, k_at)))?;
        Ok((out, Shape::from((batch, heads, queries, keys))))
    }

    fn bwd(&self, q: &Tensor, k: &Tensor, _: &Tensor, d: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dq, dk] = by_dtype!(q.dtype(), self.backward(q, k, d))?;
        Ok((Some(dq), Some(dk)))
    }
}

/// Softmax over the last axis.
pub(crate) struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(x: Operand<'_>, width: usize) -> Result<CpuStorage> {
            let x = slice::<T>(x)?;
            let mut out = vec![T::zero(); x.len()];
            over_rows(&mut out, width, |first, out| softmax::forward(&x[first * width..][..out.len()], out, width));
            Ok(storage(out))
        }
        let width = layout.dims().last().copied().unwrap_or(1);
        Ok((by_dtype!(x.dtype(), run((x, layout), width))?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, p: &Tensor, d: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(p: &Tensor, d: &Tensor) -> Result<Tensor> {
            let width = p.dims().last().copied().unwrap_or(1);
            let mut d = with(d, |d: &[T]| Ok(d.to_vec()))?;
            with(p, |p: &[T]| {
                over_rows(&mut d, width, |first, d| softmax::backward(&p[first * width..][..d.len()], d, width));
                Ok(())
            })?;
            tensor(d, p.shape())
        }
        by_dtype!(p.dtype(), run(p, d)).map(Some)
    }
}

/// Values mixed by patterns, `[batch, queries, heads, width]`: heads come after queries, as the output map expects.
pub(crate) struct Mix;

impl Mix {
    fn forward<T: Real>(&self, p: Operand<'_>, v: Operand<'_>) -> Result<CpuStorage> {
        let (p, v) = (Stack::<T>::of(p)?, Stack::<T>::of(v)?);
        let ([batch, heads, queries, _], [_, kv_heads, _, width]) = (p.dims, v.dims);
        let group = group(heads, kv_heads)?;
        let row = heads * width;
        let mut out = vec![T::zero(); batch * queries * row];
        out.par_chunks_mut((queries * row).max(1)).enumerate().for_each(|(batch, out)| {
            for head in 0..heads {
                let (p, v) = (p.matrix(batch, head), v.matrix(batch, head / group));
                product(&mut out[head * width..], row, Accumulate::Replace, p, v, T::one());
            }
        });
        Ok(storage(out))
    }

    fn backward<T: Real>(&self, p: &Tensor, v: &Tensor, d: &Tensor) -> Result<[Tensor; 2]> {
        let (mut dp, mut dv) = (vec![T::zero(); p.elem_count()], vec![T::zero(); v.elem_count()]);
        // the gradient as a view with heads first
        let d = d.contiguous()?.transpose(1, 2)?;
        with_operand(p, |p_at| {
            with_operand(v, |v_at| {
                with_operand(&d, |d_at| {
                    let (p, v, d) = (Stack::<T>::of(p_at)?, Stack::<T>::of(v_at)?, Stack::<T>::of(d_at)?);
                    let ([_, heads, queries, keys], [_, kv_heads, _, width]) = (p.dims, v.dims);
                    let group = group(heads, kv_heads)?;
                    dp.par_chunks_mut((group * queries * keys).max(1))
                        .zip(dv.par_chunks_mut((keys * width).max(1)))
                        .enumerate()
                        .for_each(|(i, (dp, dv))| {
                            let (batch, kv_head) = (i / kv_heads, i % kv_heads);
                            for (j, dp) in dp.chunks_exact_mut(queries * keys).enumerate() {
                                let head = kv_head * group + j;
                                let d = d.matrix(batch, head);
                                product(dp, keys, Accumulate::Replace, d, v.matrix(batch, kv_head).t(), T::one());
                                product(dv, width, Accumulate::Add, p.matrix(batch, head).t(), d, T::one());
                            }
                        });
                    Ok(())
                })
            })
        })?;
        Ok([tensor(dp, p.shape())?, tensor(dv, v.shape())?])
    }
}

impl CustomOp2 for Mix {
    fn name(&self) -> &'static str {
        "mix-values"
    }

    fn cpu_fwd(&self, p: &CpuStorage, p_at: &Layout, v: &CpuStorage, v_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((batch, heads, queries, keys), (others, _, same, width)) = (p_at.shape().dims4()?, v_at.shape().dims4()?);
        if batch != others || keys != same {
            bail!("attention: pattern {:?} does not fit values {:?}", p_at.shape(), v_at.shape());
        }
        let out = by_dtype!(p.dtype(), self.forward((p, p_at), (v, v_at)))?;
        Ok((out, Shape::from((batch, queries, heads, width))))
    }

    fn bwd(&self, p: &Tensor, v: &Tensor, _: &Tensor, d: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dp, dv] = by_dtype!(p.dtype(), self.backward(p, v, d))?;
        Ok((Some(dp), Some(dv)))
    }
}
