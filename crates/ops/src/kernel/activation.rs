//! Pointwise nonlinearities.

use super::{Real, vectorised};

/// A pointwise nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
    GeluTanh,
    /// `x Phi(x)`.
    GeluErf,
    /// `x / (1 + exp(-x))`.
    Silu,
}

const TWICE_ROOT_2_OVER_PI: f64 = 1.595_769_121_605_730_7;
const CUBIC: f64 = 0.044_715;

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exponential())
}

/// Value and derivative. The tanh form of GELU is `x sigmoid(2u)`, because `1 + tanh(u) = 2 sigmoid(2u)`.
#[inline(always)]
fn both<T: Real>(kind: Activation, x: T) -> (T, T) {
    let one = T::one();
    match kind {
        Activation::GeluTanh => {
            let (a, c) = (T::of(TWICE_ROOT_2_OVER_PI), T::of(CUBIC));
            let square = x * x;
            let s = sigmoid(a * x * (one + c * square));
            let slope = s + x * (s * (one - s)) * (a * (one + T::of(3. * CUBIC) * square));
            (x * s, slope)
        }
        Activation::GeluErf => {
            let half = T::of(0.5);
            let below = half * (one + (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).error_function());
            let density = (-half * x * x).exponential() * T::of(0.398_942_280_401_432_7);
            (x * below, below + x * density)
        }
        Activation::Silu => {
            let s = sigmoid(x);
            (x * s, s + x * (s * (one - s)))
        }
    }
}

/// Expands to one loop per kind, so that no loop branches inside.
macro_rules! by_kind {
    ($kind:expr, $run:ident($($argument:expr),+)) => {
        match $kind {
            Activation::GeluTanh => vectorised(
                #[inline(always)]
                || $run(Activation::GeluTanh, $($argument),+),
            ),
            Activation::GeluErf => vectorised(
                #[inline(always)]
                || $run(Activation::GeluErf, $($argument),+),
            ),
            Activation::Silu => vectorised(
                #[inline(always)]
                || $run(Activation::Silu, $($argument),+),
            ),
        }
    };
}

/// `out = f(x)`.
///
/// # Panics
/// When the lengths differ.
pub fn forward<T: Real>(kind: Activation, x: &[T], out: &mut [T]) {
    #[inline(always)]
    fn run<T: Real>(kind: Activation, x: &[T], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = both(kind, *x).0;
        }
    }
    assert_eq!(x.len(), out.len(), "an activation and its output");
    by_kind!(kind, run(x, out));
}

/// `x = f(x)`, in place.
pub fn in_place<T: Real>(kind: Activation, x: &mut [T]) {
    #[inline(always)]
    fn run<T: Real>(kind: Activation, x: &mut [T]) {
        for x in x {
            *x = both(kind, *x).0;
        }
    }
    by_kind!(kind, run(x));
}

/// `out = f(x)`, and overwrites `x` with `f'(x)`, so that the backward pass only has to multiply.
///
/// # Panics
/// When the lengths differ.
pub fn forward_with_slope<T: Real>(kind: Activation, x: &mut [T], out: &mut [T]) {
    #[inline(always)]
    fn run<T: Real>(kind: Activation, x: &mut [T], out: &mut [T]) {
        for (out, x) in out.iter_mut().zip(x) {
            (*out, *x) = both(kind, *x);
        }
    }
    assert_eq!(x.len(), out.len(), "an activation and its output");
    by_kind!(kind, run(x, out));
}

/// `dy = dy * f'(x)`, in place.
///
/// # Panics
/// When the lengths differ.
pub fn backward<T: Real>(kind: Activation, x: &[T], dy: &mut [T]) {
    #[inline(always)]
    fn run<T: Real>(kind: Activation, x: &[T], dy: &mut [T]) {
        for (dy, x) in dy.iter_mut().zip(x) {
            *dy *= both(kind, *x).1;
        }
    }
    assert_eq!(x.len(), dy.len(), "an activation and its gradient");
    by_kind!(kind, run(x, dy));
}
