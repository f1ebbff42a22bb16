//! Statistics of token predictions: loss, entropy, confidence, calibration and divergence (definitions from the code of
//! arXiv 2507.02559, section 5.4). All values are f64 and all logarithms are natural.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// Added to a probability before its logarithm. Losses are at most -ln of it, 23.03 nats.
const FLOOR: f64 = 1e-10;
/// Added to every probability before two models are compared. The probabilities are then renormalised.
const SMOOTHING: f64 = 1e-8;
/// Number of equally wide bins of confidence.
pub const CONFIDENCE_BINS: usize = 10;
/// Whiskers end at the farthest value within this many interquartile ranges of the box.
const WHISKER: f64 = 1.5;

/// Probabilities of all tokens, from their logits.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut p: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) - f64::from(largest)).exp()).collect();
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p
}

/// Statistics of a model's prediction of one token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Cross-entropy, -ln(p of the token + 1e-10), in nats.
    pub ce: f64,
    /// Entropy, -Σ p ln(p + 1e-10), in nats.
    pub entropy: f64,
    /// The largest probability of any token.
    pub confidence: f64,
    /// 1 if the token has the largest probability (ties go to the lowest id), else 0.
    pub right: f64,
}

impl Prediction {
    /// The statistics for the token `target`, from the probabilities of all tokens.
    pub fn new(p: &[f64], target: usize) -> Self {
        let (mut best, mut entropy) = (0, 0.);
        for (token, probability) in p.iter().enumerate() {
            entropy -= probability * (probability + FLOOR).ln();
            if *probability > p[best] {
                best = token;
            }
        }
        Self {
            ce: -(p[target] + FLOOR).ln(),
            entropy,
            confidence: p[best],
            right: if best == target { 1. } else { 0. },
        }
    }
}

/// A distribution without zeros, for divergences.
#[derive(Clone, Debug)]
pub struct Smoothed {
    p: Vec<f64>,
    log: Vec<f64>,
}

impl Smoothed {
    /// Smooths probabilities that may be zero.
    pub fn new(p: &[f64]) -> Self {
        let sum: f64 = p.iter().map(|p| p + SMOOTHING).sum();
        let p: Vec<f64> = p.iter().map(|p| (p + SMOOTHING) / sum).collect();
        let log = p.iter().map(|p| p.ln()).collect();
        Self { p, log }
    }

    /// Jensen-Shannon divergence, (KL(p, m) + KL(q, m)) / 2 with m = (p + q) / 2, in nats; 0 to ln 2.
    pub fn divergence(&self, other: &Self) -> f64 {
        let (p, q) = (self.p.iter().zip(&self.log), other.p.iter().zip(&other.log));
        let term = |((p, log_p), (q, log_q)): ((&f64, &f64), (&f64, &f64))| {
            let log_m = ((p + q) / 2.).ln();
            p * (log_p - log_m) + q * (log_q - log_m)
        };
        p.zip(q).map(term).sum::<f64>() / 2.
    }
}

/// A statistic of a set of tokens that can be recomputed for bootstrap resamples.
#[derive(Clone, Copy, Debug)]
pub enum Statistic<'a> {
    /// Mean of one value per token.
    Mean(&'a [f64]),
    /// Expected calibration error, Σ n_k / N |mean confidence - accuracy| over equally wide bins of confidence.
    CalibrationError {
        /// The largest probability at each token.
        confidence: &'a [f64],
        /// 1 if the prediction of the token is right, else 0.
        right: &'a [f64],
    },
}

impl Statistic<'_> {
    /// The value of the statistic if token i occurs `counts[i]` times.
    pub fn of(&self, counts: &[u32]) -> f64 {
        let total: f64 = counts.iter().map(|count| f64::from(*count)).sum();
        match self {
            Self::Mean(values) => {
                values.iter().zip(counts).map(|(x, count)| x * f64::from(*count)).sum::<f64>() / total
            }
            Self::CalibrationError { confidence, right } => {
                let mut gaps = [0.; CONFIDENCE_BINS];
                for ((confidence, right), count) in confidence.iter().zip(*right).zip(counts) {
                    gaps[confidence_bin(*confidence)] += (confidence - right) * f64::from(*count);
                }
                gaps.iter().map(|gap| gap.abs()).sum::<f64>() / total
            }
        }
    }
}

/// Values of all statistics in some bootstrap resamples of `tokens` tokens, `[resamples][statistics]`.
///
/// A resample depends only on the stream and its index, and is the same for all statistics.
pub fn resample(statistics: &[Statistic], tokens: usize, stream: &ChaCha12Rng, resamples: Range<u64>) -> Vec<Vec<f64>> {
    let mut counts = vec![0; tokens];
    let once = |index: u64| {
        let mut rng = training::stream_at(stream, index);
        counts.fill(0);
        for _ in 0..tokens {
            counts[rng.random_range(0..tokens as u32) as usize] += 1;
        }
        statistics.iter().map(|statistic| statistic.of(&counts)).collect()
    };
    resamples.map(once).collect()
}

/// The 2.5th and 97.5th percentiles of some values.
pub fn interval(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    [0.025, 0.975].map(|share| probes::quantile(&values, share))
}

/// Equally wide bins between two values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bins {
    low: f64,
    width: f64,
    count: usize,
}

impl Bins {
    /// Bins from `low` to `high`, or from `low` to `low + 1` if `high` is not larger.
    pub fn new(low: f64, high: f64, count: usize) -> Self {
        let high = if high > low { high } else { low + 1. };
        Self { low, width: (high - low) / count as f64, count }
    }

    /// Bins from the smallest to the largest value.
    pub fn around<'a>(values: impl Iterator<Item = &'a f64>, count: usize) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        Self::new(low, high, count)
    }

    /// The bin of a value, or `None` outside all bins. The last bin includes its upper edge.
    pub fn of(&self, value: f64) -> Option<usize> {
        let scaled = (value - self.low) / self.width;
        // rounding may put the largest value slightly above the upper edge
        let inside = scaled >= 0. && scaled <= self.count as f64 * (1. + 1e-12);
        inside.then(|| (scaled as usize).min(self.count - 1))
    }

    /// Lower edge of a bin, which is the upper edge of the bin before.
    pub fn edge(&self, bin: usize) -> f64 {
        self.low + self.width * bin as f64
    }

    /// Middle of a bin.
    pub fn centre(&self, bin: usize) -> f64 {
        self.low + self.width * (bin as f64 + 0.5)
    }

    /// Number of values in each bin.
    pub fn counts(&self, values: &[f64]) -> Vec<usize> {
        let mut counts = vec![0; self.count];
        values.iter().filter_map(|x| self.of(*x)).for_each(|bin| counts[bin] += 1);
        counts
    }

    /// Number of pairs in each cell, `[x bin][y bin]`. Pairs with a value outside all bins are not counted.
    pub fn joint_counts(&self, x: &[f64], y: &[f64]) -> Vec<Vec<usize>> {
        let mut counts = vec![vec![0; self.count]; self.count];
        for (x, y) in x.iter().zip(y) {
            if let (Some(x), Some(y)) = (self.of(*x), self.of(*y)) {
                counts[x][y] += 1;
            }
        }
        counts
    }
}

/// The confidence bin of a probability.
fn confidence_bin(confidence: f64) -> usize {
    ((confidence * CONFIDENCE_BINS as f64) as usize).min(CONFIDENCE_BINS - 1)
}

/// Calibration of a model in one bin of confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Number of tokens in the bin.
    pub tokens: usize,
    /// Mean confidence; 0 for an empty bin.
    pub confidence: f64,
    /// Share of right predictions; 0 for an empty bin.
    pub accuracy: f64,
}

/// Confidence and accuracy by confidence bin.
pub fn calibration(confidence: &[f64], right: &[f64]) -> [Calibration; CONFIDENCE_BINS] {
    let mut bins = [Calibration::default(); CONFIDENCE_BINS];
    for (confidence, right) in confidence.iter().zip(right) {
        let bin = &mut bins[confidence_bin(*confidence)];
        bin.tokens += 1;
        bin.confidence += confidence;
        bin.accuracy += right;
    }
    for bin in bins.iter_mut().filter(|bin| bin.tokens > 0) {
        bin.confidence /= bin.tokens as f64;
        bin.accuracy /= bin.tokens as f64;
    }
    bins
}

/// The five numbers of a box plot.
#[derive(Clone, Copy, Debug)]
pub struct BoxPlot {
    /// Smallest value within 1.5 interquartile ranges of the lower quartile.
    pub lower_whisker: f64,
    /// Lower quartile.
    pub lower_quartile: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub upper_quartile: f64,
    /// Largest value within 1.5 interquartile ranges of the upper quartile.
    pub upper_whisker: f64,
}

impl BoxPlot {
    /// The box plot of sorted values. Quantiles are interpolated linearly, as in numpy and matplotlib. All numbers are
    /// NaN if there are no values.
    pub fn of_sorted(values: &[f64]) -> Self {
        let [lower, median, upper] = [0.25, 0.5, 0.75].map(|share| probes::quantile(values, share));
        let reach = WHISKER * (upper - lower);
        let inside = |x: &&f64| **x >= lower - reach && **x <= upper + reach;
        let end = |found: Option<&f64>| found.copied().unwrap_or(f64::NAN);
        Self {
            lower_whisker: end(values.iter().find(inside)),
            lower_quartile: lower,
            median,
            upper_quartile: upper,
            upper_whisker: end(values.iter().rev().find(inside)),
        }
    }

    /// The numbers and their names in tables, from the smallest to the largest.
    pub fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("lower whisker", self.lower_whisker),
            ("lower quartile", self.lower_quartile),
            ("median", self.median),
            ("upper quartile", self.upper_quartile),
            ("upper whisker", self.upper_whisker),
        ]
    }
}

/// The region of a token in a scatter plot of one model's loss (x) against another's (y).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The losses differ by at most the band.
    Band,
    /// The second model's loss is larger by more than the band.
    Above,
    /// The second model's loss is smaller by more than the band.
    Below,
}

impl Region {
    /// All regions, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Band, Self::Above, Self::Below];

    /// The region of a token with losses `x` and `y`.
    pub fn of(x: f64, y: f64, band: f64) -> Self {
        match y - x {
            difference if difference > band => Self::Above,
            difference if difference < -band => Self::Below,
            _ => Self::Band,
        }
    }

    /// Name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Band => "band",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

/// The number of tokens in a region, and their contribution to the difference of the mean losses, y minus x.
pub fn contribution(x: &[f64], y: &[f64], band: f64, region: Region) -> (usize, f64) {
    let inside = x.iter().zip(y).filter(|(x, y)| Region::of(**x, **y, band) == region);
    let (tokens, sum) = inside.fold((0, 0.), |(tokens, sum), (x, y)| (tokens + 1, sum + (y - x)));
    (tokens, sum / x.len() as f64)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[track_caller]
    fn near(actual: f64, expected: f64, tolerance: f64) {
        assert!((actual - expected).abs() <= tolerance, "{actual} instead of {expected}");
    }

    #[test]
    fn predictions_match_hand_computed_values() {
        let p = softmax(&[0., (3f32).ln(), f32::NEG_INFINITY]);
        p.iter().zip([0.25, 0.75, 0.]).for_each(|(actual, expected)| near(*actual, expected, 1e-7));
        let right = Prediction::new(&p, 1);
        near(right.ce, -(0.75f64.ln()), 1e-7);
        near(right.entropy, -(0.25 * 0.25f64.ln() + 0.75 * 0.75f64.ln()), 1e-7);
        near(right.confidence, 0.75, 1e-7);
        let wrong = Prediction::new(&p, 0);
        assert_eq!((right.right, wrong.right), (1., 0.));
        near(Prediction::new(&p, 2).ce, 23.025_850_93, 1e-6);
        // large logits neither overflow nor vanish
        assert_eq!(softmax(&[1e30, 1e30]), [0.5, 0.5]);
        // the first of equally likely tokens counts as the prediction
        let even = [0, 1].map(|target| Prediction::new(&[0.5, 0.5], target).right);
        assert_eq!(even, [1., 0.]);
    }

    #[test]
    fn divergence_of_equal_disjoint_and_overlapping_distributions() {
        let of = |p: &[f64], q: &[f64]| Smoothed::new(p).divergence(&Smoothed::new(q));
        assert_eq!(of(&[0.2, 0.8, 0.], &[0.2, 0.8, 0.]), 0.);
        near(of(&[1., 0.], &[0., 1.]), 2f64.ln(), 1e-6);
        // m = (3/4, 1/4): half of ln(4/3) + 1/2 ln(2/3) + 1/2 ln 2
        let by_hand = ((4f64 / 3.).ln() + 0.5 * (2f64 / 3.).ln() + 0.5 * 2f64.ln()) / 2.;
        near(of(&[1., 0.], &[0.5, 0.5]), by_hand, 1e-6);
        assert_eq!(of(&[1., 0.], &[0.5, 0.5]), of(&[0.5, 0.5], &[1., 0.]));
    }

    #[test]
    fn calibration_matches_hand_computed_values() {
        // bin 9: two tokens, mean 0.95, one right; bin 0: one token of 0.05, wrong; 1 is in the last bin
        let (confidence, right) = ([0.9, 1., 0.05], [1., 0., 0.]);
        let error = Statistic::CalibrationError { confidence: &confidence, right: &right };
        near(error.of(&[1; 3]), (2. * 0.45 + 0.05) / 3., 1e-12);
        // the second token twice, the third never: mean 2.9 / 3, one of three right
        near(error.of(&[1, 2, 0]), 2.9 / 3. - 1. / 3., 1e-12);
        let bins = calibration(&confidence, &right);
        assert_eq!(bins[9], Calibration { tokens: 2, confidence: 0.95, accuracy: 0.5 });
        assert_eq!(bins[0], Calibration { tokens: 1, confidence: 0.05, accuracy: 0. });
        assert_eq!(bins[1..9], [Calibration::default(); 8]);
        // the bins give the same error as the statistic
        let sum: f64 = bins.iter().map(|bin| bin.tokens as f64 / 3. * (bin.confidence - bin.accuracy).abs()).sum();
        near(error.of(&[1; 3]), sum, 1e-12);
    }

    #[test]
    fn intervals_contain_the_mean_and_do_not_depend_on_how_resamples_are_split() {
        let coins: Vec<f64> = (0..100).map(|i| f64::from(i % 2)).collect();
        let statistics = [Statistic::Mean(&coins), Statistic::CalibrationError { confidence: &coins, right: &coins }];
        let stream = ChaCha12Rng::seed_from_u64(1);
        let whole = resample(&statistics, 100, &stream, 0..1000);
        let parts = [0..300, 300..1000].map(|part| resample(&statistics, 100, &stream, part)).concat();
        assert_eq!(whole, parts);
        let [low, high] = interval(whole.iter().map(|values| values[0]).collect());
        // 1.96 standard errors of 0.05 on either side
        near(low, 0.402, 0.02);
        near(high, 0.598, 0.02);
        assert!(low < Statistic::Mean(&coins).of(&[1; 100]) && Statistic::Mean(&coins).of(&[1; 100]) < high);
        // confidence equals accuracy in every bin, so the error is zero in every resample
        assert!(whole.iter().all(|values| values[1] == 0.));
    }

    #[test]
    fn intervals_and_box_plots_match_hand_computed_values() {
        assert_eq!(interval(vec![3.; 5]), [3., 3.]);
        // quartiles 2 and 4, whiskers reach 3 beyond them: 20 is an outlier
        let values = BoxPlot::of_sorted(&[1., 2., 3., 4., 20.]).named().map(|(_, value)| value);
        assert_eq!(values, [1., 2., 3., 4., 4.]);
        assert!(BoxPlot::of_sorted(&[]).named().iter().all(|(_, value)| value.is_nan()));
    }

    #[test]
    fn bins_count_every_value_once() {
        let values = [0., 0.1, 0.25, 0.5, 1.];
        let bins = Bins::around(values.iter(), 4);
        assert_eq!(bins.counts(&values), [2, 1, 1, 1]);
        assert_eq!((bins.edge(1), bins.centre(0), bins.of(1.01), bins.of(-0.01)), (0.25, 0.125, None, None));
        let many: Vec<f64> = (0..997).map(|i| f64::from(i * i % 613) / 7.).collect();
        assert_eq!(Bins::around(many.iter(), 50).counts(&many).iter().sum::<usize>(), 997);
        assert_eq!(Bins::around([0.; 3].iter(), 2).counts(&[0.; 3]), [3, 0]);
        let joint = bins.joint_counts(&[0., 1., 0.3, 7.], &[1., 1., 0., 0.]);
        assert_eq!((joint[0][3], joint[3][3], joint[1][0]), (1, 1, 1));
        assert_eq!(joint.iter().flatten().sum::<usize>(), 3);
    }

    #[test]
    fn contributions_of_the_regions_sum_to_the_difference_of_the_means() {
        let (x, y) = ([1., 2., 3., 9.], [1.5, 8., 3., 1.]);
        let parts = Region::ALL.map(|region| contribution(&x, &y, 3.5, region));
        assert_eq!(parts, [(2, 0.125), (1, 1.5), (1, -2.)]);
        near(parts.iter().map(|(_, part)| part).sum(), 13.5 / 4. - 15. / 4., 1e-12);
        // the edges belong to the band
        assert_eq!((Region::of(0., 3.5, 3.5), Region::of(3.5, 0., 3.5)), (Region::Band, Region::Band));
    }
}
