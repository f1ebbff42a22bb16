//! Cross-entropy of any number of models on any number of texts (arXiv 2507.02559, section 4 and table 1):
//!
//! ```text
//! CE = sum over sequences, t = 1 .. T-1 of -ln p(x_t | x_<t) / (sequences · (T - 1))
//! ```
//!
//! with the percentiles of its tail, bootstrap intervals over sequences, and the tokens of one text that another lacks.
//!
//! Tables: `losses` (model and text), `unseen` (tokens of the texts that the first of them never has).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use experiment::Run;
use models::{Decoder, Step};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::subjects::{Source, Text, shared_tokenizer};

/// Parameters of `evaluation`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// What they read.
    #[schemars(length(min = 1))]
    pub texts: Vec<Named>,
    /// Tokens in a sequence.
    #[schemars(range(min = 2))]
    pub length: usize,
    /// Sequences in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Resamples of the bootstrap.
    #[schemars(range(min = 10))]
    pub resamples: usize,
    /// Which of the models keeps its norms, and which lacks them, of each draw.
    pub compare: Compared,
}

/// A text by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// What tables and figures call it.
    #[schemars(regex(pattern = "^[a-z0-9_]+$"))]
    pub name: String,
    /// Sequences to read.
    #[schemars(range(min = 1))]
    pub sequences: usize,
    /// What is read.
    pub text: Text,
}

/// Models by name, without the number of their draw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Before fine-tuning.
    pub original: String,
    /// Fine-tuned with its norms.
    pub vanilla: String,
    /// Fine-tuned without them.
    pub ln_free: String,
}

/// Cross-entropy above which a token counts as one that the model has no idea of, in nats.
const EXPLODED: f64 = 50.;

/// Losses of all tokens but the first of each sequence, in nats, in their order.
pub fn token_losses(model: &Decoder, sequences: &[Vec<u32>], batch: usize) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for rows in sequences.chunks(batch.max(1)) {
        let length = rows.first().map_or(0, Vec::len);
        let targets = rows.iter().flat_map(|row| row[1..].iter().copied().chain([ops::IGNORED])).collect::<Vec<u32>>();
        let device = model.device();
        let tokens = Tensor::from_vec(rows.concat(), (rows.len(), length), &device)?;
        let targets = Tensor::from_vec(targets, (rows.len(), length), &device)?;
        // nothing goes backward, so blocks need not be kept
        let how = Step { recompute: true, ..Step::default() };
        let losses = model.losses(&tokens, &targets, &[], how)?.losses.detach();
        all.extend(losses.to_dtype(DType::F64)?.to_vec1::<f64>()?);
    }
    Ok(all)
}

/// One model on one text.
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

    /// Sequences with a token of which the model has no idea.
    fn exploded(&self) -> usize {
        self.losses.chunks(self.per_sequence).filter(|row| row.iter().any(|loss| *loss > EXPLODED)).count()
    }
}

/// Evaluates all models on all texts.
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
        // as it is, which is the same and faster: nothing is looked at
        let model = source.open(run)?;
        if params.length > model.config().n_positions {
            bail!(
                "params.length: {} tokens do not fit {}'s {}",
                params.length,
                source.name,
                model.config().n_positions
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
        Schema::new("losses", "one model on one text")
            .text("model", "checkpoint")
            .text("text", "what it reads")
            .int("tokens", "tokens that count")
            .float("ce", "mean cross-entropy", "nats")
            .float("ci_lower", "of the mean, 95 % bootstrap over sequences", "nats")
            .float("ci_upper", "of the mean, 95 % bootstrap over sequences", "nats")
            .float("over_best", "minus the best model's on this text, of the same draw", "nats")
            .float("over_vanilla", "minus that of the model fine-tuned with its norms", "nats")
            .float("median", "of the tokens", "nats")
            .float("low_95", "2.5th percentile of the tokens", "nats")
            .float("high_95", "97.5th percentile", "nats")
            .float("low_999", "0.1th percentile", "nats")
            .float("high_999", "99.9th percentile", "nats")
            .int("exploded", "sequences with a token above 50 nats"),
    );
    let mut rng = run.rng("bootstrap");
    for cell in cells {
        let (name, draw) = cell.source.draw();
        let same = |other: &&Cell<'_>| other.text == cell.text && other.source.draw().1 == draw;
        let best = cells.iter().filter(same).map(Cell::mean).fold(f64::INFINITY, f64::min);
        let vanilla = cells.iter().filter(same).find(|other| other.source.draw().0 == params.compare.vanilla);
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

/// Tokens that the first text never has, in each of the others.
fn unseen(run: &Run, tokenizer: &tokens::Tokenizer, texts: &[(&str, Vec<Vec<u32>>)]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("unseen", "one token of a text that the first text never has")
            .text("text", "which text")
            .int("token", "its id")
            .text("shown", "the token, with control characters written out")
            .int("count", "how often it comes"),
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
