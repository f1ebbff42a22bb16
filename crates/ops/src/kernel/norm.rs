//! LayerNorm and RMSNorm over rows.

use super::rows::{sum, sum_pairs};
use super::{Real, vectorised};

/// The statistics that a norm removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Mean and (biased) variance.
    Layer,
    /// Mean square only.
    Rms,
}

/// The divisor of a norm.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divisor {
    /// `sqrt(v + eps)`, where v is the row's variance or mean square.
    Own {
        /// Added to v.
        eps: f64,
    },
    /// The same number for every row (FakeLN, arXiv 2507.02559, section 2).
    Fixed(f64),
}

/// Shift and inverse scale of one row: its normalised entries are `(x - shift) * inverse`.
#[inline(always)]
fn statistics<T: Real>(kind: Kind, row: &[T], by: Divisor) -> [T; 2] {
    let n = T::of(row.len() as f64);
    let shift = match kind {
        Kind::Layer => sum(row, |x| x) / n,
        Kind::Rms => T::zero(),
    };
    let inverse = match by {
        Divisor::Own { eps } => {
            let variance = sum(row, |x| (x - shift) * (x - shift)) / n;
            T::one() / (variance + T::of(eps)).sqrt()
        }
        Divisor::Fixed(scale) => T::of(1. / scale),
    };
    [shift, inverse]
}

/// Writes shift and inverse scale of each row of width `d` to `stats`.
///
/// # Panics
/// When the lengths do not fit.
pub fn statistics_of<T: Real>(kind: Kind, x: &[T], d: usize, by: Divisor, stats: &mut [[T; 2]]) {
    assert_eq!(x.len(), stats.len() * d, "sizes of a norm");
    vectorised(
        #[inline(always)]
        || {
            for (x, stats) in x.chunks_exact(d).zip(stats) {
                *stats = statistics(kind, x, by);
            }
        },
    );
}

/// `out = gain * (x - shift) * inverse + bias` per row; `stats` gets shift and inverse of each row.
///
/// # Panics
/// When the lengths do not fit.
pub fn forward<T: Real>(
    kind: Kind,
    x: &[T],
    gain: &[T],
    bias: Option<&[T]>,
    by: Divisor,
    out: &mut [T],
    stats: &mut [[T; 2]],
) {
    let d = gain.len();
    assert!(x.len() == out.len() && x.len() == stats.len() * d && bias.is_none_or(|b| b.len() == d), "sizes of a norm");
    vectorised(
        #[inline(always)]
        || {
            for ((x, out), stats) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(stats) {
                let [shift, inverse] = statistics(kind, x, by);
                *stats = [shift, inverse];
                match bias {
                    Some(bias) => {
                        for (((out, x), g), b) in out.iter_mut().zip(x).zip(gain).zip(bias) {
                            *out = (*x - shift) * inverse * *g + *b;
                        }
                    }
                    None => {
                        for ((out, x), g) in out.iter_mut().zip(x).zip(gain) {
                            *out = (*x - shift) * inverse * *g;
                        }
                    }
                }
            }
        },
    );
}

/// Backward pass of [`forward`]: adds to `dx`, `dgain` and, if given, `dbias`.
///
/// # Panics
/// When the lengths do not fit.
#[expect(clippy::too_many_arguments, reason = "a kernel takes its operands one by one")]
pub fn backward<T: Real>(
    kind: Kind,
    by: Divisor,
    x: &[T],
    stats: &[[T; 2]],
    gain: &[T],
    dy: &[T],
    dx: &mut [T],
    dgain: &mut [T],
    dbias: Option<&mut [T]>,
) {
    let d = gain.len();
    assert!(x.len() == dx.len() && x.len() == dy.len() && x.len() == stats.len() * d, "sizes of a norm");
    assert!(dgain.len() == d && dbias.as_ref().is_none_or(|b| b.len() == d), "sizes of a norm");
    if let Some(dbias) = dbias {
        super::rows::add_column_sums(dbias, dy);
    }
    vectorised(
        #[inline(always)]
        || {
            let n = T::of(d as f64);
            let mut scaled = vec![T::zero(); d]; // gradient of the normalised row
            let mut normalized = vec![T::zero(); d];
            for (((x, dy), dx), stats) in
                x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(stats)
            {
                let [shift, inverse] = *stats;
                for i in 0..d {
                    normalized[i] = (x[i] - shift) * inverse;
                    dgain[i] += dy[i] * normalized[i];
                    scaled[i] = dy[i] * gain[i];
                }
                let mean = match kind {
                    Kind::Layer => sum(&scaled, |s| s) / n,
                    Kind::Rms => T::zero(),
                };
                let along = match by {
                    Divisor::Own { .. } => sum_pairs(&scaled, &normalized, |s, x| s * x) / n,
                    Divisor::Fixed(_) => T::zero(),
                };
                for i in 0..d {
                    dx[i] += inverse * (scaled[i] - mean - normalized[i] * along);
                }
            }
        },
    );
}
