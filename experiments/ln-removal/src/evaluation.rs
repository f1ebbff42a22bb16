//! Cross-entropy of any number of models on any number of texts (arXiv 2507.02559, section 4 and table 1).
//!
//! ```text
//! CE = sum over sequences, t = 1 .. T-1 of -ln p(x_t | x_<t) / (sequences · (T - 1))
//! ```
//!
//! Losses are in nats per token. Intervals are 95 % bootstrap intervals over sequences.
//!
//! Tables: `losses` (one model on one text, with tail percentiles), `unseen` (tokens that do not occur in the first
//! text).
//!
//! [`shared_sequences`] and [`for_each_batch`] are the measurement loop of the other experiments too.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use experiment::Run;
use models::{Decoder, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::subjects::{Source, Text, batch, shared_tokenizer};

/// Parameters of `evaluation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints to evaluate.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// The texts on which all checkpoints are evaluated.
    #[schemars(length(min = 1))]
    pub texts: Vec<Named>,
    /// Number of tokens in a sequence.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// Number of sequences in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Number of bootstrap resamples of sequences.
    #[schemars(range(min = 10))]
    pub resamples: usize,
    /// The roles of the models, for differences between losses. They apply to each seed.
    pub compare: Compared,
}

/// A text and its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Name in tables and figures.
    #[schemars(regex(pattern = "^[a-z0-9_]+$"))]
    pub name: String,
    /// Number of sequences.
    #[schemars(range(min = 1))]
    pub sequences: usize,
    /// The text itself.
    pub text: Text,
}

/// The roles of models, by name without the seed index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// The model before fine-tuning.
    pub original: String,
    /// The model fine-tuned with its norms.
    pub vanilla: String,
    /// The model fine-tuned while its norms were removed.
    pub ln_free: String,
}

/// Cross-entropy above which the loss of a token counts as exploded, in nats.
const EXPLODED: f64 = 50.;

/// Reads `count` sequences of `length` tokens (fewer in a rehearsal), tokenised with the vocabulary that all models
/// share.
pub fn shared_sequences(
    run: &Run,
    models: &[Source],
    text: &Text,
    count: usize,
    length: usize,
) -> Result<Vec<Vec<u32>>> {
    let tokenizer = shared_tokenizer(run, models)?;
    text.sequences(run, &tokenizer, run.samples(count), length).context("params.text")
}

/// Calls `each` with every batch of sequences, as rows of ids and as a tensor `[rows, length]`, and reports progress.
pub fn for_each_batch(
    run: &Run,
    label: &str,
    sequences: &[Vec<u32>],
    batch_size: usize,
    mut each: impl FnMut(&[Vec<u32>], Tensor) -> Result<()>,
) -> Result<()> {
    let mut task = run.task(label, sequences.len() as u64, "sequences");
    let mut done = 0;
    for rows in sequences.chunks(batch_size) {
        run.check_interrupted()?;
        each(rows, batch(run, rows)?)?;
        done += rows.len();
        task.at(done as u64, label);
    }
    Ok(())
}

/// Cross-entropy of all tokens but the first of each sequence, in order, in nats.
pub fn token_losses(model: &Decoder, sequences: &[Vec<u32>], batch: usize) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for rows in sequences.chunks(batch.max(1)) {
        let length = rows.first().map_or(0, Vec::len);
        let targets = rows.iter().flat_map(|row| row[1..].iter().copied().chain([ops::IGNORED])).collect::<Vec<u32>>();
        let device = model.device();
        let tokens = Tensor::from_vec(rows.concat(), (rows.len(), length), &device)?;
        let targets = Tensor::from_vec(targets, (rows.len(), length), &device)?;
        // there is no backward pass, so the activations of blocks need not be kept
        let step = Step { recompute: true, ..Step::default() };
        let losses = model.losses(&tokens, &targets, &[], step)?.losses.detach();
        all.extend(losses.to_dtype(DType::F64)?.to_vec1::<f64>()?);
    }
    Ok(all)
}

/// Losses of one model on one text.
struct Cell<'a> {
    source: &'a Source,
    text: &'a str,
    losses: Vec<f64>,
    per_sequence: usize,
}

impl Cell<'_> {
    fn mean(&self) -> f64 {
        probes::mean(&self.losses)
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.losses.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// Number of sequences with at least one exploded token.
    fn exploded(&self) -> usize {
        self.losses.chunks(self.per_sequence).filter(|row| row.iter().any(|loss| *loss > EXPLODED)).count()
    }
}

/// Evaluates all models on all texts and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let tokenizer = shared_tokenizer(run, &params.models)?;
    experiment::distinct("params.texts", params.texts.iter().map(|text| text.name.as_str()))?;
    let mut texts = Vec::new();
    for Named { name, sequences, text } in &params.texts {
        let rows = text.sequences(run, &tokenizer, run.samples(*sequences), params.length);
        texts.push((name.as_str(), rows.with_context(|| format!("params.texts: {name}"))?));
    }
    let mut cells = Vec::new();
    let mut task = run.task("models", params.models.len() as u64, "models");
    for (number, source) in params.models.iter().enumerate() {
        // not folded: folding does not change the loss and takes time
        let model = source.open(run)?;
        if params.length > model.config().n_positions {
            bail!(
                "params.length: {} tokens do not fit the {} positions of {}",
                params.length,
                model.config().n_positions,
                source.name
            );
        }
        for (text, rows) in &texts {
            run.check_interrupted()?;
            let losses = token_losses(&model, rows, params.batch)?;
            cells.push(Cell { source, text, losses, per_sequence: params.length - 1 });
        }
        task.at(number as u64 + 1, &source.name);
    }
    losses(run, &params, &cells)?;
    unseen(run, &tokenizer, &texts)?;
    Ok(())
}

fn losses(run: &Run, params: &Params, cells: &[Cell<'_>]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("losses", "the cross-entropy of one model on one text")
            .text("model", "checkpoint")
            .text("text", "text on which the model is evaluated")
            .int("tokens", "number of predicted tokens")
            .float("ce", "mean cross-entropy per token", "nats")
            .float("ci_lower", "lower end of the 95 % bootstrap interval of ce, over sequences", "nats")
            .float("ci_upper", "upper end of the 95 % bootstrap interval of ce, over sequences", "nats")
            .float("over_best", "ce minus the lowest ce on this text among models of the same seed", "nats")
            .float("over_vanilla", "ce minus the ce of the model of the same seed fine-tuned with its norms", "nats")
            .float("median", "median cross-entropy of the tokens", "nats")
            .float("low_95", "2.5th percentile of the tokens' cross-entropy", "nats")
            .float("high_95", "97.5th percentile of the tokens' cross-entropy", "nats")
            .float("low_999", "0.1th percentile of the tokens' cross-entropy", "nats")
            .float("high_999", "99.9th percentile of the tokens' cross-entropy", "nats")
            .int("exploded", "number of sequences with a token whose cross-entropy is above 50 nats"),
    );
    let mut rng = run.rng("bootstrap");
    for cell in cells {
        let (name, seed) = cell.source.seed();
        let same = |other: &&Cell<'_>| other.text == cell.text && other.source.seed().1 == seed;
        let best = cells.iter().filter(same).map(Cell::mean).fold(f64::INFINITY, f64::min);
        let vanilla = cells.iter().filter(same).find(|other| other.source.seed().0 == params.compare.vanilla);
        let ce = cell.mean();
        let rows: Vec<f64> = cell.losses.chunks(cell.per_sequence).map(probes::mean).collect();
        let [lower, upper] = probes::bootstrap(&rows, params.resamples, &mut rng);
        let over_vanilla = vanilla.map(|vanilla| ce - vanilla.mean());
        let sorted = cell.sorted();
        let percentile = |share: f64| probes::quantile(&sorted, share);
        table.push(row![
            &*cell.source.name,
            cell.text,
            cell.losses.len(),
            ce,
            lower,
            upper,
            ce - best,
            over_vanilla,
            percentile(0.5),
            percentile(0.025),
            percentile(0.975),
            percentile(0.001),
            percentile(0.999),
            cell.exploded(),
        ])?;
        cell.source.metric(run, &format!("{}.ce", cell.text), ce, "nats");
        cell.source.metric(run, &format!("{}.median", cell.text), percentile(0.5), "nats");
        cell.source.metric(run, &format!("{}.exploded", cell.text), cell.exploded() as f64, "");
        if name == params.compare.ln_free {
            cell.source.metric(run, &format!("{}.over_vanilla", cell.text), over_vanilla, "nats");
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// Counts, for each further text, the tokens that do not occur in the first text.
fn unseen(run: &Run, tokenizer: &tokens::Tokenizer, texts: &[(&str, Vec<Vec<u32>>)]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("unseen", "a token of one text that does not occur in the first text")
            .text("text", "text in which the token occurs")
            .int("token", "token id")
            .text("shown", "the token as text, with control characters escaped")
            .int("count", "number of occurrences in this text"),
    );
    let Some(((_, first), others)) = texts.split_first() else { return Ok(()) };
    let known: std::collections::BTreeSet<u32> = first.iter().flatten().copied().collect();
    for (name, rows) in others {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        rows.iter().flatten().filter(|id| !known.contains(id)).for_each(|id| *counts.entry(*id).or_default() += 1);
        let mut counts: Vec<(u32, u64)> = counts.into_iter().collect();
        counts.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        for (id, count) in counts.iter().take(10) {
            let shown = tokenizer.decode(&[*id]).unwrap_or_default();
            table.push(row![*name, i64::from(*id), format!("{shown:?}"), *count])?;
        }
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        run.metric(&format!("{name}.unseen_tokens"), total as f64, "");
    }
    run.record(table.finish()?);
    Ok(())
}
