//! The kernels as candle custom operations.
//!
//! The public functions use them for f32 and f64 tensors on the CPU, and candle's own operations elsewhere.

use std::borrow::Cow;
use std::sync::Mutex;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Storage, Tensor,
    backend::BackendStorage, bail,
};
use rayon::prelude::*;

use crate::gradients::offer;
use crate::kernel::activation::Activation;
use crate::kernel::attention::{self, Heads, Scratch};
use crate::kernel::norm::{Divisor, Kind};
use crate::kernel::product::{Accumulate, Matrix, product};
use crate::kernel::random::Mask;
use crate::kernel::rotary::Pairs;
use crate::kernel::{Real, activation, loss, norm, rotary, rows};
use crate::parallel::{over_blocks, over_rows, tile_rows};

/// Numbers in one part of a pointwise loop.
const BLOCK: usize = 1 << 14;

/// Whether the kernels support this tensor.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

macro_rules! by_dtype {
    ($dtype:expr, $run:ident ( $($argument:expr),* )) => {
        match $dtype {
            DType::F32 => $run::<f32>($($argument),*),
            DType::F64 => $run::<f64>($($argument),*),
            other => bail!("the CPU kernels support f32 and f64, not {other:?}"),
        }
    };
    ($dtype:expr, $op:ident . $run:ident ( $($argument:expr),* )) => {
        match $dtype {
            DType::F32 => $op.$run::<f32>($($argument),*),
            DType::F64 => $op.$run::<f64>($($argument),*),
            other => bail!("the CPU kernels support f32 and f64, not {other:?}"),
        }
    };
}

pub(crate) use by_dtype;

/// One operand of a forward pass.
pub(crate) type Operand<'a> = (&'a CpuStorage, &'a Layout);

pub(crate) fn slice<'a, T: Real>((storage, layout): Operand<'a>) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a CPU kernel needs contiguous tensors"),
    }
}

pub(crate) fn storage<T: Real>(values: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(values)
}

/// Runs `run` on the numbers of a tensor, without copying contiguous ones.
pub(crate) fn with<T: Real, R>(x: &Tensor, run: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    with_operand(&x.contiguous()?, |x| run(slice(x)?))
}

/// Runs `run` on the storage and layout of a tensor.
pub(crate) fn with_operand<R>(x: &Tensor, run: impl FnOnce(Operand<'_>) -> Result<R>) -> Result<R> {
    let (guard, layout) = x.storage_and_layout();
    match &*guard {
        Storage::Cpu(cpu) => run((cpu, layout)),
        _ => bail!("a CPU kernel was given a tensor on another device"),
    }
}

pub(crate) fn tensor<T: Real>(values: Vec<T>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

/// A pointwise nonlinearity.
pub(crate) struct Pointwise(pub(crate) Activation);

impl CustomOp1 for Pointwise {
    fn name(&self) -> &'static str {
        "pointwise"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(kind: Activation, x: Operand<'_>) -> Result<CpuStorage> {
            let x = slice::<T>(x)?;
            let mut out = vec![T::zero(); x.len()];
            over_blocks(&mut out, BLOCK, |first, out| activation::forward(kind, &x[first..][..out.len()], out));
            Ok(storage(out))
        }
        Ok((by_dtype!(x.dtype(), run(self.0, (x, layout)))?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(kind: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let mut dx = with(dy, |dy: &[T]| Ok(dy.to_vec()))?;
            with(x, |x| {
                over_blocks(&mut dx, BLOCK, |first, dx| activation::backward(kind, &x[first..][..dx.len()], dx));
                Ok(())
            })?;
            tensor(dx, x.shape())
        }
        by_dtype!(x.dtype(), run(self.0, x, dy)).map(Some)
    }
}

/// An affine map over rows.
pub(crate) struct Linear {
    /// Whether the weight is `[d_out, d_in]` instead of `[d_in, d_out]`.
    pub(crate) transposed: bool,
    /// The nonlinearity after the map.
    pub(crate) activation: Option<Activated>,
}

/// A nonlinearity fused with the map before it.
pub(crate) struct Activated {
    kind: Activation,
    /// Its inputs, kept if there may be a backward pass. Without one, it is computed in place.
    before: Option<Mutex<CpuStorage>>,
}

impl Activated {
    pub(crate) fn new(kind: Activation, backward: bool) -> Self {
        Self { kind, before: backward.then(|| Mutex::new(CpuStorage::F32(Vec::new()))) }
    }

    /// Computes the outputs and keeps the inputs.
    fn forward<T: Real>(&self, before: Vec<T>, keep: &Mutex<CpuStorage>) -> Vec<T> {
        let mut out = vec![T::zero(); before.len()];
        over_blocks(&mut out, BLOCK, |first, out| activation::forward(self.kind, &before[first..][..out.len()], out));
        if let Ok(mut kept) = keep.lock() {
            *kept = storage(before);
        }
        out
    }

    /// Converts the gradient of the outputs into that of the inputs.
    fn backward<T: Real>(&self, dy: &mut [T]) -> Result<()> {
        let Some(kept) = self.before.as_ref().and_then(|kept| kept.lock().ok()) else {
            bail!("linear_activated: no inputs were kept for the backward pass");
        };
        let before = kept.as_slice::<T>()?;
        over_blocks(dy, BLOCK, |first, dy| activation::backward(self.kind, &before[first..][..dy.len()], dy));
        Ok(())
    }
}

/// A weight matrix in a slice.
#[derive(Clone, Copy)]
struct Weight<'a, T> {
    data: &'a [T],
    d_in: usize,
    d_out: usize,
    transposed: bool,
}

impl<'a, T> Weight<'a, T> {
    /// `count` columns from `first` on, `[d_in, count]`.
    fn columns(&self, first: usize, count: usize) -> Matrix<'a, T> {
        if self.transposed {
            Matrix::new(&self.data[first * self.d_in..][..count * self.d_in], count, self.d_in).t()
        } else {
            Matrix::strided(&self.data[first..], self.d_in, count, self.d_out)
        }
    }
}

impl Linear {
    fn sizes(&self, w: &Shape) -> Result<(usize, usize)> {
        let (a, b) = w.dims2()?;
        Ok(if self.transposed { (b, a) } else { (a, b) })
    }

    fn forward<T: Real>(
        &self,
        x: Operand<'_>,
        (w, w_at): Operand<'_>,
        bias: Option<Operand<'_>>,
    ) -> Result<CpuStorage> {
        let (d_in, d_out) = self.sizes(w_at.shape())?;
        let w = Weight { data: slice((w, w_at))?, d_in, d_out, transposed: self.transposed };
        let (x, bias) = (slice::<T>(x)?, bias.map(slice).transpose()?);
        Ok(storage(match &self.activation {
            Some(activated @ Activated { before: Some(keep), .. }) => activated.forward(affine(x, w, bias, None), keep),
            Some(Activated { kind, before: None }) => affine(x, w, bias, Some(*kind)),
            None => affine(x, w, bias, None),
        }))
    }

    /// Gradients of input, weight and bias, each only if it is tracked.
    fn backward<T: Real>(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: Option<&Tensor>,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let (d_in, d_out) = self.sizes(w.shape())?;
        let (mut dx, mut dw, mut db) = (None, None, None);
        with(dy, |dy: &[T]| {
            let dy = match &self.activation {
                Some(activated) => {
                    let mut before = dy.to_vec();
                    activated.backward(&mut before)?;
                    Cow::Owned(before)
                }
                None => Cow::Borrowed(dy),
            };
            let dy = dy.as_ref();
            if x.track_op() {
                // the gradient of the input is the transposed map of `dy`
                let transposed = !self.transposed;
                dx = Some(with(w, |w: &[T]| {
                    Ok(affine(dy, Weight { data: w, d_in: d_out, d_out: d_in, transposed }, None, None))
                })?);
            }
            if w.track_op() {
                dw = Some(with(x, |x: &[T]| {
                    let (left, right) =
                        if self.transposed { ((dy, d_out), (x, d_in)) } else { ((x, d_in), (dy, d_out)) };
                    Ok(outer(left, right))
                })?);
            }
            if b.is_some_and(Tensor::track_op) {
                let mut sums = vec![T::zero(); d_out];
                rows::add_column_sums(&mut sums, dy);
                db = Some(sums);
            }
            Ok(())
        })?;
        let made = |values: Option<Vec<T>>, shape: &Shape| values.map(|values| tensor(values, shape)).transpose();
        Ok([made(dx, x.shape())?, made(dw, w.shape())?, made(db, &Shape::from(d_out))?])
    }
}

/// Maximum number of rows for which a product is split along its columns.
const FEW_ROWS: usize = 256;

fn affine<T: Real>(x: &[T], w: Weight<'_, T>, bias: Option<&[T]>, activation: Option<Activation>) -> Vec<T> {
    let Weight { d_in, d_out, .. } = w;
    let count = x.len() / d_in.max(1);
    let mut out = vec![T::zero(); count * d_out];
    let part = |out: &mut [T], x: &[T], first: usize, width: usize| {
        let how = bias.map_or(Accumulate::Replace, |bias| Accumulate::Row(&bias[first..first + width]));
        let x = Matrix::new(x, x.len() / d_in.max(1), d_in);
        product(out, width, how, x, w.columns(first, width), T::one());
        if let Some(kind) = activation {
            activation::in_place(kind, out);
        }
    };
    let block = d_out.div_ceil(4).next_multiple_of(64).min(1024);
    if count > FEW_ROWS || d_out <= block {
        over_rows(&mut out, d_out, |first, out| {
            part(out, &x[first * d_in..][..out.len() / d_out * d_in], 0, d_out);
        });
        return out;
    }
    // too few rows to share: each thread computes a range of columns
    let firsts: Vec<usize> = (0..d_out).step_by(block).collect();
    let parts: Vec<Vec<T>> = firsts
        .par_iter()
        .map(|first| {
            let width = block.min(d_out - first);
            let mut out = vec![T::zero(); count * width];
            part(&mut out, x, *first, width);
            out
        })
        .collect();
    for (first, part) in firsts.iter().zip(&parts) {
        let width = block.min(d_out - first);
        for (out, part) in out.chunks_exact_mut(d_out).zip(part.chunks_exact(width)) {
            out[*first..first + width].copy_from_slice(part);
        }
    }
    out
}

/// `left^T right`, `[m, n]`, in tiles; `left` has rows of `m` numbers and `right` of `n`.
fn outer<T: Real>((left, m): (&[T], usize), (right, n): (&[T], usize)) -> Vec<T> {
    let count = left.len() / m.max(1);
    let mut out = vec![T::zero(); m * n];
    let tile = tile_rows(m);
    out.par_chunks_mut((tile * n).max(1)).enumerate().for_each(|(i, out)| {
        let part = Matrix::strided(&left[i * tile..], count, out.len() / n, m);
        product(out, n, Accumulate::Replace, part.t(), Matrix::new(right, count, n), T::one());
    });
    out
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = x_at.shape().dims2()?;
        let (_, d_out) = self.sizes(w_at.shape())?;
        let out = by_dtype!(x.dtype(), self.forward((x, x_at), (w, w_at), None))?;
        Ok((out, Shape::from((rows, d_out))))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = by_dtype!(x.dtype(), self.backward(x, w, None, dy))?;
        Ok((dx, offer(w, dw)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        w: &CpuStorage,
        w_at: &Layout,
        b: &CpuStorage,
        b_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, _) = x_at.shape().dims2()?;
        let (_, d_out) = self.sizes(w_at.shape())?;
        let out = by_dtype!(x.dtype(), self.forward((x, x_at), (w, w_at), Some((b, b_at))))?;
        Ok((out, Shape::from((rows, d_out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, db] = by_dtype!(x.dtype(), self.backward(x, w, Some(b), dy))?;
        Ok((dx, offer(w, dw), offer(b, db)))
    }
}

/// A norm over the last axis with a gain, and with a bias if there is a third operand.
pub(crate) struct Norm {
    pub(crate) kind: Kind,
    pub(crate) by: Divisor,
}

impl Norm {
    fn forward<T: Real>(&self, x: Operand<'_>, gain: Operand<'_>, bias: Option<Operand<'_>>) -> Result<CpuStorage> {
        let (x, gain) = (slice::<T>(x)?, slice::<T>(gain)?);
        let bias = bias.map(slice::<T>).transpose()?;
        let d = gain.len();
        let mut out = vec![T::zero(); x.len()];
        over_rows(&mut out, d, |first, out| {
            let x = &x[first * d..][..out.len()];
            norm::forward(self.kind, x, gain, bias, self.by, out, &mut vec![[T::zero(); 2]; out.len() / d]);
        });
        Ok(storage(out))
    }

    fn backward<T: Real>(&self, x: &Tensor, gain: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
        let d = gain.elem_count();
        let (mut dx, mut dgain, mut dbias) = (vec![T::zero(); x.elem_count()], vec![T::zero(); d], vec![T::zero(); d]);
        with(x, |x: &[T]| {
            with(gain, |gain: &[T]| {
                with(dy, |dy: &[T]| {
                    let mut stats = vec![[T::zero(); 2]; x.len() / d.max(1)];
                    norm::statistics_of(self.kind, x, d, self.by, &mut stats);
                    norm::backward(self.kind, self.by, x, &stats, gain, dy, &mut dx, &mut dgain, Some(&mut dbias));
                    Ok(())
                })
            })
        })?;
        Ok([tensor(dx, x.shape())?, tensor(dgain, gain.shape())?, tensor(dbias, gain.shape())?])
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, g: &CpuStorage, g_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = by_dtype!(x.dtype(), self.forward((x, x_at), (g, g_at), None))?;
        Ok((out, x_at.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, gain: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dgain, _] = by_dtype!(x.dtype(), self.backward(x, gain, dy))?;
        Ok((Some(dx), Some(dgain)))
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        g: &CpuStorage,
        g_at: &Layout,
        b: &CpuStorage,
        b_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = by_dtype!(x.dtype(), self.forward((x, x_at), (g, g_at), Some((b, b_at))))?;
        Ok((out, x_at.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dx, dgain, dbias] = by_dtype!(x.dtype(), self.backward(x, gain, dy))?;
        Ok((Some(dx), Some(dgain), Some(dbias)))
    }
}

/// Causal attention from `[batch, seq, heads + 2 kv_heads, width]` to `[batch, seq, heads, width]`.
pub(crate) struct Attention {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
}

impl Attention {
    fn sizes(&self, shape: &Shape) -> Result<(usize, Heads)> {
        let (batch, seq, parts, width) = shape.dims4()?;
        if parts != self.heads + 2 * self.kv_heads || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            bail!("{parts} heads are not {} for queries and {} each for keys and values", self.heads, self.kv_heads);
        }
        Ok((batch, Heads { seq, heads: self.heads, kv_heads: self.kv_heads, width }))
    }
}

/// Output and log-sums of every sequence.
fn attend<T: Real>(h: Heads, qkv: &[T]) -> (Vec<T>, Vec<T>) {
    let batch = qkv.len() / (h.seq * h.row()).max(1);
    let mut z = vec![T::zero(); batch * h.seq * h.out()];
    let mut logs = vec![T::zero(); batch * h.heads * h.seq];
    z.par_chunks_mut((h.seq * h.out()).max(1))
        .zip(logs.par_chunks_mut((h.heads * h.seq).max(1)))
        .zip(qkv.par_chunks((h.seq * h.row()).max(1)))
        .for_each_init(Scratch::default, |scratch, ((z, logs), qkv)| {
            attention::forward(h, qkv, z, logs, &None, scratch);
        });
    (z, logs)
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(h: Heads, x: Operand<'_>) -> Result<CpuStorage> {
            Ok(storage(attend::<T>(h, slice(x)?).0))
        }
        let (batch, h) = self.sizes(layout.shape())?;
        Ok((by_dtype!(x.dtype(), run(h, (x, layout)))?, Shape::from((batch, h.seq, h.heads, h.width))))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, dz: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(h: Heads, qkv: &Tensor, dz: &Tensor) -> Result<Tensor> {
            let mut dqkv = vec![T::zero(); qkv.elem_count()];
            with(qkv, |x: &[T]| {
                with(dz, |dz: &[T]| {
                    let (_, logs) = attend(h, x);
                    let row = (h.seq * h.row()).max(1);
                    dqkv.par_chunks_mut(row)
                        .zip(x.par_chunks(row))
                        .zip(dz.par_chunks((h.seq * h.out()).max(1)))
                        .zip(logs.par_chunks((h.heads * h.seq).max(1)))
                        .for_each_init(Scratch::default, |scratch, (((dqkv, x), dz), logs)| {
                            attention::backward(h, x, logs, dz, dqkv, &None, scratch);
                        });
                    Ok(())
                })
            })?;
            tensor(dqkv, qkv.shape())
        }
        let (_, h) = self.sizes(qkv.shape())?;
        by_dtype!(qkv.dtype(), run(h, qkv, dz)).map(Some)
    }
}

/// Negative log-probability of one target per row of `[rows, d_vocab]`.
pub(crate) struct TokenLosses {
    pub(crate) targets: Vec<u32>,
    /// Log-sum of each row, for the backward pass.
    logs: Mutex<Option<Tensor>>,
}

impl TokenLosses {
    pub(crate) fn new(targets: Vec<u32>) -> Self {
        Self { targets, logs: Mutex::new(None) }
    }

    fn forward<T: Real>(&self, x: Operand<'_>, vocabulary: usize) -> Result<CpuStorage> {
        let x = slice::<T>(x)?;
        let mut both = vec![T::zero(); 2 * self.targets.len()];
        let (losses, logs) = both.split_at_mut(self.targets.len());
        const ROWS: usize = 64;
        losses.par_chunks_mut(ROWS).zip(logs.par_chunks_mut(ROWS)).enumerate().for_each(|(i, (losses, logs))| {
            let targets = &self.targets[i * ROWS..][..losses.len()];
            loss::forward(&x[i * ROWS * vocabulary..][..targets.len() * vocabulary], vocabulary, targets, losses, logs);
        });
        let logs = both.split_off(self.targets.len());
        if let Ok(mut kept) = self.logs.lock() {
            *kept = Some(tensor(logs, &Shape::from(self.targets.len()))?);
        }
        Ok(storage(both))
    }

    fn backward<T: Real>(&self, logits: &Tensor, dlosses: &Tensor) -> Result<Tensor> {
        let (_, vocabulary) = logits.dims2()?;
        let Some(logs) = self.logs.lock().ok().and_then(|logs| logs.clone()) else {
            bail!("token losses: the backward pass ran before the forward pass");
        };
        let mut d = with(logits, |x: &[T]| Ok(x.to_vec()))?;
        with(dlosses, |dlosses: &[T]| {
            with(&logs, |logs: &[T]| {
                over_rows(&mut d, vocabulary, |first, d| {
                    let part = first..first + d.len() / vocabulary;
                    loss::backward(d, vocabulary, &self.targets[part.clone()], &dlosses[part.clone()], &logs[part]);
                });
                Ok(())
            })
        })?;
        tensor(d, logits.shape())
    }
}

impl CustomOp1 for TokenLosses {
    fn name(&self) -> &'static str {
        "token-losses"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, vocabulary) = layout.shape().dims2()?;
        if rows != self.targets.len() {
            bail!("token losses: {rows} rows of logits, but {} targets", self.targets.len());
        }
        let outside = |target: &&u32| **target as usize >= vocabulary && **target != loss::IGNORED;
        if let Some(target) = self.targets.iter().find(outside) {
            bail!("target {target} lies outside the vocabulary of {vocabulary}");
        }
        let losses = by_dtype!(x.dtype(), self.forward((x, layout), vocabulary))?;
        Ok((losses, Shape::from(rows)))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, dlosses: &Tensor) -> Result<Option<Tensor>> {
        by_dtype!(logits.dtype(), self.backward(logits, dlosses)).map(Some)
    }
}

/// Swaps the axes of a matrix.
pub(crate) struct Transpose;

impl CustomOp1 for Transpose {
    fn name(&self) -> &'static str {
        "transpose"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        /// Side of a square block that fits in the cache.
        const SIDE: usize = 32;
        fn run<T: Real>(x: Operand<'_>, rows: usize, columns: usize) -> Result<CpuStorage> {
            let x = slice::<T>(x)?;
            let mut out = vec![T::zero(); x.len()];
            out.par_chunks_mut((SIDE * rows).max(1)).enumerate().for_each(|(i, out)| {
                for first in (0..rows).step_by(SIDE) {
                    for (j, out) in out.chunks_exact_mut(rows).enumerate() {
                        for row in first..(first + SIDE).min(rows) {
                            out[row] = x[row * columns + i * SIDE + j];
                        }
                    }
                }
            });
            Ok(storage(out))
        }
        let (rows, columns) = layout.shape().dims2()?;
        Ok((by_dtype!(x.dtype(), run((x, layout), rows, columns))?, Shape::from((columns, rows))))
    }
}

/// Rows of a table by id.
pub(crate) struct Gather {
    pub(crate) ids: Vec<u32>,
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "gather"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(ids: &[u32], table: Operand<'_>, width: usize) -> Result<CpuStorage> {
            let table = slice::<T>(table)?;
            let mut out = Vec::with_capacity(ids.len() * width);
            ids.iter().for_each(|id| out.extend_from_slice(&table[*id as usize * width..][..width]));
            Ok(storage(out))
        }
        let (rows, width) = layout.shape().dims2()?;
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= rows) {
            bail!("id {id} lies outside the table of {rows} rows");
        }
        Ok((by_dtype!(table.dtype(), run(&self.ids, (table, layout), width))?, Shape::from((self.ids.len(), width))))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(ids: &[u32], table: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let (rows, width) = table.dims2()?;
            let mut d = vec![T::zero(); rows * width];
            with(dy, |dy: &[T]| {
                for (id, dy) in ids.iter().zip(dy.chunks_exact(width)) {
                    rows::add(&mut d[*id as usize * width..][..width], dy);
                }
                Ok(())
            })?;
            tensor(d, table.shape())
        }
        by_dtype!(table.dtype(), run(&self.ids, table, dy)).map(Some)
    }
}

/// Dropout with the mask of a key.
pub(crate) struct Dropout {
    pub(crate) p: f64,
    pub(crate) key: u64,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(p: f64, key: u64, x: Operand<'_>) -> Result<CpuStorage> {
            let mut out = slice::<T>(x)?.to_vec();
            let mask = Mask::new(p, key);
            over_blocks(&mut out, BLOCK, |first, out| mask.apply(out, first as u64));
            Ok(storage(out))
        }
        Ok((by_dtype!(x.dtype(), run(self.p, self.key, (x, layout)))?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(self)?))
    }
}

/// Rotation of `[batch, seq, heads, width]` by the angles of each position.
pub(crate) struct Rotary {
    pub(crate) pairs: Pairs,
    /// Number of rotated entries of each head.
    pub(crate) rotary_dim: usize,
    /// `[seq, rotary_dim / 2]` each.
    pub(crate) cos: Vec<f64>,
    pub(crate) sin: Vec<f64>,
    pub(crate) inverse: bool,
}

impl CustomOp1 for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(op: &Rotary, x: Operand<'_>, heads: usize, width: usize) -> Result<CpuStorage> {
            let mut out = slice::<T>(x)?.to_vec();
            let half = op.rotary_dim / 2;
            // the angles of a position, repeated for each head
            let per_head = |angles: &[f64]| -> Vec<T> {
                let position = |angles: &[f64]| angles.iter().map(|a| T::of(*a)).collect::<Vec<_>>().repeat(heads);
                angles.chunks_exact(half.max(1)).flat_map(position).collect()
            };
            let (cos, sin) = (per_head(&op.cos), per_head(&op.sin));
            let seq = op.cos.len() / half.max(1);
            out.par_chunks_mut((seq * heads * width).max(1))
                .for_each(|out| rotary::apply(op.pairs, out, width, op.rotary_dim, &cos, &sin, op.inverse));
            Ok(storage(out))
        }
        let (_, seq, heads, width) = layout.shape().dims4()?;
        let half = self.rotary_dim / 2;
        if self.rotary_dim > width
            || !self.rotary_dim.is_multiple_of(2)
            || self.rotary_dim == 0
            || self.cos.len() != seq * half
        {
            bail!("rotary: {} angles for {seq} positions and {} of {width} entries", self.cos.len(), self.rotary_dim);
        }
        Ok((by_dtype!(x.dtype(), run(self, (x, layout), heads, width))?, layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            pairs: self.pairs,
            rotary_dim: self.rotary_dim,
            cos: self.cos.clone(),
            sin: self.sin.clone(),
            inverse: !self.inverse,
        };
        Ok(Some(dy.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}

/// `silu(gate) * up`.
pub(crate) struct SiluGate;

impl CustomOp2 for SiluGate {
    fn name(&self) -> &'static str {
        "silu-gate"
    }

    fn cpu_fwd(&self, g: &CpuStorage, g_at: &Layout, u: &CpuStorage, u_at: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(gate: Operand<'_>, up: Operand<'_>) -> Result<CpuStorage> {
            let (gate, up) = (slice::<T>(gate)?, slice::<T>(up)?);
            let mut out = vec![T::zero(); gate.len()];
            over_blocks(&mut out, BLOCK, |first, out| {
                activation::forward(Activation::Silu, &gate[first..][..out.len()], out);
                out.iter_mut().zip(&up[first..]).for_each(|(out, up)| *out *= *up);
            });
            Ok(storage(out))
        }
        if g_at.shape() != u_at.shape() {
            bail!("silu_gate: gate {:?} and up {:?} differ in shape", g_at.shape(), u_at.shape());
        }
        Ok((by_dtype!(g.dtype(), run((g, g_at), (u, u_at)))?, g_at.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        fn run<T: Real>(gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<[Tensor; 2]> {
            let mut dgate = with(dy, |dy: &[T]| Ok(dy.to_vec()))?;
            let mut dup = vec![T::zero(); dgate.len()];
            with(gate, |gate: &[T]| {
                over_blocks(&mut dup, BLOCK, |first, dup| {
                    activation::forward(Activation::Silu, &gate[first..][..dup.len()], dup);
                });
                dup.iter_mut().zip(&dgate).for_each(|(dup, dy)| *dup *= *dy);
                with(up, |up: &[T]| {
                    dgate.iter_mut().zip(up).for_each(|(dgate, up)| *dgate *= *up);
                    Ok(())
                })?;
                over_blocks(&mut dgate, BLOCK, |first, dgate| {
                    activation::backward(Activation::Silu, &gate[first..][..dgate.len()], dgate);
                });
                Ok(())
            })?;
            Ok([tensor(dgate, gate.shape())?, tensor(dup, gate.shape())?])
        }
        let [dgate, dup] = by_dtype!(gate.dtype(), run(gate, up, dy))?;
        Ok((Some(dgate), Some(dup)))
    }
}
