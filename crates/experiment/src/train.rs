//! One training inside a run: checkpoints, resuming, progress, interruption and rehearsal.

use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::Tensor;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use training::{Checkpoints, Ended, Error, MeanLoss, Parameter, Plan};

use crate::{Interrupted, Run};

/// How far a training is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Optimiser steps done; 0 before the first.
    pub step: u64,
    /// Optimiser steps in all.
    pub steps: u64,
}

impl Progress {
    /// Whether something that happens every `interval` steps, and at the end, happens now.
    #[must_use]
    pub fn is_due(self, interval: u64) -> bool {
        self.step.is_multiple_of(interval) || self.step == self.steps
    }
}

/// A model's training loss, and how it is evaluated on the way.
pub trait Objective {
    /// One evaluation. Rows are part of every checkpoint and are returned at the end.
    type Row: Serialize + DeserializeOwned;

    /// Mean loss of one micro-batch of a step, still in its graph; a scalar.
    ///
    /// What it samples may depend on the step and the micro-batch alone, so that a resumed training sees the same data.
    ///
    /// # Errors
    /// When the model fails.
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor>;

    /// Called before the first step and after each; returns a row where an evaluation is due.
    ///
    /// `mean` holds the training losses since it was last taken, `rows` the evaluations so far.
    ///
    /// # Errors
    /// When the evaluation fails.
    fn evaluate(&mut self, at: Progress, mean: &mut MeanLoss, rows: &[Self::Row]) -> Result<Option<Self::Row>>;

    /// Called after each step with its loss, before [`Self::evaluate`].
    fn observe(&mut self, _step: u64, _loss: f64) {}

    /// Whether the optimiser forgets its running means before this step.
    fn resets_optimizer(&self, _step: u64) -> bool {
        false
    }

    /// State beyond the rows that a checkpoint must hold.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Restores what [`Self::state`] returned.
    ///
    /// # Errors
    /// When it is not such a state.
    fn restore(&mut self, _state: serde_json::Value) -> Result<()> {
        Ok(())
    }
}

impl Run {
    /// Trains to the end, from the newest checkpoint if there is one, and returns all evaluations.
    ///
    /// `label` names the training in messages, in its progress bar and in its checkpoint folder; it is unique in the run.
    /// A rehearsal takes two steps and predicts the time of all.
    ///
    /// # Errors
    /// [`Interrupted`] when a signal asked to stop; a checkpoint then holds everything so far. Otherwise when a loss or
    /// gradient is not finite (see [`diverged_at`]), or the objective or a checkpoint fails.
    pub fn train<O: Objective>(
        &self,
        label: &str,
        parameters: &[Parameter],
        plan: &Plan,
        objective: &mut O,
    ) -> Result<Vec<O::Row>> {
        let planned = plan.steps;
        let plan = Plan { steps: self.steps(planned), ..plan.clone() };
        let checkpoints = Checkpoints::new(&self.work(label), &format!("{} {label}", self.identity()));
        let mut task = self.task(label, plan.steps, "steps");
        let started = Instant::now();
        let mut recorded =
            Recorded { objective, steps: plan.steps, history: History { rows: Vec::new(), mean: MeanLoss::default() } };
        let ended = training::train(parameters, &plan, &mut recorded, &checkpoints, &mut task)
            .with_context(|| format!("training {label}"))?;
        if ended == Ended::Interrupted {
            return Err(Interrupted.into());
        }
        if self.is_rehearsal() {
            let per_step = started.elapsed().as_secs_f64() / plan.steps as f64;
            let hours = per_step * planned as f64 / 3600.;
            tracing::info!(
                "{label}: about {per_step:.3} s a step here, so {hours:.1} h for {planned} steps (evaluations included)"
            );
        }
        Ok(recorded.history.rows)
    }
}

/// The step at which a training failed because a loss or gradient was not finite, if that is why.
#[must_use]
pub fn diverged_at(error: &anyhow::Error) -> Option<u64> {
    match error.downcast_ref::<Error>() {
        Some(Error::NotFinite { step, .. }) => Some(*step),
        _ => None,
    }
}

/// What every checkpoint holds of the evaluations.
#[derive(Serialize, Deserialize)]
struct History<R> {
    rows: Vec<R>,
    mean: MeanLoss,
}

#[derive(Serialize, Deserialize)]
struct State<H> {
    history: H,
    objective: serde_json::Value,
}

/// An objective with its history, as the training loop knows it.
struct Recorded<'a, O: Objective> {
    objective: &'a mut O,
    steps: u64,
    history: History<O::Row>,
}

impl<O: Objective> training::Objective for Recorded<'_, O> {
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error> {
        self.objective.loss(step, micro).map_err(Error::objective)
    }

    fn resets_optimizer(&self, step: u64) -> bool {
        self.objective.resets_optimizer(step)
    }

    fn after(&mut self, done: u64, loss: Option<f64>) -> Result<(), Error> {
        let History { rows, mean } = &mut self.history;
        if let Some(loss) = loss {
            mean.add(Some(loss));
            self.objective.observe(done, loss);
        }
        let at = Progress { step: done, steps: self.steps };
        rows.extend(self.objective.evaluate(at, mean, rows).map_err(Error::objective)?);
        Ok(())
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(State { history: &self.history, objective: self.objective.state() })
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), Error> {
        let State { history, objective } = serde_json::from_value(state).map_err(Error::objective)?;
        self.history = history;
        self.objective.restore(objective).map_err(Error::objective)
    }
}
