//! Differences between the predictions of models with and without LayerNorm, on average and token by token (arXiv
//! 2507.02559, section 5.4, and figures of its code).
//!
//! All models read the same sequences. For every token but the first of a sequence, let p be the softmax of the logits
//! at the position before it:
//!
//! ```text
//! cross-entropy  -ln(p[token] + 1e-10)
//! entropy        -Σ p ln(p + 1e-10)
//! confidence     max p; the prediction is right if the token has the largest probability
//! divergence     Jensen-Shannon divergence of two models, each with p + 1e-8 renormalised
//! ```
//!
//! Losses, entropies and divergences are in nats. The expected calibration error (ECE) is
//! Σ n_k / N |confidence_k - accuracy_k| over ten equally wide bins of confidence, as a fraction. Intervals are 95 %
//! bootstrap intervals over tokens. Like the paper's, they treat tokens as independent, so they are too narrow.
//!
//! A pair is two models with the same seed. A model that exists for one seed only is paired with every seed of the
//! others.
//!
//! Tables: `statistics` (means and intervals), `ce_histogram`, `entropy_histogram`, `jsd_histogram`, `joint` (histogram
//! of one model's values against the other's), `calibration`, `by_position` (box plots by token index), `divergence`
//! (tokens grouped by the difference of their losses), `points` (a sample of tokens).

use std::ops::Range;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use experiment::{Run, Seed};
use hooks::{HookedModel, NoHook};
use models::Decoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::evaluation::for_each_batch;
use crate::subjects::{Source, Text, shared_tokenizer};

pub mod statistics;

use statistics::{
    Bins, BoxPlot, Prediction, Region, Smoothed, Statistic, calibration, contribution, interval, resample, softmax,
};

/// Number of bins of histograms, and of each axis of joint histograms.
const BINS: usize = 50;
/// Joint histograms end at the product of this factor and this quantile of all values.
const JOINT_END: (f64, f64) = (1.05, 0.995);
/// Maximum number of tokens per pair in `points`.
const MAX_POINTS: usize = 1000;
/// Maximum number of logits of all models together in memory: one gibibyte in f32.
const MAX_LOGITS: usize = 1 << 28;
/// Number of positions in one piece of work of a thread.
const POSITIONS_PER_TASK: usize = 32;
/// Number of bootstrap resamples in one piece of work of a thread.
const RESAMPLES_PER_TASK: u64 = 20;

/// Statistics that are recorded for each model.
const METRICS: [&str; 4] = ["ce", "entropy", "ece", "accuracy"];

/// Parameters of `distributions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints to compare. Their order is that of all pairs.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// The text that all checkpoints read.
    pub text: Text,
    /// Number of sequences.
    #[schemars(range(min = 1))]
    pub sequences: usize,
    /// Number of tokens in a sequence. All but the first are predicted.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// Maximum number of sequences in a batch. Batches are smaller if the logits of all models would exceed one
    /// gibibyte.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Number of bootstrap resamples.
    #[schemars(range(min = 1))]
    pub resamples: u64,
    /// Largest difference between two models' losses of a token that counts as similar, in nats.
    #[schemars(range(min = 0))]
    pub band: f64,
    /// Edges of the ranges of token indices in `by_position`, from 0, in increasing order. The token at index 0 is the
    /// first input, at which the second token is predicted.
    #[schemars(length(min = 2))]
    pub position_edges: Vec<usize>,
}

/// A pair of models.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    /// Indices of the models.
    models: [usize; 2],
    /// Name in tables, such as `original vs ln_free-2`.
    name: String,
    /// Name in metrics, such as `original_ln_free`.
    key: String,
    /// Seed index of its metrics.
    seed: Seed,
}

impl Pair {
    fn metric(&self, run: &Run, name: &str, value: impl Into<Option<f64>>, unit: &str) {
        self.seed.metric(run, &format!("{name}.{}", self.key), value, unit);
    }
}

/// Measurements of every predicted token, sequence by sequence.
struct Measured<'a> {
    models: &'a [Source],
    pairs: Vec<Pair>,
    /// Number of predicted tokens in a sequence.
    positions: usize,
    /// Number of predicted tokens in total.
    tokens: usize,
    /// Predictions of each model.
    predictions: Vec<Predictions>,
    /// Jensen-Shannon divergence of each pair, by token.
    jsd: Vec<Vec<f64>>,
}

/// The columns of one model's [`Prediction`]s, by token.
#[derive(Default)]
struct Predictions {
    ce: Vec<f64>,
    entropy: Vec<f64>,
    confidence: Vec<f64>,
    right: Vec<f64>,
}

impl Predictions {
    fn push(&mut self, prediction: &Prediction) {
        self.ce.push(prediction.ce);
        self.entropy.push(prediction.entropy);
        self.confidence.push(prediction.confidence);
        self.right.push(prediction.right);
    }

    /// The values in nats, and their names in tables.
    fn nats(&self) -> [(&'static str, &Vec<f64>); 2] {
        [("ce", &self.ce), ("entropy", &self.entropy)]
    }
}

/// Evaluates every model on the text and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    if !params.position_edges.is_sorted_by(|a, b| a < b) {
        bail!("params.position_edges: {:?} must be strictly increasing", params.position_edges);
    }
    let tokenizer = shared_tokenizer(run, &params.models)?;
    let decoders = params.models.iter().map(|source| source.open(run)).collect::<Result<Vec<_>>>()?;
    for (source, decoder) in params.models.iter().zip(&decoders) {
        let longest = decoder.config().n_positions;
        if params.length > longest {
            bail!("params.length: {} tokens, but {} reads at most {longest}", params.length, source.name);
        }
    }
    let count = run.samples(params.sequences);
    let rows = params.text.sequences(run, &tokenizer, count, params.length).context("params.text")?;
    let measured = measure(run, &params, &decoders, &rows)?;
    statistics(run, &params, &measured)?;
    histograms(run, &measured)?;
    joint(run, &measured)?;
    calibrations(run, &measured)?;
    by_position(run, &params, &measured)?;
    divergence(run, &params, &measured)?;
    points(run, &params, &measured)
}

/// All pairs of models, in the order of the models.
fn pairs(models: &[Source]) -> Vec<Pair> {
    let single = |base: &str| models.iter().filter(|source| source.seed().0 == base).count() == 1;
    let mut pairs = Vec::new();
    for (i, first) in models.iter().enumerate() {
        for (j, second) in models.iter().enumerate().skip(i + 1) {
            let ((a, seed), (b, other)) = (first.seed(), second.seed());
            if seed == other || single(a) || single(b) {
                let name = format!("{} vs {}", first.name, second.name);
                pairs.push(Pair { models: [i, j], name, key: format!("{a}_{b}"), seed: seed.max(other) });
            }
        }
    }
    pairs
}

/// Evaluates all models on all sequences, batch by batch, so that only the logits of one batch are in memory.
fn measure<'a>(run: &Run, params: &'a Params, decoders: &[Decoder], rows: &[Vec<u32>]) -> Result<Measured<'a>> {
    let pairs = pairs(&params.models);
    let positions = params.length - 1;
    let d_vocab = decoders.first().map_or(1, |decoder| decoder.config().d_vocab);
    let fitting = MAX_LOGITS / (decoders.len() * params.length * d_vocab);
    let mut measured = Measured {
        models: &params.models,
        positions,
        tokens: rows.len() * positions,
        predictions: params.models.iter().map(|_| Predictions::default()).collect(),
        jsd: vec![Vec::with_capacity(rows.len() * positions); pairs.len()],
        pairs,
    };
    for_each_batch(run, "read", rows, fitting.clamp(1, params.batch), |rows, tokens| {
        let logits = decoders
            .iter()
            .map(|decoder| {
                let logits = decoder.forward(&tokens, &mut NoHook)?; // [rows, length, d_vocab]
                Ok(logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?)
            })
            .collect::<Result<Vec<_>>>()?;
        // for every position but the last of each sequence: the row of its logits, and the next token
        let targets: Vec<(usize, u32)> = rows
            .iter()
            .enumerate()
            .flat_map(|(row, ids)| ids.iter().skip(1).zip(row * params.length..).map(|(id, at)| (at, *id)))
            .collect();
        let parts: Vec<&[(usize, u32)]> = targets.chunks(POSITIONS_PER_TASK).collect();
        let compared = run.parallel_map(&parts, |part| {
            Ok(part.iter().map(|(at, id)| compare(&logits, d_vocab, *at, *id, &measured.pairs)).collect::<Vec<_>>())
        })?;
        for (predictions, divergences) in compared.iter().flatten() {
            for ((prediction, all), source) in predictions.iter().zip(&mut measured.predictions).zip(measured.models) {
                if !(prediction.ce + prediction.entropy).is_finite() {
                    bail!("params.models: {}: its logits are not finite", source.name);
                }
                all.push(prediction);
            }
            measured.jsd.iter_mut().zip(divergences).for_each(|(all, divergence)| all.push(*divergence));
        }
        Ok(())
    })?;
    Ok(measured)
}

/// Every model's prediction of the token `id` from row `at` of the logits, and the divergence of each pair.
fn compare(logits: &[Vec<f32>], d_vocab: usize, at: usize, id: u32, pairs: &[Pair]) -> (Vec<Prediction>, Vec<f64>) {
    let p: Vec<Vec<f64>> = logits.iter().map(|logits| softmax(&logits[at * d_vocab..(at + 1) * d_vocab])).collect();
    let smoothed: Vec<Smoothed> = p.iter().map(|p| Smoothed::new(p)).collect();
    let divergences = pairs.iter().map(|Pair { models: [a, b], .. }| smoothed[*a].divergence(&smoothed[*b])).collect();
    (p.iter().map(|p| Prediction::new(p, id as usize)).collect(), divergences)
}

/// The value of a row of `statistics`, by index of its statistics: one of them, or the second minus the first.
enum RowValue {
    One(usize),
    Change([usize; 2]),
}

impl RowValue {
    fn of(&self, statistics: &[f64]) -> f64 {
        match *self {
            Self::One(at) => statistics[at],
            Self::Change([from, to]) => statistics[to] - statistics[from],
        }
    }
}

/// Index of a model's metric among all statistics. The divergences of the pairs follow the metrics of all models.
fn index(model: usize, metric: usize) -> usize {
    model * METRICS.len() + metric
}

/// Means and calibration errors of all models, their differences, and their bootstrap intervals.
fn statistics(run: &Run, params: &Params, measured: &Measured) -> Result<()> {
    let of_models = measured.predictions.iter().flat_map(|Predictions { ce, entropy, confidence, right }| {
        let error = Statistic::CalibrationError { confidence, right };
        [Statistic::Mean(ce), Statistic::Mean(entropy), error, Statistic::Mean(right)]
    });
    let statistics: Vec<Statistic> = of_models.chain(measured.jsd.iter().map(|jsd| Statistic::Mean(jsd))).collect();
    let values: Vec<f64> = {
        let once: Vec<u32> = vec![1; measured.tokens];
        statistics.iter().map(|statistic| statistic.of(&once)).collect()
    };
    let resampled = bootstrap(run, params.resamples, &statistics, measured.tokens)?;

    let mut table = Builder::new(
        Schema::new("statistics", "a statistic of one model, or of a pair of models, over all predicted tokens")
            .text(
                "metric",
                "ce (cross-entropy), entropy and jsd (Jensen-Shannon divergence) in nats; ece (expected calibration \
                 error) and accuracy as fractions; _change: second model minus first model",
            )
            .text("subject", "checkpoint, or pair of checkpoints")
            .float("mean", "mean over tokens; for ece, the error over ten bins of confidence", "")
            .float("ci_lower", "2.5th percentile over bootstrap resamples of tokens", "")
            .float("ci_upper", "97.5th percentile over bootstrap resamples of tokens", ""),
    );
    for (metric, subject, row) in statistics_rows(measured) {
        let [lower, upper] = interval(resampled.iter().map(|values| row.of(values)).collect());
        table.push(row![metric, subject, row.of(&values), lower, upper])?;
    }
    run.record(table.finish()?);
    statistics_metrics(run, measured, &values);
    Ok(())
}

/// Values of all statistics in each bootstrap resample of tokens.
fn bootstrap(run: &Run, resamples: u64, statistics: &[Statistic], tokens: usize) -> Result<Vec<Vec<f64>>> {
    let stream = run.rng("bootstrap");
    let parts: Vec<Range<u64>> = (0..resamples)
        .step_by(RESAMPLES_PER_TASK as usize)
        .map(|first| first..resamples.min(first + RESAMPLES_PER_TASK))
        .collect();
    let resampled = run.parallel_map(&parts, |part| {
        run.check_interrupted()?;
        Ok(resample(statistics, tokens, &stream, part.clone()))
    })?;
    Ok(resampled.concat())
}

/// The rows of `statistics`: metric, subject, value.
fn statistics_rows<'a>(measured: &'a Measured) -> Vec<(String, &'a str, RowValue)> {
    let mut rows = Vec::new();
    for (model, source) in measured.models.iter().enumerate() {
        for (metric, name) in METRICS.iter().enumerate() {
            rows.push(((*name).to_owned(), source.name.as_str(), RowValue::One(index(model, metric))));
        }
    }
    for (number, pair) in measured.pairs.iter().enumerate() {
        rows.push(("jsd".to_owned(), &pair.name, RowValue::One(index(measured.models.len(), number))));
        for (metric, name) in METRICS.iter().enumerate() {
            let change = RowValue::Change(pair.models.map(|model| index(model, metric)));
            rows.push((format!("{name}_change"), &pair.name, change));
        }
    }
    rows
}

fn statistics_metrics(run: &Run, measured: &Measured, values: &[f64]) {
    for (model, source) in measured.models.iter().enumerate() {
        for (metric, name) in METRICS.iter().enumerate() {
            source.metric(run, name, values[index(model, metric)], if metric < 2 { "nats" } else { "fraction" });
        }
    }
    for (number, pair) in measured.pairs.iter().enumerate() {
        let change = |metric: usize, [from, to]: [usize; 2]| values[index(to, metric)] - values[index(from, metric)];
        let [a, b] = pair.models;
        pair.metric(run, "jsd", values[index(measured.models.len(), number)], "nats");
        pair.metric(run, "ce_rise", change(0, [a, b]), "nats");
        pair.metric(run, "entropy_drop", change(1, [b, a]), "nats");
        pair.metric(run, "ece_rise", change(2, [a, b]), "fraction");
    }
}

/// Histograms of losses, entropies and divergences. All models, or all pairs, share the bins.
fn histograms(run: &Run, measured: &Measured) -> Result<()> {
    for (which, metric) in ["ce", "entropy"].into_iter().enumerate() {
        let values = measured.models.iter().zip(&measured.predictions);
        let values = values.map(|(source, predictions)| (source.name.as_str(), predictions.nats()[which].1)).collect();
        histogram(run, metric, "model", values)?;
    }
    let values = measured.pairs.iter().zip(&measured.jsd).map(|(pair, jsd)| (pair.name.as_str(), jsd)).collect();
    histogram(run, "jsd", "pair", values)
}

fn histogram(run: &Run, metric: &str, subject: &str, values: Vec<(&str, &Vec<f64>)>) -> Result<()> {
    let mut table = Builder::new(
        Schema::new(format!("{metric}_histogram"), "the number of predicted tokens in one bin of a histogram")
            .text(subject, "checkpoint, or pair of checkpoints")
            .float("from", "lower edge of the bin", "nats")
            .float("to", "upper edge of the bin", "nats")
            .float(metric, "centre of the bin", "nats")
            .int("tokens", "number of tokens in the bin"),
    );
    let bins = Bins::around(values.iter().flat_map(|(_, values)| values.iter()), BINS);
    for (name, values) in values {
        for (bin, count) in bins.counts(values).into_iter().enumerate() {
            table.push(row![name, bins.edge(bin), bins.edge(bin + 1), bins.centre(bin), count])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Joint histograms of the two models' losses and entropies, for each pair.
fn joint(run: &Run, measured: &Measured) -> Result<()> {
    let mut table = Builder::new(
        Schema::new(
            "joint",
            "one cell of a joint histogram of two models' values; empty cells are recorded on the diagonal only",
        )
        .text("metric", "ce (cross-entropy) or entropy")
        .text("pair", "pair of checkpoints, as x vs y")
        .float("x", "centre of the first model's bin", "nats")
        .float("y", "centre of the second model's bin", "nats")
        .int("tokens", "number of tokens in the cell, missing if there are none; a few tokens lie outside all cells"),
    );
    for (which, metric) in ["ce", "entropy"].into_iter().enumerate() {
        let values: Vec<&Vec<f64>> =
            measured.predictions.iter().map(|predictions| predictions.nats()[which].1).collect();
        let mut sorted: Vec<f64> = values.iter().flat_map(|values| values.iter().copied()).collect();
        sorted.sort_by(f64::total_cmp);
        let bins = Bins::new(0., JOINT_END.0 * probes::quantile(&sorted, JOINT_END.1), BINS);
        for Pair { models: [a, b], name, .. } in &measured.pairs {
            for (x, counts) in bins.joint_counts(values[*a], values[*b]).into_iter().enumerate() {
                for (y, count) in counts.into_iter().enumerate() {
                    let count = (count > 0).then_some(count);
                    // the diagonal defines all rows and columns of a heat map
                    if count.is_some() || x == y {
                        table.push(row![metric, &**name, bins.centre(x), bins.centre(y), count])?;
                    }
                }
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Accuracy by confidence.
fn calibrations(run: &Run, measured: &Measured) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("calibration", "the predictions of one model in one bin of confidence")
            .text("model", "checkpoint")
            .int("bin", "bin of confidence with width 0.1, from 1")
            .float("confidence", "mean of the largest probability", "fraction")
            .float("accuracy", "share of tokens that had the largest probability", "fraction")
            .int("tokens", "number of tokens in the bin"),
    );
    for (source, Predictions { confidence, right, .. }) in measured.models.iter().zip(&measured.predictions) {
        for (bin, found) in (1usize..).zip(calibration(confidence, right)) {
            let unless_empty = |value: f64| (found.tokens > 0).then_some(value);
            let (confidence, accuracy) = (unless_empty(found.confidence), unless_empty(found.accuracy));
            table.push(row![&*source.name, bin, confidence, accuracy, found.tokens])?;
            source.metric(run, &format!("calibration_{bin}"), accuracy, "fraction");
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Box plots of losses and entropies by the number of tokens in the context.
fn by_position(run: &Run, params: &Params, measured: &Measured) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("by_position", "one number of a box plot over the tokens predicted in one range of positions")
            .text("metric", "ce (cross-entropy) or entropy")
            .text("model", "checkpoint")
            .text(
                "position",
                "range of token indices, from 0, of the last input token before the prediction; the end is exclusive",
            )
            .text(
                "statistic",
                "quartile, median, or whisker (the farthest value within 1.5 interquartile ranges of the box)",
            )
            .float("value", "value of this number", "nats")
            .int("tokens", "number of tokens predicted in this range"),
    );
    for which in [0, 1] {
        for (source, predictions) in measured.models.iter().zip(&measured.predictions) {
            let (metric, values) = predictions.nats()[which];
            for edges in params.position_edges.windows(2) {
                let positions = edges[0]..edges[1].min(params.length);
                let at = |token: usize| positions.contains(&(token % measured.positions));
                let mut in_range: Vec<f64> =
                    values.iter().enumerate().filter(|(i, _)| at(*i)).map(|(_, x)| *x).collect();
                if in_range.is_empty() {
                    continue;
                }
                in_range.sort_by(f64::total_cmp);
                let (label, tokens) = (format!("{}-{}", positions.start, positions.end), in_range.len());
                for (statistic, value) in BoxPlot::of_sorted(&in_range).named() {
                    table.push(row![metric, &*source.name, &*label, statistic, value, tokens])?;
                }
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Contributions to the difference of two models' mean losses, by the difference of each token's losses.
fn divergence(run: &Run, params: &Params, measured: &Measured) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("divergence", "the tokens of one pair of models in one range of loss differences")
            .text("pair", "pair of checkpoints, as x vs y")
            .text(
                "region",
                "band: |loss of y - loss of x| <= params.band; above: the loss of y is larger by more; below: the \
                 loss of x is larger by more",
            )
            .int("tokens", "number of tokens in the region")
            .float("share", "share of all tokens", "fraction")
            .float("contribution", "contribution to the mean loss of y minus the mean loss of x", "nats")
            .float("of_difference", "contribution / difference of the mean losses; missing if it is zero", "fraction"),
    );
    for pair in &measured.pairs {
        let [x, y] = pair.models.map(|model| &measured.predictions[model].ce);
        let found = Region::ALL.map(|region| (region, contribution(x, y, params.band, region)));
        let difference: f64 = found.iter().map(|(_, (_, part))| part).sum();
        for (region, (tokens, part)) in found {
            let share = tokens as f64 / measured.tokens as f64;
            // avoids -0 for an empty region
            let of_difference = (difference != 0.).then(|| if tokens > 0 { part / difference } else { 0. });
            table.push(row![&*pair.name, region.name(), tokens, share, part, of_difference])?;
            pair.metric(run, &format!("{}_share", region.name()), share, "fraction");
            pair.metric(run, &format!("{}_contribution", region.name()), part, "nats");
            pair.metric(run, &format!("{}_of_difference", region.name()), of_difference, "fraction");
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Losses of a sample of tokens, evenly spaced over the text and the same for all pairs.
fn points(run: &Run, params: &Params, measured: &Measured) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("points", "the losses of one token under a pair of models; tokens are evenly spaced over the text")
            .text("pair", "pair of checkpoints, as x vs y")
            .int("sequence", "index of the sequence, from 0")
            .int("position", "token index, from 0, of the last input token before the prediction")
            .text("region", "band, above or below, as in the table divergence")
            .float("x", "loss of the first model", "nats")
            .float("y", "loss of the second model", "nats"),
    );
    for Pair { models, name, .. } in &measured.pairs {
        let [x, y] = models.map(|model| &measured.predictions[model].ce);
        for i in (0..measured.tokens).step_by(measured.tokens.div_ceil(MAX_POINTS)) {
            let region = Region::of(x[i], y[i], params.band).name();
            let (sequence, position) = (i / measured.positions, i % measured.positions);
            table.push(row![&**name, sequence, position, region, x[i], y[i]])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(models: &[&str]) -> Vec<Pair> {
        let source = |name: &&str| Source { name: (*name).to_owned(), model: subject::Model::from("") };
        pairs(&models.iter().map(source).collect::<Vec<_>>())
    }

    #[test]
    fn pairs_share_a_seed_unless_a_model_has_only_one() {
        let names = |pairs: &[Pair]| {
            pairs.iter().map(|pair| (pair.name.clone(), pair.key.clone(), pair.seed.number())).collect()
        };
        let three: Vec<(String, String, usize)> = names(&named(&["original", "vanilla", "ln_free"]));
        let expected = |name: &str, key: &str, seed| (name.to_owned(), key.to_owned(), seed);
        assert_eq!(
            three,
            [
                expected("original vs vanilla", "original_vanilla", 1),
                expected("original vs ln_free", "original_ln_free", 1),
                expected("vanilla vs ln_free", "vanilla_ln_free", 1),
            ]
        );
        let seeds = named(&["original", "vanilla", "ln_free", "vanilla-2", "ln_free-2"]);
        assert_eq!(seeds.len(), 6);
        assert!(seeds.iter().any(|pair| pair.name == "original vs ln_free-2" && pair.seed == Seed::new(2)));
        assert!(seeds.iter().any(|pair| pair.name == "vanilla-2 vs ln_free-2" && pair.key == "vanilla_ln_free"));
        assert!(seeds.iter().all(|pair| pair.name != "vanilla vs vanilla-2" && pair.name != "ln_free vs vanilla-2"));
        assert!(named(&["alone"]).is_empty());
    }

    #[test]
    fn every_token_is_compared_with_the_logits_of_its_row() {
        // two models, two positions, a vocabulary of three
        let logits = [vec![0., 0., 9., 5., 0., 0.], vec![0., 0., 9., 0., 5., 0.]];
        let pairs = named(&["a", "b"]);
        let (same, apart) = (compare(&logits, 3, 0, 2, &pairs), compare(&logits, 3, 1, 0, &pairs));
        assert_eq!(same.0[0], same.0[1]);
        assert_eq!((same.1[0], same.0[0].right, apart.0[0].right, apart.0[1].right), (0., 1., 1., 0.));
        assert!(apart.1[0] > 0.5 && apart.1[0] < 2f64.ln());
    }
}
