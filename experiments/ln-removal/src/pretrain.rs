//! The toy: a GPT-2-shaped model pre-trained from scratch on documents made from a seed.
//!
//! Its vocabulary is learned from the same documents (byte-level BPE). Model and tokenizer are written as a folder that
//! transformers loads, `models/toy`, so that every tool which takes a checkpoint takes it.
//!
//! Tables: `curves` (loss during training, nats per token), `corpus` (what it was trained on).

use std::path::Path;

use crate::prose::Kinds;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor};
use experiment::{Interrupted, Run};
use models::{
    Activation, Architecture, Biases, Config, Decoder, Family, Initialisation, NormKind, Positions, Rotary, Step,
};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use training::{Checkpoints, Ended, Error, MeanLoss, Objective, Parameter, Plan};

use crate::corpus::{Documents, first_tokens, vocabulary, windows};

/// Parameters of `pretrain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The decoder.
    pub model: Shape,
    /// How often each kind of document comes.
    pub documents: Kinds,
    /// Tokens to train on.
    #[schemars(range(min = 1000))]
    pub train_tokens: usize,
    /// Tokens to be judged by.
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
    /// Independent repetitions, each with its own fresh weights and batches; the second is handed in as `toy-2`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 9))]
    pub draws: usize,
}

fn one() -> usize {
    1
}

/// Which family the toy is shaped after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shaped {
    /// LayerNorm, learned positions, GELU.
    #[default]
    Gpt2,
    /// RMSNorm, rotary positions, gated MLPs, no biases.
    Llama,
    /// LayerNorm, rotary positions, attention and MLP side by side.
    GptNeox,
}

/// Sizes of the toy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Number of blocks.
    #[schemars(range(min = 1))]
    pub n_layers: usize,
    /// Heads in each block; must divide `d_model`.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Width of the residual stream; the MLP is four times as wide.
    #[schemars(range(min = 1))]
    pub d_model: usize,
    /// Tokens of the vocabulary, of which 257 are bytes and the end of text.
    #[schemars(range(min = 257))]
    pub d_vocab: usize,
    /// Tokens in a window.
    #[schemars(range(min = 2))]
    pub n_positions: usize,
    /// Dropout probability in training.
    #[schemars(range(min = 0, max = 0.99))]
    pub dropout: f64,
    /// Which family it is shaped after.
    #[serde(default)]
    pub family: Shaped,
    /// How fresh weights are drawn.
    #[serde(default = "flat")]
    pub initialisation: Initialisation,
}

fn flat() -> Initialisation {
    Initialisation::Gpt2
}

impl Shape {
    fn config(&self, d_vocab: usize) -> Config {
        let gpt2 = self.gpt2(d_vocab);
        let rotary_dim = |of: usize| (self.d_model / self.n_heads.max(1) / of).next_multiple_of(2);
        let rotary = |rotary_dim| {
            Positions::Rotary(Rotary { rotary_dim, base: 10_000., scaling: models::Scaling::None, interleaved: false })
        };
        match self.family {
            Shaped::Gpt2 => gpt2,
            Shaped::Llama => Config {
                // as many weights as an MLP four times as wide without a gate
                d_mlp: (8 * self.d_model / 3).next_multiple_of(8),
                activation: Activation::Silu,
                biases: false,
                architecture: Architecture {
                    n_key_value_heads: Some(self.n_heads),
                    norm: NormKind::Rms,
                    positions: rotary(rotary_dim(1)),
                    gated: true,
                    biases: Some(Biases::all(false)),
                    ..Architecture::default()
                },
                ..gpt2
            },
            Shaped::GptNeox => Config {
                activation: Activation::GeluErf,
                tied: false,
                architecture: Architecture {
                    positions: rotary(rotary_dim(4)),
                    parallel: true,
                    ..Architecture::default()
                },
                ..gpt2
            },
        }
    }

    fn hub(&self) -> Family {
        match self.family {
            Shaped::Gpt2 => Family::Gpt2,
            Shaped::Llama => Family::Llama,
            Shaped::GptNeox => Family::GptNeox,
        }
    }

    fn gpt2(&self, d_vocab: usize) -> Config {
        Config {
            n_layers: self.n_layers,
            n_heads: self.n_heads,
            d_model: self.d_model,
            d_mlp: 4 * self.d_model,
            d_vocab,
            n_positions: self.n_positions,
            dropout: self.dropout,
            initialisation: self.initialisation,
            ..Config::gpt2_small()
        }
    }
}

/// Trains the toy and hands it in.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let making = run.work("folder");
    if params.documents.is_empty() {
        bail!("params.documents: all weights are zero, so there is nothing to read");
    }
    let documents = Documents { kinds: params.documents, stream: run.rng("documents") };
    let tokenizer = vocabulary(&making.join("tokenizer"), &documents, params.model.d_vocab)?;
    let corpus = Corpus {
        train: first_tokens(documents.training(&tokenizer)?, params.train_tokens)?,
        validation: first_tokens(documents.held_out(&tokenizer)?, params.validation_tokens)?,
    };
    let config = params.model.config(tokenizer.d_vocab());
    run.metric("uniform_guess", (config.d_vocab as f64).ln(), "nats");
    let draws: Vec<usize> = (1..=params.draws).collect();
    let histories = run.parallel_map(&draws, |draw| pretrain(run, &params, &config, &corpus, &making, *draw))?;
    curves(run, &params, &histories)?;
    let mut table = Builder::new(
        Schema::new("corpus", "one part of the toy's text")
            .text("part", "what it is for")
            .int("tokens", "its length")
            .int("d_vocab", "different tokens that the model knows"),
    );
    for (part, tokens) in [("train", &corpus.train), ("validation", &corpus.validation)] {
        table.push(row![part, tokens.len(), config.d_vocab])?;
    }
    run.record(table.finish()?);
    Ok(())
}

/// Trains one toy from fresh weights and hands it in.
fn pretrain(
    run: &Run,
    params: &Params,
    config: &Config,
    corpus: &Corpus,
    making: &Path,
    draw: usize,
) -> Result<(String, History)> {
    let numbered =
        |name: &str, between: &str| if draw > 1 { format!("{name}{between}{draw}") } else { name.to_owned() };
    let (label, stream) = (numbered("toy", "-"), |name: &str| run.rng(&numbered(name, " ")));
    let model = Decoder::fresh(config, &mut stream("init"), run.device())?;
    let mut lesson = Lesson {
        model: &model,
        params,
        corpus,
        batches: stream("batches"),
        dropout: stream("dropout"),
        judged: run.rng("validation"),
        history: History::default(),
    };
    let parameters: Vec<Parameter> = Parameter::all(model.parameters());
    let plan = Plan { steps: run.steps(params.training.steps), ..params.training.clone() };
    let checkpoints = Checkpoints::new(&run.work(&label), &format!("{} {label}", run.identity()));
    let mut task = run.task(&label, plan.steps, "steps");
    let ended = training::train(&parameters, &plan, &mut lesson, &checkpoints, &mut task)
        .with_context(|| format!("training {label}"))?;
    if ended == Ended::Interrupted {
        return Err(Interrupted.into());
    }
    run.metric_of_draw(draw, "validation_loss", lesson.validation()?, "nats");
    let history = lesson.history;
    hand_in(run, &model, params.model.hub(), Some(&making.join("tokenizer")), &label)?;
    Ok((label, history))
}

/// Puts a model, with its tokenizer if it lies in a folder, into a folder of the results, as transformers has them.
pub fn hand_in(run: &Run, model: &Decoder, family: Family, tokenizer: Option<&Path>, label: &str) -> Result<()> {
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

fn curves(run: &Run, params: &Params, histories: &[(String, History)]) -> Result<()> {
    let per_step = u64::from(params.training.accumulate) * (params.batch_size * params.model.n_positions) as u64;
    let mut table = Builder::new(
        Schema::new("curves", "one toy on one part of the text at one time of its training")
            .text("model", "the toy, or a further draw of it")
            .int("step", "optimiser steps done")
            .int("tokens", "tokens seen")
            .text("part", "which documents")
            .float("loss", "mean cross-entropy", "nats"),
    );
    for (label, history) in histories {
        for Row { step, train, validation } in &history.rows {
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

/// What the training has seen; part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct History {
    rows: Vec<Row>,
    since: MeanLoss,
}

/// Tokens to train on, and to be judged by.
struct Corpus {
    train: Vec<u32>,
    validation: Vec<u32>,
}

struct Lesson<'a> {
    model: &'a Decoder,
    params: &'a Params,
    corpus: &'a Corpus,
    batches: ChaCha12Rng,
    dropout: ChaCha12Rng,
    judged: ChaCha12Rng,
    history: History,
}

impl Lesson<'_> {
    /// Mean cross-entropy over the same 32 windows of held-out documents each time, in nats per token.
    fn validation(&self) -> Result<f64> {
        let seq = self.params.model.n_positions;
        let mut rng = self.judged.clone();
        let [inputs, targets] = windows(&self.corpus.validation, 32, seq, &mut rng, &self.model.device())?;
        let losses = self.model.losses(&inputs, &targets, &[], Step::default())?.losses.detach();
        Ok(losses.to_dtype(DType::F64)?.mean_all()?.to_scalar()?)
    }
}

impl Objective for Lesson<'_> {
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error> {
        let position = step * u64::from(self.params.training.accumulate) + u64::from(micro);
        let mut rng = training::stream_at(&self.batches, position);
        let (rows, seq) = (self.params.batch_size, self.params.model.n_positions);
        let windows = windows(&self.corpus.train, rows, seq, &mut rng, &self.model.device());
        let [inputs, targets] = windows.map_err(Error::objective)?;
        let key = training::stream_at(&self.dropout, position).next_u64();
        let how = Step { dropout: Some(key), recompute: self.params.training.recompute, ..Step::default() };
        Ok(self.model.losses(&inputs, &targets, &[], how)?.losses.mean_all()?)
    }

    fn after(&mut self, done: u64, loss: Option<f64>) -> Result<(), Error> {
        self.history.since.add(loss);
        if done.is_multiple_of(self.params.evaluate_every) || done == self.params.training.steps {
            let train = self.history.since.take();
            let validation = self.validation().map_err(Error::objective)?;
            tracing::info!("step {done}: {validation:.3} nats on held-out documents");
            self.history.rows.push(Row { step: done, train, validation });
        }
        Ok(())
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(self.history)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), Error> {
        self.history = serde_json::from_value(state).map_err(Error::objective)?;
        Ok(())
    }
}
