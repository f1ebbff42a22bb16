//! Trains the same small transformer in several ways and logs what each digit does
//! (arXiv 2510.00184: accuracies of section 3, learning dynamics of figure 7).
//!
//! Tables: `accuracy` (test problems, at the end), `accuracy_digits`, `curves` (validation problems, on the way),
//! `removals`, `digits`, `dynamics` (loss and gradient norm of each digit), `thresholds` (when each digit was learned).
//! Losses are in nats; chance for a digit is ln 10 = 2.303.

use crate::multiplication::Split;
use anyhow::Result;
use experiment::{Run, StreamNames, distinct};
use models::Decoder;
use tables::{Builder, Schema, row};

use crate::evaluation::{Scores, score};
use crate::objective::{History, MethodObjective, Streams};
use crate::params::{TrainParams, Trained};
use crate::removal::Gone;
use crate::subject::left_out;

/// Losses below which a digit counts as being learned, in nats.
const THRESHOLDS: [f64; 3] = [0.5, 0.1, 0.01];

/// What a finished method leaves.
pub struct Outcome {
    /// Which training.
    trained: Trained,
    /// What was seen on the way.
    pub history: History,
    gone: Vec<Gone>,
    /// On the test problems, at the end.
    pub scores: Scores,
}

/// Trains every method, as many at a time as there are threads, and records the tables.
pub fn run(run: &Run, mut params: TrainParams) -> Result<()> {
    params.model_config().check()?;
    shorten_for_rehearsal(run, &mut params);
    let labels: Vec<String> = params.methods.iter().map(Trained::to_string).collect();
    distinct("params.methods", labels.iter().map(String::as_str))?;
    let task = &params.task;
    let split = Split::new(task.digits, task.train, task.validation, task.test, &mut run.rng("split"))?;
    let outcomes = run.parallel_map(&params.methods, |trained| train(run, &params, &split, *trained))?;
    report(run, &params, &outcomes)
}

/// One of several trainings.
pub struct Job<'a> {
    /// Way of training, and its seed.
    pub trained: Trained,
    /// Its name in messages and files.
    pub label: &'a str,
    /// How the seed enters the names of the random streams.
    pub streams: StreamNames,
    /// How it is trained.
    pub params: &'a TrainParams,
}

fn train(run: &Run, params: &TrainParams, split: &Split, trained: Trained) -> Result<Outcome> {
    let label = trained.to_string();
    let job = Job { trained, label: &label, streams: StreamNames::Usual, params };
    let (outcome, model) = learn(run, &job, split)?;
    models::save(&run.model_path(&label), &model)?;
    Ok(outcome)
}

/// Trains one model to its end. Fresh weights and problems depend on the seed alone, not on the method.
///
/// # Errors
/// As [`Run::train`].
pub fn learn(run: &Run, job: &Job<'_>, split: &Split) -> Result<(Outcome, Decoder)> {
    let Job { trained: Trained { method, seed }, label, streams, params } = *job;
    let stream = |name: &str| seed.rng(run, name, streams);
    let model = Decoder::fresh(&params.model_config(), &mut stream("init"), run.device())?;
    let streams = Streams { batches: stream("batches"), smoothing: stream("smoothing"), dropout: stream("dropout") };
    let mut objective = MethodObjective::new((method, label), params, split, &model, streams)?;
    let (all_gone, steps) = (objective.removal().all_gone(), params.training.steps);
    if all_gone > steps && !run.is_rehearsal() {
        tracing::warn!(
            "{method}: chain-of-thought tokens are left at the end: the last is removed at step {all_gone}, \
             training ends at step {steps}"
        );
    }
    let history = History::from(run.train(label, &objective.parameters(), &params.training, &mut objective)?);
    let removed = objective.removal().removed();
    let model = objective.now()?;
    let scores = score(&model, &split.test, removed, split.test.len(), objective.format())?;
    Ok((Outcome { trained: job.trained, history, gone: objective.gone(), scores }, model))
}

/// Fewer problems in a rehearsal, whose two steps are of the real size; so its time and memory predict those of the run.
pub fn shorten_for_rehearsal(run: &Run, params: &mut TrainParams) {
    params.task.train = params.task.train.map(|train| run.samples(train));
    for count in [&mut params.task.validation, &mut params.task.test, &mut params.evaluation.problems] {
        *count = run.samples(*count);
    }
    params.evaluation.generated = run.samples(params.evaluation.generated);
    params.evaluation.gradient_problems = run.samples(params.evaluation.gradient_problems);
}

fn report(run: &Run, params: &TrainParams, outcomes: &[Outcome]) -> Result<()> {
    final_accuracy(run, params, outcomes)?;
    curves(run, params, outcomes)?;
    removals(run, outcomes)?;
    dynamics(run, outcomes)?;
    thresholds(run, outcomes)
}

fn final_accuracy(run: &Run, params: &TrainParams, outcomes: &[Outcome]) -> Result<()> {
    let steps = run.steps(params.training.steps);
    let examples = steps * u64::from(params.training.accumulate) * params.batch_size as u64;
    let mut accuracy = Builder::new(
        Schema::new("accuracy", "one method on the test problems after training")
            .text("method", "way of training")
            .int("n", "digits of each operand")
            .int("d_model", "width of the residual stream")
            .int("steps", "optimiser steps")
            .int("examples", "examples seen")
            .int("removed", "tokens of working gone at the end")
            .float("exact_match", "problems answered exactly, written greedily", "fraction")
            .float("digit_accuracy", "right digits given the true ones before", "fraction"),
    );
    let mut digits = Builder::new(
        Schema::new("accuracy_digits", "one answer digit of one method on the test problems after training")
            .text("method", "way of training")
            .text("digit", "answer digit, c0 the units")
            .float("accuracy", "right given the true digits before", "fraction")
            .float("loss", "cross-entropy given the true digits before", "nats"),
    );
    for outcome in outcomes {
        let Outcome { trained: method, scores, history, .. } = outcome;
        let removed = history.scores.last().map_or(0, |row| row.removed);
        let (n, d_model) = (params.task.digits, params.model.d_model);
        let digit_accuracy = scores.digit_accuracy();
        accuracy.push(row![method.to_string(), n, d_model, steps, examples, removed, scores.exact, digit_accuracy])?;
        for (k, (share, loss)) in scores.accuracy.iter().zip(&scores.loss).enumerate() {
            digits.push(row![method.to_string(), format!("c{k}"), *share, *loss])?;
        }
    }
    let left_out = left_out(&params.methods).map(|method| (method, None));
    let mut all: Vec<_> = outcomes.iter().map(|outcome| (outcome.trained, Some(outcome))).chain(left_out).collect();
    all.sort_by_key(|(trained, _)| *trained);
    for (trained, outcome) in all {
        metrics(run, params.task.digits, trained, outcome);
    }
    run.record(accuracy.finish()?);
    run.record(digits.finish()?);
    Ok(())
}

/// The numbers that claims are held against; those of a method that was not trained stay open.
fn metrics(run: &Run, n: usize, trained: Trained, outcome: Option<&Outcome>) {
    let metric = |name: &str, of: &dyn Fn(&Scores) -> f64, unit: &str| {
        trained.metric(run, name, outcome.map(|outcome| of(&outcome.scores)), unit);
    };
    for k in 0..2 * n {
        metric(&format!("c{k}.accuracy"), &|scores| scores.accuracy[k], "fraction");
        metric(&format!("c{k}.loss"), &|scores| scores.loss[k], "nats");
    }
    metric("exact_match", &|scores| scores.exact, "fraction");
    metric("digit_accuracy", &Scores::digit_accuracy, "fraction");
    let (outer, middle) = outer_and_middle(n);
    let least = |scores: &Scores| outer.iter().map(|k| scores.accuracy[*k]).fold(f64::INFINITY, f64::min);
    metric("outer_digits.least_accuracy", &least, "fraction");
    metric("hardest_digit.loss", &|scores| scores.loss.iter().copied().fold(f64::NEG_INFINITY, f64::max), "nats");
    // products of single digits have none
    if !middle.is_empty() {
        let mean = |scores: &Scores| middle.iter().map(|k| scores.loss[*k]).sum::<f64>() / middle.len() as f64;
        metric("middle_digits.mean_loss", &mean, "nats");
    }
}

/// The digits that plain fine-tuning learns first (c_0, c_1 and c_{2n-1}; for n = 2 c_1 is a middle one), and the rest.
fn outer_and_middle(n: usize) -> (Vec<usize>, Vec<usize>) {
    let outer = |k: &usize| *k == 0 || *k == 2 * n - 1 || (*k == 1 && n > 2);
    (0..2 * n).partition(outer)
}

fn curves(run: &Run, params: &TrainParams, outcomes: &[Outcome]) -> Result<()> {
    let per_step = u64::from(params.training.accumulate) * params.batch_size as u64;
    let mut curves = Builder::new(
        Schema::new("curves", "one method on the validation problems during training")
            .text("method", "way of training")
            .int("step", "optimiser steps done")
            .int("examples", "examples seen")
            .int("removed", "tokens of working gone")
            .float("train_loss", "mean training loss since the row before", "nats")
            .float("exact_match", "problems answered exactly, written greedily", "fraction")
            .float("digit_accuracy", "right digits given the true ones before", "fraction"),
    );
    let mut digits = Builder::new(
        Schema::new("digits", "one answer digit of one method on the validation problems during training")
            .text("method", "way of training")
            .int("step", "optimiser steps done")
            .text("digit", "answer digit, c0 the units")
            .float("accuracy", "right given the true digits before", "fraction")
            .float("loss", "cross-entropy given the true digits before", "nats"),
    );
    for Outcome { trained: method, history, .. } in outcomes {
        for at in &history.scores {
            let digit_accuracy = at.accuracy.iter().sum::<f64>() / at.accuracy.len() as f64;
            let examples = at.step * per_step;
            curves.push(row![
                method.to_string(),
                at.step,
                examples,
                at.removed,
                at.train_loss,
                at.exact,
                digit_accuracy
            ])?;
            for (k, (share, loss)) in at.accuracy.iter().zip(&at.loss).enumerate() {
                digits.push(row![method.to_string(), at.step, format!("c{k}"), *share, *loss])?;
            }
        }
    }
    run.record(curves.finish()?);
    run.record(digits.finish()?);
    Ok(())
}

/// When each token of working went, and why.
fn removals(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut removals = Builder::new(
        Schema::new("removals", "one token of working that was taken away during training")
            .text("method", "way of training")
            .int("removed", "tokens gone, this one included")
            .int("step", "first step without it")
            .text("recovered", "whether the training loss had come down again; by the clock otherwise"),
    );
    for Outcome { trained: method, gone, .. } in outcomes {
        for (before, gone) in gone.iter().enumerate() {
            removals.push(row![method.to_string(), before + 1, gone.step, gone.recovered])?;
        }
    }
    run.record(removals.finish()?);
    Ok(())
}

fn dynamics(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut dynamics = Builder::new(
        Schema::new("dynamics", "loss and gradient of one answer digit on a fixed batch during training")
            .text("method", "way of training")
            .int("step", "optimiser steps done")
            .text("digit", "answer digit, c0 the units")
            .float("loss", "cross-entropy given the true digits before", "nats")
            .float("grad_norm", "norm of the digit's gradient over all parameters", "")
            .float("grad_cos", "cosine between the digit's gradient and the mean over digits", "")
            .float("grad_norm_total", "norm of the mean gradient over digits", ""),
    );
    for Outcome { trained: method, history, .. } in outcomes {
        for at in &history.gradients {
            for k in 0..at.loss.len() {
                let (loss, norm, cosine) = (at.loss[k], at.norm[k], at.cosine[k]);
                dynamics.push(row![method.to_string(), at.step, format!("c{k}"), loss, norm, cosine, at.total])?;
            }
        }
    }
    run.record(dynamics.finish()?);
    Ok(())
}

/// First evaluation from which on a digit's loss stays below a threshold for three rows (or to the end).
fn thresholds(run: &Run, outcomes: &[Outcome]) -> Result<()> {
    let mut thresholds = Builder::new(
        Schema::new(
            "thresholds",
            "when the running mean of three evaluations of a digit's loss first fell below a threshold",
        )
        .text("method", "way of training")
        .text("digit", "answer digit, c0 the units")
        .float("threshold", "loss", "nats")
        .int("first_step", "optimiser steps done; empty when it never did"),
    );
    for Outcome { trained: method, history, scores, .. } in outcomes {
        for k in 0..scores.loss.len() {
            for threshold in THRESHOLDS {
                let first = first_below(history, k, threshold);
                thresholds.push(row![method.to_string(), format!("c{k}"), threshold, first])?;
            }
        }
    }
    run.record(thresholds.finish()?);
    Ok(())
}

fn first_below(history: &History, k: usize, threshold: f64) -> Option<u64> {
    let mut rows = history.scores.windows(3);
    let found = rows.find(|rows| rows.iter().map(|row| row.loss[k]).sum::<f64>() / 3. < threshold)?;
    Some(found[2].step)
}
