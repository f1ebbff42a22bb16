//! Softmax over rows.

use super::rows::{largest, sum, sum_pairs};
use super::{Real, vectorised};

/// Softmax of rows of `width` scores; a score of minus infinity gets probability 0.
///
/// # Panics
/// When the lengths differ.
pub fn forward<T: Real>(x: &[T], out: &mut [T], width: usize) {
    assert_eq!(x.len(), out.len(), "scores and probabilities");
    vectorised(
        #[inline(always)]
        || {
            for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                let most = largest(x);
                for (out, x) in out.iter_mut().zip(x) {
                    *out = (*x - most).exponential();
                }
                let inverse = T::one() / sum(out, |x| x);
                for out in out {
                    *out *= inverse;
                }
            }
        },
    );
}

/// Converts gradients of the probabilities into gradients of the scores, in place.
///
/// # Panics
/// When the lengths differ.
pub fn backward<T: Real>(p: &[T], d: &mut [T], width: usize) {
    assert_eq!(p.len(), d.len(), "probabilities and their gradients");
    vectorised(
        #[inline(always)]
        || {
            for (p, d) in p.chunks_exact(width).zip(d.chunks_exact_mut(width)) {
                let mean = sum_pairs(p, d, |p, d| p * d);
                for (d, p) in d.iter_mut().zip(p) {
                    *d = *p * (*d - mean);
                }
            }
        },
    );
}
