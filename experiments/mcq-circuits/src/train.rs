//! Small models of GPT-2's architecture that learn to answer multiple-choice questions about a synthetic world.
//!
//! They first learn which letter belongs to which place of the list and only later to copy the label that is there, so
//! three checkpoints are kept of each: *early* (knows A to D, chance on other letters), *middle* and *late*.
//!
//! Tables: `curves` (accuracy and loss on every set during training), `sets` (at the end), `stages` (which steps were kept).
//! Losses are among the labels shown, in nats; no preference costs ln 4 = 1.386.

use std::path::PathBuf;

use crate::mcq::{Mutation, Order, Question, Style, Toy, World};
use anyhow::{Context, Result, anyhow};
use candle_core::Tensor;
use config::Changes;
use experiment::{Run, Seed, StreamNames, distinct};
use models::{Config, Decoder};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::{LanguageModel, LanguageTask, Shape, padded};
use tables::{Builder, Schema, row};
use training::{Parameter, Plan};

use crate::letters::Summary;
use crate::prompts::{Asker, Prompt};
use crate::subject::{Stage, letters};

/// Parameters of `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What every model is trained on and how, unless it says otherwise.
    pub base: Base,
    /// The models, each trained from its own fresh weights.
    #[schemars(length(min = 1), extend("x-varies" = "base"))]
    pub models: Vec<Variant>,
    /// Questions of each set in an evaluation during training.
    #[schemars(range(min = 1))]
    pub evaluated: usize,
    /// Questions of each set in the evaluation after training.
    #[schemars(range(min = 1))]
    pub evaluated_at_end: usize,
    /// Accuracies that make a checkpoint early or middle.
    pub stages: Stages,
}

/// What a model is trained on, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// The questions.
    pub questions: Toy,
    /// The decoder.
    pub model: Shape,
    /// Questions in a batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Steps, optimiser, schedule, checkpoints.
    pub training: Plan,
    /// Steps between evaluations.
    #[schemars(range(min = 1))]
    pub evaluate_every: u64,
}

/// A model: its seed, and the keys of `base` that differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name in tables, figures and later experiments.
    #[schemars(regex(pattern = "^[a-z0-9_]+$"))]
    pub name: String,
    /// Seed of its fresh weights and questions, from 1.
    #[serde(default = "first")]
    #[schemars(range(min = 1))]
    pub seed: usize,
    /// The keys of `base` that differ, such as `model.n_layers: 2`.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub set: Changes,
}

fn first() -> usize {
    1
}

/// Accuracies that make a checkpoint early or middle.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stages {
    /// Early: at least this on A to D in order.
    pub early_known: f64,
    /// Early: at most this on random letters.
    pub early_random: f64,
    /// Middle: the mean over random and consecutive letters lies between these; the checkpoint nearest to their middle is
    /// kept.
    pub middle: [f64; 2],
}

impl Variant {
    /// What it is trained on, and how.
    ///
    /// # Errors
    /// When `set` has a key that `base` lacks, or a value that does not fit.
    pub fn base(&self, params: &Params) -> Result<Base> {
        Ok(self.set.apply(&self.name, &params.base)?)
    }

    /// Its random stream `name`. Models that differ in nothing but their questions start from the same weights.
    pub fn stream_name(&self, name: &str) -> String {
        Seed::new(self.seed).stream_name(name, StreamNames::Dotted)
    }
}

impl Base {
    fn config(&self) -> Config {
        self.model.config(self.questions.vocabulary().len(), self.questions.longest())
    }
}

/// The sets that a model is evaluated on: labels as in training, and mutations of them.
const SETS: [(&str, Option<Mutation>); 6] = [
    ("abcd", None),
    ("shuffled", Some(Mutation::ShuffledLabels)),
    ("ordered", Some(Mutation::OrderedLetters)),
    ("random", Some(Mutation::RandomLetters)),
    ("digits", Some(Mutation::Numbers)),
    ("symbols", Some(Mutation::Symbols)),
];

/// Trains every model, as many at a time as there are threads, and records the tables.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    distinct("params.models", params.models.iter().map(|model| model.name.as_str()))?;
    for model in &params.models {
        let base = model.base(&params)?;
        base.questions.check().map_err(|problem| anyhow!("params.base.questions.{problem}, for {}", model.name))?;
        base.config().check().with_context(|| format!("params.base.model, for {}", model.name))?;
    }
    params.evaluated = run.samples(params.evaluated);
    params.evaluated_at_end = run.samples(params.evaluated_at_end);
    let questions = &params.base.questions;
    let tokenizer = run.work("tokenizer");
    tokens::word_level(&tokenizer, &questions.vocabulary(), questions.bos())?;
    let outcomes = run.parallel_map(&params.models, |model| train(run, &params, model))?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        storage::write_atomic(&run.output(&format!("models/{file}")), &storage::read(&tokenizer.join(file))?)?;
    }
    report(run, &outcomes)
}

struct Outcome {
    name: String,
    n_layers: usize,
    parameters: usize,
    rows: Vec<Row>,
    /// Accuracies on each set after training.
    last: Vec<Scored>,
}

/// A model's scores on one set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Scored {
    set: String,
    accuracy: f64,
    loss: f64,
    m: f64,
}

fn train(run: &Run, params: &Params, variant: &Variant) -> Result<Outcome> {
    let base = variant.base(params)?;
    let config = base.config();
    let stream = |name: &str| run.rng(&variant.stream_name(name));
    let world = World::new(&base.questions, &mut stream("world"));
    let model = Decoder::fresh(&config, &mut stream("init"), run.device())?;
    let tokenizer = tokens::Tokenizer::from_folder(&run.work("tokenizer"))?;
    let asker = Asker::new(tokenizer, Style::Words, &world.train(&mut stream("try")))?;
    let sets = Sets { world: &world, orders: &base.questions.orders, asker: &asker, stream: run.rng("sets") };
    let folder = run.work(&variant.name);
    let task = Questions {
        model: &model,
        base: &base,
        stages: params.stages,
        asker: &asker,
        world: &world,
        batches: stream("batches"),
        sets: sets.sample(params.evaluated)?,
        folder: folder.clone(),
        label: &variant.name,
    };
    let mut objective = LanguageModel::new(&model, &base.training, base.evaluate_every, None, task);
    let rows = run.train(&variant.name, &Parameter::all(model.parameters()), &base.training, &mut objective)?;
    let last = evaluate(&model, &sets.sample(params.evaluated_at_end)?)?;
    for (stage, kept) in [(Stage::Early, early(&rows)), (Stage::Middle, middle(&rows).map(|(step, _)| step))] {
        if kept.is_some() {
            let bytes = storage::read(&stage_file(&folder, stage))?;
            storage::write_atomic(&run.model_path(&format!("{}_{stage}", variant.name)), &bytes)?;
        }
    }
    models::save(&run.model_path(&format!("{}_{}", variant.name, Stage::Late)), &model)?;
    let (n_layers, parameters) = (config.n_layers, config.n_parameters());
    Ok(Outcome { name: variant.name.clone(), n_layers, parameters, rows, last })
}

fn stage_file(folder: &std::path::Path, stage: Stage) -> PathBuf {
    folder.join(format!("{stage}.kept"))
}

/// Samples the sets.
struct Sets<'a> {
    world: &'a World,
    orders: &'a [Order],
    asker: &'a Asker,
    stream: ChaCha12Rng,
}

/// A set's name and prompts.
type Set = (String, Vec<Prompt>);

impl Sets<'_> {
    /// Every set with so many questions, in every order that training has; the pairs held out come last.
    fn sample(&self, count: usize) -> Result<Vec<Set>> {
        let mut rng = self.stream.clone();
        let mut sets = Vec::new();
        for (name, mutation) in SETS {
            let mut prompts = Vec::new();
            for number in 0..count {
                let order = self.orders[number % self.orders.len()];
                let mut question = self.world.ask(order, (number / self.orders.len()) % self.options(), &mut rng);
                if let Some(mutation) = mutation {
                    mutation.apply(&mut question, &mut rng);
                }
                prompts.push(self.asker.ask(&question)?);
            }
            sets.push((name.to_owned(), prompts));
        }
        let held_out =
            (0..count).map_while(|number| self.world.ask_held_out(self.orders[number % self.orders.len()], &mut rng));
        let held_out: Vec<Question> = held_out.collect();
        if !held_out.is_empty() {
            let prompts = held_out.iter().map(|question| self.asker.ask(question)).collect::<Result<_>>()?;
            sets.push(("held_out".to_owned(), prompts));
        }
        Ok(sets)
    }

    fn options(&self) -> usize {
        self.world.options()
    }
}

fn evaluate(model: &Decoder, sets: &[Set]) -> Result<Vec<Scored>> {
    let scored = |(set, prompts): &Set| {
        let correct: Vec<usize> = prompts.iter().map(|prompt| prompt.correct).collect();
        let Summary { loss, m, accuracy } = Summary::of(&letters(model, prompts, 512)?, &correct);
        Ok(Scored { set: set.clone(), accuracy, loss, m })
    };
    sets.iter().map(scored).collect()
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    step: u64,
    /// Mean training loss since the row before, over the whole vocabulary.
    train: Option<f64>,
    sets: Vec<Scored>,
    /// Whether the model was kept as the early checkpoint, in place of an earlier one.
    early: bool,
    /// For a model that was kept as the middle checkpoint: its accuracy's distance from the middle of the range.
    middle: Option<f64>,
}

/// Step of the early checkpoint: the last that qualified.
fn early(rows: &[Row]) -> Option<u64> {
    rows.iter().rev().find(|row| row.early).map(|row| row.step)
}

/// Step of the middle checkpoint, and its accuracy's distance from the middle of the range.
fn middle(rows: &[Row]) -> Option<(u64, f64)> {
    rows.iter().rev().find_map(|row| Some((row.step, row.middle?)))
}

/// Questions to train on, and sets to evaluate on.
struct Questions<'a> {
    model: &'a Decoder,
    base: &'a Base,
    stages: Stages,
    asker: &'a Asker,
    world: &'a World,
    batches: ChaCha12Rng,
    sets: Vec<Set>,
    folder: PathBuf,
    label: &'a str,
}

impl Questions<'_> {
    fn keep(&self, stage: Stage) -> Result<()> {
        Ok(models::save(&stage_file(&self.folder, stage), self.model)?)
    }

    /// Keeps the model as an early or middle checkpoint where its accuracies qualify.
    fn keep_stages(&self, sets: &[Scored], rows: &[Row]) -> Result<(bool, Option<f64>)> {
        let of = |name: &str| sets.iter().find(|scored| scored.set == name).map_or(0., |scored| scored.accuracy);
        let Stages { early_known, early_random, middle: [low, high] } = self.stages;
        let is_early = of("abcd") >= early_known && of("random") <= early_random;
        if is_early {
            self.keep(Stage::Early)?;
        }
        let transfer = (of("random") + of("ordered")) / 2.;
        let distance = (transfer - (low + high) / 2.).abs();
        let nearer = middle(rows).is_none_or(|(_, best)| distance < best);
        let is_middle = (low..=high).contains(&transfer) && nearer;
        if is_middle {
            self.keep(Stage::Middle)?;
        }
        Ok((is_early, is_middle.then_some(distance)))
    }
}

impl LanguageTask for Questions<'_> {
    type Row = Row;

    /// The target is the correct label, after the last token of each prompt; no other position counts.
    fn batch(&self, position: u64) -> Result<[Tensor; 2]> {
        let mut rng = training::stream_at(&self.batches, position);
        let prompts = (0..self.base.batch_size).map(|_| self.asker.ask(&self.world.train(&mut rng)));
        let prompts: Vec<Prompt> = prompts.collect::<Result<_>>()?;
        let targets = prompts.iter().map(|prompt| {
            let mut targets = vec![ops::IGNORED; prompt.tokens.len()];
            targets[prompt.tokens.len() - 1] = prompt.answers[prompt.correct];
            targets
        });
        let targets: Vec<Vec<u32>> = targets.collect();
        let inputs: Vec<Vec<u32>> = prompts.into_iter().map(|prompt| prompt.tokens).collect();
        let device = self.model.device();
        // no counted position attends to the padding, which comes after it
        Ok([padded(&inputs, 0, &device)?, padded(&targets, ops::IGNORED, &device)?])
    }

    fn evaluate(&mut self, step: u64, train: Option<f64>, rows: &[Row]) -> Result<Row> {
        let sets = evaluate(self.model, &self.sets)?;
        let (early, middle) = self.keep_stages(&sets, rows)?;
        let scores: Vec<String> = sets.iter().map(|scored| format!("{} {:.2}", scored.set, scored.accuracy)).collect();
        tracing::info!("{} step {step}: {}", self.label, scores.join(", "));
        Ok(Row { step, train, sets, early, middle })
    }
}

fn report(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut curves = Builder::new(
        Schema::new("curves", "one set at one step of a model's training")
            .text("model", "name of the model")
            .int("step", "optimiser steps done")
            .text(
                "set",
                "labels of the questions; held_out: A to D, with pairs of item and place that training never has",
            )
            .float("accuracy", "questions whose right label has the largest logit of those shown", "fraction")
            .float("loss", "mean loss among the labels shown", "nats")
            .float("m", "mean net logit of the right label", "logits")
            .float("train_loss", "mean over the steps since the row before, over the whole vocabulary", "nats"),
    );
    let mut sets = Builder::new(
        Schema::new("sets", "one set after a model's training")
            .text("model", "name of the model")
            .int("n_layers", "blocks of the model")
            .int("parameters", "trainable parameters")
            .text("set", "labels of the questions")
            .float("accuracy", "questions whose right label has the largest logit of those shown", "fraction")
            .float("loss", "mean loss among the labels shown", "nats")
            .float("m", "mean net logit of the right label", "logits"),
    );
    let mut stages = Builder::new(
        Schema::new("stages", "one checkpoint that was kept")
            .text("model", "name of the model")
            .text("stage", "early, middle or late")
            .int("step", "optimiser steps done"),
    );
    for Outcome { name, n_layers, parameters, rows, last } in outcomes {
        for Row { step, train, sets, .. } in rows {
            for Scored { set, accuracy, loss, m } in sets {
                curves.push(row![&**name, *step, &**set, *accuracy, *loss, *m, *train])?;
            }
        }
        for Scored { set, accuracy, loss, m } in last {
            sets.push(row![&**name, *n_layers, *parameters, &**set, *accuracy, *loss, *m])?;
            run.metric(&format!("{name}.{set}.accuracy"), *accuracy, "fraction");
        }
        let least = |sets: &[&str]| {
            let accuracies =
                last.iter().filter(|scored| sets.contains(&scored.set.as_str())).map(|scored| scored.accuracy);
            accuracies.fold(f64::INFINITY, f64::min)
        };
        run.metric(&format!("{name}.least_known"), least(&["abcd", "shuffled", "ordered", "random"]), "fraction");
        let copied = last.iter().filter(|scored| ["shuffled", "random"].contains(&scored.set.as_str()));
        let most = copied.map(|scored| scored.accuracy).fold(0., f64::max);
        run.metric(&format!("{name}.most_copied"), most, "fraction");
        let end = rows.last().map(|row| row.step);
        let kept = [(Stage::Early, early(rows)), (Stage::Middle, middle(rows).map(|kept| kept.0)), (Stage::Late, end)];
        for (stage, step) in kept {
            run.metric(&format!("{name}.{stage}.step"), step.map(|step| step as f64), "steps");
            if let Some(step) = step {
                stages.push(row![&**name, stage.to_string().as_str(), step])?;
            }
        }
    }
    [curves, sets, stages].into_iter().try_for_each(|table| {
        run.record(table.finish()?);
        Ok(())
    })
}
