//! AdamW in place (arXiv 1711.05101).

use super::rows::sum;
use super::{Real, vectorised};

/// The constants of one update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct Step<T> {
    /// For the running mean and the running mean square: the decay, and one minus it.
    betas: [(T, T); 2],
    /// Added to the root of the mean square.
    eps: T,
    /// Factor on the parameter from decoupled weight decay.
    keep: T,
    /// Learning rate over the bias correction of the mean.
    rate: T,
    /// One over the bias correction of the mean square.
    correction: T,
    /// Factor on the gradient, from clipping.
    gradient_scale: T,
}

impl<T: Real> Step<T> {
    /// Update number `t`, counted from 1.
    #[must_use]
    pub fn new(lr: f64, betas: [f64; 2], eps: f64, decay: f64, t: u64, gradient_scale: f64) -> Self {
        let correction = betas.map(|beta| 1. - beta.powf(t as f64));
        Self {
            betas: betas.map(|beta| (T::of(beta), T::of(1. - beta))),
            eps: T::of(eps),
            keep: T::of(1. - lr * decay),
            rate: T::of(lr / correction[0]),
            correction: T::of(1. / correction[1]),
            gradient_scale: T::of(gradient_scale),
        }
    }
}

/// Updates a parameter `w` and its running means `m` and `v` in one pass.
///
/// # Panics
/// When the lengths differ.
pub fn adamw<T: Real>(step: &Step<T>, w: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
    assert!(w.len() == g.len() && w.len() == m.len() && w.len() == v.len(), "sizes of an update");
    vectorised(
        #[inline(always)]
        || {
            let Step { betas: [(b1, c1), (b2, c2)], eps, keep, rate, correction, gradient_scale } = *step;
            for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                let g = *g * gradient_scale;
                *m = b1 * *m + c1 * g;
                *v = b2 * *v + c2 * g * g;
                *w = *w * keep - rate * *m / ((*v * correction).sqrt() + eps);
            }
        },
    );
}

/// Sum of squares, in f64 over blocks, in a fixed order.
#[must_use]
pub fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    x.chunks(1024)
        .map(|block| {
            vectorised(
                #[inline(always)]
                || sum(block, |x| x * x),
            )
            .wide()
        })
        .sum()
}
