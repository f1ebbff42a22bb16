//! The loop.

use candle_core::{DType, Tensor, Var, backprop::GradStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{AdamW, AdamWConfig, Checkpoints, Error, Schedule, gradient_norm};

/// A trainable variable.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name, for messages and checkpoints.
    pub name: String,
    /// The variable, updated in place.
    pub var: Var,
}

impl Parameter {
    /// All of a model's, by their names.
    #[must_use]
    pub fn all(named: &[(String, Var)]) -> Vec<Self> {
        named.iter().map(|(name, var)| Self { name: name.clone(), var: var.clone() }).collect()
    }

    /// Matrices decay; gains and biases do not.
    fn decays(&self) -> bool {
        self.var.dims().len() > 1
    }
}

/// Settings of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Optimiser steps.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Micro-batches whose gradients are averaged in each step.
    #[schemars(range(min = 1))]
    pub accumulate: u32,
    /// The optimiser.
    pub adamw: AdamWConfig,
    /// Learning rate over steps.
    pub schedule: Schedule,
    /// Largest global norm of the gradient; larger ones are scaled down to it.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_norm: Option<f64>,
    /// Steps between checkpoints.
    #[schemars(range(min = 1))]
    pub checkpoint_every: u64,
    /// Whether blocks are computed again in the backward pass instead of being kept: less memory, more time, same bytes.
    #[serde(default)]
    pub recompute: bool,
}

/// Mean of the losses since it was last asked for: sum and count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeanLoss(f64, u64);

impl MeanLoss {
    /// Takes the loss of a step, if there was one.
    pub fn add(&mut self, loss: Option<f64>) {
        if let Some(loss) = loss {
            self.0 += loss;
            self.1 += 1;
        }
    }

    /// The mean, and from here on none.
    pub fn take(&mut self) -> Option<f64> {
        let Self(sum, count) = std::mem::take(self);
        (count > 0).then(|| sum / count as f64)
    }
}

/// What is trained: losses by step, and what is looked at on the way.
pub trait Objective {
    /// Mean loss of one micro-batch of a step, still in its graph.
    ///
    /// # Errors
    /// When the model fails.
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error>;

    /// Whether the optimiser forgets its running means before this step.
    fn resets_optimizer(&self, _step: u64) -> bool {
        false
    }

    /// Called with the number of finished steps: 0 before the first, then after each. Evaluations go here.
    ///
    /// # Errors
    /// When an evaluation fails.
    fn after(&mut self, done: u64, loss: Option<f64>) -> Result<(), Error>;

    /// Everything of its own that a checkpoint must hold.
    fn state(&self) -> serde_json::Value;

    /// Takes over what [`Self::state`] gave.
    ///
    /// # Errors
    /// When it is not such a state.
    fn restore(&mut self, state: serde_json::Value) -> Result<(), Error>;
}

/// Who watches a training, and may ask it to stop.
pub trait Observer {
    /// After each step: how many are done, and the loss.
    fn step(&mut self, done: u64, loss: f64);

    /// True when the run should save and stop.
    fn stop(&self) -> bool;
}

/// How a training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Finished,
    /// The observer asked to stop; a checkpoint holds everything so far.
    Interrupted,
}

/// Trains from the newest checkpoint, or from the start, to the end.
///
/// In the first step every parameter must receive a finite gradient.
///
/// # Errors
/// When a parameter gets no gradient, a loss or gradient is not finite, or a checkpoint cannot be written or used.
pub fn train(
    parameters: &[Parameter],
    plan: &Plan,
    objective: &mut dyn Objective,
    checkpoints: &Checkpoints,
    observer: &mut dyn Observer,
) -> Result<Ended, Error> {
    let names: Vec<String> = parameters.iter().map(|p| p.name.clone()).collect();
    let variables: Vec<Var> = parameters.iter().map(|p| p.var.clone()).collect();
    let decays: Vec<bool> = parameters.iter().map(Parameter::decays).collect();
    let mut adam = AdamW::new(plan.adamw, &variables)?;
    let first = match checkpoints.resume(&names, &variables, &mut adam)? {
        Some(checkpoint) => {
            tracing::info!("continues after step {}", checkpoint.step);
            objective.restore(checkpoint.state)?;
            checkpoint.step
        }
        None => {
            objective.after(0, None)?;
            0
        }
    };
    let mut saved = first;
    for step in first..plan.steps {
        if observer.stop() {
            if saved < step {
                checkpoints.save(step, &names, &variables, &adam, &objective.state())?;
            }
            return Ok(Ended::Interrupted);
        }
        if objective.resets_optimizer(step) {
            adam.reset(&variables)?;
        }
        let (loss, gradients) = gradients(parameters, plan, objective, step)?;
        // sums over micro-batches, so the mean and the clipping are one factor
        let mean = 1. / f64::from(plan.accumulate);
        let scale = mean * clip_factor(&gradients, mean, plan.clip_norm, step)?;
        adam.update(&variables, &decays, &gradients, plan.schedule.factor(step, plan.steps), scale)?;
        let done = step + 1;
        objective.after(done, Some(loss))?;
        observer.step(done, loss);
        if done % plan.checkpoint_every == 0 || done == plan.steps {
            checkpoints.save(done, &names, &variables, &adam, &objective.state())?;
            saved = done;
        }
    }
    Ok(Ended::Finished)
}

/// Mean loss of a step over its micro-batches, and the sum of their gradients, added in their order.
fn gradients(
    parameters: &[Parameter],
    plan: &Plan,
    objective: &mut dyn Objective,
    step: u64,
) -> Result<(f64, Vec<Tensor>), Error> {
    let mut total = 0.;
    let mut sums: Vec<Tensor> = Vec::new();
    for micro in 0..plan.accumulate {
        let loss = objective.loss(step, micro)?;
        let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        if !value.is_finite() {
            return Err(Error::NotFinite { step, what: "the loss".to_owned() });
        }
        total += value;
        let store = ops::backward(&loss)?;
        if step == 0 && micro == 0 {
            check_reach(parameters, &store)?;
        }
        let parts = parameters.iter().map(|p| match store.get(&p.var) {
            // candle leaves the activations that a gradient was made from attached to it: what keeps the gradient
            // (running means do) would keep every step's activations
            Some(gradient) => Ok(gradient.detach()),
            None => Ok(p.var.zeros_like()?),
        });
        let parts = parts.collect::<Result<Vec<_>, Error>>()?;
        if sums.is_empty() {
            sums = parts;
        } else {
            sums.iter_mut().zip(&parts).try_for_each(|(sum, part)| ops::add_to(sum, part))?;
        }
    }
    Ok((total / f64::from(plan.accumulate), sums))
}

/// Fails, naming them, when some parameters got no gradient or one that is not finite.
fn check_reach(parameters: &[Parameter], store: &GradStore) -> Result<(), Error> {
    let unreached: Vec<String> =
        parameters.iter().filter(|p| store.get(&p.var).is_none()).map(|p| p.name.clone()).collect();
    if !unreached.is_empty() {
        return Err(Error::NoGradient { names: unreached });
    }
    for parameter in parameters {
        if let Some(gradient) = store.get(&parameter.var)
            && !gradient_norm(std::slice::from_ref(gradient))?.is_finite()
        {
            return Err(Error::NotFinite { step: 0, what: format!("the gradient of `{}`", parameter.name) });
        }
    }
    Ok(())
}

/// What brings the global norm of `gradients * scale` down to the limit: 1 where it is there already, or there is none.
fn clip_factor(gradients: &[Tensor], scale: f64, limit: Option<f64>, step: u64) -> Result<f64, Error> {
    let norm = gradient_norm(gradients)? * scale;
    if !norm.is_finite() {
        return Err(Error::NotFinite { step, what: "the gradient".to_owned() });
    }
    Ok(limit.filter(|limit| norm > *limit).map_or(1., |limit| limit / norm))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Fits w to a target that moves with the step; remembers its losses.
    struct Fit {
        w: Var,
        unused: Option<Var>,
        losses: Vec<f64>,
    }

    impl Fit {
        fn new() -> Self {
            Self { w: Var::new(&[1f32, -1., 0.3], &Device::Cpu).unwrap(), unused: None, losses: Vec::new() }
        }

        fn parameters(&self) -> Vec<Parameter> {
            let named = |name: &str, var: &Var| Parameter { name: name.to_owned(), var: var.clone() };
            let unused = self.unused.iter().map(|var| named("unused", var));
            std::iter::once(named("w", &self.w)).chain(unused).collect()
        }
    }

    impl Objective for Fit {
        fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error> {
            let target = Tensor::new(&[step as f32 * 0.1, f32::from(micro as u8), 2.], &Device::Cpu)?;
            Ok((self.w.as_tensor() - target)?.sqr()?.mean_all()?)
        }

        fn resets_optimizer(&self, step: u64) -> bool {
            step == 7
        }

        fn after(&mut self, _: u64, loss: Option<f64>) -> Result<(), Error> {
            self.losses.extend(loss);
            Ok(())
        }

        fn state(&self) -> serde_json::Value {
            serde_json::json!(self.losses)
        }

        fn restore(&mut self, state: serde_json::Value) -> Result<(), Error> {
            self.losses = serde_json::from_value(state).map_err(Error::objective)?;
            Ok(())
        }
    }

    /// Stops after some steps of this process.
    struct StopAfter(u64);

    impl Observer for StopAfter {
        fn step(&mut self, _: u64, _: f64) {
            self.0 = self.0.saturating_sub(1);
        }

        fn stop(&self) -> bool {
            self.0 == 0
        }
    }

    fn plan() -> Plan {
        Plan {
            steps: 12,
            accumulate: 2,
            adamw: AdamWConfig { lr: 0.1, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1 },
            schedule: Schedule::Cosine { warmup: 3, floor: 0.1 },
            clip_norm: Some(0.5),
            checkpoint_every: 5,
            recompute: false,
        }
    }

    #[test]
    fn stopped_and_continued_is_the_same_as_undisturbed() {
        let end = |stops: &[u64]| {
            let folder = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::new(folder.path(), "fit");
            let mut last = None;
            for stop in stops {
                let mut fit = Fit::new();
                let ended = train(&fit.parameters(), &plan(), &mut fit, &checkpoints, &mut StopAfter(*stop)).unwrap();
                last = Some((ended, fit.w.as_tensor().to_vec1::<f32>().unwrap(), fit.losses));
            }
            last.unwrap()
        };
        let whole = end(&[100]);
        assert_eq!(whole.0, Ended::Finished);
        assert_eq!(whole.2.len(), 12);
        assert_eq!(end(&[3, 4, 100]), whole);
        assert_eq!(end(&[7, 1, 100]), whole);
    }

    #[test]
    fn a_parameter_without_gradient_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut fit = Fit { unused: Some(Var::new(&[1f32], &Device::Cpu).unwrap()), ..Fit::new() };
        let checkpoints = Checkpoints::new(folder.path(), "fit");
        let error = train(&fit.parameters(), &plan(), &mut fit, &checkpoints, &mut StopAfter(9)).unwrap_err();
        assert!(matches!(&error, Error::NoGradient { names } if names == &["unused"]), "{error}");
    }

    #[test]
    fn candles_fused_layer_norm_is_caught() {
        let x = Var::new(&[[1f32, 2., 4.]], &Device::Cpu).unwrap();
        let gain = Tensor::ones(3, DType::F32, &Device::Cpu).unwrap();
        let y = candle_nn_layer_norm(&x, &gain);
        let store = y.sum_all().unwrap().backward().unwrap();
        let parameters = [Parameter { name: "x".to_owned(), var: x }];
        assert!(matches!(check_reach(&parameters, &store), Err(Error::NoGradient { .. })));
    }

    fn candle_nn_layer_norm(x: &Var, gain: &Tensor) -> Tensor {
        candle_nn::ops::layer_norm(x, gain, &gain.zeros_like().unwrap(), 1e-5).unwrap()
    }

    #[test]
    fn clipping_brings_the_norm_of_all_down_to_the_limit() {
        let gradients = [Tensor::new(&[3f32], &Device::Cpu).unwrap(), Tensor::new(&[4f32], &Device::Cpu).unwrap()];
        assert_eq!(clip_factor(&gradients, 1., Some(1.), 0).unwrap(), 0.2);
        assert_eq!(clip_factor(&gradients, 0.5, Some(1.), 0).unwrap(), 0.4);
        assert_eq!(clip_factor(&gradients, 0.1, Some(1.), 0).unwrap(), 1.);
        assert_eq!(clip_factor(&gradients, 1., None, 0).unwrap(), 1.);
        let nothing = [Tensor::new(&[0f32], &Device::Cpu).unwrap()];
        assert_eq!(clip_factor(&nothing, 1., Some(1.), 0).unwrap(), 1.);
        let nan = [Tensor::new(&[f32::NAN], &Device::Cpu).unwrap()];
        for limit in [Some(1.), None] {
            assert!(clip_factor(&nan, 1., limit, 3).unwrap_err().to_string().contains("step 3"));
        }
    }

    /// Its loss is finite and its gradient, from the second step on, is not.
    struct Breaks(Fit);

    impl Objective for Breaks {
        fn loss(&mut self, step: u64, _: u32) -> Result<Tensor, Error> {
            let w = self.0.w.as_tensor();
            // the root of 0 has the slope 1/0
            let root = (w - w.detach())?.sqr()?.sqrt()?.sum_all()?;
            Ok(if step == 0 { w.sqr()?.sum_all()? } else { (w.sum_all()? + root)? })
        }

        fn after(&mut self, _: u64, _: Option<f64>) -> Result<(), Error> {
            Ok(())
        }

        fn state(&self) -> serde_json::Value {
            serde_json::Value::Null
        }

        fn restore(&mut self, _: serde_json::Value) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn a_gradient_that_is_no_number_reaches_no_weight() {
        for clip_norm in [Some(1.), None] {
            let folder = tempfile::tempdir().unwrap();
            let checkpoints = Checkpoints::new(folder.path(), "breaks");
            let mut breaks = Breaks(Fit::new());
            let plan = Plan { clip_norm, accumulate: 1, ..plan() };
            let error = train(&breaks.0.parameters(), &plan, &mut breaks, &checkpoints, &mut StopAfter(9)).unwrap_err();
            assert!(matches!(error, Error::NotFinite { step: 1, .. }), "{error}");
            assert!(breaks.0.w.as_tensor().to_vec1::<f32>().unwrap().iter().all(|w| w.is_finite()));
        }
    }
}
