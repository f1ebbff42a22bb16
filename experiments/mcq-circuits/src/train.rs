//! The toys: small GPT-2-shaped models that learn to answer multiple-choice questions of a made-up world.
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
use experiment::{Interrupted, Run, distinct};
use models::{Activation, Config, Decoder, Initialisation, Step};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use training::{Checkpoints, Ended, Error, MeanLoss, Objective, Parameter, Plan};

use crate::letters::Summary;
use crate::prompts::{Asker, Prompt};
use crate::subject::{Stage, letters};

/// Parameters of `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The questions, unless a toy says otherwise.
    pub questions: Toy,
    /// The decoder, unless a toy says otherwise.
    pub model: Shape,
    /// What is trained, each from its own fresh weights.
    #[schemars(length(min = 1))]
    pub toys: Vec<Variant>,
    /// Questions in a batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Steps, optimiser, schedule, checkpoints.
    pub training: Plan,
    /// Steps between evaluations.
    #[schemars(range(min = 1))]
    pub evaluate_every: u64,
    /// Questions of each set on the way.
    #[schemars(range(min = 1))]
    pub evaluated: usize,
    /// Questions of each set at the end.
    #[schemars(range(min = 1))]
    pub evaluated_at_end: usize,
    /// What makes a checkpoint early or middle.
    pub stages: Stages,
}

/// Sizes of a toy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
}

/// A toy: what it has of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What tables, figures and later experiments call it.
    #[schemars(regex(pattern = "^[a-z0-9_]+$"))]
    pub name: String,
    /// Other orders of question and options.
    #[serde(default)]
    pub orders: Option<Vec<Order>>,
    /// Other labels.
    #[serde(default)]
    pub regime: Option<crate::mcq::Regime>,
    /// Another task.
    #[serde(default)]
    pub task: Option<crate::mcq::Task>,
    /// Another depth.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub n_layers: Option<usize>,
    /// Share of questions with a prelude, with other separators, and with an empty line.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub varied: Option<f64>,
    /// Another number of steps.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub steps: Option<u64>,
    /// Another draw of fresh weights and questions.
    #[serde(default)]
    pub draw: u64,
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

impl Params {
    /// The questions of a toy.
    pub fn questions(&self, toy: &Variant) -> Toy {
        let share = |own: f64| toy.varied.unwrap_or(own);
        Toy {
            orders: toy.orders.clone().unwrap_or_else(|| self.questions.orders.clone()),
            regime: toy.regime.unwrap_or(self.questions.regime),
            task: toy.task.unwrap_or(self.questions.task),
            prelude_share: share(self.questions.prelude_share),
            separator_share: share(self.questions.separator_share),
            blank_share: share(self.questions.blank_share),
            ..self.questions.clone()
        }
    }

    fn config(&self, toy: &Variant, questions: &Toy) -> Config {
        let Shape { n_layers, n_heads, d_model } = self.model;
        Config {
            n_layers: toy.n_layers.unwrap_or(n_layers),
            n_heads,
            d_model,
            d_mlp: 4 * d_model,
            d_vocab: questions.vocabulary().len(),
            n_positions: questions.longest(),
            activation: Activation::GeluTanh,
            tied: false,
            initialisation: Initialisation::WidthScaled,
            ..Config::gpt2_small()
        }
    }
}

/// The sets that a toy is judged by: its labels, and what changes them.
const SETS: [(&str, Option<Mutation>); 6] = [
    ("abcd", None),
    ("shuffled", Some(Mutation::ShuffledLabels)),
    ("ordered", Some(Mutation::OrderedLetters)),
    ("random", Some(Mutation::RandomLetters)),
    ("digits", Some(Mutation::Numbers)),
    ("symbols", Some(Mutation::Symbols)),
];

/// Trains every toy, as many at a time as there are threads, and hands in the tables.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    distinct("params.toys", params.toys.iter().map(|toy| toy.name.as_str()))?;
    for toy in &params.toys {
        let questions = params.questions(toy);
        questions.check().map_err(|words| anyhow!("params.questions.{words}"))?;
        params.config(toy, &questions).check().with_context(|| format!("params.model, for {}", toy.name))?;
    }
    params.evaluated = run.samples(params.evaluated);
    params.evaluated_at_end = run.samples(params.evaluated_at_end);
    let vocabulary = params.questions.vocabulary();
    let tokenizer = run.work("tokenizer");
    tokens::word_level(&tokenizer, &vocabulary, params.questions.bos())?;
    let outcomes = run.parallel_map(&params.toys, |toy| train(run, &params, toy))?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        storage::write_atomic(&run.output(&format!("models/{file}")), &storage::read(&tokenizer.join(file))?)?;
    }
    report(run, &outcomes)
}

struct Outcome {
    name: String,
    n_layers: usize,
    parameters: usize,
    history: History,
    /// Of each set, at the end.
    last: Vec<Judged>,
}

/// A set that a toy was judged by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Judged {
    set: String,
    accuracy: f64,
    loss: f64,
    m: f64,
}

fn train(run: &Run, params: &Params, toy: &Variant) -> Result<Outcome> {
    let questions = params.questions(toy);
    let config = params.config(toy, &questions);
    // toys that differ in nothing but their questions start from the same weights
    let stream = |name: &str| run.rng(&format!("{name}.{}", toy.draw));
    let world = World::new(&questions, &mut stream("world"));
    let model = Decoder::fresh(&config, &mut stream("init"), run.device())?;
    let tokenizer = tokens::Tokenizer::from_folder(&run.work("tokenizer"))?;
    let asker = Asker::new(tokenizer, Style::Words, &world.train(&mut stream("try")))?;
    let judged = Sets { world: &world, orders: &questions.orders, asker: &asker, stream: run.rng("sets") };
    let folder = run.work(&toy.name);
    let steps = run.steps(toy.steps.unwrap_or(params.training.steps));
    let plan = Plan { steps, ..params.training.clone() };
    let mut lesson = Lesson {
        model: &model,
        params,
        steps,
        asker: &asker,
        world: &world,
        batches: stream("batches"),
        small: judged.draw(params.evaluated)?,
        folder: folder.clone(),
        label: &toy.name,
        history: History::default(),
    };
    let parameters: Vec<Parameter> = Parameter::all(model.parameters());
    let checkpoints = Checkpoints::new(&folder, &format!("{} {}", run.identity(), toy.name));
    let mut task = run.task(&toy.name, steps, "steps");
    let ended = training::train(&parameters, &plan, &mut lesson, &checkpoints, &mut task)
        .with_context(|| format!("training {}", toy.name))?;
    if ended == Ended::Interrupted {
        return Err(Interrupted.into());
    }
    let history = lesson.history;
    let last = judge(&model, &judged.draw(params.evaluated_at_end)?)?;
    for (stage, kept) in [(Stage::Early, history.early), (Stage::Middle, history.middle.map(|(step, _)| step))] {
        if kept.is_some() {
            let bytes = storage::read(&stage_file(&folder, stage))?;
            storage::write_atomic(&run.model_path(&format!("{}_{stage}", toy.name)), &bytes)?;
        }
    }
    models::save(&run.model_path(&format!("{}_{}", toy.name, Stage::Late)), &model)?;
    Ok(Outcome { name: toy.name.clone(), n_layers: config.n_layers, parameters: config.n_parameters(), history, last })
}

fn stage_file(folder: &std::path::Path, stage: Stage) -> PathBuf {
    folder.join(format!("{stage}.kept"))
}

/// Draws the sets.
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
    fn draw(&self, count: usize) -> Result<Vec<Set>> {
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

fn judge(model: &Decoder, sets: &[Set]) -> Result<Vec<Judged>> {
    let judged = |(set, prompts): &Set| {
        let correct: Vec<usize> = prompts.iter().map(|prompt| prompt.correct).collect();
        let Summary { loss, m, accuracy } = Summary::of(&letters(model, prompts, 512)?, &correct);
        Ok(Judged { set: set.clone(), accuracy, loss, m })
    };
    sets.iter().map(judged).collect()
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    step: u64,
    /// Mean training loss since the row before, over the whole vocabulary.
    train: Option<f64>,
    sets: Vec<Judged>,
}

/// What the training has seen; part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct History {
    rows: Vec<Row>,
    since: MeanLoss,
    /// Step of the early checkpoint.
    early: Option<u64>,
    /// Step of the middle checkpoint, and its accuracy's distance from the middle.
    middle: Option<(u64, f64)>,
}

struct Lesson<'a> {
    model: &'a Decoder,
    params: &'a Params,
    steps: u64,
    asker: &'a Asker,
    world: &'a World,
    batches: ChaCha12Rng,
    small: Vec<Set>,
    folder: PathBuf,
    label: &'a str,
    history: History,
}

impl Lesson<'_> {
    /// Inputs and targets `[batch, longest]`: the right label behind the last token, and nothing else that counts.
    fn batch(&self, position: u64) -> Result<[Tensor; 2]> {
        let mut rng = training::stream_at(&self.batches, position);
        let prompts = (0..self.params.batch_size).map(|_| self.asker.ask(&self.world.train(&mut rng)));
        let prompts: Vec<Prompt> = prompts.collect::<Result<_>>()?;
        let seq = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        let mut inputs = vec![0u32; prompts.len() * seq];
        let mut targets = vec![ops::IGNORED; prompts.len() * seq];
        for (row, prompt) in prompts.iter().enumerate() {
            // what stands behind a shorter prompt is seen by nobody that counts
            inputs[row * seq..][..prompt.tokens.len()].copy_from_slice(&prompt.tokens);
            targets[row * seq + prompt.tokens.len() - 1] = prompt.answers[prompt.correct];
        }
        let device = self.model.device();
        let tensor = |ids| Tensor::from_vec(ids, (prompts.len(), seq), &device);
        Ok([tensor(inputs)?, tensor(targets)?])
    }

    fn keep(&self, stage: Stage) -> Result<()> {
        Ok(models::save(&stage_file(&self.folder, stage), self.model)?)
    }

    /// Keeps the checkpoints that the accuracies ask for.
    fn stages(&mut self, step: u64, sets: &[Judged]) -> Result<()> {
        let of = |name: &str| sets.iter().find(|judged| judged.set == name).map_or(0., |judged| judged.accuracy);
        let Stages { early_known, early_random, middle: [low, high] } = self.params.stages;
        if of("abcd") >= early_known && of("random") <= early_random {
            self.keep(Stage::Early)?;
            self.history.early = Some(step);
        }
        let transfer = (of("random") + of("ordered")) / 2.;
        let distance = (transfer - (low + high) / 2.).abs();
        if (low..=high).contains(&transfer) && self.history.middle.is_none_or(|(_, best)| distance < best) {
            self.keep(Stage::Middle)?;
            self.history.middle = Some((step, distance));
        }
        Ok(())
    }
}

impl Objective for Lesson<'_> {
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error> {
        let position = step * u64::from(self.params.training.accumulate) + u64::from(micro);
        let [inputs, targets] = self.batch(position).map_err(Error::objective)?;
        let how = Step { dropout: None, recompute: self.params.training.recompute, ..Step::default() };
        Ok(self.model.losses(&inputs, &targets, &[], how)?.losses.mean_all()?)
    }

    fn after(&mut self, done: u64, loss: Option<f64>) -> Result<(), Error> {
        self.history.since.add(loss);
        if done.is_multiple_of(self.params.evaluate_every) || done == self.steps {
            let train = self.history.since.take();
            let sets = judge(self.model, &self.small).map_err(Error::objective)?;
            self.stages(done, &sets).map_err(Error::objective)?;
            let told: Vec<String> =
                sets.iter().map(|judged| format!("{} {:.2}", judged.set, judged.accuracy)).collect();
            tracing::info!("{} step {done}: {}", self.label, told.join(", "));
            self.history.rows.push(Row { step: done, train, sets });
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

fn report(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut curves = Builder::new(
        Schema::new("curves", "one set at one time of a toy's training")
            .text("toy", "which toy")
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
        Schema::new("sets", "one set at the end of a toy's training")
            .text("toy", "which toy")
            .int("n_layers", "its blocks")
            .int("parameters", "its trainable numbers")
            .text("set", "labels of the questions")
            .float("accuracy", "questions whose right label has the largest logit of those shown", "fraction")
            .float("loss", "mean loss among the labels shown", "nats")
            .float("m", "mean net logit of the right label", "logits"),
    );
    let mut stages = Builder::new(
        Schema::new("stages", "one checkpoint that was kept")
            .text("toy", "which toy")
            .text("stage", "early, middle or late")
            .int("step", "optimiser steps done"),
    );
    for Outcome { name, n_layers, parameters, history, last } in outcomes {
        for Row { step, train, sets } in &history.rows {
            for Judged { set, accuracy, loss, m } in sets {
                curves.push(row![&**name, *step, &**set, *accuracy, *loss, *m, *train])?;
            }
        }
        for Judged { set, accuracy, loss, m } in last {
            sets.push(row![&**name, *n_layers, *parameters, &**set, *accuracy, *loss, *m])?;
            run.metric(&format!("{name}.{set}.accuracy"), *accuracy, "fraction");
        }
        let least = |sets: &[&str]| {
            let accuracies = last.iter().filter(|judged| sets.contains(&judged.set.as_str())).map(|j| j.accuracy);
            accuracies.fold(f64::INFINITY, f64::min)
        };
        run.metric(&format!("{name}.least_known"), least(&["abcd", "shuffled", "ordered", "random"]), "fraction");
        let copied = last.iter().filter(|judged| ["shuffled", "random"].contains(&judged.set.as_str()));
        let most = copied.map(|judged| judged.accuracy).fold(0., f64::max);
        run.metric(&format!("{name}.most_copied"), most, "fraction");
        let end = history.rows.last().map(|row| row.step);
        let kept = [(Stage::Early, history.early), (Stage::Middle, history.middle.map(|m| m.0)), (Stage::Late, end)];
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
