//! Causal attention over short sequences, where a matrix product costs more to set up than to compute.
//!
//! Keys and values are transposed once per head. The scores of a query are then sums over the width of a head, for 16 keys
//! at a time. Sums run in a fixed order.

use super::attention::Heads;
use super::rows::{largest, sum, sum_pairs};
use super::{Real, vectorised};

/// Keys that are computed at a time.
const LANES: usize = 16;
/// The longest sequence.
pub(crate) const LONGEST: usize = 64;

/// Whether this kernel supports the length and the width.
pub(crate) fn fits(h: &Heads) -> bool {
    h.seq <= LONGEST && matches!(h.width, 16 | 32 | 64)
}

/// As [`super::attention::forward`].
pub(crate) fn forward<T: Real>(h: Heads, qkv: &[T], z: &mut [T], logs: &mut [T], scratch: &mut Vec<T>) {
    vectorised(
        #[inline(always)]
        || match h.width {
            16 => forward_wide::<T, 16>(h, qkv, z, logs, scratch),
            32 => forward_wide::<T, 32>(h, qkv, z, logs, scratch),
            _ => forward_wide::<T, 64>(h, qkv, z, logs, scratch),
        },
    );
}

/// As [`super::attention::backward`].
pub(crate) fn backward<T: Real>(h: Heads, qkv: &[T], logs: &[T], dz: &[T], dqkv: &mut [T], scratch: &mut Vec<T>) {
    vectorised(
        #[inline(always)]
        || match h.width {
            16 => backward_wide::<T, 16>(h, qkv, logs, dz, dqkv, scratch),
            32 => backward_wide::<T, 32>(h, qkv, logs, dz, dqkv, scratch),
            _ => backward_wide::<T, 64>(h, qkv, logs, dz, dqkv, scratch),
        },
    );
}

/// `W` numbers of a row of `x`, from `from` on.
#[inline(always)]
fn row<T: Real, const W: usize>(x: &[T], at: usize, stride: usize, from: usize) -> [T; W] {
    let mut out = [T::zero(); W];
    out.copy_from_slice(&x[at * stride + from..][..W]);
    out
}

/// Rows `[seq, W]` of a head as columns `[W, padded]`, padded with zeros.
#[inline(always)]
fn transposed<T: Real, const W: usize>(x: &[T], stride: usize, from: usize, seq: usize, out: &mut [T]) {
    let padded = out.len() / W;
    out.fill(T::zero());
    for at in 0..seq {
        for (d, x) in row::<T, W>(x, at, stride, from).iter().enumerate() {
            out[d * padded + at] = *x;
        }
    }
}

/// Products of one row with the first `out.len()` columns.
#[inline(always)]
fn with_columns<T: Real, const W: usize>(x: &[T; W], columns: &[T], out: &mut [T]) {
    let padded = columns.len() / W;
    for (chunk, out) in out.chunks_exact_mut(LANES).enumerate() {
        let mut sums = [T::zero(); LANES];
        for (d, x) in x.iter().enumerate() {
            let column = &columns[d * padded + chunk * LANES..][..LANES];
            for (sum, y) in sums.iter_mut().zip(column) {
                *sum = x.mul_add(*y, *sum);
            }
        }
        out.copy_from_slice(&sums);
    }
}

/// `to += weight * x`.
#[inline(always)]
fn add<T: Real, const W: usize>(to: &mut [T; W], weight: T, x: &[T; W]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = weight.mul_add(*x, *to);
    }
}

#[inline(always)]
fn forward_wide<T: Real, const W: usize>(h: Heads, qkv: &[T], z: &mut [T], logs: &mut [T], scratch: &mut Vec<T>) {
    let (seq, stride) = (h.seq, h.row());
    let scale = T::of(1. / (W as f64).sqrt());
    scratch.resize(W * seq.next_multiple_of(LANES), T::zero());
    for head in 0..h.heads {
        transposed::<T, W>(qkv, stride, h.k(head), seq, scratch);
        for i in 0..seq {
            let query = row::<T, W>(qkv, i, stride, h.q(head));
            let mut scores = [T::zero(); LONGEST];
            let scores = &mut scores[..(i + 1).next_multiple_of(LANES)];
            with_columns(&query, scratch, scores);
            for score in scores.iter_mut() {
                *score *= scale;
            }
            scores[i + 1..].fill(T::neg_infinity());
            let most = largest(scores);
            for score in scores.iter_mut() {
                *score = (*score - most).exponential();
            }
            let total = sum(scores, |x| x);
            let inverse = T::one() / total;
            let mut out = [T::zero(); W];
            for (j, p) in scores[..=i].iter().enumerate() {
                add(&mut out, *p * inverse, &row::<T, W>(qkv, j, stride, h.v(head)));
            }
            z[i * h.out() + h.q(head)..][..W].copy_from_slice(&out);
            logs[head * seq + i] = most + total.ln();
        }
    }
}

#[inline(always)]
fn backward_wide<T: Real, const W: usize>(
    h: Heads,
    qkv: &[T],
    logs: &[T],
    dz: &[T],
    dqkv: &mut [T],
    scratch: &mut Vec<T>,
) {
    let (seq, stride) = (h.seq, h.row());
    let scale = T::of(1. / (W as f64).sqrt());
    let padded = seq.next_multiple_of(LANES);
    scratch.resize(2 * W * padded, T::zero());
    let (keys, values) = scratch.split_at_mut(W * padded);
    for head in 0..h.heads {
        let (q, k, v) = (h.q(head), h.k(head), h.v(head));
        transposed::<T, W>(qkv, stride, k, seq, keys);
        transposed::<T, W>(qkv, stride, v, seq, values);
        for i in 0..seq {
            let query = row::<T, W>(qkv, i, stride, q);
            let upstream = row::<T, W>(dz, i, h.out(), q);
            let (mut pattern, mut gradient) = ([T::zero(); LONGEST], [T::zero(); LONGEST]);
            let lanes = (i + 1).next_multiple_of(LANES);
            let (pattern, gradient) = (&mut pattern[..lanes], &mut gradient[..lanes]);
            with_columns(&query, keys, pattern);
            with_columns(&upstream, values, gradient);
            let log = logs[head * seq + i];
            for p in pattern.iter_mut() {
                *p = (*p * scale - log).exponential();
            }
            pattern[i + 1..].fill(T::zero());
            gradient[i + 1..].fill(T::zero());
            let mean = sum_pairs(pattern, gradient, |p, d| p * d);
            for (d, p) in gradient.iter_mut().zip(pattern.iter()) {
                *d = *p * (*d - mean) * scale;
            }
            let mut dquery = [T::zero(); W];
            for j in 0..=i {
                add(&mut dquery, gradient[j], &row::<T, W>(qkv, j, stride, k));
                let mut to = row::<T, W>(dqkv, j, stride, k);
                add(&mut to, gradient[j], &query);
                dqkv[j * stride + k..][..W].copy_from_slice(&to);
                let mut to = row::<T, W>(dqkv, j, stride, v);
                add(&mut to, pattern[j], &upstream);
                dqkv[j * stride + v..][..W].copy_from_slice(&to);
            }
            let mut to = row::<T, W>(dqkv, i, stride, q);
            add(&mut to, T::one(), &dquery);
            dqkv[i * stride + q..][..W].copy_from_slice(&to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::attention::{Scratch, general_backward, general_forward};
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 30) - 1.
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn agrees_with_the_general_kernel_for_every_width_and_odd_lengths() {
        for width in [16, 32, 64] {
            for (seq, heads, kv_heads) in [(1, 1, 1), (3, 2, 1), (16, 2, 2), (17, 4, 2), (33, 2, 2), (64, 3, 1)] {
                let h = Heads { seq, heads, kv_heads, width };
                assert!(fits(&h));
                let (qkv, dz) = (numbers(seq * h.row(), 1), numbers(seq * h.out(), 2));
                let run = |short: bool| {
                    let (mut z, mut logs) = (vec![9.; seq * h.out()], vec![9.; heads * seq]);
                    // gradients are added to the existing numbers
                    let mut dqkv = numbers(seq * h.row(), 3);
                    if short {
                        let mut scratch = Vec::new();
                        forward(h, &qkv, &mut z, &mut logs, &mut scratch);
                        backward(h, &qkv, &logs, &dz, &mut dqkv, &mut scratch);
                    } else {
                        let mut scratch = Scratch::default();
                        general_forward(h, &qkv, &mut z, &mut logs, &None, &mut scratch);
                        general_backward(h, &qkv, &logs, &dz, &mut dqkv, &None, &mut scratch);
                    }
                    [z, logs, dqkv].concat()
                };
                for (a, b) in run(true).iter().zip(run(false)) {
                    assert!((a - b).abs() < 1e-12, "{h:?}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn long_sequences_and_odd_widths_are_not_supported() {
        let h = Heads { seq: 64, heads: 1, kv_heads: 1, width: 16 };
        assert!(!fits(&Heads { seq: 65, ..h }) && !fits(&Heads { width: 24, ..h }));
    }
}
