//! How models with and without LayerNorm differ in what they predict, on average and token by token (arXiv 2507.02559,
//! section 5.4, and the figures of the code behind it).
//!
//! All models read the same sequences. Of every token but a sequence's first, with p = softmax(logits) before it:
//!
//! ```text
//! cross-entropy  -ln(p[token] + 1e-10)
//! entropy        -Σ p ln(p + 1e-10)
//! confidence     max p; right when the token is the likeliest
//! divergence     of two models: Jensen-Shannon, of p + 1e-8 made to sum to one again
//! ```
//!
//! Losses, entropies and divergences are in nats.
//! The expected calibration error is Σ n_k / N |confidence_k - accuracy_k| over ten equally wide bins of confidence.
//! Intervals are the middle 95 % of bootstrap resamples of tokens; they take tokens for independent, as the paper's do,
//! and so are too narrow for tokens of the same documents.
//!
//! A pair is two models of the same draw, or one of which there is a single draw and any draw of the other.
//!
//! Tables: `statistics` (means and intervals), `ce_histogram`, `entropy_histogram`, `jsd_histogram`, `joint` (one
//! model's numbers against the other's), `calibration`, `by_position`, `divergence` (which tokens make the losses
//! differ), `points` (some tokens).

use std::ops::Range;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use experiment::Run;
use hooks::{HookedModel, NoHook};
use models::Decoder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, Value, row};

use crate::subjects::{Source, Text, batch, shared_tokenizer};

mod statistics;

use statistics::{
    Bins, Prediction, Region, Smoothed, Statistic, box_plot, calibration, contribution, interval, resample, softmax,
};

/// Bins of histograms, and on either side of joint ones.
const BINS: usize = 50;
/// Joint histograms end at so much of this quantile of both axes.
const JOINT_END: (f64, f64) = (1.05, 0.995);
/// Most tokens in `points`, of each pair.
const POINTS: usize = 1000;
/// Most logits of all models together that are held at once: a gibibyte in f32.
const MOST_LOGITS: usize = 1 << 28;
/// Places that one thread compares before it takes the next.
const PLACES: usize = 32;
/// Resamples that one thread draws before it takes the next.
const RESAMPLES: u64 = 20;

/// Parameters of `distributions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints, in the order of all comparisons.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// What they read.
    pub text: Text,
    /// Sequences.
    #[schemars(range(min = 1))]
    pub sequences: usize,
    /// Tokens of a sequence, of which all but the first are predicted.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// Sequences in a batch; fewer are taken where the models' logits would not fit a gibibyte.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Bootstrap resamples.
    #[schemars(range(min = 1))]
    pub resamples: u64,
    /// Losses that differ by at most this, in nats, count as much the same.
    #[schemars(range(min = 0))]
    pub band: f64,
    /// Where ranges of positions begin, and the last one ends; position 0 is where the second token is predicted.
    #[schemars(length(min = 2))]
    pub position_edges: Vec<usize>,
}

/// Two of the models.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    /// Which of the models.
    at: [usize; 2],
    /// As in tables, `original vs ln_free-2`.
    name: String,
    /// As in metrics, `original_ln_free`.
    key: String,
    /// Draw that its metrics belong to.
    draw: usize,
}

impl Pair {
    fn metric(&self, run: &Run, what: &str, value: impl Into<Option<f64>>, unit: &str) {
        run.metric_of_draw(self.draw, &format!("{what}.{}", self.key), value, unit);
    }
}

/// Everything known of every predicted token, one sequence behind the other.
struct Seen<'a> {
    models: &'a [Source],
    pairs: Vec<Pair>,
    /// Predicted tokens of a sequence.
    places: usize,
    /// Predicted tokens.
    tokens: usize,
    /// Of each model.
    predicted: Vec<Predicted>,
    /// Jensen-Shannon divergence of each pair.
    jsd: Vec<Vec<f64>>,
}

/// One model's numbers, one of each predicted token; see [`Prediction`].
#[derive(Default)]
struct Predicted {
    ce: Vec<f64>,
    entropy: Vec<f64>,
    confidence: Vec<f64>,
    right: Vec<f64>,
}

impl Predicted {
    fn push(&mut self, prediction: &Prediction) {
        self.ce.push(prediction.ce);
        self.entropy.push(prediction.entropy);
        self.confidence.push(prediction.confidence);
        self.right.push(prediction.right);
    }

    /// By its name in tables.
    fn nats(&self) -> [(&'static str, &Vec<f64>); 2] {
        [("ce", &self.ce), ("entropy", &self.entropy)]
    }
}

/// Reads the text with every model and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    if !params.position_edges.is_sorted_by(|a, b| a < b) {
        bail!("params.position_edges: {:?} must rise", params.position_edges);
    }
    let tokenizer = shared_tokenizer(run, &params.models)?;
    let decoders = params.models.iter().map(|source| source.open(run)).collect::<Result<Vec<_>>>()?;
    for (source, decoder) in params.models.iter().zip(&decoders) {
        let longest = decoder.config().n_positions;
        if params.length > longest {
            bail!("params.length: {} tokens, but {} reads {longest} at most", params.length, source.name);
        }
    }
    let count = run.samples(params.sequences);
    let rows = params.text.sequences(run, &tokenizer, count, params.length).context("params.text")?;
    let seen = read(run, &params, &decoders, &rows)?;
    means(run, &params, &seen)?;
    histograms(run, &seen)?;
    joint(run, &seen)?;
    calibrations(run, &seen)?;
    by_position(run, &params, &seen)?;
    divergence(run, &params, &seen)?;
    points(run, &params, &seen)
}

/// All pairs, in the order of the models.
fn pairs(models: &[Source]) -> Vec<Pair> {
    let single = |base: &str| models.iter().filter(|source| source.draw().0 == base).count() == 1;
    let mut pairs = Vec::new();
    for (i, first) in models.iter().enumerate() {
        for (j, second) in models.iter().enumerate().skip(i + 1) {
            let ((a, draw), (b, other)) = (first.draw(), second.draw());
            if draw == other || single(a) || single(b) {
                let name = format!("{} vs {}", first.name, second.name);
                pairs.push(Pair { at: [i, j], name, key: format!("{a}_{b}"), draw: draw.max(other) });
            }
        }
    }
    pairs
}

/// Reads all sequences with all models, a batch at a time, so that logits of one batch are held at once.
fn read<'a>(run: &Run, params: &'a Params, decoders: &[Decoder], rows: &[Vec<u32>]) -> Result<Seen<'a>> {
    let pairs = pairs(&params.models);
    let places = params.length - 1;
    let d_vocab = decoders.first().map_or(1, |decoder| decoder.config().d_vocab);
    let at_once = MOST_LOGITS / (decoders.len() * params.length * d_vocab);
    let mut seen = Seen {
        models: &params.models,
        places,
        tokens: rows.len() * places,
        predicted: params.models.iter().map(|_| Predicted::default()).collect(),
        jsd: vec![Vec::with_capacity(rows.len() * places); pairs.len()],
        pairs,
    };
    let mut task = run.task("read", rows.len() as u64, "sequences");
    let mut done = 0;
    for rows in rows.chunks(at_once.clamp(1, params.batch)) {
        run.check_interrupted()?;
        let tokens = batch(run, rows)?;
        let logits = decoders
            .iter()
            .map(|decoder| {
                let logits = decoder.forward(&tokens, &mut NoHook)?; // [rows, length, d_vocab]
                Ok(logits.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?)
            })
            .collect::<Result<Vec<_>>>()?;
        // of every place but the last of each sequence: where its logits are, and the token behind it
        let targets: Vec<(usize, u32)> = rows
            .iter()
            .enumerate()
            .flat_map(|(row, ids)| ids.iter().skip(1).zip(row * params.length..).map(|(id, at)| (at, *id)))
            .collect();
        let parts: Vec<&[(usize, u32)]> = targets.chunks(PLACES).collect();
        let compared = run.parallel_map(&parts, |part| {
            Ok(part.iter().map(|(at, id)| compare(&logits, d_vocab, *at, *id, &seen.pairs)).collect::<Vec<_>>())
        })?;
        for (predictions, divergences) in compared.iter().flatten() {
            for ((prediction, predicted), source) in predictions.iter().zip(&mut seen.predicted).zip(seen.models) {
                if !(prediction.ce + prediction.entropy).is_finite() {
                    bail!("params.models: {}: logits that are no numbers", source.name);
                }
                predicted.push(prediction);
            }
            seen.jsd.iter_mut().zip(divergences).for_each(|(all, divergence)| all.push(*divergence));
        }
        done += rows.len();
        task.at(done as u64, "");
    }
    Ok(seen)
}

/// What every model says of one token, and how far each pair is apart.
fn compare(logits: &[Vec<f32>], d_vocab: usize, at: usize, id: u32, pairs: &[Pair]) -> (Vec<Prediction>, Vec<f64>) {
    let p: Vec<Vec<f64>> = logits.iter().map(|logits| softmax(&logits[at * d_vocab..(at + 1) * d_vocab])).collect();
    let smoothed: Vec<Smoothed> = p.iter().map(|p| Smoothed::new(p)).collect();
    let divergences = pairs.iter().map(|Pair { at: [a, b], .. }| smoothed[*a].divergence(&smoothed[*b])).collect();
    (p.iter().map(|p| Prediction::new(p, id as usize)).collect(), divergences)
}

/// A row of `statistics` that is one statistic, or the second less the first.
enum Of {
    One(usize),
    Change([usize; 2]),
}

/// Means, errors and their intervals; and how they change from one model to the other.
fn means(run: &Run, params: &Params, seen: &Seen) -> Result<()> {
    const METRICS: [&str; 4] = ["ce", "entropy", "ece", "accuracy"];
    let of_models = seen.predicted.iter().flat_map(|Predicted { ce, entropy, confidence, right }| {
        let error = Statistic::CalibrationError { confidence, right };
        [Statistic::Mean(ce), Statistic::Mean(entropy), error, Statistic::Mean(right)]
    });
    let statistics: Vec<Statistic> = of_models.chain(seen.jsd.iter().map(|jsd| Statistic::Mean(jsd))).collect();
    let of = |model: usize, metric: usize| model * METRICS.len() + metric;
    let mut rows: Vec<(String, &str, Of)> = Vec::new();
    for (model, source) in seen.models.iter().enumerate() {
        let row =
            |(metric, name): (usize, &&str)| ((*name).to_owned(), source.name.as_str(), Of::One(of(model, metric)));
        rows.extend(METRICS.iter().enumerate().map(row));
    }
    for (number, pair) in seen.pairs.iter().enumerate() {
        let [a, b] = pair.at;
        rows.push(("jsd".to_owned(), &pair.name, Of::One(of(seen.models.len(), number))));
        let row = |(metric, name): (usize, &&str)| {
            (format!("{name}_change"), pair.name.as_str(), Of::Change([of(a, metric), of(b, metric)]))
        };
        rows.extend(METRICS.iter().enumerate().map(row));
    }

    let each: Vec<u32> = vec![1; seen.tokens];
    let whole: Vec<f64> = statistics.iter().map(|statistic| statistic.of(&each)).collect();
    let stream = run.rng("bootstrap");
    let parts: Vec<Range<u64>> = (0..params.resamples)
        .step_by(RESAMPLES as usize)
        .map(|first| first..params.resamples.min(first + RESAMPLES))
        .collect();
    let resampled = run.parallel_map(&parts, |part| {
        run.check_interrupted()?;
        Ok(resample(&statistics, seen.tokens, &stream, part.clone()))
    })?;
    let resampled = resampled.concat();

    let mut table = Builder::new(
        Schema::new("statistics", "a number of one model, or of two, over all predicted tokens")
            .text(
                "metric",
                "ce, entropy and jsd in nats; ece and accuracy as fractions; _change: second model less first",
            )
            .text("subject", "checkpoint, or two of them")
            .float("mean", "over tokens; ece over ten bins of confidence", "")
            .float("ci_lower", "2.5 % of bootstrap resamples of tokens lie below", "")
            .float("ci_upper", "2.5 % of bootstrap resamples of tokens lie above", ""),
    );
    for (metric, subject, of) in rows {
        let value = |values: &[f64]| match of {
            Of::One(at) => values[at],
            Of::Change([from, to]) => values[to] - values[from],
        };
        let [lower, upper] = interval(resampled.iter().map(|values| value(values)).collect());
        table.push(row![metric, subject, value(&whole), lower, upper])?;
    }
    run.record(table.finish()?);

    for (model, source) in seen.models.iter().enumerate() {
        for (metric, name) in METRICS.iter().enumerate() {
            source.metric(run, name, whole[of(model, metric)], if metric < 2 { "nats" } else { "fraction" });
        }
    }
    for (number, pair) in seen.pairs.iter().enumerate() {
        let change = |metric: usize, [from, to]: [usize; 2]| whole[of(to, metric)] - whole[of(from, metric)];
        let [a, b] = pair.at;
        pair.metric(run, "jsd", whole[of(seen.models.len(), number)], "nats");
        pair.metric(run, "ce_rise", change(0, [a, b]), "nats");
        pair.metric(run, "entropy_drop", change(1, [b, a]), "nats");
        pair.metric(run, "ece_rise", change(2, [a, b]), "fraction");
    }
    Ok(())
}

/// Distributions of losses, entropies and divergences, in bins that all models, or pairs, share.
fn histograms(run: &Run, seen: &Seen) -> Result<()> {
    for (which, metric) in ["ce", "entropy"].into_iter().enumerate() {
        let values = seen.models.iter().zip(&seen.predicted);
        let values = values.map(|(source, predicted)| (source.name.as_str(), predicted.nats()[which].1)).collect();
        histogram(run, metric, "model", values)?;
    }
    let values = seen.pairs.iter().zip(&seen.jsd).map(|(pair, jsd)| (pair.name.as_str(), jsd)).collect();
    histogram(run, "jsd", "pair", values)
}

fn histogram(run: &Run, metric: &str, subject: &str, values: Vec<(&str, &Vec<f64>)>) -> Result<()> {
    let mut table = Builder::new(
        Schema::new(format!("{metric}_histogram"), "predicted tokens in one bin")
            .text(subject, "checkpoint, or two of them")
            .float("from", "lower end of the bin", "nats")
            .float("to", "upper end of the bin", "nats")
            .float(metric, "middle of the bin", "nats")
            .int("tokens", "tokens in it"),
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

/// One model's losses and entropies against the other's.
fn joint(run: &Run, seen: &Seen) -> Result<()> {
    let mut table = Builder::new(
        Schema::new(
            "joint",
            "predicted tokens in one cell of two models' numbers; empty cells only along the diagonal",
        )
        .text("metric", "ce or entropy")
        .text("pair", "x vs y")
        .float("x", "middle of the first model's bin", "nats")
        .float("y", "middle of the second model's bin", "nats")
        .int("tokens", "tokens in the cell, nothing where there is none; a few tokens lie beyond all cells"),
    );
    for (which, metric) in ["ce", "entropy"].into_iter().enumerate() {
        let values: Vec<&Vec<f64>> = seen.predicted.iter().map(|predicted| predicted.nats()[which].1).collect();
        let mut sorted: Vec<f64> = values.iter().flat_map(|values| values.iter().copied()).collect();
        sorted.sort_by(f64::total_cmp);
        let bins = Bins::new(0., JOINT_END.0 * probes::quantile(&sorted, JOINT_END.1), BINS);
        for Pair { at: [a, b], name, .. } in &seen.pairs {
            for (x, counts) in bins.joint_counts(values[*a], values[*b]).into_iter().enumerate() {
                for (y, count) in counts.into_iter().enumerate() {
                    let count = (count > 0).then_some(count);
                    // the diagonal alone says where all columns and rows of a picture are
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

/// How often models are right by how sure they are.
fn calibrations(run: &Run, seen: &Seen) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("calibration", "predicted tokens of which one model is about as sure")
            .text("model", "checkpoint")
            .int("bin", "tenth of confidence, from 1")
            .float("confidence", "largest probability, mean", "fraction")
            .float("accuracy", "tokens that are the likeliest one", "fraction")
            .int("tokens", "tokens in the bin"),
    );
    for (source, Predicted { confidence, right, .. }) in seen.models.iter().zip(&seen.predicted) {
        for (bin, found) in (1usize..).zip(calibration(confidence, right)) {
            let known = |value: f64| (found.tokens > 0).then_some(value);
            let (confidence, accuracy) = (known(found.confidence), known(found.accuracy));
            table.push(row![&*source.name, bin, confidence, accuracy, found.tokens])?;
            source.metric(run, &format!("calibration_{bin}"), accuracy, "fraction");
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// What box plots of losses and entropies show, by how much a model has read before.
fn by_position(run: &Run, params: &Params, seen: &Seen) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("by_position", "one number of a box plot of the tokens predicted at some positions")
            .text("metric", "ce or entropy")
            .text("model", "checkpoint")
            .text("position", "place of the last token read, from 0; the second number is the first one beyond")
            .text("statistic", "quartile, median, or whisker: the farthest value within 1.5 interquartile ranges")
            .float("value", "of the tokens", "nats")
            .int("tokens", "tokens predicted at these positions"),
    );
    for which in [0, 1] {
        for (source, predicted) in seen.models.iter().zip(&seen.predicted) {
            let (metric, values) = predicted.nats()[which];
            for edges in params.position_edges.windows(2) {
                let positions = edges[0]..edges[1].min(params.length);
                let at = |token: usize| positions.contains(&(token % seen.places));
                let here: Vec<f64> = values.iter().enumerate().filter(|(i, _)| at(*i)).map(|(_, x)| *x).collect();
                if here.is_empty() {
                    continue;
                }
                let (label, tokens) = (format!("{}-{}", positions.start, positions.end), here.len());
                for (statistic, value) in box_plot(here) {
                    table.push(row![metric, &*source.name, &*label, statistic, value, tokens])?;
                }
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Which tokens make two models' mean losses differ: those of much the same loss, or those that one of them hardly
/// expects.
fn divergence(run: &Run, params: &Params, seen: &Seen) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("divergence", "tokens whose losses differ alike between two models")
            .text("pair", "x vs y")
            .text("region", "band: |loss of y - loss of x| <= params.band; above: y's is larger by more; below: x's is")
            .int("tokens", "tokens in it")
            .float("share", "of all tokens", "fraction")
            .float("contribution", "to the mean loss of y less that of x", "nats")
            .float("of_difference", "the same as a share of that difference; nothing where there is none", "fraction"),
    );
    for pair in &seen.pairs {
        let [x, y] = pair.at.map(|model| &seen.predicted[model].ce);
        let found = Region::ALL.map(|region| (region, contribution(x, y, params.band, region)));
        let difference: f64 = found.iter().map(|(_, (_, part))| part).sum();
        for (region, (tokens, part)) in found {
            let share = tokens as f64 / seen.tokens as f64;
            // no tokens are no share, not a negative one of nothing
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

/// Losses of some tokens, evenly spaced over the text and the same for all pairs.
fn points(run: &Run, params: &Params, seen: &Seen) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("points", "one of some tokens, evenly spaced over the text")
            .text("pair", "x vs y")
            .int("sequence", "number")
            .int("position", "place of the last token read, from 0")
            .text("region", "as in divergence")
            .float("x", "the first model's loss", "nats")
            .float("y", "the second model's loss", "nats"),
    );
    for Pair { at, name, .. } in &seen.pairs {
        let [x, y] = at.map(|model| &seen.predicted[model].ce);
        for i in (0..seen.tokens).step_by(seen.tokens.div_ceil(POINTS)) {
            let region = Region::of(x[i], y[i], params.band).name();
            let place: [Value; 2] = [(i / seen.places).into(), (i % seen.places).into()];
            let [sequence, position] = place;
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
    fn pairs_are_of_one_draw_or_with_what_has_only_one() {
        let names =
            |pairs: &[Pair]| pairs.iter().map(|pair| (pair.name.clone(), pair.key.clone(), pair.draw)).collect();
        let three: Vec<(String, String, usize)> = names(&named(&["original", "vanilla", "ln_free"]));
        let words = |name: &str, key: &str, draw| (name.to_owned(), key.to_owned(), draw);
        assert_eq!(
            three,
            [
                words("original vs vanilla", "original_vanilla", 1),
                words("original vs ln_free", "original_ln_free", 1),
                words("vanilla vs ln_free", "vanilla_ln_free", 1),
            ]
        );
        let drawn = named(&["original", "vanilla", "ln_free", "vanilla-2", "ln_free-2"]);
        assert_eq!(drawn.len(), 6);
        assert!(drawn.iter().any(|pair| pair.name == "original vs ln_free-2" && pair.draw == 2));
        assert!(drawn.iter().any(|pair| pair.name == "vanilla-2 vs ln_free-2" && pair.key == "vanilla_ln_free"));
        assert!(drawn.iter().all(|pair| pair.name != "vanilla vs vanilla-2" && pair.name != "ln_free vs vanilla-2"));
        assert!(named(&["alone"]).is_empty());
    }

    #[test]
    fn every_token_is_compared_with_the_logits_before_it() {
        // two models, two places of three tokens
        let logits = [vec![0., 0., 9., 5., 0., 0.], vec![0., 0., 9., 0., 5., 0.]];
        let pairs = named(&["a", "b"]);
        let (same, apart) = (compare(&logits, 3, 0, 2, &pairs), compare(&logits, 3, 1, 0, &pairs));
        assert_eq!(same.0[0], same.0[1]);
        assert_eq!((same.1[0], same.0[0].right, apart.0[0].right, apart.0[1].right), (0., 1., 1., 0.));
        assert!(apart.1[0] > 0.5 && apart.1[0] < 2f64.ln());
    }
}
