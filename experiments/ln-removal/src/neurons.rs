//! Confidence neurons: their ranking, their output directions, and their mean ablation (arXiv 2507.02559, section 5.4
//! and appendix H, figures 4 and 6 to 9), for any list of checkpoints.
//!
//! A confidence neuron of the last MLP has a large output norm but affects all logits alike. It changes the norm of the
//! residual stream, by which the final norm divides, and so controls the entropy of the prediction. With w_i its row of
//! `W_out`, after folding all norms:
//!
//! ```text
//! LogitVar(i) = variance over tokens v (denominator n - 1) of cos(W_U[:, v], w_i)
//! CN(i)       = |w_i| / LogitVar(i)                 ranked, largest first
//! ```
//!
//! Mean ablation replaces a neuron's activation by its mean over all input tokens. The stream after the last block
//! changes by (mean - activation) w_i, and only the final norm and the logits are recomputed. Cross-entropy and entropy
//! are in nats per token. The effect on a token is the absolute difference.
//!
//! The same neurons are ablated in all models: those ranked highest in the first model of the list. For models with a
//! further seed, they are those of the first model with that seed, if it is listed earlier.
//!
//! Tables: `neurons` (figure 6), `null_space` (figure 7), `ablation` and `quartiles` (figures 4 and 8), `cumulative`
//! (figure 9), `in_order` (many neurons ablated cumulatively, as in the released code).
//!
//! Differences from the paper: the released code adds 1e-10 inside its logarithms, which limits the loss of a token to
//! 23 nats. Here losses and entropies are exact. The paper reads the start of the effective null space of `W_U` off a
//! figure. Here it starts where singular values fall below half of their median.

use std::ops::Range;

use anyhow::{Context, Result, bail};
use candle_core::{D, DType, Device, Tensor};
use capture::{Keep, capture};
use experiment::Run;
use hooks::{End, HookedModel, Layer, NoHook, Point, Site, Start};
use models::{Decoder, NormPlace};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::distributions::statistics::BoxPlot;
use crate::evaluation::{for_each_batch, shared_sequences};
use crate::subjects::{Source, Text};

/// The metrics of every token, always in this order.
const METRICS: [&str; 2] = ["ce", "entropy"];
/// Number of the smallest singular values that `null_space` records.
const RECORDED_VALUES: usize = 50;
/// The null space begins where singular values fall below this share of their median.
const NULL_SHARE: f64 = 0.5;

/// Parameters of `neurons`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints to measure. The ranking of the first one selects the neurons that are ablated.
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
    /// Number of these sequences that the cumulative ablation reads.
    #[schemars(range(min = 1))]
    pub cumulative_sequences: usize,
    /// Number of neurons that are ablated, one at a time and cumulatively.
    #[schemars(range(min = 1))]
    pub top: usize,
    /// Number of highest-ranked neurons that are compared between models.
    #[schemars(range(min = 1))]
    pub ranked: usize,
    /// Number of neurons that are ablated cumulatively in the model `reference`.
    #[schemars(range(min = 1))]
    pub ablated_in_order: usize,
    /// Name of the model for the long cumulative ablation. Null (the default) skips it.
    #[serde(default)]
    pub reference: Option<String>,
    /// Name of a model without LayerNorm that is recorded beside it, without ablation. Null (the default) omits it.
    #[serde(default)]
    pub without_norms: Option<String>,
    /// Number of sequences in a batch. The logits of one batch are in memory at once.
    #[schemars(range(min = 1))]
    pub batch: usize,
}

/// Weight statistics of one neuron of the last MLP.
#[derive(Clone, Copy, Debug)]
struct Neuron {
    /// |w_i|.
    norm: f64,
    /// LogitVar(i).
    logit_var: f64,
    /// CN(i).
    score: f64,
}

/// Singular values of `W_U`.
struct Spectrum {
    /// Singular values divided by the largest, in decreasing order.
    values: Vec<f64>,
    /// Absolute cosine between the output direction of the highest-ranked neuron and each left singular vector.
    cosines: Vec<f64>,
}

/// Absolute changes of one metric over tokens.
#[derive(Clone, Copy, Debug)]
struct Change {
    box_plot: BoxPlot,
    mean: f64,
}

/// Measurements of one model.
struct Outcome<'a> {
    source: &'a Source,
    /// Index in the list of the model whose ranking selects the ablated neurons.
    leader: usize,
    neurons: Vec<Neuron>,
    /// Neuron indices, highest score first.
    ranking: Vec<usize>,
    spectrum: Spectrum,
    /// Indices of the ablated neurons.
    ablated: Vec<usize>,
    /// Absolute changes of both metrics, by ablated neuron.
    effects: Vec<[Change; 2]>,
    /// Means of both metrics over the sequences of the cumulative ablation, by number of ablated neurons, from 0.
    cumulative: Vec<[f64; 2]>,
    /// The same over all sequences. Models other than the reference only have the entry for 0 neurons.
    in_order: Vec<[f64; 2]>,
}

/// Ranks the neurons of every model, ablates the highest-ranked ones and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    for (key, name) in [("reference", &params.reference), ("without_norms", &params.without_norms)] {
        let known = |name: &String| params.models.iter().any(|source| source.seed().0 == name);
        if let Some(name) = name.as_ref().filter(|name| !known(name)) {
            bail!("params.{key}: there is no model `{name}` in params.models");
        }
    }
    if params.cumulative_sequences > params.sequences {
        bail!(
            "params.cumulative_sequences: {} of {} sequences; use at most params.sequences",
            params.cumulative_sequences,
            params.sequences
        );
    }
    let rows = shared_sequences(run, &params.models, &params.text, params.sequences, params.length)?;
    let mut outcomes: Vec<Outcome<'_>> = Vec::new();
    for source in &params.models {
        let model = source.open_folded(run)?;
        let outcome = measure(run, &params, source, &model, &rows, &outcomes)
            .with_context(|| format!("params.models: {}", source.name))?;
        outcomes.push(outcome);
    }
    record_neurons(run, &params, &outcomes)?;
    record_null_space(run, &outcomes)?;
    record_ablation(run, &outcomes)?;
    record_cumulative(run, &outcomes)?;
    record_in_order(run, &params, &outcomes)
}

/// Measures one model. `before` are the outcomes of the models earlier in the list.
fn measure<'a>(
    run: &Run,
    params: &'a Params,
    source: &'a Source,
    model: &Decoder,
    rows: &[Vec<u32>],
    before: &[Outcome<'a>],
) -> Result<Outcome<'a>> {
    let [w_out, w_u] = weights(model)?;
    let neurons = confidence(&w_out, &w_u)?;
    let ranking = ranking(&neurons);
    let (first, (name, seed)) = (params.models[0].seed().0, source.seed());
    let leader = match name == first {
        true => before.len(),
        false => before.iter().position(|outcome| outcome.source.seed() == (first, seed)).unwrap_or(0),
    };
    let order = before.get(leader).map_or(&ranking, |outcome| &outcome.ranking);
    if order.len() != neurons.len() {
        bail!("the last MLP has {} neurons, but that of {first} has {}", neurons.len(), order.len());
    }
    let in_order = if params.reference.as_deref() == Some(name) { params.ablated_in_order } else { 0 };
    for (key, count) in [("top", params.top), ("ranked", params.ranked), ("ablated_in_order", in_order)] {
        if count > neurons.len() {
            bail!("params.{key}: {count} of the {} neurons of the last MLP; use at most all of them", neurons.len());
        }
    }
    let spectrum = spectrum(&w_u, &w_out.get(order[0])?)?;
    drop(w_u); // the largest tensor
    let selected = &order[..params.top.max(in_order)];
    let recording = Recording::new(run, model, &source.name, rows, params.batch, selected, &w_out)?;
    let cumulative_sequences = run.samples(params.cumulative_sequences).min(rows.len());
    Ok(Outcome {
        source,
        leader,
        spectrum,
        ablated: order[..params.top].to_vec(),
        effects: recording.effects(run, params.top)?,
        cumulative: recording.cumulative(run, params.top, cumulative_sequences)?,
        in_order: recording.cumulative(run, in_order, rows.len())?,
        neurons,
        ranking,
    })
}

/// `W_out` `[d_mlp, d_model]` of the last MLP and `W_U` `[d_model, d_vocab]`, in f64 on the CPU.
fn weights(model: &Decoder) -> Result<[Tensor; 2]> {
    if model.config().architecture.norm_place != NormPlace::Before {
        bail!(
            "the outputs of MLPs are normalised before they are added to the stream, so neurons have no fixed output \
             direction; use a model with its norms before attention and MLP"
        );
    }
    let find = |name: String| -> Result<Tensor> {
        let found = model.parameters().iter().find(|(known, _)| *known == name);
        let (_, weight) = found.with_context(|| format!("the model has no weight `{name}`"))?;
        Ok(weight.as_tensor().detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
    };
    Ok([find(format!("blocks.{}.mlp.W_out", model.n_layers() - 1))?, find("unembed.W_U".to_owned())?])
}

/// Norm, LogitVar and CN of every neuron (arXiv 2507.02559, section 5.4).
///
/// The variance of ŵ · û_v over tokens is ŵᵀ C ŵ, with C the covariance of the tokens' unembedding directions û_v. This
/// avoids the cosines of all neurons with all tokens.
///
/// # Shapes
/// `w_out` `[d_mlp, d_model]`, `w_u` `[d_model, d_vocab]`, both f64; output `[d_mlp]`.
fn confidence(w_out: &Tensor, w_u: &Tensor) -> Result<Vec<Neuron>> {
    let d_vocab = w_u.dim(1)?;
    if d_vocab < 2 {
        bail!("the variance over tokens needs at least two tokens, but the vocabulary has {d_vocab}");
    }
    // a zero vector has cosine 0 with every other
    let lengths = w_u.sqr()?.sum_keepdim(0)?.sqrt()?.maximum(f64::MIN_POSITIVE)?; // [1, v]
    let directions = w_u.broadcast_div(&lengths)?;
    let centred = directions.broadcast_sub(&directions.mean_keepdim(1)?)?; // [d, v]
    let covariance = (centred.matmul(&centred.t()?)? / (d_vocab - 1) as f64)?; // [d, d]
    let norms = w_out.sqr()?.sum_keepdim(1)?.sqrt()?; // [m, 1]
    let units = w_out.broadcast_div(&norms.maximum(f64::MIN_POSITIVE)?)?; // [m, d]
    let variances = (units.matmul(&covariance)? * &units)?.sum(1)?.to_vec1::<f64>()?;
    let norms = norms.squeeze(1)?.to_vec1::<f64>()?;
    let neuron = |(norm, logit_var): (f64, f64)| {
        let logit_var = logit_var.max(0.);
        Neuron { norm, logit_var, score: if norm > 0. { norm / logit_var } else { 0. } }
    };
    Ok(norms.into_iter().zip(variances).map(neuron).collect())
}

/// Neuron indices, highest score first. Ties go to the smaller index.
fn ranking(neurons: &[Neuron]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..neurons.len()).collect();
    order.sort_by(|a, b| neurons[*b].score.total_cmp(&neurons[*a].score));
    order
}

/// Singular values of `W_U` `[d_model, d_vocab]`, and cosines of the direction `w` `[d_model]` with its left singular
/// vectors.
fn spectrum(w_u: &Tensor, w: &Tensor) -> Result<Spectrum> {
    let (values, vectors) = probes::left_singular(probes::matrix(w_u)?.as_ref())?;
    let w = w.to_vec1::<f64>()?;
    let norm = w.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    let cosine = |k: usize| (w.iter().enumerate().map(|(f, x)| vectors[(k, f)] * x).sum::<f64>() / norm).abs();
    let largest = values.first().copied().filter(|value| *value > 0.).context("the unembedding is zero")?;
    Ok(Spectrum {
        cosines: (0..values.len()).map(cosine).collect(),
        values: values.iter().map(|value| value / largest).collect(),
    })
}

impl Spectrum {
    /// Index of the first singular value below [`NULL_SHARE`] times the median of all.
    fn null_begin(&self) -> usize {
        let threshold = NULL_SHARE * probes::median(&self.values);
        self.values.partition_point(|value| *value >= threshold)
    }

    /// Share of the neuron's squared norm in the null space.
    fn null_share(&self) -> f64 {
        self.cosines[self.null_begin()..].iter().map(|cosine| cosine * cosine).sum()
    }
}

impl Change {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self { box_plot: BoxPlot::of_sorted(&values), mean: probes::mean(&values) }
    }
}

/// Activations of a text that suffice to ablate a few neurons of the last MLP.
struct Recording<'a> {
    model: &'a Decoder,
    batches: Vec<Batch>,
    /// Mean activations over all input tokens, `[neurons]`.
    means: Tensor,
    /// Rows of `W_out` of these neurons, `[neurons, d_model]`.
    writers: Tensor,
}

/// Activations of a batch of sequences, in CPU memory.
struct Batch {
    /// Residual stream after the last block, `[batch, seq, d_model]`.
    stream: Tensor,
    /// Activations of the neurons, `[batch, seq, neurons]`.
    posts: Tensor,
    /// The next tokens, `[batch, seq]`.
    targets: Tensor,
}

impl<'a> Recording<'a> {
    /// Runs the model once on all rows. The last token of each row is only a target.
    fn new(
        run: &Run,
        model: &'a Decoder,
        name: &str,
        rows: &[Vec<u32>],
        batch_size: usize,
        neurons: &[usize],
        w_out: &Tensor,
    ) -> Result<Self> {
        let last = model.n_layers() - 1;
        let [post, resid] = [Point::MlpPost, Point::ResidPost].map(|point| Site::Block(Layer(last), point));
        let device = model.device();
        let chosen: Vec<u32> = neurons.iter().map(|neuron| *neuron as u32).collect();
        let chosen = Tensor::new(chosen, &device)?;
        let (mut batches, mut sum, mut tokens) = (Vec::new(), Tensor::zeros(neurons.len(), DType::F64, &device)?, 0);
        for_each_batch(run, name, rows, batch_size, |_, ids| {
            let (count, length) = ids.dims2()?;
            let seq = length - 1;
            let inputs = ids.narrow(1, 0, seq)?.contiguous()?;
            let activations = capture(model, &inputs, &[post, resid], &Keep::default())?;
            let posts = activations.get(post)?.contiguous()?.index_select(&chosen, D::Minus1)?; // [b, t, n]
            sum = (&sum + posts.to_dtype(DType::F64)?.sum((0, 1))?)?;
            tokens += count * seq;
            batches.push(Batch {
                stream: activations.get(resid)?.to_device(&Device::Cpu)?,
                posts: posts.to_device(&Device::Cpu)?,
                targets: ids.narrow(1, 1, seq)?.contiguous()?.to_device(&Device::Cpu)?,
            });
            Ok(())
        })?;
        let writers = w_out.index_select(&chosen.to_device(&Device::Cpu)?, 0)?;
        let dtype = batches.first().map_or(DType::F32, |batch| batch.stream.dtype());
        Ok(Self {
            model,
            batches,
            means: (sum / tokens as f64)?.to_dtype(dtype)?,
            writers: writers.to_dtype(dtype)?.to_device(&device)?,
        })
    }

    /// Cross-entropy and entropy of every token of a batch's first sequences, with the given neurons ablated.
    fn evaluate(&self, batch: &Batch, sequences: usize, ablated: Range<usize>) -> Result<[Vec<f64>; 2]> {
        let device = self.model.device();
        let first = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.narrow(0, 0, sequences)?.to_device(&device)?) };
        let (mut stream, targets) = (first(&batch.stream)?, first(&batch.targets)?);
        if !ablated.is_empty() {
            let (from, count) = (ablated.start, ablated.len());
            let posts = first(&batch.posts)?.narrow(2, from, count)?;
            let excess = posts.broadcast_sub(&self.means.narrow(0, from, count)?)?; // [b, t, n]
            let written = excess.contiguous()?.broadcast_matmul(&self.writers.narrow(0, from, count)?)?; // [b, t, d]
            stream = (stream - written)?;
        }
        let start = Start::Resid(Layer(self.model.n_layers()), &stream);
        let logits = self.model.forward_between(start, End::Logits, &mut NoHook)?;
        uncertainty(&logits, &targets)
    }

    /// Absolute changes of both metrics over all tokens when each of the first `count` neurons is ablated by itself.
    fn effects(&self, run: &Run, count: usize) -> Result<Vec<[Change; 2]>> {
        let mut changes = vec![[Vec::new(), Vec::new()]; count];
        for batch in &self.batches {
            let sequences = batch.stream.dim(0)?;
            let before = self.evaluate(batch, sequences, 0..0)?;
            for (neuron, changes) in changes.iter_mut().enumerate() {
                run.check_interrupted()?;
                let after = self.evaluate(batch, sequences, neuron..neuron + 1)?;
                for ((changes, before), after) in changes.iter_mut().zip(&before).zip(after) {
                    changes.extend(before.iter().zip(after).map(|(before, after)| (after - before).abs()));
                }
            }
        }
        Ok(changes.into_iter().map(|values| values.map(Change::of)).collect())
    }

    /// Means of both metrics over the tokens of the first sequences, with the first 0, 1, .. `count` neurons ablated
    /// together.
    fn cumulative(&self, run: &Run, count: usize, sequences: usize) -> Result<Vec<[f64; 2]>> {
        let (mut sums, mut remaining, mut tokens) = (vec![[0.; 2]; count + 1], sequences, 0);
        for batch in &self.batches {
            let (rows, seq) = batch.targets.dims2()?;
            let rows = rows.min(remaining);
            if rows == 0 {
                break;
            }
            for (ablated, sums) in sums.iter_mut().enumerate() {
                run.check_interrupted()?;
                let metrics = self.evaluate(batch, rows, 0..ablated)?;
                sums.iter_mut().zip(metrics).for_each(|(sum, values)| *sum += values.iter().sum::<f64>());
            }
            remaining -= rows;
            tokens += rows * seq;
        }
        Ok(sums.into_iter().map(|sums| sums.map(|sum| sum / tokens as f64)).collect())
    }
}

/// Cross-entropy and entropy of every prediction, in nats.
///
/// # Shapes
/// `logits` `[batch, seq, d_vocab]`, `targets` `[batch, seq]` (`u32`), outputs `[batch * seq]`.
fn uncertainty(logits: &Tensor, targets: &Tensor) -> Result<[Vec<f64>; 2]> {
    let logits = logits.flatten_to(1)?; // [b * t, v]
    let targets = targets.contiguous()?.flatten_all()?.unsqueeze(1)?; // [b * t, 1]
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
    let weights = shifted.exp()?;
    let total = weights.sum_keepdim(D::Minus1)?; // [b * t, 1]
    let log_total = total.log()?;
    let ce = (&log_total - shifted.gather(&targets, D::Minus1)?)?;
    let mean = ((weights * shifted)?.sum_keepdim(D::Minus1)? / total)?;
    let entropy = (log_total - mean)?;
    let values = |tensor: Tensor| -> Result<Vec<f64>> { Ok(tensor.squeeze(1)?.to_dtype(DType::F64)?.to_vec1()?) };
    Ok([values(ce)?, values(entropy)?])
}

fn record_neurons(run: &Run, params: &Params, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("neurons", "the weight statistics of one neuron of the last MLP")
            .text("model", "checkpoint")
            .int("neuron", "neuron index, from 0")
            .float("norm", "norm of the neuron's row of W_out, after folding", "")
            .float("logit_var", "variance over tokens of the cosine between that row and the token's unembedding", "")
            .float("score", "norm / logit_var", "")
            .int("rank", "rank by score, from 1, highest first")
            .text("group", "highest: rank up to params.ranked; others"),
    );
    for Outcome { source, leader, neurons, ranking, .. } in outcomes {
        let mut ranks = vec![0; ranking.len()];
        ranking.iter().zip(1..).for_each(|(neuron, rank)| ranks[*neuron] = rank);
        for (index, (neuron, rank)) in neurons.iter().zip(ranks).enumerate() {
            let Neuron { norm, logit_var, score } = *neuron;
            let group = if rank <= params.ranked { "highest" } else { "others" };
            table.push(row![&*source.name, index, norm, logit_var, score, rank, group])?;
        }
        for (neuron, rank) in ranking[..params.top].iter().zip(1..) {
            source.metric(run, &format!("neuron_{rank}"), *neuron as f64, "");
        }
        let (own, first) = (&ranking[..params.ranked], &outcomes[*leader].ranking[..params.ranked]);
        let shared = own.iter().filter(|neuron| first.contains(neuron)).count();
        source.metric(run, "top_overlap", shared as f64 / params.ranked as f64, "fraction");
    }
    run.record(table.finish()?);
    Ok(())
}

fn record_null_space(run: &Run, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("null_space", "one of the smallest singular values of W_U, after folding and centring")
            .text("model", "checkpoint")
            .int("index", "index of the singular value, from 0 (the largest)")
            .text(
                "curve",
                "singular: singular value divided by the largest; cosine: absolute cosine between the left singular \
                 vector and the output direction of the first ablated neuron",
            )
            .float("value", "value of the curve", ""),
    );
    for Outcome { source, spectrum, .. } in outcomes {
        let d_model = spectrum.values.len();
        for (curve, values) in [("singular", &spectrum.values), ("cosine", &spectrum.cosines)] {
            for (index, value) in values.iter().enumerate().skip(d_model.saturating_sub(RECORDED_VALUES)) {
                table.push(row![&*source.name, index, curve, *value])?;
            }
        }
        let begin = spectrum.null_begin();
        source.metric(run, "null_begin", begin as f64, "");
        source.metric(run, "null_share", spectrum.null_share(), "fraction");
        source.metric(run, "null_chance", (d_model - begin) as f64 / d_model as f64, "fraction");
    }
    run.record(table.finish()?);
    Ok(())
}

fn record_ablation(run: &Run, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut boxes = Builder::new(
        Schema::new("ablation", "the absolute change of one metric over tokens when one neuron is mean-ablated")
            .text("model", "checkpoint")
            .int("neuron", "neuron index, from 0")
            .text("metric", "ce (cross-entropy) or entropy")
            .float("median", "median over tokens", "nats")
            .float("q1", "lower quartile over tokens", "nats")
            .float("q3", "upper quartile over tokens", "nats")
            .float("low", "smallest value within 1.5 interquartile ranges of the lower quartile", "nats")
            .float("high", "largest value within 1.5 interquartile ranges of the upper quartile", "nats")
            .float("mean", "mean over tokens", "nats"),
    );
    let mut quartiles = Builder::new(
        Schema::new("quartiles", "one quartile or median of the table `ablation`")
            .text("model", "checkpoint")
            .int("neuron", "neuron index, from 0")
            .text("metric", "ce (cross-entropy) or entropy")
            .text("statistic", "q1 (lower quartile), median or q3 (upper quartile)")
            .float("change", "absolute change of the metric", "nats"),
    );
    // if most predictions have low entropy, medians are close to zero, so means are recorded too
    let over_neurons = |outcome: &Outcome<'_>, metric: usize, mean: bool| {
        let of = |changes: &[Change; 2]| if mean { changes[metric].mean } else { changes[metric].box_plot.median };
        probes::mean(&outcome.effects.iter().map(of).collect::<Vec<_>>())
    };
    for outcome in outcomes {
        let name = &*outcome.source.name;
        for (rank, (neuron, changes)) in (1..).zip(outcome.ablated.iter().zip(&outcome.effects)) {
            for (metric, Change { box_plot, mean }) in METRICS.into_iter().zip(changes) {
                let BoxPlot { median, lower_quartile: q1, upper_quartile: q3, .. } = *box_plot;
                let (low, high) = (box_plot.lower_whisker, box_plot.upper_whisker);
                boxes.push(row![name, *neuron, metric, median, q1, q3, low, high, *mean])?;
                for (statistic, value) in [("q1", q1), ("median", median), ("q3", q3)] {
                    quartiles.push(row![name, *neuron, metric, statistic, value])?;
                }
                outcome.source.metric(run, &format!("{metric}_change_{rank}"), median, "nats");
            }
        }
        for (number, metric) in METRICS.into_iter().enumerate() {
            for kind in ["effect", "mean_effect"] {
                let ours = over_neurons(outcome, number, kind == "mean_effect");
                let first = over_neurons(&outcomes[outcome.leader], number, kind == "mean_effect");
                outcome.source.metric(run, &format!("{metric}_{kind}"), ours, "nats");
                outcome.source.metric(run, &format!("{metric}_{kind}_ratio"), ours / first, "");
            }
        }
    }
    run.record(boxes.finish()?);
    run.record(quartiles.finish()?);
    Ok(())
}

fn record_cumulative(run: &Run, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("cumulative", "the metrics of one model with its n highest-ranked neurons mean-ablated together")
            .text("model", "checkpoint")
            .int("n", "number of ablated neurons")
            .float("ce", "mean cross-entropy over tokens", "nats")
            .float("entropy", "mean entropy over tokens", "nats")
            .float("ce_change", "change of the mean cross-entropy relative to no ablation", "%")
            .float("entropy_change", "change of the mean entropy relative to no ablation", "%"),
    );
    for Outcome { source, cumulative, .. } in outcomes {
        for (n, values) in cumulative.iter().enumerate() {
            let change = |metric: usize| 100. * (values[metric] - cumulative[0][metric]) / cumulative[0][metric];
            table.push(row![&*source.name, n, values[0], values[1], change(0), change(1)])?;
            for (number, metric) in METRICS.into_iter().enumerate().filter(|_| n > 0) {
                source.metric(run, &format!("cumulative_{metric}_{n}"), change(number), "%");
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Records the long cumulative ablation of the reference, beside the model without norms, which is not ablated.
fn record_in_order(run: &Run, params: &Params, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new(
            "in_order",
            "the metrics of one model with many of its highest-ranked neurons mean-ablated together",
        )
        .text("model", "checkpoint")
        .int(
            "n",
            "number of ablated neurons; the model without norms is not ablated and has the same values at every n",
        )
        .float("ce", "mean cross-entropy over tokens", "nats")
        .float("entropy", "mean entropy over tokens", "nats"),
    );
    let is = |outcome: &Outcome<'_>, name: &Option<String>| Some(outcome.source.seed().0) == name.as_deref();
    for outcome in outcomes {
        let Outcome { source, in_order, .. } = outcome;
        for (number, metric) in METRICS.into_iter().enumerate() {
            source.metric(run, metric, in_order[0][number], "nats");
        }
        if is(outcome, &params.reference) {
            for (n, [ce, entropy]) in in_order.iter().enumerate() {
                table.push(row![&*source.name, n, *ce, *entropy])?;
            }
            for (number, metric) in METRICS.into_iter().enumerate() {
                let metric = format!("in_order.{metric}");
                source.seed().1.metric(run, &metric, in_order[params.ablated_in_order][number], "nats");
            }
        } else if is(outcome, &params.without_norms) {
            for n in [0, params.ablated_in_order] {
                table.push(row![&*source.name, n, in_order[0][0], in_order[0][1]])?;
            }
        }
    }
    if params.reference.is_none() {
        METRICS.into_iter().for_each(|metric| run.metric(&format!("in_order.{metric}"), None, "nats"));
    }
    run.record(table.finish()?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use hooks::{Hook, Tokens};
    use models::Config;
    use rand::SeedableRng;

    use super::*;
    use crate::subjects::folded;

    fn numbers(rows: usize, columns: usize, seed: usize) -> Vec<Vec<f64>> {
        let value = |r: usize, c: usize| ((r * 7 + c * 5 + r * c * 3 + seed) % 13) as f64 - 5.5;
        (0..rows).map(|r| (0..columns).map(|c| value(r, c)).collect()).collect()
    }

    #[test]
    fn logit_var_is_the_variance_of_the_cosines() {
        let (w_out, w_u) = (numbers(6, 4, 1), numbers(4, 9, 3));
        let tensor = |rows: &Vec<Vec<f64>>| Tensor::new(rows.clone(), &Device::Cpu).unwrap();
        let found = confidence(&tensor(&w_out), &tensor(&w_u)).unwrap();
        let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        for (w, neuron) in w_out.iter().zip(&found) {
            let cosine = |v: usize| {
                let token: Vec<f64> = w_u.iter().map(|row| row[v]).collect();
                w.iter().zip(&token).map(|(a, b)| a * b).sum::<f64>() / (length(w) * length(&token))
            };
            let cosines: Vec<f64> = (0..9).map(cosine).collect();
            let mean = cosines.iter().sum::<f64>() / 9.;
            let variance = cosines.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 8.;
            assert!((neuron.norm - length(w)).abs() < 1e-12);
            assert!((neuron.logit_var - variance).abs() < 1e-12, "{} {variance}", neuron.logit_var);
            assert!((neuron.score - length(w) / variance).abs() < 1e-9 * neuron.score);
        }
        let order = ranking(&found);
        assert!(order.windows(2).all(|pair| found[pair[0]].score >= found[pair[1]].score));
    }

    #[test]
    fn zero_neurons_and_zero_unembeddings_give_finite_scores() {
        let w_out = Tensor::new(&[[0f64, 0.], [1., 2.]], &Device::Cpu).unwrap();
        let w_u = Tensor::new(&[[1f64, 0., -1.], [0., 0., 2.]], &Device::Cpu).unwrap();
        let found = confidence(&w_out, &w_u).unwrap();
        assert_eq!((found[0].norm, found[0].score), (0., 0.));
        assert!(found[1].score.is_finite() && found[1].score > 0.);
        assert_eq!(ranking(&found), [1, 0]);
    }

    #[test]
    fn the_null_share_of_a_known_neuron() {
        // singular values 4, 2, 2 and 0.1 along the axes; the neuron has components along 0.1 (0.6) and 2 (0.8)
        let w_u = diagonal(&[2., 0.1, 4., 2.]);
        let w = Tensor::new(&[0f64, 3., 0., 4.], &Device::Cpu).unwrap();
        let spectrum = spectrum(&w_u, &w).unwrap();
        let close = |found: &[f64], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close(&spectrum.values, &[1., 0.5, 0.5, 0.025]), "{:?}", spectrum.values);
        assert_eq!(spectrum.null_begin(), 3);
        assert!((spectrum.cosines[3] - 0.6).abs() < 1e-9, "{:?}", spectrum.cosines);
        assert!((spectrum.null_share() - 0.36).abs() < 1e-9);
    }

    fn diagonal(values: &[f64]) -> Tensor {
        let row = |r: usize| (0..values.len()).map(|c| if r == c { values[r] } else { 0. }).collect();
        Tensor::new((0..values.len()).map(row).collect::<Vec<Vec<f64>>>(), &Device::Cpu).unwrap()
    }

    #[test]
    fn box_plots_match_numpy() {
        // numpy.percentile([0..8, 100], [25, 50, 75]): 2.25, 4.5, 6.75; 100 is an outlier
        let mut values: Vec<f64> = (0..9).map(f64::from).collect();
        values.push(100.);
        let Change { box_plot, mean } = Change::of(values);
        assert_eq!((box_plot.named().map(|(_, value)| value), mean), ([0., 2.25, 4.5, 6.75, 8.], 13.6));
        assert_eq!(Change::of(vec![3.]).box_plot.named().map(|(_, value)| value), [3.; 5]);
    }

    #[test]
    fn uncertainty_matches_the_softmax() {
        // p = (1/2, 1/4, 1/4) and, up to f32 rounding, p = (1, 0, 0)
        let ln = f32::ln;
        let logits = Tensor::new(&[[[ln(0.5), ln(0.25), ln(0.25)], [200., 0., 0.]]], &Device::Cpu).unwrap();
        let [ce, entropy] = uncertainty(&logits, &Tensor::new(&[[1u32, 0]], &Device::Cpu).unwrap()).unwrap();
        assert!((ce[0] - 4f64.ln()).abs() < 1e-6 && ce[1] == 0.);
        assert!((entropy[0] - 1.5 * 2f64.ln()).abs() < 1e-6 && entropy[1].abs() < 1e-6);
    }

    /// Replaces activations of the last MLP by their means.
    struct AtMean {
        site: Site,
        neurons: Vec<(usize, f32)>,
    }

    impl Hook for AtMean {
        fn wants(&self, site: Site) -> bool {
            site == self.site
        }

        fn visit(&mut self, _: Site, tensor: Tensor) -> candle_core::Result<Tensor> {
            let shape = tensor.dims3()?;
            let mut values = tensor.flatten_all()?.to_vec1::<f32>()?;
            for row in values.chunks_mut(shape.2) {
                self.neurons.iter().for_each(|(neuron, mean)| row[*neuron] = *mean);
            }
            Tensor::from_vec(values, shape, tensor.device())
        }
    }

    #[test]
    fn ablation_matches_a_hook_that_writes_the_means() {
        let config = Config {
            n_layers: 2,
            n_heads: 2,
            d_model: 8,
            d_mlp: 16,
            d_vocab: 11,
            n_positions: 9,
            ..Config::gpt2_small()
        };
        let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(1);
        let fresh = Decoder::fresh(&config, &mut rng, &Device::Cpu).unwrap();
        // weights as large as a trained model's, so that neurons have an effect
        let scaled = fresh.weights().into_iter().map(|(name, w)| {
            let w = if name.contains(".ln") || name.starts_with("ln") { w } else { (w * 30.).unwrap() };
            (name, w)
        });
        let model = folded(&Decoder::new(&config, scaled.collect(), &Device::Cpu).unwrap()).unwrap();
        let ids: Tokens = Tensor::new(&[[1u32, 5, 3, 2, 7], [2, 2, 0, 7, 10]], &Device::Cpu).unwrap();
        let (inputs, targets) = (ids.narrow(1, 0, 4).unwrap().contiguous().unwrap(), ids.narrow(1, 1, 4).unwrap());
        let site = Site::Block(Layer(1), Point::MlpPost);
        let resid = Site::Block(Layer(1), Point::ResidPost);
        let activations = capture(&model, &inputs, &[site, resid], &Keep::default()).unwrap();
        let (neurons, posts) = ([3usize, 9], activations.get(site).unwrap());
        let chosen = Tensor::new(&[3u32, 9], &Device::Cpu).unwrap();
        let means = posts.mean((0, 1)).unwrap().index_select(&chosen, 0).unwrap();
        let recording = Recording {
            model: &model,
            batches: vec![Batch {
                stream: activations.get(resid).unwrap().clone(),
                posts: posts.index_select(&chosen, 2).unwrap(),
                targets: targets.contiguous().unwrap(),
            }],
            means: means.clone(),
            writers: weights(&model).unwrap()[0].index_select(&chosen, 0).unwrap().to_dtype(DType::F32).unwrap(),
        };
        let means = means.to_vec1::<f32>().unwrap();
        let mut losses = Vec::new();
        for range in [0..0, 0..1, 1..2, 0..2] {
            let ours = recording.evaluate(&recording.batches[0], 2, range.clone()).unwrap();
            let mut hook = AtMean { site, neurons: range.map(|at| (neurons[at], means[at])).collect() };
            let logits = model.forward(&inputs, &mut hook).unwrap();
            let expected = uncertainty(&logits, &targets).unwrap();
            for (ours, expected) in ours.iter().zip(&expected) {
                assert!(ours.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{ours:?} {expected:?}");
            }
            losses.push(ours[0].clone());
        }
        // ablation has an effect
        assert!(losses[0].iter().zip(&losses[3]).any(|(a, b)| (a - b).abs() > 1e-3));
    }
}
