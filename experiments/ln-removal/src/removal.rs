//! Fine-tuning norms away: one after the other stops dividing by its input's own scale and divides by a running mean of it
//! (arXiv 2507.02559, sections 3 and 4); beside it the control that keeps its norms, and any other recipe.
//!
//! ```text
//! loss = CE + aux · mean_{b,s} (sigma_{b,s} - sigma_hat)^2
//! ```
//!
//! with sigma the scale of what the final norm reads, and sigma_hat its mean over all but first places and ends of text,
//! without gradient.
//!
//! Tables: `losses` (every step), `validation`, `events` (which norm went when, and what it divides by), `scales` (running
//! means over the steps), `initial` (scales before the first step, by the published procedure), `forms` (the same model
//! without norms as other programs read it), `summary`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use capture::{Keep, capture};
use experiment::{Objective, Progress, Run, Seed, StreamNames, diverged_at};
use hooks::{HookedModel, NoHook};
use models::{Architecture, Config, Decoder, Family, FixedScales, NormKind, NormPath, NormPlace, Step, Transform};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::Model;
use tables::{Builder, Schema, Table, row};
use tokens::END_OF_TEXT;
use training::{MeanLoss, Parameter, Plan};

use crate::corpus::windows;
use crate::evaluation::token_losses;
use crate::pretrain::record_model;
use crate::scales::{Ema, Numbers, Tracker, means, streams};
use crate::schedule::{Event, Group, Removal};
use crate::subjects::{Text, batch};

/// Parameters of `removal`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The model to start from. Where an experiment trained it, the second seed starts from that experiment's second seed,
    /// `ln-removal/pretrain:toy-2`.
    pub start: Model,
    /// Seeds, each with its own start and batches.
    #[schemars(range(min = 1, max = 9))]
    pub seeds: usize,
    /// The text to train and evaluate on.
    pub text: Text,
    /// Tokens to train on.
    #[schemars(range(min = 1000))]
    pub train_tokens: usize,
    /// Tokens to evaluate on.
    #[schemars(range(min = 100))]
    pub validation_tokens: usize,
    /// Windows in a micro-batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Tokens in a window.
    #[schemars(range(min = 2))]
    pub block: usize,
    /// Dropout probability.
    #[schemars(range(min = 0, max = 0.99))]
    pub dropout: f64,
    /// Whether ends of text are no targets in training, as in the reference, which pads with that token. They always count
    /// in evaluations.
    pub ignore_end_of_text: bool,
    /// Steps, optimiser, schedule, checkpoints.
    pub training: Plan,
    /// Steps between evaluations.
    #[schemars(range(min = 1))]
    pub evaluate_every: u64,
    /// What is done, each from the same start, on the same batches.
    #[schemars(length(min = 1))]
    pub variants: Vec<Variant>,
    /// Whether the models are kept as checkpoints.
    #[serde(default = "yes")]
    pub keep_models: bool,
}

fn yes() -> bool {
    true
}

/// A way of fine-tuning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What tables and figures call it.
    #[schemars(regex(pattern = "^[a-z0-9_]+$"))]
    pub name: String,
    /// When norms go; without, they stay.
    #[serde(default)]
    pub remove: Option<Removal>,
    /// Weight of the auxiliary loss; about 3 to 30 over the square of the final scale.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub aux: f64,
    /// How what norms will divide by follows the batches.
    #[serde(default = "usual_ema")]
    pub ema: Ema,
}

fn usual_ema() -> Ema {
    Ema { momentum: 0.9, ln1_updates: 3 }
}

/// The control, to which others are compared.
const VANILLA: &str = "vanilla";

/// A variant of one draw, and how it ended.
struct Outcome {
    name: String,
    seed: Seed,
    label: String,
    events: Vec<Event>,
    history: History,
    tracker: Tracker,
    /// Step at which a loss or gradient was no longer finite.
    diverged: Option<u64>,
    /// Largest difference of a logit in other forms of the model, by form, if it was handed in without norms.
    forms: Vec<(&'static str, f64)>,
}

/// What all variants of a draw share.
struct Setting {
    seed: Seed,
    start: Decoder,
    family: Family,
    folder: std::path::PathBuf,
    train: Vec<u32>,
    validation: Vec<Vec<u32>>,
    end: Option<u32>,
    initial: Vec<(hooks::Site, [f64; 2])>,
    numbers: Numbers,
}

/// Events of a training, and its steps so far.
type Going = (Vec<Event>, Vec<StepRow>);

/// Losses of all variants so far, for those who watch.
struct Watched<'a> {
    run: &'a Run,
    params: &'a Params,
    seen: Mutex<BTreeMap<String, Going>>,
}

impl Watched<'_> {
    fn show(&self, label: &str, events: &[Event], steps: &[StepRow]) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(label.to_owned(), (events.to_vec(), steps.to_vec()));
        let rows = seen.iter().map(|(label, (events, steps))| (label.as_str(), events.as_slice(), steps.as_slice()));
        self.run.preview(&[loss_table(self.params, rows)?])
    }
}

/// Fine-tunes all variants and records tables and models.
pub fn run(run: &Run, params: Params) -> Result<()> {
    experiment::distinct("params.variants", params.variants.iter().map(|variant| variant.name.as_str()))?;
    let settings = Seed::first(params.seeds).map(|seed| prepare(run, &params, seed)).collect::<Result<Vec<_>>>()?;
    let work: Vec<(&Setting, &Variant)> =
        settings.iter().flat_map(|setting| params.variants.iter().map(move |variant| (setting, variant))).collect();
    let watched = Watched { run, params: &params, seen: Mutex::default() };
    let outcomes = run.parallel_map(&work, |(setting, variant)| fine_tune(&watched, setting, variant))?;
    let rows = outcomes.iter().map(|o| (o.label.as_str(), o.events.as_slice(), o.history.steps.as_slice()));
    run.record(loss_table(&params, rows)?);
    validation(run, &outcomes)?;
    events(run, &outcomes)?;
    scales(run, &outcomes)?;
    initial(run, &settings)?;
    forms(run, &outcomes)?;
    summary(run, &params, &settings, &outcomes)
}

fn prepare(run: &Run, params: &Params, seed: Seed) -> Result<Setting> {
    let name = match params.start.trained() {
        Some(_) => Model::from(seed.label(&params.start.to_string())),
        None => params.start.clone(),
    };
    let opened = name.open(run).context("params.start")?;
    let mut config = opened.model.config().clone();
    if config.architecture.norm_place == NormPlace::After {
        bail!("params.start: {name} has its norms after attention and MLP; only norms before them can be removed");
    }
    if params.block > config.n_positions {
        bail!("params.block: {} tokens do not fit the model's {} positions", params.block, config.n_positions);
    }
    config.dropout = params.dropout;
    let start = Decoder::new(&config, opened.model.weights(), run.device())?;
    let tokenizer = opened.tokenizer.context("params.start")?;
    let train = params.text.training(run, &tokenizer, params.train_tokens)?;
    let count = (params.validation_tokens / params.block).max(1);
    let validation = params.text.sequences(run, &tokenizer, count, params.block)?;
    let initial = initial_scales(run, &start, &train[..params.block.min(train.len())])?;
    let of = |point: &str, layer: usize| {
        let name = format!("blocks.{layer}.{point}");
        initial.iter().find(|(site, _)| site.to_string() == name).map_or(1., |(_, [scale, _])| *scale)
    };
    let layers = 0..config.n_layers;
    let middle = if config.architecture.parallel { "hook_resid_pre" } else { "hook_resid_mid" };
    let numbers = Numbers {
        ln1: layers.clone().map(|layer| of("hook_resid_pre", layer)).collect(),
        ln2: layers.map(|layer| of(middle, layer)).collect(),
        ln_final: of("hook_resid_post", config.n_layers - 1),
    };
    let end = tokenizer.eos().or_else(|| tokenizer.id(END_OF_TEXT));
    let family =
        opened.family.context("params.start: the model is not of a family that can be written as a checkpoint")?;
    let folder = opened.path;
    Ok(Setting { seed, start, family, folder, train, validation, end, initial, numbers })
}

/// Scales of the streams that norms read, as the reference computes those that its running means begin with: over one
/// sequence, the unbiased standard deviation (root mean square before RMSNorms) of all entries behind the first place
/// pooled, and the same of the first place; with what writes to the stream centred.
pub fn initial_scales(run: &Run, model: &Decoder, sequence: &[u32]) -> Result<Vec<(hooks::Site, [f64; 2])>> {
    let layer_norm = model.config().architecture.norm == NormKind::Layer;
    let model = if layer_norm { model.transformed(&[Transform::CentreWriting])? } else { model.clone() }.frozen();
    let tokens = batch(run, &[sequence.to_vec()])?;
    let sites = streams(&model);
    let seen = capture(&model, &tokens, &sites, &Keep::default())?;
    let scale = |x: &Tensor| -> Result<f64> {
        let values = x.flatten_all()?.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec1::<f64>()?;
        let count = values.len() as f64;
        let mean = if layer_norm { probes::mean(&values) } else { 0. };
        let sum: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
        Ok((sum / if layer_norm { count - 1. } else { count }).sqrt())
    };
    sites
        .into_iter()
        .map(|site| {
            let x = seen.get(site)?;
            let behind = x.narrow(1, 1, sequence.len() - 1)?;
            Ok((site, [scale(&behind)?, scale(&x.narrow(1, 0, 1)?)?]))
        })
        .collect()
}

fn fine_tune(watched: &Watched<'_>, setting: &Setting, variant: &Variant) -> Result<Outcome> {
    let (Watched { run, params, .. }, seed) = (watched, setting.seed);
    let label = seed.label(&variant.name);
    // all variants of a seed start from copies of the same weights and see the same batches
    let model = Decoder::new(setting.start.config(), setting.start.weights(), run.device())?;
    let events = variant.remove.as_ref().map(|remove| remove.events(model.config().n_layers)).unwrap_or_default();
    let plan = &params.training;
    if let Some(last) = events.last().filter(|last| last.step >= plan.steps && !run.is_rehearsal()) {
        bail!(
            "params.variants: {}: the last norm would be removed at step {}, but training ends at step {}",
            variant.name,
            last.step,
            plan.steps
        );
    }
    let parameters = Parameter::all(model.parameters());
    let mut objective = RemovalObjective {
        model,
        watched,
        label: &label,
        params,
        setting,
        variant,
        events: &events,
        batches: seed.rng(run, "batches", StreamNames::Numbered),
        dropout: seed.rng(run, "dropout", StreamNames::Numbered),
        sums: [0.; 2],
        state: State { steps: Vec::new(), tracker: Tracker::new(setting.numbers.clone()), rows: Vec::new() },
    };
    let diverged = match run.train(&label, &parameters, plan, &mut objective) {
        Ok(_) => None,
        // a recipe that destroys the model is a result
        Err(error) => match diverged_at(&error) {
            Some(step) => {
                tracing::warn!("{label}: {error:#}; the training ends here");
                Some(step)
            }
            None => return Err(error),
        },
    };
    let RemovalObjective { mut model, state: State { steps, tracker, rows }, .. } = objective;
    let history = History { steps, rows };
    let removed = removed(&events, run.steps(plan.steps));
    let mut forms = Vec::new();
    if diverged.is_none() {
        model.set_fixed_scales(tracker.fixed(&removed))?;
        let complete = events.is_empty() || model.config().architecture.fixed.is_complete(model.config().n_layers);
        if params.keep_models && complete {
            let tokenizer = if setting.folder.is_dir() { Some(setting.folder.as_path()) } else { None };
            record_model(run, &model, setting.family, tokenizer, &label)?;
            if !events.is_empty() {
                forms = other_forms(run, &model, &label, &setting.validation)?;
            }
        }
    }
    Ok(Outcome { name: variant.name.clone(), seed, label, events, history, tracker, diverged, forms })
}

/// Largest difference of a logit between the model that was trained, the checkpoint it was written as (an epsilon so large
/// that norms divide by its root), and the checkpoint with its norms folded away.
fn other_forms(run: &Run, model: &Decoder, label: &str, sequences: &[Vec<u32>]) -> Result<Vec<(&'static str, f64)>> {
    let tokens = batch(run, &sequences[..sequences.len().min(8)])?;
    let logits = |model: &Decoder| model.forward(&tokens, &mut NoHook);
    let ours = logits(model)?;
    let config = run.output(&format!("models/{label}/config.json"));
    let folder = config.parent().context("a file lies in a folder")?;
    let (exported, _) = models::open(folder, DType::F32, run.device())?;
    let plain = Config {
        architecture: Architecture { fixed: FixedScales::default(), ..exported.config().architecture.clone() },
        norm_eps: 1e12,
        ..exported.config().clone()
    };
    let epsilon = Decoder::new(&plain, exported.weights(), run.device())?;
    let folded = exported.transformed(&[Transform::FoldNorms])?;
    [("epsilon", epsilon), ("folded", folded)]
        .into_iter()
        .map(|(form, other)| {
            let apart = (logits(&other)? - &ours)?.abs()?.max_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?;
            Ok((form, apart))
        })
        .collect()
}

/// Norms that have gone before a step.
fn removed(events: &[Event], step: u64) -> Vec<NormPath> {
    events.iter().filter(|event| event.step <= step).map(|event| event.path).collect()
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct StepRow {
    ce: f64,
    /// The auxiliary loss, with its weight.
    aux: f64,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    /// Optimiser steps done.
    step: u64,
    /// Cross-entropy on held-out text, in nats.
    validation: f64,
    /// Running means of the norms' scales.
    ema: Numbers,
}

/// Everything seen during a training.
#[derive(Clone, Debug, Default, PartialEq)]
struct History {
    steps: Vec<StepRow>,
    rows: Vec<Row>,
}

/// Part of every checkpoint. A training that diverges has no result, so the rows are kept here, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    steps: Vec<StepRow>,
    tracker: Tracker,
    rows: Vec<Row>,
}

struct RemovalObjective<'a> {
    model: Decoder,
    watched: &'a Watched<'a>,
    label: &'a str,
    params: &'a Params,
    setting: &'a Setting,
    variant: &'a Variant,
    events: &'a [Event],
    batches: ChaCha12Rng,
    dropout: ChaCha12Rng,
    /// Cross-entropy and auxiliary loss of the step's micro-batches so far.
    sums: [f64; 2],
    state: State,
}

impl RemovalObjective<'_> {
    fn micro(&mut self, step: u64, micro: u32) -> Result<Tensor> {
        let Self { params, setting, variant, .. } = self;
        let position = step * u64::from(params.training.accumulate) + u64::from(micro);
        let mut rng = training::stream_at(&self.batches, position);
        let [inputs, targets] =
            windows(&setting.train, params.batch_size, params.block, &mut rng, &self.model.device())?;
        let targets = without(&targets, setting.end.filter(|_| params.ignore_end_of_text))?;
        let removed = removed(self.events, step);
        self.model.set_fixed_scales(self.state.tracker.fixed(&removed))?;
        let how = Step {
            dropout: (params.dropout > 0.).then(|| training::stream_at(&self.dropout, position).next_u64()),
            recompute: params.training.recompute,
            norm_scales: variant.remove.is_some() || variant.aux > 0.,
            ..Step::default()
        };
        let losses = self.model.losses(&inputs, &targets, &[], how)?;
        let ce = losses.losses.mean_all()?;
        let value = |x: &Tensor| x.detach().to_dtype(DType::F64)?.to_scalar::<f64>();
        self.sums[0] += value(&ce)?;
        let Some(norm_scales) = losses.norm_scales else { return Ok(ce) };
        self.state.tracker.observe(&means(&norm_scales)?, variant.ema, &removed);
        if variant.aux == 0. {
            return Ok(ce);
        }
        let aux = auxiliary(&norm_scales.ln_final, &inputs, setting.end, variant.aux)?;
        self.sums[1] += value(&aux)?;
        Ok((ce + aux)?)
    }
}

impl Objective for RemovalObjective<'_> {
    /// The rows are part of the state.
    type Row = ();

    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor> {
        self.micro(step, micro)
    }

    fn observe(&mut self, _: u64, _: f64) {
        let [ce, aux] = std::mem::take(&mut self.sums).map(|sum| sum / f64::from(self.params.training.accumulate));
        self.state.steps.push(StepRow { ce, aux });
    }

    fn evaluate(&mut self, at: Progress, _: &mut MeanLoss, _: &[()]) -> Result<Option<()>> {
        if !at.is_due(self.params.evaluate_every) {
            return Ok(None);
        }
        let step = at.step;
        self.model.set_fixed_scales(self.state.tracker.fixed(&removed(self.events, step)))?;
        let losses = token_losses(&self.model, &self.setting.validation, self.params.batch_size)?;
        let validation = probes::mean(&losses);
        tracing::info!("{} step {step}: {validation:.3} nats on held-out text", self.variant.name);
        self.state.rows.push(Row { step, validation, ema: self.state.tracker.ema.clone() });
        self.watched.show(self.label, self.events, &self.state.steps)?;
        Ok(None)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(self.state)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        self.state = serde_json::from_value(state)?;
        Ok(())
    }
}

/// Targets, with ends of text left out: the reference pads with that token.
fn without(targets: &Tensor, end: Option<u32>) -> Result<Tensor> {
    let Some(end) = end else { return Ok(targets.clone()) };
    let ids = targets.flatten_all()?.to_vec1::<u32>()?;
    let ids: Vec<u32> = ids.into_iter().map(|id| if id == end { ops::IGNORED } else { id }).collect();
    Ok(Tensor::from_vec(ids, targets.shape(), targets.device())?)
}

/// `weight · mean (sigma - sigma_hat)^2`: sigma_hat is the mean over all but first places and ends of text, 1 where there is
/// nothing else, and carries no gradient; the outer mean is over all (arXiv 2507.02559, section 3).
///
/// # Shapes
/// `sigma` and `tokens` `[batch, seq]`; output a scalar.
fn auxiliary(sigma: &Tensor, tokens: &Tensor, end: Option<u32>, weight: f64) -> Result<Tensor> {
    let values = sigma.detach().to_dtype(DType::F64)?.to_vec2::<f64>()?;
    let tokens = tokens.to_vec2::<u32>()?;
    let counted: Vec<f64> = values
        .iter()
        .zip(&tokens)
        .flat_map(|(sigma, tokens)| sigma.iter().zip(tokens).skip(1))
        .filter(|(_, token)| Some(**token) != end)
        .map(|(sigma, _)| *sigma)
        .collect();
    let target = if counted.is_empty() { 1. } else { probes::mean(&counted) };
    Ok((((sigma - target)?.sqr()?.mean_all()?) * weight)?)
}

/// Losses of every step, from the label, the events and the steps of each training.
fn loss_table<'a>(
    params: &Params,
    trainings: impl Iterator<Item = (&'a str, &'a [Event], &'a [StepRow])>,
) -> Result<Table> {
    let per_step = u64::from(params.training.accumulate) * (params.batch_size * params.block) as u64;
    let mut table = Builder::new(
        Schema::new("losses", "one step of one training")
            .text("variant", "way of fine-tuning")
            .int("step", "optimiser steps done before")
            .int("tokens", "tokens seen before")
            .int("removed", "norms that were fixed by then, of three a block and the last")
            .float("loss", "mean cross-entropy of the step, before its update", "nats")
            .float("aux", "auxiliary loss, with its weight", ""),
    );
    for (label, events, steps) in trainings {
        for (step, row) in (0u64..).zip(steps) {
            table.push(row![label, step, step * per_step, removed(events, step).len(), row.ce, row.aux])?;
        }
    }
    Ok(table.finish()?)
}

fn validation(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("validation", "one training at one time, on held-out text")
            .text("variant", "way of fine-tuning")
            .int("step", "optimiser steps done")
            .float("loss", "mean cross-entropy", "nats")
            .float("gap", "the same minus that of the control that keeps its norms", "nats"),
    );
    for outcome in outcomes {
        let control = control(outcomes, outcome.seed);
        for Row { step, validation: loss, .. } in &outcome.history.rows {
            let at =
                |control: &Outcome| control.history.rows.iter().find(|row| row.step == *step).map(|row| row.validation);
            let gap = control.and_then(at).map(|control| loss - control);
            table.push(row![&*outcome.label, *step, *loss, gap])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn control(outcomes: &[Outcome], seed: Seed) -> Option<&Outcome> {
    outcomes.iter().find(|outcome| outcome.name == VANILLA && outcome.seed == seed)
}

fn events(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("events", "one norm that went")
            .text("variant", "way of fine-tuning")
            .int("step", "optimiser steps done before")
            .text("group", "mlp, qk, v or final")
            .int("layer", "block; none for the final norm")
            .float("scale", "what it divides by in the end", ""),
    );
    for outcome in outcomes {
        for Event { step, path } in &outcome.events {
            let layer = match *path {
                NormPath::QueriesKeys(layer) | NormPath::Values(layer) | NormPath::Mlp(layer) => Some(layer as i64),
                NormPath::Final => None,
            };
            table.push(row![
                &*outcome.label,
                *step,
                Group::of(*path).name(),
                layer,
                outcome.tracker.scales.of(*path)
            ])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn scales(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("scales", "running mean of the scale of what one norm reads, at one time")
            .text("variant", "way of fine-tuning")
            .int("step", "optimiser steps done")
            .text("norm", "ln1, ln2 of a block, or ln_final")
            .float("scale", "mean over tokens of sqrt(var + eps), smoothed", ""),
    );
    for outcome in outcomes.iter().filter(|outcome| !outcome.events.is_empty()) {
        for Row { step, ema: Numbers { ln1, ln2, ln_final }, .. } in &outcome.history.rows {
            for (layer, (ln1, ln2)) in ln1.iter().zip(ln2).enumerate() {
                table.push(row![&*outcome.label, *step, format!("blocks.{layer}.ln1"), *ln1])?;
                table.push(row![&*outcome.label, *step, format!("blocks.{layer}.ln2"), *ln2])?;
            }
            table.push(row![&*outcome.label, *step, "ln_final", *ln_final])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn forms(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("forms", "one model without norms in another form, against the one that was trained")
            .text("variant", "way of fine-tuning")
            .text("form", "epsilon: the checkpoint that other programs read; folded: no norm left")
            .float("difference", "largest of a logit", "logits"),
    );
    for outcome in outcomes {
        for (form, difference) in &outcome.forms {
            table.push(row![&*outcome.label, *form, *difference])?;
        }
        let largest = outcome.forms.iter().map(|(_, difference)| *difference).reduce(f64::max);
        outcome.seed.metric(run, &format!("{}.form_difference", outcome.name), largest, "logits");
    }
    run.record(table.finish()?);
    Ok(())
}

fn initial(run: &Run, settings: &[Setting]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("initial", "scale of one stream before fine-tuning, over one sequence of the training text")
            .int("seed", "seed of the initial model and batches, from 1")
            .text("stream", "where")
            .float("scale", "of all entries behind the first place, pooled", "")
            .float("first_place", "of the entries of the first place", ""),
    );
    for setting in settings {
        for (site, [scale, first]) in &setting.initial {
            table.push(row![setting.seed.number(), site.to_string(), *scale, *first])?;
        }
    }
    run.record(table.finish()?);
    Ok(())
}

fn summary(run: &Run, params: &Params, settings: &[Setting], outcomes: &[Outcome]) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("summary", "one model on held-out text, before or after fine-tuning")
            .text("variant", "way of fine-tuning, and its draw from the second on; original: none")
            .text("recipe", "way of fine-tuning")
            .int("seed", "seed of the initial model and batches, from 1")
            .int("parameters", "numbers that are trained")
            .int("steps", "optimiser steps")
            .int("tokens", "tokens seen in fine-tuning")
            .float("loss", "mean cross-entropy; none for a training that diverged", "nats")
            .float("gap", "the same minus that of the control that keeps its norms", "nats")
            .int("diverged", "step at which a loss or gradient was no longer finite")
            .float("highest", "largest loss of a step from the first removal on", "nats")
            .int("highest_step", "and its step")
            .text("highest_phase", "which norms were going then: mlp, qk, v, or final when all had gone"),
    );
    let per_step = u64::from(params.training.accumulate) * (params.batch_size * params.block) as u64;
    for setting in settings {
        let seed = setting.seed;
        let original = probes::mean(&token_losses(&setting.start, &setting.validation, params.batch_size)?);
        let name = seed.label("original");
        let parameters = setting.start.config().n_parameters();
        let (none, no_step, no_phase) = (None::<f64>, None::<i64>, None::<&str>);
        table.push(row![
            name,
            "original",
            seed.number(),
            parameters,
            0,
            0,
            original,
            none,
            no_step,
            none,
            no_step,
            no_phase
        ])?;
        seed.metric(run, "original.ce", original, "nats");
        for outcome in outcomes.iter().filter(|outcome| outcome.seed == seed) {
            let steps = outcome.history.steps.len() as u64;
            let last = |outcome: &Outcome| {
                outcome.history.rows.last().filter(|_| outcome.diverged.is_none()).map(|row| row.validation)
            };
            let loss = last(outcome);
            let gap = loss.zip(control(outcomes, seed).and_then(last)).map(|(ours, control)| ours - control);
            let spike = highest(outcome);
            table.push(row![
                &*outcome.label,
                &*outcome.name,
                seed.number(),
                parameters,
                steps,
                steps * per_step,
                loss,
                gap,
                outcome.diverged.map(|step| step as i64),
                spike.as_ref().map(|spike| spike.loss),
                spike.as_ref().map(|spike| spike.step as i64),
                spike.as_ref().map(|spike| spike.phase),
            ])?;
            let metric = |what: &str, value: Option<f64>, unit: &str| {
                seed.metric(run, &format!("{}.{what}", outcome.name), value, unit);
            };
            metric("ce", loss, "nats");
            metric("gap", gap, "nats");
            metric("highest_in_mlp", spike.as_ref().map(|spike| f64::from(u8::from(spike.phase == "mlp"))), "");
            metric("rise_at_highest", spike.map(|spike| spike.rise), "nats");
            metric("diverged", Some(f64::from(u8::from(outcome.diverged.is_some()))), "");
        }
    }
    run.record(table.finish()?);
    Ok(())
}

/// The largest loss from the first removal on.
struct Spike {
    step: u64,
    loss: f64,
    /// Above the mean of the steps before the first removal.
    rise: f64,
    phase: &'static str,
}

fn highest(outcome: &Outcome) -> Option<Spike> {
    let first = outcome.events.first()?.step;
    let steps = &outcome.history.steps;
    let before: Vec<f64> = steps.iter().take(first as usize).skip(first as usize / 2).map(|row| row.ce).collect();
    let behind = (0u64..).zip(steps).skip(first as usize);
    let (step, row) = behind.max_by(|a, b| a.1.ce.total_cmp(&b.1.ce))?;
    let going = outcome.events.iter().rev().find(|event| event.step <= step)?;
    let rise = row.ce - if before.is_empty() { row.ce } else { probes::mean(&before) };
    Some(Spike { step, loss: row.ce, rise, phase: Group::of(going.path).name() })
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    /// The target leaves first places and ends of text out and has no gradient; the mean is over everything (U9).
    #[test]
    fn the_auxiliary_loss_counts_all_and_aims_at_the_rest() {
        let tokens = Tensor::new(&[[9u32, 1, 2], [9, 9, 3]], &Device::Cpu).unwrap();
        let sigma = Var::new(&[[10f64, 1., 2.], [20., 7., 3.]], &Device::Cpu).unwrap();
        let aux = auxiliary(&sigma, &tokens, Some(9), 0.5).unwrap();
        // the target is the mean of 1, 2 and 3
        let expected = 0.5 * (64. + 1. + 0. + 324. + 25. + 1.) / 6.;
        assert!((aux.to_scalar::<f64>().unwrap() - expected).abs() < 1e-12);
        let gradient = aux.backward().unwrap().get(&sigma).unwrap().to_vec2::<f64>().unwrap();
        assert!((gradient[0][0] - 0.5 * 2. * 8. / 6.).abs() < 1e-12);
        assert!((gradient[1][2] - 0.5 * 2. / 6.).abs() < 1e-12);
        let nothing = auxiliary(&sigma, &Tensor::full(9u32, (2, 3), &Device::Cpu).unwrap(), Some(9), 1.).unwrap();
        assert!((nothing.to_scalar::<f64>().unwrap() - (81. + 0. + 1. + 361. + 36. + 4.) / 6.).abs() < 1e-12);
    }

    #[test]
    fn ends_of_text_are_no_targets() {
        let targets = Tensor::new(&[[9u32, 1], [2, 9]], &Device::Cpu).unwrap();
        let masked = without(&targets, Some(9)).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(masked, [[ops::IGNORED, 1], [2, ops::IGNORED]]);
    }
}
