//! CPU kernels in one pass each, as candle custom operations with a backward pass.
//!
//! Every kernel walks its rows in order on one thread, so results are the same bytes whatever runs beside it.
//! The public functions choose these for contiguous f32 and f64 tensors on the CPU, and candle's own operations elsewhere.

use std::ops::{AddAssign, DivAssign, SubAssign};

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, WithDType, bail};
use num_traits::Float;

/// Numbers that the kernels compute with.
pub(crate) trait Real: Float + WithDType + std::iter::Sum + AddAssign + SubAssign + DivAssign {}
impl Real for f32 {}
impl Real for f64 {}

/// Whether the kernels take this tensor.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && matches!(x.dtype(), DType::F32 | DType::F64)
}

fn number<T: Real>(x: f64) -> T {
    T::from(x).unwrap_or_else(T::nan)
}

fn slice<'a, T: Real>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("a fused kernel needs contiguous tensors"),
    }
}

fn values<T: Real>(x: &Tensor) -> Result<Vec<T>> {
    x.flatten_all()?.to_vec1::<T>()
}

fn tensor<T: Real>(values: Vec<T>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

macro_rules! by_dtype {
    ($dtype:expr, $run:ident ( $($argument:expr),* )) => {
        match $dtype {
            DType::F32 => $run::<f32>($($argument),*),
            DType::F64 => $run::<f64>($($argument),*),
            other => bail!("fused kernels take f32 and f64, not {other:?}"),
        }
    };
}

/// GELU, tanh form.
pub(crate) struct GeluTanh;

const ROOT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;
const CUBIC: f64 = 0.044_715;

/// tanh through one exponential; exact at both ends, where exp overflows or vanishes.
fn tanh<T: Real>(x: T) -> T {
    let two = number::<T>(2.);
    T::one() - two / ((two * x).exp() + T::one())
}

impl CustomOp1 for GeluTanh {
    fn name(&self) -> &'static str {
        "gelu-tanh"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
            let (a, c, half) = (number::<T>(ROOT_2_OVER_PI), number::<T>(CUBIC), number::<T>(0.5));
            let y = slice::<T>(storage, layout)?.iter().map(|&x| half * x * (T::one() + tanh(a * (x + c * x * x * x))));
            Ok(T::to_cpu_storage_owned(y.collect()))
        }
        Ok((by_dtype!(storage_dtype(storage), run(storage, layout))?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let (a, c, half, three) =
                (number::<T>(ROOT_2_OVER_PI), number::<T>(CUBIC), number::<T>(0.5), number::<T>(3.));
            let dx = values::<T>(x)?.into_iter().zip(values::<T>(dy)?).map(|(x, dy)| {
                let t = tanh(a * (x + c * x * x * x));
                let slope = half * (T::one() + t) + half * x * (T::one() - t * t) * a * (T::one() + three * c * x * x);
                dy * slope
            });
            tensor(dx.collect(), x)
        }
        by_dtype!(x.dtype(), run(x, dy)).map(Some)
    }
}

/// GELU, exact form.
pub(crate) struct GeluErf;

/// Standard normal distribution function and density.
fn normal<T: Real>(x: T) -> (T, T) {
    let x = num_traits::ToPrimitive::to_f64(&x).unwrap_or(f64::NAN);
    let below = 0.5 * (1. + libm::erf(x / std::f64::consts::SQRT_2));
    let density = (-0.5 * x * x).exp() / (2. * std::f64::consts::PI).sqrt();
    (number(below), number(density))
}

impl CustomOp1 for GeluErf {
    fn name(&self) -> &'static str {
        "gelu-erf"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(storage: &CpuStorage, layout: &Layout) -> Result<CpuStorage> {
            let y = slice::<T>(storage, layout)?.iter().map(|&x| x * normal(x).0);
            Ok(T::to_cpu_storage_owned(y.collect()))
        }
        Ok((by_dtype!(storage_dtype(storage), run(storage, layout))?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let dx = values::<T>(x)?.into_iter().zip(values::<T>(dy)?).map(|(x, dy)| {
                let (below, density) = normal(x);
                dy * (below + x * density)
            });
            tensor(dx.collect(), x)
        }
        by_dtype!(x.dtype(), run(x, dy)).map(Some)
    }
}

fn storage_dtype(storage: &CpuStorage) -> DType {
    candle_core::backend::BackendStorage::dtype(storage)
}

/// A bias on the last axis.
pub(crate) struct AddBias;

impl CustomOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, b: &CpuStorage, b_at: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(x: &CpuStorage, x_at: &Layout, b: &CpuStorage, b_at: &Layout) -> Result<CpuStorage> {
            let (x, b) = (slice::<T>(x, x_at)?, slice::<T>(b, b_at)?);
            let mut y = Vec::with_capacity(x.len());
            for row in x.chunks_exact(b.len()) {
                y.extend(row.iter().zip(b).map(|(x, b)| *x + *b));
            }
            Ok(T::to_cpu_storage_owned(y))
        }
        Ok((by_dtype!(storage_dtype(x), run(x, x_at, b, b_at))?, x_at.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, b: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        fn run<T: Real>(b: &Tensor, dy: &Tensor) -> Result<Tensor> {
            let mut sums = vec![T::zero(); b.elem_count()];
            for row in values::<T>(dy)?.chunks_exact(sums.len()) {
                for (sum, dy) in sums.iter_mut().zip(row) {
                    *sum += *dy;
                }
            }
            tensor(sums, b)
        }
        Ok((Some(dy.clone()), Some(by_dtype!(b.dtype(), run(b, dy))?)))
    }
}

/// LayerNorm over the last axis with gain and bias.
pub(crate) struct LayerNormOp {
    pub(crate) eps: f64,
}

/// Mean and 1 / sqrt(var + eps) of a row.
fn moments<T: Real>(row: &[T], eps: f64) -> (T, T) {
    let n = number::<T>(row.len() as f64);
    let mean = row.iter().copied().sum::<T>() / n;
    let var = row.iter().map(|x| (*x - mean) * (*x - mean)).sum::<T>() / n;
    (mean, T::one() / (var + number(eps)).sqrt())
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        gain: &CpuStorage,
        gain_at: &Layout,
        bias: &CpuStorage,
        bias_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(
            eps: f64,
            x: (&CpuStorage, &Layout),
            gain: (&CpuStorage, &Layout),
            bias: (&CpuStorage, &Layout),
        ) -> Result<CpuStorage> {
            let (x, gain, bias) = (slice::<T>(x.0, x.1)?, slice::<T>(gain.0, gain.1)?, slice::<T>(bias.0, bias.1)?);
            let mut y = Vec::with_capacity(x.len());
            for row in x.chunks_exact(gain.len()) {
                let (mean, inverse) = moments(row, eps);
                y.extend(row.iter().zip(gain).zip(bias).map(|((x, g), b)| (*x - mean) * inverse * *g + *b));
            }
            Ok(T::to_cpu_storage_owned(y))
        }
        let y = by_dtype!(storage_dtype(x), run(self.eps, (x, x_at), (gain, gain_at), (bias, bias_at)))?;
        Ok((y, x_at.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        gain: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        fn run<T: Real>(eps: f64, x: &Tensor, gain: &Tensor, dy: &Tensor) -> Result<[Tensor; 3]> {
            let (xs, gains, dys) = (values::<T>(x)?, values::<T>(gain)?, values::<T>(dy)?);
            let d = gains.len();
            let n = number::<T>(d as f64);
            let (mut dx, mut dgain, mut dbias) = (vec![T::zero(); xs.len()], vec![T::zero(); d], vec![T::zero(); d]);
            for ((row, dy), dx) in xs.chunks_exact(d).zip(dys.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
                let (mean, inverse) = moments(row, eps);
                let (mut sum, mut dot) = (T::zero(), T::zero());
                for i in 0..d {
                    let normalized = (row[i] - mean) * inverse;
                    dgain[i] += dy[i] * normalized;
                    dbias[i] += dy[i];
                    let dn = dy[i] * gains[i];
                    sum += dn;
                    dot += dn * normalized;
                }
                for i in 0..d {
                    let normalized = (row[i] - mean) * inverse;
                    dx[i] = inverse * (dy[i] * gains[i] - sum / n - normalized * dot / n);
                }
            }
            Ok([tensor(dx, x)?, tensor(dgain, gain)?, tensor(dbias, gain)?])
        }
        let [dx, dgain, dbias] = by_dtype!(x.dtype(), run(self.eps, x, gain, dy))?;
        Ok((Some(dx), Some(dgain), Some(dbias)))
    }
}

/// Causal attention from `[batch, seq, 3, n_heads, d_head]` to `[batch, seq, n_heads, d_head]`.
pub(crate) struct CausalAttention;

/// Sizes and strides of one attention.
#[derive(Clone, Copy)]
struct Heads {
    batch: usize,
    seq: usize,
    heads: usize,
    width: usize,
}

impl Heads {
    fn of(shape: &Shape) -> Result<Self> {
        let (batch, seq, three, heads, width) = shape.dims5()?;
        if three != 3 {
            bail!("attention takes [batch, seq, 3, n_heads, d_head], not {shape:?}");
        }
        Ok(Self { batch, seq, heads, width })
    }

    /// Where the query (0), key (1) or value (2) of a head begins at one place of the sequence.
    fn at(self, batch: usize, place: usize, part: usize, head: usize) -> usize {
        ((batch * self.seq + place) * 3 + part) * self.heads * self.width + head * self.width
    }

    /// Where the head's output begins.
    fn out(self, batch: usize, place: usize, head: usize) -> usize {
        ((batch * self.seq + place) * self.heads + head) * self.width
    }

    fn scale<T: Real>(self) -> T {
        number(1. / (self.width as f64).sqrt())
    }
}

fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    // eight running sums, so that the loop can use vector registers; their order is fixed
    let mut sums = [T::zero(); 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: T = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| *a * *b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.into_iter().sum::<T>() + rest
}

fn add_scaled<T: Real>(to: &mut [T], from: &[T], by: T) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += *from * by;
    }
}

/// Probabilities of one query over the keys up to it, into `row`.
fn probabilities<T: Real>(qkv: &[T], h: Heads, batch: usize, head: usize, query: usize, row: &mut Vec<T>) {
    let scale = h.scale::<T>();
    let q = &qkv[h.at(batch, query, 0, head)..][..h.width];
    row.clear();
    row.extend((0..=query).map(|key| dot(q, &qkv[h.at(batch, key, 1, head)..][..h.width]) * scale));
    let largest = row.iter().copied().fold(T::neg_infinity(), Float::max);
    let mut sum = T::zero();
    for score in row.iter_mut() {
        *score = (*score - largest).exp();
        sum += *score;
    }
    for score in row.iter_mut() {
        *score /= sum;
    }
}

impl CustomOp1 for CausalAttention {
    fn name(&self) -> &'static str {
        "causal-attention"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(storage: &CpuStorage, layout: &Layout, h: Heads) -> Result<CpuStorage> {
            let qkv = slice::<T>(storage, layout)?;
            let mut z = vec![T::zero(); h.batch * h.seq * h.heads * h.width];
            let mut row = Vec::with_capacity(h.seq);
            for batch in 0..h.batch {
                for head in 0..h.heads {
                    for query in 0..h.seq {
                        probabilities(qkv, h, batch, head, query, &mut row);
                        let z = &mut z[h.out(batch, query, head)..][..h.width];
                        for (key, p) in row.iter().enumerate() {
                            add_scaled(z, &qkv[h.at(batch, key, 2, head)..][..h.width], *p);
                        }
                    }
                }
            }
            Ok(T::to_cpu_storage_owned(z))
        }
        let h = Heads::of(layout.shape())?;
        let z = by_dtype!(storage_dtype(storage), run(storage, layout, h))?;
        Ok((z, Shape::from((h.batch, h.seq, h.heads, h.width))))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, dz: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(qkv: &Tensor, dz: &Tensor) -> Result<Tensor> {
            let h = Heads::of(qkv.shape())?;
            let (x, dz) = (values::<T>(qkv)?, values::<T>(dz)?);
            let mut dx = vec![T::zero(); x.len()];
            let scale = h.scale::<T>();
            let (mut row, mut drow) = (Vec::with_capacity(h.seq), Vec::with_capacity(h.seq));
            for batch in 0..h.batch {
                for head in 0..h.heads {
                    for query in 0..h.seq {
                        probabilities(&x, h, batch, head, query, &mut row);
                        let dz = &dz[h.out(batch, query, head)..][..h.width];
                        drow.clear();
                        drow.extend((0..=query).map(|key| dot(dz, &x[h.at(batch, key, 2, head)..][..h.width])));
                        let mean = dot(&row, &drow);
                        for key in 0..=query {
                            add_scaled(&mut dx[h.at(batch, key, 2, head)..][..h.width], dz, row[key]);
                            let dscore = row[key] * (drow[key] - mean) * scale;
                            let (q, k) = (h.at(batch, query, 0, head), h.at(batch, key, 1, head));
                            add_scaled(&mut dx[q..][..h.width], &x[k..][..h.width], dscore);
                            add_scaled(&mut dx[k..][..h.width], &x[q..][..h.width], dscore);
                        }
                    }
                }
            }
            tensor(dx, qkv)
        }
        by_dtype!(qkv.dtype(), run(qkv, dz)).map(Some)
    }
}

/// Negative log-probability of one target per row of `[rows, d_vocab]`.
pub(crate) struct TokenLosses {
    pub(crate) targets: Vec<u32>,
}

/// Largest entry of a row, and the logarithm of the sum of exponentials above it.
fn log_sum<T: Real>(row: &[T]) -> (T, T) {
    let largest = row.iter().copied().fold(T::neg_infinity(), Float::max);
    (largest, row.iter().map(|x| (*x - largest).exp()).sum::<T>().ln())
}

impl CustomOp1 for TokenLosses {
    fn name(&self) -> &'static str {
        "token-losses"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        fn run<T: Real>(
            storage: &CpuStorage,
            layout: &Layout,
            targets: &[u32],
            vocabulary: usize,
        ) -> Result<CpuStorage> {
            let rows = slice::<T>(storage, layout)?.chunks_exact(vocabulary);
            let losses = rows.zip(targets).map(|(row, target)| {
                let (largest, log_sum) = log_sum(row);
                log_sum - (row[*target as usize] - largest)
            });
            Ok(T::to_cpu_storage_owned(losses.collect()))
        }
        let (rows, vocabulary) = layout.shape().dims2()?;
        if rows != self.targets.len() {
            bail!("{rows} rows of logits for {} targets", self.targets.len());
        }
        if let Some(target) = self.targets.iter().find(|target| **target as usize >= vocabulary) {
            bail!("target {target} lies outside of the vocabulary of {vocabulary}");
        }
        let losses = by_dtype!(storage_dtype(storage), run(storage, layout, &self.targets, vocabulary))?;
        Ok((losses, Shape::from(rows)))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, dlosses: &Tensor) -> Result<Option<Tensor>> {
        fn run<T: Real>(logits: &Tensor, dlosses: &Tensor, targets: &[u32]) -> Result<Tensor> {
            let (_, vocabulary) = logits.dims2()?;
            let mut d = values::<T>(logits)?;
            for ((row, dloss), target) in d.chunks_exact_mut(vocabulary).zip(values::<T>(dlosses)?).zip(targets) {
                let (largest, log_sum) = log_sum(row);
                for x in row.iter_mut() {
                    *x = (*x - largest - log_sum).exp() * dloss;
                }
                row[*target as usize] -= dloss;
            }
            tensor(d, logits)
        }
        by_dtype!(logits.dtype(), run(logits, dlosses, &self.targets)).map(Some)
    }
}
