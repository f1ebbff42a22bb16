//! Numbers of predicted tokens: how sure, how right, how far apart (definitions of the code behind arXiv 2507.02559,
//! section 5.4). All in f64, logarithms natural.

use std::ops::Range;

use rand::Rng;
use rand_chacha::ChaCha12Rng;

/// What is added to a probability before its logarithm; losses end at -ln of it, 23.03 nats.
const FLOOR: f64 = 1e-10;
/// What is added to every probability, which are then made to sum to one again, before two models are compared.
const SMOOTHING: f64 = 1e-8;
/// Equally wide bins of confidence.
pub const CONFIDENCE_BINS: usize = 10;
/// Whiskers end at the farthest value within so many interquartile ranges of the box.
const WHISKER: f64 = 1.5;

/// Probabilities of all tokens from their logits.
pub fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut p: Vec<f64> = logits.iter().map(|logit| (f64::from(*logit) - f64::from(largest)).exp()).collect();
    let sum: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= sum);
    p
}

/// What a model says of one token before it has seen it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Cross-entropy, -ln(p of the token + 1e-10), in nats.
    pub ce: f64,
    /// Entropy, -Σ p ln(p + 1e-10), in nats.
    pub entropy: f64,
    /// The largest probability.
    pub confidence: f64,
    /// 1 when the token is the one of the largest probability (the first of equals), else 0.
    pub right: f64,
}

impl Prediction {
    /// Of the token `target`, from the probabilities of all.
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

/// A distribution without zeros, to be compared with others.
#[derive(Clone, Debug)]
pub struct Smoothed {
    p: Vec<f64>,
    log: Vec<f64>,
}

impl Smoothed {
    /// From probabilities that may be zero.
    pub fn new(p: &[f64]) -> Self {
        let sum: f64 = p.iter().map(|p| p + SMOOTHING).sum();
        let p: Vec<f64> = p.iter().map(|p| (p + SMOOTHING) / sum).collect();
        let log = p.iter().map(|p| p.ln()).collect();
        Self { p, log }
    }

    /// Jensen-Shannon divergence in nats: half of KL(p, m) + KL(q, m) with m = (p + q) / 2; 0 to ln 2.
    pub fn divergence(&self, other: &Self) -> f64 {
        let (p, q) = (self.p.iter().zip(&self.log), other.p.iter().zip(&other.log));
        let term = |((p, log_p), (q, log_q)): ((&f64, &f64), (&f64, &f64))| {
            let log_m = ((p + q) / 2.).ln();
            p * (log_p - log_m) + q * (log_q - log_m)
        };
        p.zip(q).map(term).sum::<f64>() / 2.
    }
}

/// A number of a set of tokens, which can be had again when some are drawn more than once.
#[derive(Clone, Copy, Debug)]
pub enum Statistic<'a> {
    /// Mean of one value a token.
    Mean(&'a [f64]),
    /// Expected calibration error, Σ n_k / N |mean confidence - share right| over equally wide bins of confidence.
    CalibrationError {
        /// The largest probability, of each token.
        confidence: &'a [f64],
        /// 1 or 0, of each token.
        right: &'a [f64],
    },
}

impl Statistic<'_> {
    /// Its value where token i counts `draws[i]` times.
    pub fn of(&self, draws: &[u32]) -> f64 {
        let count: f64 = draws.iter().map(|draws| f64::from(*draws)).sum();
        match self {
            Self::Mean(values) => values.iter().zip(draws).map(|(x, draws)| x * f64::from(*draws)).sum::<f64>() / count,
            Self::CalibrationError { confidence, right } => {
                let mut gaps = [0.; CONFIDENCE_BINS];
                for ((confidence, right), draws) in confidence.iter().zip(*right).zip(draws) {
                    gaps[confidence_bin(*confidence)] += (confidence - right) * f64::from(*draws);
                }
                gaps.iter().map(|gap| gap.abs()).sum::<f64>() / count
            }
        }
    }
}

/// Values of all statistics in each of some bootstrap resamples of `tokens` tokens, `[resamples, statistics]`.
///
/// A resample's draws depend on the stream and on its own number alone, and are the same for all statistics.
pub fn resample(statistics: &[Statistic], tokens: usize, stream: &ChaCha12Rng, resamples: Range<u64>) -> Vec<Vec<f64>> {
    let mut draws = vec![0; tokens];
    let once = |number: u64| {
        let mut rng = training::stream_at(stream, number);
        draws.fill(0);
        for _ in 0..tokens {
            draws[rng.random_range(0..tokens as u32) as usize] += 1;
        }
        statistics.iter().map(|statistic| statistic.of(&draws)).collect()
    };
    resamples.map(once).collect()
}

/// The middle 95 % of some values.
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
    /// From `low` to `high`, which are widened to one unit where they are the same.
    pub fn new(low: f64, high: f64, count: usize) -> Self {
        let high = if high > low { high } else { low + 1. };
        Self { low, width: (high - low) / count as f64, count }
    }

    /// From the smallest to the largest value.
    pub fn around<'a>(values: impl Iterator<Item = &'a f64>, count: usize) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
        Self::new(low, high, count)
    }

    /// The bin of a value, none outside; the last bin holds its upper end.
    pub fn of(&self, value: f64) -> Option<usize> {
        let at = (value - self.low) / self.width;
        // the largest value may come out a rounding error above the end
        let inside = at >= 0. && at <= self.count as f64 * (1. + 1e-12);
        inside.then(|| (at as usize).min(self.count - 1))
    }

    /// Lower end of a bin, and upper end of the one before.
    pub fn edge(&self, bin: usize) -> f64 {
        self.low + self.width * bin as f64
    }

    /// Middle of a bin.
    pub fn centre(&self, bin: usize) -> f64 {
        self.low + self.width * (bin as f64 + 0.5)
    }

    /// How many values lie in each bin.
    pub fn counts(&self, values: &[f64]) -> Vec<usize> {
        let mut counts = vec![0; self.count];
        values.iter().filter_map(|x| self.of(*x)).for_each(|bin| counts[bin] += 1);
        counts
    }

    /// How many pairs lie in each cell, `[x bin, y bin]`; pairs of which one value lies outside count nowhere.
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

/// The bin of confidence that a probability lies in.
fn confidence_bin(confidence: f64) -> usize {
    ((confidence * CONFIDENCE_BINS as f64) as usize).min(CONFIDENCE_BINS - 1)
}

/// How sure and how right a model is in one bin of confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Tokens in the bin.
    pub tokens: usize,
    /// Mean confidence; 0 without tokens.
    pub confidence: f64,
    /// Share of tokens that are right; 0 without tokens.
    pub accuracy: f64,
}

/// Confidence and accuracy by bin.
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

/// What a box plot shows, from below: whisker, lower quartile, median, upper quartile, whisker; NaN of nothing.
pub fn box_plot(mut values: Vec<f64>) -> [(&'static str, f64); 5] {
    values.sort_by(f64::total_cmp);
    let [lower, median, upper] = [0.25, 0.5, 0.75].map(|share| probes::quantile(&values, share));
    let reach = WHISKER * (upper - lower);
    let inside = |x: &&f64| **x >= lower - reach && **x <= upper + reach;
    let end = |found: Option<&f64>| found.copied().unwrap_or(f64::NAN);
    [
        ("lower whisker", end(values.iter().find(inside))),
        ("lower quartile", lower),
        ("median", median),
        ("upper quartile", upper),
        ("upper whisker", end(values.iter().rev().find(inside))),
    ]
}

/// Where a token lies when two models' losses of it are drawn against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The losses differ by at most the width of the band.
    Band,
    /// The second model's loss is larger by more.
    Above,
    /// The second model's loss is smaller by more.
    Below,
}

impl Region {
    /// All, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Band, Self::Above, Self::Below];

    /// Of a token whose losses are `x` and `y`.
    pub fn of(x: f64, y: f64, band: f64) -> Self {
        match y - x {
            difference if difference > band => Self::Above,
            difference if difference < -band => Self::Below,
            _ => Self::Band,
        }
    }

    /// Its name in tables and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Band => "band",
            Self::Above => "above",
            Self::Below => "below",
        }
    }
}

/// Tokens of a region, and what they add to the difference of the two means, y less x.
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
    fn near(ours: f64, expected: f64, room: f64) {
        assert!((ours - expected).abs() <= room, "{ours} instead of {expected}");
    }

    #[test]
    fn predictions_by_hand() {
        let p = softmax(&[0., (3f32).ln(), f32::NEG_INFINITY]);
        p.iter().zip([0.25, 0.75, 0.]).for_each(|(ours, expected)| near(*ours, expected, 1e-7));
        let right = Prediction::new(&p, 1);
        near(right.ce, -(0.75f64.ln()), 1e-7);
        near(right.entropy, -(0.25 * 0.25f64.ln() + 0.75 * 0.75f64.ln()), 1e-7);
        near(right.confidence, 0.75, 1e-7);
        let wrong = Prediction::new(&p, 0);
        assert_eq!((right.right, wrong.right), (1., 0.));
        near(Prediction::new(&p, 2).ce, 23.025_850_93, 1e-6);
        // large logits neither overflow nor vanish
        assert_eq!(softmax(&[1e30, 1e30]), [0.5, 0.5]);
        // the first of equals counts as said
        let even = [0, 1].map(|target| Prediction::new(&[0.5, 0.5], target).right);
        assert_eq!(even, [1., 0.]);
    }

    #[test]
    fn divergence_of_equal_disjoint_and_other_distributions() {
        let of = |p: &[f64], q: &[f64]| Smoothed::new(p).divergence(&Smoothed::new(q));
        assert_eq!(of(&[0.2, 0.8, 0.], &[0.2, 0.8, 0.]), 0.);
        near(of(&[1., 0.], &[0., 1.]), 2f64.ln(), 1e-6);
        // m = (3/4, 1/4): half of ln(4/3) + 1/2 ln(2/3) + 1/2 ln 2
        let by_hand = ((4f64 / 3.).ln() + 0.5 * (2f64 / 3.).ln() + 0.5 * 2f64.ln()) / 2.;
        near(of(&[1., 0.], &[0.5, 0.5]), by_hand, 1e-6);
        assert_eq!(of(&[1., 0.], &[0.5, 0.5]), of(&[0.5, 0.5], &[1., 0.]));
    }

    #[test]
    fn calibration_by_hand() {
        // bin 9: two tokens, mean 0.95, one right; bin 0: one token of 0.05, wrong; 1 belongs to the last bin
        let (confidence, right) = ([0.9, 1., 0.05], [1., 0., 0.]);
        let error = Statistic::CalibrationError { confidence: &confidence, right: &right };
        near(error.of(&[1; 3]), (2. * 0.45 + 0.05) / 3., 1e-12);
        // the second twice, the third never: mean 2.9 / 3, one of three right
        near(error.of(&[1, 2, 0]), 2.9 / 3. - 1. / 3., 1e-12);
        let bins = calibration(&confidence, &right);
        assert_eq!(bins[9], Calibration { tokens: 2, confidence: 0.95, accuracy: 0.5 });
        assert_eq!(bins[0], Calibration { tokens: 1, confidence: 0.05, accuracy: 0. });
        assert_eq!(bins[1..9], [Calibration::default(); 8]);
        // both ways to the same number
        let sum: f64 = bins.iter().map(|bin| bin.tokens as f64 / 3. * (bin.confidence - bin.accuracy).abs()).sum();
        near(error.of(&[1; 3]), sum, 1e-12);
    }

    #[test]
    fn intervals_hold_the_mean_and_do_not_depend_on_who_draws() {
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
        // a model that is as right as it is sure stays so however tokens are drawn
        assert!(whole.iter().all(|values| values[1] == 0.));
    }

    #[test]
    fn intervals_and_boxes() {
        assert_eq!(interval(vec![3.; 5]), [3., 3.]);
        // quartiles 2 and 4, reach 3: 20 lies outside
        let values = box_plot(vec![20., 1., 2., 3., 4.]).map(|(_, value)| value);
        assert_eq!(values, [1., 2., 3., 4., 4.]);
        assert!(box_plot(Vec::new()).iter().all(|(_, value)| value.is_nan()));
    }

    #[test]
    fn bins_hold_all_values_once() {
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
    fn regions_share_the_difference_of_the_means() {
        let (x, y) = ([1., 2., 3., 9.], [1.5, 8., 3., 1.]);
        let parts = Region::ALL.map(|region| contribution(&x, &y, 3.5, region));
        assert_eq!(parts, [(2, 0.125), (1, 1.5), (1, -2.)]);
        near(parts.iter().map(|(_, part)| part).sum(), 13.5 / 4. - 15. / 4., 1e-12);
        // the band's edges belong to it
        assert_eq!((Region::of(0., 3.5, 3.5), Region::of(3.5, 0., 3.5)), (Region::Band, Region::Band));
    }
}
