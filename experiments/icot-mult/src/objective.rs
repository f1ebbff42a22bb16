//! The training objective of one method: its losses, and its evaluations on the way.

use crate::multiplication::{Problem, Split};
use anyhow::{Result, bail};
use candle_core::{D, DType, Tensor, Var};
use experiment::{Objective, Progress};
use hooks::{HookedModel, Layer};
use models::{Decoder, Losses, Step};
use rand::RngCore;
use rand_chacha::ChaCha12Rng;
use serde::{Deserialize, Serialize};
use training::{MeanLoss, Parameter};

use crate::batch::{Batch, encode, kept_positions};
use crate::evaluation::{Format, digit_gradients, score};
use crate::params::{AuxPosition, Method, TrainParams};
use crate::removal::{Gone, Removal};

/// One look at the model during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Accuracies and losses, where they were due.
    scores: Option<ScoreRow>,
    /// Gradients, where they were due.
    gradients: Option<GradientRow>,
}

/// Everything seen during training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Accuracies and losses.
    pub scores: Vec<ScoreRow>,
    /// Gradients of each digit.
    pub gradients: Vec<GradientRow>,
}

impl From<Vec<Row>> for History {
    fn from(rows: Vec<Row>) -> Self {
        let mut history = Self::default();
        for Row { scores, gradients } in rows {
            history.scores.extend(scores);
            history.gradients.extend(gradients);
        }
        history
    }
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

/// The random streams of a training; the same for every method, so that all see the same problems.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Problems of each step.
    pub batches: ChaCha12Rng,
    /// Extra removal per example.
    pub smoothing: ChaCha12Rng,
    /// Dropout masks.
    pub dropout: ChaCha12Rng,
}

/// The objective of one method.
pub struct MethodObjective<'a> {
    label: &'a str,
    params: &'a TrainParams,
    split: &'a Split,
    model: &'a Decoder,
    /// One regression vector per head, `[heads, d_head]`, for `aux`.
    regressor: Option<Var>,
    removal: Removal,
    streams: Streams,
}

impl<'a> MethodObjective<'a> {
    /// The objective before the first step; `label` names it in messages.
    pub fn new(
        (method, label): (Method, &'a str),
        params: &'a TrainParams,
        split: &'a Split,
        model: &'a Decoder,
        streams: Streams,
    ) -> Result<Self> {
        let task = &params.task;
        let regressor = match method {
            Method::Aux => Some(regressor(params, model)?),
            _ => None,
        };
        let removal = Removal::new(method, &params.icot, task.vocabulary.working_length(task.digits));
        Ok(Self { label, params, split, model, regressor, removal, streams })
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
    pub fn now(&self) -> Result<Decoder> {
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

    fn scores(&self, model: &Decoder, step: u64, train_loss: Option<f64>) -> Result<ScoreRow> {
        let evaluation = &self.params.evaluation;
        let problems = &self.split.validation;
        let chosen = &problems[..evaluation.problems.min(problems.len())];
        let removed = self.removal.removed();
        let scores = score(model, chosen, removed, evaluation.generated, self.format())?;
        let digits: Vec<String> = scores.accuracy.iter().map(|share| format!("{share:.2}")).collect();
        let (label, exact) = (self.label, scores.exact);
        tracing::info!("{label} step {step}: removed {removed}, exact {exact:.3}, digits {}", digits.join(" "));
        Ok(ScoreRow { step, removed, train_loss, exact, accuracy: scores.accuracy, loss: scores.loss })
    }

    fn gradients(&self, model: &Decoder, step: u64) -> Result<GradientRow> {
        let problems = &self.split.validation;
        let chosen = &problems[..self.params.evaluation.gradient_problems.min(problems.len())];
        let g = digit_gradients(model, chosen, self.removal.removed(), self.format())?;
        Ok(GradientRow { step, loss: g.loss, norm: g.norm, cosine: g.cosine, total: g.total })
    }
}

/// How problems are written, for evaluations.
pub fn format(params: &TrainParams) -> Format {
    Format { digits: params.task.digits, vocabulary: params.task.vocabulary, side: params.icot.side }
}

/// Regression vectors, all entries 1 / sqrt(d_head) at first: a fixed start, so that no stream is spent on them.
fn regressor(params: &TrainParams, model: &Decoder) -> Result<Var> {
    let (n_heads, d_head) = (model.n_heads(), model.config().d_head());
    if let Some(head) = params.aux.heads.iter().find(|head| **head >= n_heads) {
        bail!("params.aux.heads: head {head} does not exist in a model of {n_heads} heads (0 to {})", n_heads - 1);
    }
    let start = 1. / (d_head as f64).sqrt();
    let values = Tensor::ones((params.aux.heads.len(), d_head), DType::F32, model.parameters()[0].1.device())?;
    Ok(Var::from_tensor(&(values * start)?)?)
}

impl Objective for MethodObjective<'_> {
    type Row = Row;

    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor> {
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

    fn observe(&mut self, step: u64, loss: f64) {
        self.removal.after(step, loss);
    }

    fn evaluate(&mut self, at: Progress, mean: &mut MeanLoss, _: &[Row]) -> Result<Option<Row>> {
        let evaluation = &self.params.evaluation;
        let (scores, gradients) = (at.is_due(evaluation.every), at.is_due(evaluation.gradients_every));
        if !scores && !gradients {
            return Ok(None);
        }
        let model = self.now()?;
        let scores = if scores { Some(self.scores(&model, at.step, mean.take())?) } else { None };
        let gradients = if gradients { Some(self.gradients(&model, at.step)?) } else { None };
        Ok(Some(Row { scores, gradients }))
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(self.removal.stage())
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<()> {
        self.removal.restore(serde_json::from_value(state)?);
        Ok(())
    }
}
