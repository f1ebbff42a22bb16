//! Confidence neurons: which they are, where they write, and what is lost without them (arXiv 2507.02559, section 5.4 and
//! appendix H, figures 4 and 6 to 9), for any list of checkpoints.
//!
//! A neuron of the last MLP that writes much, and pushes all tokens alike, changes no logit but the length of the stream,
//! which the final norm divides by: it sets how sure the model is. With w_i its row of `W_out`, and everything folded:
//!
//! ```text
//! LogitVar(i) = variance over tokens v (n - 1 below) of cos(W_U[:, v], w_i)
//! CN(i)       = |w_i| / LogitVar(i)                 ranked, largest first
//! ```
//!
//! Mean ablation puts the neuron's mean activation, over all tokens read, in place of its activation; the stream behind
//! the last block loses (activation - mean) w_i, and only the final norm and the logits are computed again. Cross-entropy
//! and entropy are in nats per token; the effect on a token is the size of the difference.
//!
//! The same neurons are ablated in all models: those that rank first in the first model of the list. What counts as first
//! for a second draw is that model's second draw, where it is listed before.
//!
//! Tables: `neurons` (figure 6), `null_space` (figure 7), `ablation` and `quartiles` (figures 4 and 8), `cumulative`
//! (figure 9), `in_order` (many neurons, one after the other, as in the released code).
//!
//! Where we differ: the released code adds 1e-10 inside its logarithms, which caps the loss of a token at 23 nats; here
//! losses and entropies are exact. The paper reads off a figure where the effective null space of `W_U` begins; here it
//! is where singular values fall below half of their median.

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

use crate::subjects::{Source, Text, batch, shared_tokenizer};

/// What is read of every token, in this order everywhere.
const METRICS: [&str; 2] = ["ce", "entropy"];
/// Singular values that `null_space` shows, the smallest.
const SHOWN: usize = 50;
/// The null space begins where singular values fall below this share of their median.
const SMALL: f64 = 0.5;

/// Parameters of `neurons`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints; the first one's ranking says which neurons are ablated.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// What they read.
    pub text: Text,
    /// Sequences read.
    #[schemars(range(min = 1))]
    pub sequences: usize,
    /// Tokens in each; all but the first are predicted.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// How many of the sequences the cumulative ablation reads.
    #[schemars(range(min = 1))]
    pub cumulative_sequences: usize,
    /// Neurons that are ablated, one at a time and together.
    #[schemars(range(min = 1))]
    pub top: usize,
    /// Neurons that count as the highest when rankings are compared.
    #[schemars(range(min = 1))]
    pub ranked: usize,
    /// Neurons that are ablated one after the other in `reference`.
    #[schemars(range(min = 1))]
    pub ablated_in_order: usize,
    /// The model in which they are; left out when it is not there.
    #[serde(default)]
    pub reference: Option<String>,
    /// The model without LayerNorm that stands beside it.
    #[serde(default)]
    pub without_norms: Option<String>,
    /// Sequences in a batch: logits of so many are in memory at once.
    #[schemars(range(min = 1))]
    pub batch: usize,
}

/// A neuron of the last MLP, from its weights alone.
#[derive(Clone, Copy, Debug)]
struct Neuron {
    norm: f64,
    logit_var: f64,
    score: f64,
}

/// Singular values of `W_U`.
struct Spectrum {
    /// Over the largest, largest first.
    values: Vec<f64>,
    /// Size of the cosine of the ablated neuron that ranks first with each left singular vector.
    cosines: Vec<f64>,
}

/// The numbers of a box plot.
#[derive(Clone, Copy, Debug)]
struct NormScales {
    median: f64,
    q1: f64,
    q3: f64,
    /// Smallest and largest value within 1.5 times the distance of the quartiles from them.
    low: f64,
    high: f64,
    mean: f64,
}

/// What was measured of one model.
struct Outcome<'a> {
    source: &'a Source,
    /// Place in the list of the model whose ranking says which neurons are ablated.
    leader: usize,
    neurons: Vec<Neuron>,
    /// Neurons, highest score first.
    ranking: Vec<usize>,
    spectrum: Spectrum,
    /// Which neurons are ablated.
    ablated: Vec<usize>,
    /// Sizes of the changes of both metrics, by ablated neuron.
    effects: Vec<[NormScales; 2]>,
    /// Means of both metrics over the sequences of the cumulative ablation, by number of neurons ablated, from 0.
    cumulative: Vec<[f64; 2]>,
    /// The same over all sequences; in the reference with all that are ablated in order, elsewhere with none.
    in_order: Vec<[f64; 2]>,
}

/// Ranks the neurons of every model, ablates the highest, and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    for (key, name) in [("reference", &params.reference), ("without_norms", &params.without_norms)] {
        let known = |name: &String| params.models.iter().any(|source| source.draw().0 == name);
        if let Some(name) = name.as_ref().filter(|name| !known(name)) {
            bail!("params.{key}: no model is called `{name}`");
        }
    }
    let sequences = run.samples(params.sequences);
    if params.cumulative_sequences > params.sequences {
        bail!("params.cumulative_sequences: {} of {} sequences", params.cumulative_sequences, params.sequences);
    }
    let tokenizer = shared_tokenizer(run, &params.models)?;
    let rows = params.text.sequences(run, &tokenizer, sequences, params.length).context("params.text")?;
    let mut outcomes: Vec<Outcome<'_>> = Vec::new();
    for source in &params.models {
        let model = source.open_folded(run)?;
        let outcome = look(run, &params, source, &model, &rows, &outcomes)
            .with_context(|| format!("params.models: {}", source.name))?;
        outcomes.push(outcome);
    }
    record_neurons(run, &params, &outcomes)?;
    record_null_space(run, &outcomes)?;
    record_ablation(run, &outcomes)?;
    record_cumulative(run, &outcomes)?;
    record_in_order(run, &params, &outcomes)
}

/// Everything about one model; `before` are the models that were looked at already.
fn look<'a>(
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
    let (first, (name, draw)) = (params.models[0].draw().0, source.draw());
    let leader = match name == first {
        true => before.len(),
        false => before.iter().position(|outcome| outcome.source.draw() == (first, draw)).unwrap_or(0),
    };
    let order = before.get(leader).map_or(&ranking, |outcome| &outcome.ranking);
    if order.len() != neurons.len() {
        bail!("its last MLP has {} neurons, that of {first} {}", neurons.len(), order.len());
    }
    let in_order = if params.reference.as_deref() == Some(name) { params.ablated_in_order } else { 0 };
    for (key, wanted) in [("top", params.top), ("ranked", params.ranked), ("ablated_in_order", in_order)] {
        if wanted > neurons.len() {
            bail!("params.{key}: {wanted} of the {} neurons of its last MLP", neurons.len());
        }
    }
    let spectrum = spectrum(&w_u, &w_out.get(order[0])?)?;
    drop(w_u); // the largest tensor there is
    let wanted = &order[..params.top.max(in_order)];
    let recorded = Recorded::new(run, model, &source.name, rows, params.batch, wanted, &w_out)?;
    let cumulative = run.samples(params.cumulative_sequences).min(rows.len());
    Ok(Outcome {
        source,
        leader,
        spectrum,
        ablated: order[..params.top].to_vec(),
        effects: recorded.effects(run, params.top)?,
        cumulative: recorded.one_after_the_other(run, params.top, cumulative)?,
        in_order: recorded.one_after_the_other(run, in_order, rows.len())?,
        neurons,
        ranking,
    })
}

/// `W_out` `[d_mlp, d_model]` of the last MLP and `W_U` `[d_model, d_vocab]`, in f64 on the CPU.
fn weights(model: &Decoder) -> Result<[Tensor; 2]> {
    if model.config().architecture.norm_place != NormPlace::Before {
        bail!("what its MLPs write is normed before it reaches the stream, so a neuron has no fixed direction there");
    }
    let find = |name: String| -> Result<Tensor> {
        let found = model.parameters().iter().find(|(known, _)| *known == name);
        let (_, weight) = found.with_context(|| format!("it has no weight `{name}`"))?;
        Ok(weight.as_tensor().detach().to_device(&Device::Cpu)?.to_dtype(DType::F64)?)
    };
    Ok([find(format!("blocks.{}.mlp.W_out", model.n_layers() - 1))?, find("unembed.W_U".to_owned())?])
}

/// Norm, LogitVar and CN of every neuron (arXiv 2507.02559, section 5.4). The variance of ŵ · û_v over tokens is ŵᵀ C ŵ
/// with C the covariance of the tokens' directions û_v, so cosines of all neurons with all tokens are never there at once.
///
/// # Shapes
/// `w_out` `[d_mlp, d_model]`, `w_u` `[d_model, d_vocab]`, both f64; output `[d_mlp]`.
fn confidence(w_out: &Tensor, w_u: &Tensor) -> Result<Vec<Neuron>> {
    let d_vocab = w_u.dim(1)?;
    if d_vocab < 2 {
        bail!("a vocabulary of {d_vocab} has no variance");
    }
    // what has no length has no direction, and a cosine of 0 with everything
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

/// Neurons, highest score first; of equal ones the one with the smaller index.
fn ranking(neurons: &[Neuron]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..neurons.len()).collect();
    order.sort_by(|a, b| neurons[*b].score.total_cmp(&neurons[*a].score));
    order
}

/// Singular values of `W_U` `[d_model, d_vocab]`, and how the direction `w` `[d_model]` lies among its left vectors.
fn spectrum(w_u: &Tensor, w: &Tensor) -> Result<Spectrum> {
    let (values, vectors) = probes::left_singular(probes::matrix(w_u)?.as_ref())?;
    let w = w.to_vec1::<f64>()?;
    let norm = w.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    let cosine = |k: usize| (w.iter().enumerate().map(|(f, x)| vectors[(k, f)] * x).sum::<f64>() / norm).abs();
    let largest = values.first().copied().filter(|value| *value > 0.).context("its unembedding is zero")?;
    Ok(Spectrum {
        cosines: (0..values.len()).map(cosine).collect(),
        values: values.iter().map(|value| value / largest).collect(),
    })
}

impl Spectrum {
    /// Index of the first singular value below [`SMALL`] times the median of all.
    fn null_begin(&self) -> usize {
        let bar = SMALL * probes::median(&self.values);
        self.values.partition_point(|value| *value >= bar)
    }

    /// Share of the neuron's squared length in the null space.
    fn null_share(&self) -> f64 {
        self.cosines[self.null_begin()..].iter().map(|cosine| cosine * cosine).sum()
    }
}

impl NormScales {
    /// Quartiles interpolate between neighbours, as numpy's and matplotlib's do.
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let [q1, median, q3] = [0.25, 0.5, 0.75].map(|share| probes::quantile(&values, share));
        let reach = 1.5 * (q3 - q1);
        let low = values[values.partition_point(|value| *value < q1 - reach)];
        let high = values[values.partition_point(|value| *value <= q3 + reach) - 1];
        Self { median, q1, q3, low, high, mean: probes::mean(&values) }
    }
}

/// What a model's last block left of a text, and what a few of its neurons did.
struct Recorded<'a> {
    model: &'a Decoder,
    batches: Vec<Batch>,
    /// Mean activation over all tokens that have a next one, `[neurons]`.
    means: Tensor,
    /// Rows of `W_out`, `[neurons, d_model]`.
    writers: Tensor,
}

/// Some sequences, in the CPU's memory.
struct Batch {
    /// Stream behind the last block, `[batch, seq, d_model]`.
    stream: Tensor,
    /// Activations of the neurons, `[batch, seq, neurons]`.
    posts: Tensor,
    /// The next tokens, `[batch, seq]`.
    targets: Tensor,
}

impl<'a> Recorded<'a> {
    /// Reads the rows once; the last token of each is only predicted.
    fn new(
        run: &Run,
        model: &'a Decoder,
        name: &str,
        rows: &[Vec<u32>],
        batch_rows: usize,
        neurons: &[usize],
        w_out: &Tensor,
    ) -> Result<Self> {
        let last = model.n_layers() - 1;
        let [post, resid] = [Point::MlpPost, Point::ResidPost].map(|point| Site::Block(Layer(last), point));
        let device = model.device();
        let chosen: Vec<u32> = neurons.iter().map(|neuron| *neuron as u32).collect();
        let chosen = Tensor::new(chosen, &device)?;
        let (mut batches, mut sum, mut tokens) = (Vec::new(), Tensor::zeros(neurons.len(), DType::F64, &device)?, 0);
        let mut task = run.task(name, rows.len() as u64, "sequences");
        for (number, rows) in rows.chunks(batch_rows).enumerate() {
            run.check_interrupted()?;
            let ids = batch(run, rows)?;
            let (count, length) = ids.dims2()?;
            let seq = length - 1;
            let seen = capture(model, &ids.narrow(1, 0, seq)?.contiguous()?, &[post, resid], &Keep::default())?;
            let posts = seen.get(post)?.contiguous()?.index_select(&chosen, D::Minus1)?; // [b, t, n]
            sum = (sum + posts.to_dtype(DType::F64)?.sum((0, 1))?)?;
            tokens += count * seq;
            batches.push(Batch {
                stream: seen.get(resid)?.to_device(&Device::Cpu)?,
                posts: posts.to_device(&Device::Cpu)?,
                targets: ids.narrow(1, 1, seq)?.contiguous()?.to_device(&Device::Cpu)?,
            });
            task.at((number * batch_rows + count) as u64, "read");
        }
        let writers = w_out.index_select(&chosen.to_device(&Device::Cpu)?, 0)?;
        let dtype = batches.first().map_or(DType::F32, |batch| batch.stream.dtype());
        Ok(Self {
            model,
            batches,
            means: (sum / tokens as f64)?.to_dtype(dtype)?,
            writers: writers.to_dtype(dtype)?.to_device(&device)?,
        })
    }

    /// Cross-entropy and entropy of every token of a batch's first sequences, some neurons at their means.
    fn read(&self, batch: &Batch, sequences: usize, ablated: Range<usize>) -> Result<[Vec<f64>; 2]> {
        let device = self.model.device();
        let of = |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.narrow(0, 0, sequences)?.to_device(&device)?) };
        let (mut stream, targets) = (of(&batch.stream)?, of(&batch.targets)?);
        if !ablated.is_empty() {
            let (from, count) = (ablated.start, ablated.len());
            let posts = of(&batch.posts)?.narrow(2, from, count)?;
            let excess = posts.broadcast_sub(&self.means.narrow(0, from, count)?)?; // [b, t, n]
            let written = excess.contiguous()?.broadcast_matmul(&self.writers.narrow(0, from, count)?)?; // [b, t, d]
            stream = (stream - written)?;
        }
        let start = Start::Resid(Layer(self.model.n_layers()), &stream);
        let logits = self.model.forward_between(start, End::Logits, &mut NoHook)?;
        uncertainty(&logits, &targets)
    }

    /// Sizes of the changes of both metrics when one of the first `count` neurons is ablated, over all tokens.
    fn effects(&self, run: &Run, count: usize) -> Result<Vec<[NormScales; 2]>> {
        let mut changes = vec![[Vec::new(), Vec::new()]; count];
        for batch in &self.batches {
            let sequences = batch.stream.dim(0)?;
            let before = self.read(batch, sequences, 0..0)?;
            for (neuron, changes) in changes.iter_mut().enumerate() {
                run.check_interrupted()?;
                let after = self.read(batch, sequences, neuron..neuron + 1)?;
                for ((changes, before), after) in changes.iter_mut().zip(&before).zip(after) {
                    changes.extend(before.iter().zip(after).map(|(before, after)| (after - before).abs()));
                }
            }
        }
        Ok(changes.into_iter().map(|of| of.map(NormScales::of)).collect())
    }

    /// Means of both metrics over the tokens of the first sequences, with the first 0, 1, .. `count` neurons ablated.
    fn one_after_the_other(&self, run: &Run, count: usize, sequences: usize) -> Result<Vec<[f64; 2]>> {
        let (mut sums, mut left, mut tokens) = (vec![[0.; 2]; count + 1], sequences, 0);
        for batch in &self.batches {
            let (rows, seq) = batch.targets.dims2()?;
            let rows = rows.min(left);
            if rows == 0 {
                break;
            }
            for (ablated, sums) in sums.iter_mut().enumerate() {
                run.check_interrupted()?;
                let metrics = self.read(batch, rows, 0..ablated)?;
                sums.iter_mut().zip(metrics).for_each(|(sum, values)| *sum += values.iter().sum::<f64>());
            }
            left -= rows;
            tokens += rows * seq;
        }
        Ok(sums.into_iter().map(|sums| sums.map(|sum| sum / tokens as f64)).collect())
    }
}

/// Cross-entropy with the targets, and entropy of the prediction, of every token, in nats.
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
        Schema::new("neurons", "one neuron of the last MLP, from the weights")
            .text("model", "checkpoint")
            .int("neuron", "index")
            .float("norm", "length of its row of W_out, folded", "")
            .float("logit_var", "variance over tokens of the cosine of what it writes with a token's unembedding", "")
            .float("score", "norm over logit_var", "")
            .int("rank", "by score, from 1")
            .text("group", "highest or others"),
    );
    for Outcome { source, leader, neurons, ranking, .. } in outcomes {
        let mut ranks = vec![0; ranking.len()];
        ranking.iter().enumerate().for_each(|(place, neuron)| ranks[*neuron] = place + 1);
        for (index, (neuron, rank)) in neurons.iter().zip(ranks).enumerate() {
            let Neuron { norm, logit_var, score } = *neuron;
            let group = if rank <= params.ranked { "highest" } else { "others" };
            table.push(row![&*source.name, index, norm, logit_var, score, rank, group])?;
        }
        for (place, neuron) in ranking[..params.top].iter().enumerate() {
            source.metric(run, &format!("neuron_{}", place + 1), *neuron as f64, "");
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
        Schema::new("null_space", "one of the smallest singular values of W_U, folded and centred")
            .text("model", "checkpoint")
            .int("index", "from 0, the largest")
            .text(
                "curve",
                "singular: the value over the largest; cosine: size of the cosine of what the neuron that is \
                            ablated first writes with the left singular vector",
            )
            .float("value", "of the curve", ""),
    );
    for Outcome { source, spectrum, .. } in outcomes {
        let d_model = spectrum.values.len();
        for (curve, values) in [("singular", &spectrum.values), ("cosine", &spectrum.cosines)] {
            for (index, value) in values.iter().enumerate().skip(d_model.saturating_sub(SHOWN)) {
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
        Schema::new("ablation", "size of the change of one metric, token by token, when one neuron is at its mean")
            .text("model", "checkpoint")
            .int("neuron", "index")
            .text("metric", "ce: cross-entropy; entropy")
            .float("median", "over tokens", "nats")
            .float("q1", "lower quartile", "nats")
            .float("q3", "upper quartile", "nats")
            .float("low", "smallest within 1.5 interquartile ranges of the lower quartile", "nats")
            .float("high", "largest within 1.5 interquartile ranges of the upper quartile", "nats")
            .float("mean", "over tokens", "nats"),
    );
    let mut quartiles = Builder::new(
        Schema::new("quartiles", "median and quartiles of `ablation`, one a row")
            .text("model", "checkpoint")
            .int("neuron", "index")
            .text("metric", "ce: cross-entropy; entropy")
            .text("statistic", "q1, median or q3")
            .float("change", "size of the change", "nats"),
    );
    // where most tokens are certain, medians are close to nothing: means say more
    let over_neurons = |outcome: &Outcome<'_>, metric: usize, mean: bool| {
        let of = |spreads: &[NormScales; 2]| if mean { spreads[metric].mean } else { spreads[metric].median };
        probes::mean(&outcome.effects.iter().map(of).collect::<Vec<_>>())
    };
    for outcome in outcomes {
        let name = &*outcome.source.name;
        for (place, (neuron, spreads)) in outcome.ablated.iter().zip(&outcome.effects).enumerate() {
            for (metric, spread) in METRICS.into_iter().zip(spreads) {
                let NormScales { median, q1, q3, low, high, mean } = *spread;
                boxes.push(row![name, *neuron, metric, median, q1, q3, low, high, mean])?;
                for (statistic, value) in [("q1", q1), ("median", median), ("q3", q3)] {
                    quartiles.push(row![name, *neuron, metric, statistic, value])?;
                }
                outcome.source.metric(run, &format!("{metric}_change_{}", place + 1), median, "nats");
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
        Schema::new("cumulative", "means over tokens with the first neurons at their means")
            .text("model", "checkpoint")
            .int("n", "neurons ablated")
            .float("ce", "cross-entropy", "nats")
            .float("entropy", "entropy", "nats")
            .float("ce_change", "change of the mean cross-entropy", "%")
            .float("entropy_change", "change of the mean entropy", "%"),
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

/// Many neurons in the reference, beside the model without norms as it is, whose line is level.
fn record_in_order(run: &Run, params: &Params, outcomes: &[Outcome<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("in_order", "means over tokens with the first neurons at their means, many of them")
            .text("model", "checkpoint")
            .int("n", "neurons ablated; none are in the model without norms, which stands there for comparison")
            .float("ce", "cross-entropy", "nats")
            .float("entropy", "entropy", "nats"),
    );
    let is = |outcome: &Outcome<'_>, name: &Option<String>| Some(outcome.source.draw().0) == name.as_deref();
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
                run.metric_of_draw(source.draw().1, &metric, in_order[params.ablated_in_order][number], "nats");
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
    fn the_covariance_gives_the_variance_of_the_cosines() {
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
    fn neurons_and_tokens_without_length_do_no_harm() {
        let w_out = Tensor::new(&[[0f64, 0.], [1., 2.]], &Device::Cpu).unwrap();
        let w_u = Tensor::new(&[[1f64, 0., -1.], [0., 0., 2.]], &Device::Cpu).unwrap();
        let found = confidence(&w_out, &w_u).unwrap();
        assert_eq!((found[0].norm, found[0].score), (0., 0.));
        assert!(found[1].score.is_finite() && found[1].score > 0.);
        assert_eq!(ranking(&found), [1, 0]);
    }

    #[test]
    fn a_neuron_in_the_null_space_is_found_there() {
        // singular values 4, 2, 2 and 0.1, along the axes; the neuron points between the last two
        let w_u = numbers_on_the_diagonal(&[2., 0.1, 4., 2.]);
        let w = Tensor::new(&[0f64, 3., 0., 4.], &Device::Cpu).unwrap();
        let spectrum = spectrum(&w_u, &w).unwrap();
        let close = |found: &[f64], expected: &[f64]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
        assert!(close(&spectrum.values, &[1., 0.5, 0.5, 0.025]), "{:?}", spectrum.values);
        assert_eq!(spectrum.null_begin(), 3);
        assert!((spectrum.cosines[3] - 0.6).abs() < 1e-9, "{:?}", spectrum.cosines);
        assert!((spectrum.null_share() - 0.36).abs() < 1e-9);
    }

    fn numbers_on_the_diagonal(values: &[f64]) -> Tensor {
        let row = |r: usize| (0..values.len()).map(|c| if r == c { values[r] } else { 0. }).collect();
        Tensor::new((0..values.len()).map(row).collect::<Vec<Vec<f64>>>(), &Device::Cpu).unwrap()
    }

    #[test]
    fn boxes_are_numpys() {
        // numpy.percentile([0..8, 100], [25, 50, 75]): 2.25, 4.5, 6.75; 100 is an outlier
        let mut values: Vec<f64> = (0..9).map(f64::from).collect();
        values.push(100.);
        let NormScales { median, q1, q3, low, high, mean } = NormScales::of(values);
        assert_eq!((median, q1, q3, low, high, mean), (4.5, 2.25, 6.75, 0., 8., 13.6));
        let one = NormScales::of(vec![3.]);
        assert_eq!((one.median, one.low, one.high), (3., 3., 3.));
    }

    #[test]
    fn uncertainty_is_that_of_the_softmax() {
        // p = (1/2, 1/4, 1/4) and p = (1, 0, 0) as far as f32 goes
        let ln = f32::ln;
        let logits = Tensor::new(&[[[ln(0.5), ln(0.25), ln(0.25)], [200., 0., 0.]]], &Device::Cpu).unwrap();
        let [ce, entropy] = uncertainty(&logits, &Tensor::new(&[[1u32, 0]], &Device::Cpu).unwrap()).unwrap();
        assert!((ce[0] - 4f64.ln()).abs() < 1e-6 && ce[1] == 0.);
        assert!((entropy[0] - 1.5 * 2f64.ln()).abs() < 1e-6 && entropy[1].abs() < 1e-6);
    }

    /// Writes means in place of some activations of the last MLP.
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
    fn ablation_is_what_a_hook_that_writes_the_mean_does() {
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
        // weights as large as a trained model's, so that a neuron is felt
        let grown = fresh.weights().into_iter().map(|(name, w)| {
            let w = if name.contains(".ln") || name.starts_with("ln") { w } else { (w * 30.).unwrap() };
            (name, w)
        });
        let model = folded(&Decoder::new(&config, grown.collect(), &Device::Cpu).unwrap()).unwrap();
        let ids: Tokens = Tensor::new(&[[1u32, 5, 3, 2, 7], [2, 2, 0, 7, 10]], &Device::Cpu).unwrap();
        let (read, targets) = (ids.narrow(1, 0, 4).unwrap().contiguous().unwrap(), ids.narrow(1, 1, 4).unwrap());
        let site = Site::Block(Layer(1), Point::MlpPost);
        let resid = Site::Block(Layer(1), Point::ResidPost);
        let seen = capture(&model, &read, &[site, resid], &Keep::default()).unwrap();
        let (neurons, posts) = ([3usize, 9], seen.get(site).unwrap());
        let chosen = Tensor::new(&[3u32, 9], &Device::Cpu).unwrap();
        let means = posts.mean((0, 1)).unwrap().index_select(&chosen, 0).unwrap();
        let recorded = Recorded {
            model: &model,
            batches: vec![Batch {
                stream: seen.get(resid).unwrap().clone(),
                posts: posts.index_select(&chosen, 2).unwrap(),
                targets: targets.contiguous().unwrap(),
            }],
            means: means.clone(),
            writers: weights(&model).unwrap()[0].index_select(&chosen, 0).unwrap().to_dtype(DType::F32).unwrap(),
        };
        let means = means.to_vec1::<f32>().unwrap();
        let mut differences = Vec::new();
        for range in [0..0, 0..1, 1..2, 0..2] {
            let ours = recorded.read(&recorded.batches[0], 2, range.clone()).unwrap();
            let mut hook = AtMean { site, neurons: range.map(|at| (neurons[at], means[at])).collect() };
            let logits = model.forward(&read, &mut hook).unwrap();
            let theirs = uncertainty(&logits, &targets).unwrap();
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-5), "{ours:?} {theirs:?}");
            }
            differences.push(ours[0].clone());
        }
        // and it is not nothing
        assert!(differences[0].iter().zip(&differences[3]).any(|(a, b)| (a - b).abs() > 1e-3));
    }
}
