//! What implicit chain of thought needs: the same training with one part of the removal taken out or changed
//! (arXiv 2405.14838, section 5: without smoothing, without the optimiser's reset, from the right, twice as fast).
//!
//! Tables: `ablations` (each variant and seed at the end), `stability` (accuracy against chain-of-thought tokens removed, during training).

use std::collections::BTreeMap;

use anyhow::Result;
use config::Variant;
use experiment::{Run, Seed, StreamNames, distinct};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::multiplication::Split;
use crate::params::{Method, TrainParams, Trained};
use crate::train::{Job, Outcome, learn, shorten_for_rehearsal};

/// Parameters of `ablations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The training that is varied; its `methods` are not used.
    pub train: TrainParams,
    /// Variants of `train`, each with the keys that it changes, such as `icot.smoothing: null`.
    #[schemars(length(min = 1), extend("x-varies" = "train"))]
    pub variants: Vec<Variant>,
    /// Seeds of fresh weights and problems, which all variants share.
    #[schemars(range(min = 1, max = 9))]
    pub seeds: usize,
}

/// One variant of removal from one seed.
struct Work {
    variant: String,
    seed: Seed,
    params: TrainParams,
}

/// Trains every variant from every seed and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let Params { mut train, variants, seeds } = params;
    distinct("params.variants", variants.iter().map(|variant| variant.name.as_str()))?;
    train.model_config().check()?;
    shorten_for_rehearsal(run, &mut train);
    let task = &train.task;
    let split = Split::new(task.digits, task.train, task.validation, task.test, &mut run.rng("split"))?;
    let mut work = Vec::new();
    for variant in &variants {
        let params: TrainParams = variant.apply(&train)?;
        work.extend(Seed::first(seeds).map(|seed| Work {
            variant: variant.name.clone(),
            seed,
            params: params.clone(),
        }));
    }
    // tables and claims list variants by name
    work.sort_by(|a, b| (&a.variant, a.seed).cmp(&(&b.variant, b.seed)));
    let outcomes: Vec<Outcome> = run.parallel_map(&work, |Work { variant, seed, params }| {
        let label = format!("{variant}-{seed}");
        let trained = Trained { method: Method::Icot, seed: *seed };
        Ok(learn(run, &Job { trained, label: &label, streams: StreamNames::FromZero, params }, &split)?.0)
    })?;
    report(run, &work, &outcomes)
}

fn report(run: &Run, work: &[Work], outcomes: &[Outcome]) -> Result<()> {
    let keys = |schema: Schema| {
        schema.text("variant", "name of the variant").int("seed", "seed of weights and problems, from 1")
    };
    let scores = |schema: Schema| {
        schema.float("exact_match", "problems answered exactly, written greedily", "fraction").float(
            "digit_accuracy",
            "digits predicted correctly given the true digits before",
            "fraction",
        )
    };
    let mut ends = Builder::new(scores(
        keys(Schema::new("ablations", "one variant of removal from one seed, on the test problems after training"))
            .int("steps", "optimiser steps"),
    ));
    let mut stability = Builder::new(scores(
        keys(Schema::new("stability", "one variant from one seed, on the validation problems during training"))
            .int("step", "optimiser steps done")
            .int("removed", "chain-of-thought tokens removed"),
    ));
    let mut exact: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (Work { variant, seed, params }, outcome) in work.iter().zip(outcomes) {
        let end = &outcome.scores;
        ends.push(row![&**variant, seed.number(), run.steps(params.training.steps), end.exact, end.digit_accuracy()])?;
        exact.entry(variant).or_default().push(end.exact);
        for at in &outcome.history.scores {
            stability.push(row![
                &**variant,
                seed.number(),
                at.step,
                at.removed,
                at.exact,
                probes::mean(&at.accuracy)
            ])?;
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
