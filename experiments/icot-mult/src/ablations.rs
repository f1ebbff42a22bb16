//! What implicit chain of thought needs: the same training with one part of the removal taken out or changed
//! (arXiv 2405.14838, section 5: without smoothing, without the optimiser's reset, from the right, twice as fast).
//!
//! Tables: `ablations` (each variant and draw at the end), `stability` (accuracy against tokens gone, on the way).

use std::collections::BTreeMap;

use crate::multiplication::Split;
use anyhow::Result;
use experiment::Run;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::params::{Icot, Method, TrainParams, Trained};
use crate::train::{Job, Outcome, learn, shorten_for_rehearsal};

/// Parameters of `ablations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The training that is varied; its `icot` is the full method, and its `methods` are not used.
    pub train: TrainParams,
    /// Ways of removal, by name.
    #[schemars(length(min = 1))]
    pub variants: BTreeMap<String, Icot>,
    /// Draws of fresh weights and problems; draw i is the same for every variant.
    #[schemars(range(min = 1))]
    pub draws: usize,
}

/// Trains every variant from every draw and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let Params { mut train, variants, draws } = params;
    train.model_config().check()?;
    shorten_for_rehearsal(run, &mut train);
    let task = &train.task;
    let split = Split::new(task.digits, task.train, task.validation, task.test, &mut run.rng("split"))?;
    let work: Vec<(&str, usize, TrainParams)> = variants
        .iter()
        .flat_map(|(name, icot)| (0..draws).map(move |draw| (name, icot, draw)))
        .map(|(name, icot, draw)| (name.as_str(), draw, TrainParams { icot: icot.clone(), ..train.clone() }))
        .collect();
    let outcomes: Vec<Outcome> = run.parallel_map(&work, |(name, draw, params)| {
        let (label, draw) = (format!("{name}-{draw}"), format!(" {draw}"));
        Ok(learn(run, &Job { trained: Trained::first(Method::Icot), label: &label, draw: &draw, params }, &split)?.0)
    })?;
    report(run, &work, &outcomes)
}

fn report(run: &Run, work: &[(&str, usize, TrainParams)], outcomes: &[Outcome]) -> Result<()> {
    let keys = |schema: Schema| schema.text("variant", "way of removal").int("draw", "draw of weights and problems");
    let scores = |schema: Schema| {
        schema.float("exact_match", "problems answered exactly, written greedily", "fraction").float(
            "digit_accuracy",
            "right digits given the true ones before",
            "fraction",
        )
    };
    let mut ends = Builder::new(scores(
        keys(Schema::new("ablations", "one variant of removal from one draw, on the test problems after training"))
            .int("steps", "optimiser steps"),
    ));
    let mut stability = Builder::new(scores(
        keys(Schema::new("stability", "one variant from one draw, on the validation problems during training"))
            .int("step", "optimiser steps done")
            .int("removed", "tokens of working gone"),
    ));
    let mut exact: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for ((name, draw, params), outcome) in work.iter().zip(outcomes) {
        let end = &outcome.scores;
        ends.push(row![*name, *draw, params.training.steps, end.exact, end.digit_accuracy()])?;
        exact.entry(name).or_default().push(end.exact);
        for at in &outcome.history.scores {
            stability.push(row![*name, *draw, at.step, at.removed, at.exact, probes::mean(&at.accuracy)])?;
        }
    }
    for (name, exact) in exact {
        run.metric(&format!("{name}.mean_exact_match"), probes::mean(&exact), "fraction");
        let least = exact.iter().copied().fold(f64::INFINITY, f64::min);
        run.metric(&format!("{name}.least_exact_match"), least, "fraction");
    }
    run.record(ends.finish()?);
    run.record(stability.finish()?);
    Ok(())
}
