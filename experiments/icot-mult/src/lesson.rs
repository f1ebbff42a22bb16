//! One method's training: its losses, and what is looked at on the way.

use crate::multiplication::{Problem, Split};
use candle_core::{D, DType, Tensor, Var};
use hooks::{HookedModel, Layer};
use models::{Decoder, Losses, Step};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use training::{Error, MeanLoss, Objective, Parameter};

use crate::batch::{Batch, encode, kept_positions};
use crate::evaluation::{Format, digit_gradients, score};
use crate::params::{AuxPosition, Method, TrainParams};
use crate::removal::{Gone, Removal, Stage};

/// What a lesson has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Evaluations.
    pub scores: Vec<ScoreRow>,
    /// Gradient measurements.
    pub gradients: Vec<GradientRow>,
    /// Sum and count of the training loss since the last evaluation.
    since: MeanLoss,
}

/// What of a lesson is part of every checkpoint.
#[derive(Serialize, Deserialize)]
struct State<H, S> {
    history: H,
    removal: S,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRow {
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens of working gone.
    pub removed: usize,
    /// Mean training loss since the evaluation before, in nats (with the auxiliary term, for `aux`).
    pub train_loss: Option<f64>,
    /// Share of problems answered exactly.
    pub exact: f64,
    /// Accuracy of each digit.
    pub accuracy: Vec<f64>,
    /// Loss of each digit, in nats.
    pub loss: Vec<f64>,
}

/// One measurement of the digits' gradients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GradientRow {
    /// Optimiser steps done.
    pub step: u64,
    /// Loss of each digit, in nats.
    pub loss: Vec<f64>,
    /// Gradient norm of each digit.
    pub norm: Vec<f64>,
    /// Cosine with the mean gradient.
    pub cosine: Vec<f64>,
    /// Norm of the mean gradient.
    pub total: f64,
}

/// The random streams of a lesson; the same for every method, so that all see the same problems.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Problems of each step.
    pub batches: ChaCha12Rng,
    /// Extra removal per example.
    pub smoothing: ChaCha12Rng,
    /// Dropout masks.
    pub dropout: ChaCha12Rng,
}

/// One method's training.
pub struct Lesson<'a> {
    label: &'a str,
    params: &'a TrainParams,
    split: &'a Split,
    model: &'a Decoder,
    /// One regression vector per head, `[heads, d_head]`, for `aux`.
    regressor: Option<Var>,
    removal: Removal,
    streams: Streams,
    history: History,
}

impl<'a> Lesson<'a> {
    /// A lesson before its first step, and how it is called in messages.
    pub fn new(
        (method, label): (Method, &'a str),
        params: &'a TrainParams,
        split: &'a Split,
        model: &'a Decoder,
        streams: Streams,
    ) -> anyhow::Result<Self> {
        let task = &params.task;
        let regressor = match method {
            Method::Aux => Some(regressor(params, model)?),
            _ => None,
        };
        let removal = Removal::new(method, &params.icot, task.vocabulary.working_length(task.digits));
        Ok(Self { label, params, split, model, regressor, removal, streams, history: History::default() })
    }

    /// Everything that is trained.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut all = Parameter::all(self.model.parameters());
        all.extend(self.regressor.iter().map(|var| Parameter { name: "aux.w".to_owned(), var: var.clone() }));
        all
    }

    /// How much working is gone when.
    pub fn removal(&self) -> &Removal {
        &self.removal
    }

    /// The model for sequences with as much working as there is now, at positions that count from 0.
    pub fn now(&self) -> anyhow::Result<Decoder> {
        if !self.params.icot.keep_positions {
            return Ok(self.model.clone());
        }
        let Format { digits, vocabulary, side } = self.format();
        let removed = self.removal.removed();
        let example = vocabulary.encode(&Problem { a: 0, b: 0, digits }, removed, side);
        let positions: Vec<u32> = kept_positions(example.tokens.len(), example.gap, removed).collect();
        Ok(self.model.at_positions(&positions)?)
    }

    /// The tokens of working that went.
    pub fn gone(&self) -> Vec<Gone> {
        self.removal.stage().gone.clone()
    }

    /// What was seen.
    pub fn into_history(self) -> History {
        self.history
    }

    /// How problems are written.
    pub fn format(&self) -> Format {
        format(self.params)
    }

    fn batch(&self, step: u64, micro: u32) -> candle_core::Result<(Vec<Problem>, Batch)> {
        let TrainParams { batch_size, training, task, icot, .. } = self.params;
        let position = step * u64::from(training.accumulate) + u64::from(micro);
        let problems = self.split.batch(&self.streams.batches, position, *batch_size);
        let mut rng = training::stream_at(&self.streams.smoothing, position);
        let removed: Vec<usize> = problems.iter().map(|_| self.removal.drawn(&mut rng)).collect();
        let device = self.model.parameters()[0].1.device();
        let batch = encode(&problems, &removed, icot.side, task.vocabulary, device)?;
        Ok((problems, batch))
    }

    /// Mean squared error of the running sums read from the heads of the last block (arXiv 2510.00184, equation 4).
    fn auxiliary(
        &self,
        problems: &[Problem],
        batch: &Batch,
        z: &Tensor,
        regressor: &Var,
    ) -> candle_core::Result<Tensor> {
        let aux = &self.params.aux;
        let digits = 2 * self.params.task.digits;
        let first = match aux.position {
            AuxPosition::Predicting => batch.answer_starts[0] - 1,
            AuxPosition::Input => batch.answer_starts[0],
        };
        let z = z.narrow(1, first, digits)?; // [batch, 2n, heads, d_head]
        let heads: Vec<Tensor> =
            aux.heads.iter().map(|head| z.narrow(2, *head, 1)).collect::<candle_core::Result<_>>()?;
        let z = Tensor::cat(&heads, 2)?; // [batch, 2n, chosen, d_head]
        let read = z.broadcast_mul(regressor.as_tensor())?.sum(D::Minus1)?; // [batch, 2n, chosen]
        let sums: Vec<f32> = problems
            .iter()
            .flat_map(Problem::running_sums)
            .map(|sum| (f64::from(sum) / aux.target_scale) as f32)
            .collect();
        let sums = Tensor::from_vec(sums, (problems.len(), digits, 1), read.device())?.to_dtype(read.dtype())?;
        read.broadcast_sub(&sums)?.sqr()?.mean_all()
    }

    fn evaluate(&mut self, done: u64) -> anyhow::Result<()> {
        let evaluation = &self.params.evaluation;
        let problems = &self.split.validation;
        let removed = self.removal.removed();
        let every = |interval: u64| done.is_multiple_of(interval) || done == self.params.training.steps;
        let (scores, gradients) = (every(evaluation.every), every(evaluation.gradients_every));
        if !scores && !gradients {
            return Ok(());
        }
        let model = self.now()?;
        if scores {
            let chosen = &problems[..evaluation.problems.min(problems.len())];
            let scores = score(&model, chosen, removed, evaluation.generated, self.format())?;
            let train_loss = self.history.since.take();
            let digits: Vec<String> = scores.accuracy.iter().map(|share| format!("{share:.2}")).collect();
            let label = self.label;
            tracing::info!(
                "{label} step {done}: removed {removed}, exact {:.3}, digits {}",
                scores.exact,
                digits.join(" ")
            );
            let row = ScoreRow {
                step: done,
                removed,
                train_loss,
                exact: scores.exact,
                accuracy: scores.accuracy,
                loss: scores.loss,
            };
            self.history.scores.push(row);
        }
        if gradients {
            let chosen = &problems[..evaluation.gradient_problems.min(problems.len())];
            let g = digit_gradients(&model, chosen, removed, self.format())?;
            let row = GradientRow { step: done, loss: g.loss, norm: g.norm, cosine: g.cosine, total: g.total };
            self.history.gradients.push(row);
        }
        Ok(())
    }
}

/// How problems are written, for evaluations.
pub fn format(params: &TrainParams) -> Format {
    Format { digits: params.task.digits, vocabulary: params.task.vocabulary, side: params.icot.side }
}

/// Regression vectors, all entries 1 / sqrt(d_head) at first: a fixed start, so that no stream is spent on them.
fn regressor(params: &TrainParams, model: &Decoder) -> anyhow::Result<Var> {
    let (n_heads, d_head) = (model.n_heads(), model.config().d_head());
    if let Some(head) = params.aux.heads.iter().find(|head| **head >= n_heads) {
        anyhow::bail!(
            "params.aux.heads: head {head} does not exist in a model of {n_heads} heads (0 to {})",
            n_heads - 1
        );
    }
    let start = 1. / (d_head as f64).sqrt();
    let values = Tensor::ones((params.aux.heads.len(), d_head), DType::F32, model.parameters()[0].1.device())?;
    Ok(Var::from_tensor(&(values * start)?)?)
}

impl Objective for Lesson<'_> {
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error> {
        let (problems, batch) = self.batch(step, micro)?;
        let key = training::stream_at(&self.streams.dropout, step).next_u64().wrapping_add(u64::from(micro) << 32);
        let taps: Vec<Layer> = self.regressor.iter().map(|_| Layer(self.model.n_layers() - 1)).collect();
        let positions = self.params.icot.keep_positions.then_some(batch.kept_positions.as_slice());
        let how = Step { dropout: Some(key), recompute: self.params.training.recompute, positions, ..Step::default() };
        let Losses { losses, z, .. } = self.model.losses(&batch.inputs, &batch.targets, &taps, how)?;
        let cross_entropy = losses.mean_all()?;
        let (Some(regressor), Some(z)) = (&self.regressor, z.first()) else {
            return Ok(cross_entropy);
        };
        let auxiliary = self.auxiliary(&problems, &batch, z, regressor)?;
        Ok((cross_entropy + (auxiliary * self.params.aux.weight)?)?)
    }

    fn resets_optimizer(&self, step: u64) -> bool {
        self.removal.resets_optimizer(step)
    }

    fn after(&mut self, done: u64, loss: Option<f64>) -> Result<(), Error> {
        self.history.since.add(loss);
        if let Some(loss) = loss {
            self.removal.after(done, loss);
        }
        self.evaluate(done).map_err(Error::objective)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(State { history: &self.history, removal: self.removal.stage() })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), Error> {
        let State { history, removal }: State<History, Stage> =
            serde_json::from_value(state).map_err(Error::objective)?;
        self.history = history;
        self.removal.restore(removal);
        Ok(())
    }
}
