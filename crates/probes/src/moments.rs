//! Means, deviations, correlations, quantiles and bootstrap intervals of lists of numbers.

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// The mean; NaN for an empty list.
#[must_use]
pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// The standard deviation of the population (divides by n, as numpy's `std`); NaN for an empty list.
#[must_use]
pub fn standard_deviation(x: &[f64]) -> f64 {
    let centre = mean(x);
    (x.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / x.len() as f64).sqrt()
}

/// The median, the mean of the middle two for an even length; NaN for an empty list.
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

/// Pearson's correlation coefficient; NaN when one of the lists is constant.
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

/// Spearman's rank correlation: the [`correlation`] of the ranks, where equal values share their mean rank.
///
/// # Panics
/// When the lengths differ.
#[must_use]
pub fn rank_correlation(x: &[f64], y: &[f64]) -> f64 {
    correlation(&ranks(x), &ranks(y))
}

fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    let mut ranks = vec![0.; x.len()];
    let mut start = 0;
    for same in order.chunk_by(|a, b| x[*a] == x[*b]) {
        let shared = start as f64 + (same.len() - 1) as f64 / 2.;
        same.iter().for_each(|at| ranks[*at] = shared);
        start += same.len();
    }
    ranks
}

/// The quantile of sorted values at a `share` in 0 ..= 1, with linear interpolation (numpy's default); NaN for an empty list.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let below = (at as usize).min(last);
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (at - below as f64)
}

/// A 95 % bootstrap interval for the mean: the 2.5 % and 97.5 % quantiles of the means of `resamples` samples with
/// replacement.
pub fn bootstrap(x: &[f64], resamples: usize, rng: &mut ChaCha12Rng) -> [f64; 2] {
    if x.is_empty() {
        return [f64::NAN; 2];
    }
    let resample =
        |rng: &mut ChaCha12Rng| (0..x.len()).map(|_| x[rng.random_range(0..x.len())]).sum::<f64>() / x.len() as f64;
    let mut means: Vec<f64> = (0..resamples.max(1)).map(|_| resample(rng)).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
    [at(0.025), at(0.975)]
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn textbook_values() {
        let x = [2., 4., 4., 4., 5., 5., 7., 9.];
        assert_eq!((mean(&x), standard_deviation(&x)), (5., 2.));
        assert!((correlation(&[1., 2., 3.], &[2., 4., 6.]) - 1.).abs() < 1e-12);
        assert!((correlation(&[1., 2., 3.], &[3., 2., 1.]) + 1.).abs() < 1e-12);
        // 2 / sqrt(2 · 14 / 3)
        assert!((correlation(&[1., 2., 3.], &[1., 5., 3.]) - 0.5).abs() < 1e-12);
        // scipy.stats.spearmanr
        assert!((rank_correlation(&[1., 2., 2., 5.], &[3., 1., 4., 9.]) - 0.632_455_532_033_675_9).abs() < 1e-12);
        assert_eq!((median(&[3., 1., 2.]), median(&[4., 1., 2., 3.])), (2., 2.5));
        assert!(correlation(&[1., 1.], &[1., 2.]).is_nan() && mean(&[]).is_nan());
        assert_eq!([0., 0.5, 1.].map(|share| quantile(&[1., 2., 3., 5.], share)), [1., 2.5, 5.]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn intervals_contain_the_mean_and_shrink_with_samples() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        let coins = |count: usize| (0..count).map(|i| (i % 2) as f64).collect::<Vec<f64>>();
        let [low, high] = bootstrap(&coins(100), 1000, &mut rng);
        // 1.96 standard errors of 0.05 on either side
        assert!((low - 0.402).abs() < 0.02 && (high - 0.598).abs() < 0.02, "{low} {high}");
        let [low, high] = bootstrap(&coins(10_000), 200, &mut rng);
        assert!(high - low < 0.03);
        assert_eq!(bootstrap(&[3.; 5], 10, &mut rng), [3., 3.]);
        assert!(bootstrap(&[], 10, &mut rng)[0].is_nan());
    }
}
