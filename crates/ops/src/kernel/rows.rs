//! Sums over rows and columns in a fixed order, and in-place addition.

use super::{Real, vectorised};

/// Number of parallel running sums, so that a sum can use whole vector registers.
const LANES: usize = 16;

/// Sum of `f` over pairs of two rows of one length, in a fixed order.
#[inline(always)]
pub(crate) fn sum_pairs<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut sums = [T::zero(); LANES];
    let (chunks_a, chunks_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = chunks_a.remainder().iter().zip(chunks_b.remainder()).fold(T::zero(), |sum, (a, b)| sum + f(*a, *b));
    for (a, b) in chunks_a.zip(chunks_b) {
        for i in 0..LANES {
            sums[i] += f(a[i], b[i]);
        }
    }
    fold(sums) + rest
}

/// Sum of `f` over a row, in a fixed order.
#[inline(always)]
pub(crate) fn sum<T: Real>(a: &[T], f: impl Fn(T) -> T) -> T {
    let mut sums = [T::zero(); LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(T::zero(), |sum, a| sum + f(*a));
    for a in chunks {
        for i in 0..LANES {
            sums[i] += f(a[i]);
        }
    }
    fold(sums) + rest
}

#[inline(always)]
fn fold<T: Real>(mut sums: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            let other = sums[i + width];
            sums[i] += other;
        }
        width /= 2;
    }
    sums[0]
}

/// Largest entry, ignoring NaNs; these still propagate through later computations with the row.
#[inline(always)]
pub(crate) fn largest<T: Real>(a: &[T]) -> T {
    let larger = |a: T, b: T| if a > b { a } else { b };
    let mut most = [T::neg_infinity(); LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(T::neg_infinity(), |most, a| larger(*a, most));
    for a in chunks {
        for i in 0..LANES {
            most[i] = larger(a[i], most[i]);
        }
    }
    most.into_iter().fold(rest, larger)
}

/// `out += x`.
///
/// # Panics
/// When the lengths differ.
pub fn add<T: Real>(out: &mut [T], x: &[T]) {
    assert_eq!(out.len(), x.len(), "two slices to add");
    vectorised(
        #[inline(always)]
        || {
            for (out, x) in out.iter_mut().zip(x) {
                *out += *x;
            }
        },
    );
}

/// `out = out * x`.
///
/// # Panics
/// When the lengths differ.
pub fn multiply<T: Real>(out: &mut [T], x: &[T]) {
    assert_eq!(out.len(), x.len(), "two slices to multiply");
    vectorised(
        #[inline(always)]
        || {
            for (out, x) in out.iter_mut().zip(x) {
                *out *= *x;
            }
        },
    );
}

/// Adds the sum of each column to `sums`, row by row.
pub fn add_column_sums<T: Real>(sums: &mut [T], x: &[T]) {
    vectorised(
        #[inline(always)]
        || {
            for row in x.chunks_exact(sums.len()) {
                for (sum, x) in sums.iter_mut().zip(row) {
                    *sum += *x;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_maxima_of_odd_lengths() {
        for n in [0usize, 1, 3, 15, 16, 17, 63, 65] {
            let row: Vec<f64> = (0..n).map(|i| ((i * 7) % 13) as f64 - 6.).collect();
            assert_eq!(sum(&row, |x| x), row.iter().sum::<f64>());
            assert_eq!(sum_pairs(&row, &row, |a, b| a * b), row.iter().map(|x| x * x).sum::<f64>());
            assert_eq!(largest(&row), row.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }

    #[test]
    fn rows_and_columns() {
        let mut x = vec![1f32, 1.5, 2., 1., 1.5, 2.];
        multiply(&mut x, &[2.; 6]);
        assert_eq!(x, [2., 3., 4., 2., 3., 4.]);
        let mut sums = [1f32, 0., 0.];
        add_column_sums(&mut sums, &x);
        assert_eq!(sums, [5., 6., 8.]);
    }
}
