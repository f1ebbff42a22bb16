//! Causal attention with grouped queries: scores, mask, softmax and values over blocks of queries.
//!
//! The pattern of a block exists only in a scratch buffer. The backward pass recomputes it from the log-sum of each query,
//! which the forward pass keeps (as in arXiv 2205.14135).

use super::product::{Accumulate, Matrix, product};
use super::random::Mask;
use super::rows::{largest, sum, sum_pairs};
use super::{Real, short, vectorised};

/// Queries in one block: small enough for the scores to stay in the cache, and a multiple of the rows in a product's tile.
const BLOCK: usize = 96;

/// Sizes of attention over one sequence, whose rows hold queries, keys and values one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Number of tokens.
    pub seq: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key heads, which is also that of value heads; it divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub width: usize,
}

impl Heads {
    /// Numbers in one row: queries of all heads, then keys, then values.
    #[must_use]
    pub fn row(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.width
    }

    /// Numbers in one row of the output.
    #[must_use]
    pub fn out(&self) -> usize {
        self.heads * self.width
    }

    pub(crate) fn q(&self, head: usize) -> usize {
        head * self.width
    }

    pub(crate) fn k(&self, head: usize) -> usize {
        (self.heads + head / (self.heads / self.kv_heads)) * self.width
    }

    pub(crate) fn v(&self, head: usize) -> usize {
        self.k(head) + self.kv_heads * self.width
    }

    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let seq = self.seq;
        (0..seq).step_by(BLOCK).map(move |first| (first, (first + BLOCK).min(seq)))
    }
}

/// Buffers that a thread reuses.
#[derive(Debug)]
pub struct Scratch<T> {
    pattern: Vec<T>,
    gradient: Vec<T>,
}

impl<T> Default for Scratch<T> {
    fn default() -> Self {
        Self { pattern: Vec::new(), gradient: Vec::new() }
    }
}

/// Dropout on the pattern: the mask, and the index of the sequence's first entry in the whole `[batch, heads, seq, seq]`.
pub type DropoutMask<T> = Option<(Mask<T>, u64)>;

fn scale<T: Real>(h: &Heads) -> T {
    T::of(1. / (h.width as f64).sqrt())
}

/// A range of rows of the part of `x` that belongs to a head.
fn part<T>(x: &[T], stride: usize, from: usize, rows: (usize, usize), width: usize) -> Matrix<'_, T> {
    Matrix::strided(&x[rows.0 * stride + from..], rows.1 - rows.0, width, stride)
}

/// `z` `[seq, out]` from queries, keys and values `[seq, row]`; `logs` `[heads, seq]` gets the log-sum of each query.
///
/// # Panics
/// When the lengths do not fit.
pub fn forward<T: Real>(
    h: Heads,
    qkv: &[T],
    z: &mut [T],
    logs: &mut [T],
    drop: &DropoutMask<T>,
    scratch: &mut Scratch<T>,
) {
    assert!(qkv.len() == h.seq * h.row() && z.len() == h.seq * h.out() && logs.len() == h.heads * h.seq);
    if drop.is_none() && short::fits(&h) {
        short::forward(h, qkv, z, logs, &mut scratch.pattern);
    } else {
        general_forward(h, qkv, z, logs, drop, scratch);
    }
    propagate_from_later_values(&h, qkv, z);
}

/// Lets NaN and infinite values reach the outputs of earlier queries.
///
/// A composed pattern multiplies later values by 0, which gives NaN for those that are not finite. The kernels skip later
/// keys, so this adds the products that they left out.
pub(crate) fn propagate_from_later_values<T: Real>(h: &Heads, qkv: &[T], z: &mut [T]) {
    let group = h.heads / h.kv_heads;
    for kv_head in 0..h.kv_heads {
        for position in 1..h.seq {
            let values = &qkv[position * h.row() + h.v(kv_head * group)..][..h.width];
            if values.iter().fold(true, |all, v| all & v.is_finite()) {
                continue;
            }
            for row in z[..position * h.out()].chunks_exact_mut(h.out()) {
                for z in row[h.q(kv_head * group)..][..group * h.width].chunks_exact_mut(h.width) {
                    z.iter_mut().zip(values).for_each(|(z, v)| *z += T::zero() * *v);
                }
            }
        }
    }
}

/// [`forward`] by matrix products over blocks of queries.
pub(crate) fn general_forward<T: Real>(
    h: Heads,
    qkv: &[T],
    z: &mut [T],
    logs: &mut [T],
    drop: &DropoutMask<T>,
    scratch: &mut Scratch<T>,
) {
    scratch.pattern.resize(BLOCK.min(h.seq) * h.seq, T::zero());
    for head in 0..h.heads {
        for (first, end) in h.blocks() {
            let pattern = &mut scratch.pattern[..(end - first) * end];
            let q = part(qkv, h.row(), h.q(head), (first, end), h.width);
            let k = part(qkv, h.row(), h.k(head), (0, end), h.width);
            product(pattern, end, Accumulate::Replace, q, k.t(), scale(&h));
            let logs = &mut logs[head * h.seq..][first..end];
            vectorised(
                #[inline(always)]
                || softmax(pattern, end, first, logs),
            );
            drop_out(drop, pattern, end, first, head * h.seq * h.seq, h.seq);
            let v = part(qkv, h.row(), h.v(head), (0, end), h.width);
            let z = &mut z[first * h.out() + h.q(head)..];
            product(z, h.out(), Accumulate::Replace, Matrix::new(pattern, end - first, end), v, T::one());
        }
    }
}

/// Overwrites scores with probabilities; query `i` of the block sees keys up to `first + i`.
#[inline(always)]
fn softmax<T: Real>(pattern: &mut [T], width: usize, first: usize, logs: &mut [T]) {
    for ((i, row), log) in pattern.chunks_exact_mut(width).enumerate().zip(logs) {
        let (seen, ahead) = row.split_at_mut(first + i + 1);
        let most = largest(seen);
        for x in seen.iter_mut() {
            *x = (*x - most).exponential();
        }
        let total = sum(seen, |x| x);
        let inverse = T::one() / total;
        for x in seen.iter_mut() {
            *x *= inverse;
        }
        ahead.fill(T::zero());
        *log = most + total.ln();
    }
}

fn drop_out<T: Real>(drop: &DropoutMask<T>, pattern: &mut [T], width: usize, first: usize, head: usize, seq: usize) {
    if let Some((mask, start)) = drop {
        for (i, row) in pattern.chunks_exact_mut(width).enumerate() {
            mask.apply(row, start + (head + (first + i) * seq) as u64);
        }
    }
}

/// Backward pass of [`forward`]: adds to `dqkv`.
///
/// # Panics
/// When the lengths do not fit.
pub fn backward<T: Real>(
    h: Heads,
    qkv: &[T],
    logs: &[T],
    dz: &[T],
    dqkv: &mut [T],
    drop: &DropoutMask<T>,
    scratch: &mut Scratch<T>,
) {
    assert!(qkv.len() == h.seq * h.row() && dz.len() == h.seq * h.out() && logs.len() == h.heads * h.seq);
    assert!(qkv.len() == dqkv.len());
    if drop.is_none() && short::fits(&h) {
        short::backward(h, qkv, logs, dz, dqkv, &mut scratch.pattern);
    } else {
        general_backward(h, qkv, logs, dz, dqkv, drop, scratch);
    }
}

/// [`backward`] by matrix products over blocks of queries.
pub(crate) fn general_backward<T: Real>(
    h: Heads,
    qkv: &[T],
    logs: &[T],
    dz: &[T],
    dqkv: &mut [T],
    drop: &DropoutMask<T>,
    scratch: &mut Scratch<T>,
) {
    let size = BLOCK.min(h.seq) * h.seq;
    scratch.pattern.resize(size, T::zero());
    scratch.gradient.resize(size, T::zero());
    for head in 0..h.heads {
        for (first, end) in h.blocks() {
            let rows = end - first;
            let (pattern, gradient) = (&mut scratch.pattern[..rows * end], &mut scratch.gradient[..rows * end]);
            let q = part(qkv, h.row(), h.q(head), (first, end), h.width);
            let k = part(qkv, h.row(), h.k(head), (0, end), h.width);
            let v = part(qkv, h.row(), h.v(head), (0, end), h.width);
            let dz = part(dz, h.out(), h.q(head), (first, end), h.width);
            product(pattern, end, Accumulate::Replace, q, k.t(), scale(&h));
            product(gradient, end, Accumulate::Replace, dz, v.t(), T::one());
            let logs = &logs[head * h.seq..][first..end];
            vectorised(
                #[inline(always)]
                || {
                    for ((i, row), log) in pattern.chunks_exact_mut(end).enumerate().zip(logs) {
                        let (seen, ahead) = row.split_at_mut(first + i + 1);
                        for x in seen {
                            *x = (*x - *log).exponential();
                        }
                        ahead.fill(T::zero());
                    }
                },
            );
            let start = head * h.seq * h.seq;
            // the gradient of the pattern passes through the same mask as the pattern did
            drop_out(drop, gradient, end, first, start, h.seq);
            let dv = &mut dqkv[h.v(head)..];
            if drop.is_some() {
                let mut dropped = pattern.to_vec();
                drop_out(drop, &mut dropped, end, first, start, h.seq);
                product(dv, h.row(), Accumulate::Add, Matrix::new(&dropped, rows, end).t(), dz, T::one());
            } else {
                product(dv, h.row(), Accumulate::Add, Matrix::new(pattern, rows, end).t(), dz, T::one());
            }
            vectorised(
                #[inline(always)]
                || {
                    for (i, (p, d)) in pattern.chunks_exact(end).zip(gradient.chunks_exact_mut(end)).enumerate() {
                        let (seen, ahead) = d.split_at_mut(first + i + 1);
                        let p = &p[..seen.len()];
                        let mean = sum_pairs(p, seen, |p, d| p * d);
                        for (d, p) in seen.iter_mut().zip(p) {
                            *d = *p * (*d - mean);
                        }
                        ahead.fill(T::zero());
                    }
                },
            );
            let gradient = Matrix::new(&*gradient, rows, end);
            product(&mut dqkv[first * h.row() + h.q(head)..], h.row(), Accumulate::Add, gradient, k, scale(&h));
            product(&mut dqkv[h.k(head)..], h.row(), Accumulate::Add, gradient.t(), q, scale(&h));
        }
    }
}
