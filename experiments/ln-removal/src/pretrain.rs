//! The small model: GPT-2's architecture, pre-trained from scratch on documents generated from a seed.
//!
//! Its vocabulary is learned from the same documents (byte-level BPE). Model and tokenizer are written as a folder that
//! transformers loads, `models/toy`, so that every tool that takes a checkpoint takes it.
//!
//! Tables: `curves` (loss during training, nats per token), `corpus` (what it was trained on).

use std::path::Path;

use crate::prose::Kinds;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use experiment::{Run, Seed, StreamNames};
use models::{Config, Decoder, Family, Step};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::{LanguageModel, LanguageTask, Shape};
use tables::{Builder, Schema, row};
use training::{Parameter, Plan};

use crate::corpus::{Documents, first_tokens, vocabulary, windows};

/// Parameters of `pretrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The decoder.
    pub model: Shape,
    /// Tokens of the vocabulary, of which 257 are bytes and the end of text.
    #[schemars(range(min = 257))]
    pub d_vocab: usize,
    /// Tokens in a window, and positions of the model.
    #[schemars(range(min = 2))]
    pub n_positions: usize,
    /// How often each kind of document comes.
    pub documents: Kinds,
    /// Tokens to train on.
    #[schemars(range(min = 1000))]
    pub train_tokens: usize,
    /// Tokens to evaluate on.
    #[schemars(range(min = 1000))]
    pub validation_tokens: usize,
    /// Windows in a micro-batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Steps, optimiser, schedule, checkpoints.
    pub training: Plan,
    /// Steps between evaluations.
    #[schemars(range(min = 1))]
    pub evaluate_every: u64,
    /// Seeds, each with its own fresh weights and batches; the second model is called `toy-2`.
    #[schemars(range(min = 1, max = 9))]
    pub seeds: usize,
}

/// Trains the small model from every seed and records it.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let folder = run.work("folder").join("tokenizer");
    if params.documents.is_empty() {
        bail!("params.documents: all weights are zero, so there is nothing to read");
    }
    let documents = Documents { kinds: params.documents, stream: run.rng("documents") };
    let tokenizer = vocabulary(&folder, &documents, params.d_vocab)?;
    let corpus = Corpus {
        train: first_tokens(documents.training(&tokenizer)?, params.train_tokens)?,
        validation: first_tokens(documents.held_out(&tokenizer)?, params.validation_tokens)?,
    };
    let config = params.model.config(tokenizer.d_vocab(), params.n_positions);
    run.metric("uniform_guess", (config.d_vocab as f64).ln(), "nats");
    let seeds: Vec<Seed> = Seed::first(params.seeds).collect();
    let histories = run.parallel_map(&seeds, |seed| pretrain(run, &params, &config, &corpus, &folder, *seed))?;
    curves(run, &params, &histories)?;
    let mut table = Builder::new(
        Schema::new("corpus", "one part of the generated text")
            .text("part", "train or validation")
            .int("tokens", "tokens in it")
            .int("d_vocab", "tokens in the vocabulary"),
    );
    for (part, tokens) in [("train", &corpus.train), ("validation", &corpus.validation)] {
        table.push(row![part, tokens.len(), config.d_vocab])?;
    }
    run.record(table.finish()?);
    Ok(())
}

/// Trains one model from fresh weights and records it.
fn pretrain(
    run: &Run,
    params: &Params,
    config: &Config,
    corpus: &Corpus,
    tokenizer: &Path,
    seed: Seed,
) -> Result<(String, Vec<Row>)> {
    let (label, stream) = (seed.label("toy"), |name: &str| seed.rng(run, name, StreamNames::Usual));
    let model = Decoder::fresh(config, &mut stream("init"), run.device())?;
    let task = Reading { model: &model, params, corpus, batches: stream("batches"), validation: run.rng("validation") };
    let dropout = Some(stream("dropout"));
    let mut objective = LanguageModel::new(&model, &params.training, params.evaluate_every, dropout, task);
    let rows = run.train(&label, &Parameter::all(model.parameters()), &params.training, &mut objective)?;
    seed.metric(run, "validation_loss", objective.into_task().validation_loss()?, "nats");
    record_model(run, &model, params.model.family.hub(), Some(tokenizer), &label)?;
    Ok((label, rows))
}

/// Writes a model, and its tokenizer if that lies in a folder, into a folder of the results as transformers has them.
pub fn record_model(run: &Run, model: &Decoder, family: Family, tokenizer: Option<&Path>, label: &str) -> Result<()> {
    let making = run.work(&format!("export-{label}"));
    if making.exists() {
        std::fs::remove_dir_all(&making).with_context(|| format!("cannot remove {}", making.display()))?;
    }
    models::export(&making, model, family)?;
    let model_files = ["config.json", "model.safetensors"].map(|file| making.join(file));
    let vocabulary = tokenizer.map(|folder| ["tokenizer.json", "tokenizer_config.json"].map(|file| folder.join(file)));
    for path in model_files.into_iter().chain(vocabulary.into_iter().flatten().filter(|path| path.exists())) {
        let file = path.file_name().and_then(|name| name.to_str()).context("a file has a name")?;
        storage::write_atomic(&run.output(&format!("models/{label}/{file}")), &storage::read(&path)?)?;
    }
    Ok(())
}

fn curves(run: &Run, params: &Params, histories: &[(String, Vec<Row>)]) -> Result<()> {
    let per_step = u64::from(params.training.accumulate) * (params.batch_size * params.n_positions) as u64;
    let mut table = Builder::new(
        Schema::new("curves", "one model on one part of the text at one step of its training")
            .text("model", "name of the model")
            .int("step", "optimiser steps done")
            .int("tokens", "tokens seen")
            .text("part", "train: mean over the steps since the row before; validation: held-out documents")
            .float("loss", "mean cross-entropy", "nats"),
    );
    for (label, rows) in histories {
        for Row { step, train, validation } in rows {
            for (part, loss) in [("train", *train), ("validation", Some(*validation))] {
                if let Some(loss) = loss {
                    table.push(row![&**label, *step, step * per_step, part, loss])?;
                }
            }
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    step: u64,
    /// Mean over the steps since the row before.
    train: Option<f64>,
    validation: f64,
}

/// Tokens to train on, and tokens to evaluate on.
struct Corpus {
    train: Vec<u32>,
    validation: Vec<u32>,
}

/// Windows of a corpus.
struct Reading<'a> {
    model: &'a Decoder,
    params: &'a Params,
    corpus: &'a Corpus,
    batches: ChaCha12Rng,
    validation: ChaCha12Rng,
}

impl Reading<'_> {
    /// Mean cross-entropy over the same 32 windows of held-out documents each time, in nats per token.
    fn validation_loss(&self) -> Result<f64> {
        let mut rng = self.validation.clone();
        let device = self.model.device();
        let [inputs, targets] = windows(&self.corpus.validation, 32, self.params.n_positions, &mut rng, &device)?;
        let losses = self.model.losses(&inputs, &targets, &[], Step::default())?.losses.detach();
        Ok(losses.to_dtype(DType::F64)?.mean_all()?.to_scalar()?)
    }
}

impl LanguageTask for Reading<'_> {
    type Row = Row;

    fn batch(&self, position: u64) -> Result<[Tensor; 2]> {
        let mut rng = training::stream_at(&self.batches, position);
        let (rows, seq) = (self.params.batch_size, self.params.n_positions);
        windows(&self.corpus.train, rows, seq, &mut rng, &self.model.device())
    }

    fn evaluate(&mut self, step: u64, train: Option<f64>, _: &[Row]) -> Result<Row> {
        let validation = self.validation_loss()?;
        tracing::info!("step {step}: {validation:.3} nats on held-out documents");
        Ok(Row { step, train, validation })
    }
}
