//! Means, spreads and correlations.

/// The mean; NaN of nothing.
#[must_use]
pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// The standard deviation, with n below the root (numpy's `std`); NaN of nothing.
#[must_use]
pub fn standard_deviation(x: &[f64]) -> f64 {
    let centre = mean(x);
    (x.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// The median; the mean of the middle two of an even number, NaN of nothing.
#[must_use]
pub fn median(x: &[f64]) -> f64 {
    let mut sorted = x.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.,
    }
}

/// Pearson's correlation of two lists of the same length; NaN when one of them is constant.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn correlation(x: &[f64], y: &[f64]) -> f64 {
    assert_eq!(x.len(), y.len(), "a correlation needs pairs");
    let (mx, my) = (mean(x), mean(y));
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(a, b)| f(a - mx, b - my)).sum::<f64>();
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textbook_values() {
        let x = [2., 4., 4., 4., 5., 5., 7., 9.];
        assert_eq!((mean(&x), standard_deviation(&x)), (5., 2.));
        assert!((correlation(&[1., 2., 3.], &[2., 4., 6.]) - 1.).abs() < 1e-12);
        assert!((correlation(&[1., 2., 3.], &[3., 2., 1.]) + 1.).abs() < 1e-12);
        // 2 / sqrt(2 · 14 / 3)
        assert!((correlation(&[1., 2., 3.], &[1., 5., 3.]) - 0.5).abs() < 1e-12);
        assert_eq!((median(&[3., 1., 2.]), median(&[4., 1., 2., 3.])), (2., 2.5));
        assert!(correlation(&[1., 1.], &[1., 2.]).is_nan() && mean(&[]).is_nan());
    }
}
