//! The same questions with other labels, separators and orders: how much of the answer remains with low-rank heads, static
//! heads and an explicit algorithm in their place (arXiv 2307.09458, sections 4 and 5).
//!
//! Bases and means are fitted on letters A to D in order. The variants of the Correct Letter heads are:
//! - *full*: no edit;
//! - *low-rank QK*, *low-rank QKV* and *low-rank V*: only the leading principal directions are kept;
//! - *static*: every query is the mean query;
//! - *resampled*: the heads' writes come from another prompt of the same set;
//! - *algorithm*: the query is the mean query of the option that the head attends to most, and keys are the means of their
//!   positions, so nothing else of the prompt is left.
//!
//! ```text
//! contribution = loss(resampled) - loss(full)
//! rho          = (loss(resampled) - loss(variant)) / contribution
//! ```
//!
//! Tables: `mutations` (a row per set and variant), `derived` (contributions and shares kept), `steering` (queries moved
//! to the next option), `skipped` (sets that a model cannot read).

use std::collections::BTreeMap;

use crate::mcq::Mutation;
use anyhow::{Context, Result};
use experiment::Run;
use hooks::Layer;
use patching::{Node, patch_nodes, run_nodes};
use probes::mean;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::codes::{Code, codes, edited};
use crate::edits::{HeadEdit, Space};
use crate::letters::{Letters, Summary, choice, reader, rows};
use crate::prompts::{Prompt, batches, tokens};
use crate::study::{Common, Study, direct, each, right, sources};
use crate::subspaces::{low_rank, with_attention};

/// Parameters of `mutations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Settings shared by all analyses: models, questions and classification thresholds.
    pub common: Common,
    /// The changed sets of the same questions.
    #[schemars(length(min = 1))]
    pub sets: Vec<Changed>,
    /// Rank of the low-rank heads.
    #[schemars(range(min = 1))]
    pub low: usize,
    /// Minimum contribution of the heads, in nats and in logits; smaller ones give no share kept.
    pub least_contribution: [f64; 2],
    /// Models that use the Correct Letter heads of another model earlier in the list, such as the same small model
    /// later in its training: `{early: late}`. Default: none.
    #[serde(default)]
    pub heads_of: BTreeMap<String, String>,
}

/// A set of questions with one or several changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// Short name of the set, such as M1.
    #[schemars(regex(pattern = "^[A-Za-z0-9_]+$"))]
    pub id: String,
    /// Name of the set in tables and figures.
    pub name: String,
    /// The changes, applied in order; an empty list keeps the questions as they are.
    pub changes: Vec<Mutation>,
}

/// Analyses every model and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut tables = Tables::new();
    let mut known: BTreeMap<String, Vec<Node>> = BTreeMap::new();
    each(run, &params.common, |study| {
        let heads = match params.heads_of.get(study.name()) {
            Some(other) => known.get(other).cloned().with_context(|| {
                format!(
                    "params.heads_of: `{other}` is not a subject before `{}`; list it earlier under params.subjects",
                    study.name()
                )
            })?,
            None => study.letter_heads(),
        };
        known.insert(study.name().to_owned(), heads.clone());
        analyse(run, &params, study, heads, &mut tables)
    })?;
    for table in [tables.mutations, tables.derived, tables.steering, tables.skipped] {
        run.record(table.finish()?);
    }
    Ok(())
}

/// Records empty metrics for a set without results.
fn without(run: &Run, name: &str, set: &Changed) {
    for metric in ["rho", "rho_m", "full", "low_rank", "algorithm.m_share", "algorithm.accuracy"] {
        run.metric(&format!("{name}.{}.{metric}", set.id), None, "");
    }
}

/// The result of one variant on one set.
#[derive(Clone, Copy)]
struct Outcome {
    summary: Summary,
    /// The heads' raw attention to the right label and to each other label; `None` if their writes are replaced.
    attention: Option<[f64; 2]>,
}

fn analyse(run: &Run, params: &Params, study: &Study, heads: Vec<Node>, tables: &mut Tables) -> Result<()> {
    let name = study.name();
    if heads.is_empty() {
        for set in &params.sets {
            without(run, name, set);
        }
        ["next", "old"].iter().for_each(|what| run.metric(&format!("{name}.steered.{what}"), None, "fraction"));
        return Ok(());
    }
    let batch = params.common.questions.batch;
    let codes = codes(&study.subject, &study.fit.prompts, &heads, batch)?;
    for set in &params.sets {
        run.check_interrupted()?;
        let mut rng = run.rng(&format!("labels.{name}.{}", set.id));
        let changed = study.subject.changed(&study.eval, &set.changes, &mut rng);
        if changed.prompts.len() < study.eval.prompts.len().div_ceil(2) {
            let (kept, left_out) = (changed.prompts.len(), changed.left_out);
            tables.skipped.push(row![name, &*set.id, kept, left_out])?;
            without(run, name, set);
            continue;
        }
        one_set(run, params, study, (&heads, &codes), (set, &changed.prompts), tables)?;
    }
    steering(run, params, study, (&heads, &codes), tables)
}

/// The label logits when the heads' writes are replaced by those of another prompt of the set with a different right
/// option.
fn resampled(run: &Run, study: &Study, prompts: &[Prompt], heads: &[Node], batch: usize) -> Result<Vec<Letters>> {
    let writes = direct(&study.subject, prompts, batch)?.writes;
    let mut rng = run.rng(&format!("sources.{}", study.name()));
    let sources = sources(prompts, &mut rng);
    let mut found = vec![Letters::new(); prompts.len()];
    for indices in batches(prompts, batch) {
        let model = &study.subject.model;
        let base = run_nodes(model, &tokens(prompts, &indices, &model.device())?)?;
        let picked: Vec<&Prompt> = indices.iter().map(|index| &prompts[*index]).collect();
        let from: Vec<usize> = indices.iter().map(|index| sources[*index]).collect();
        let patched = patch_nodes(model, &base, &writes.gather(&from)?, &[heads.to_vec()], &reader(&picked))?;
        for (index, row) in indices.iter().zip(rows(&patched[0])?) {
            found[*index] = row;
        }
    }
    Ok(found)
}

/// The option whose label each head attends to most, `[heads][prompts]`.
fn looked_at(study: &Study, prompts: &[Prompt], heads: &[Node], batch: usize) -> Result<Vec<Vec<usize>>> {
    let layers: Vec<Layer> = crate::subspaces::layers(heads);
    let (_, seen) = edited(&study.subject, prompts, &[], &layers, batch)?;
    let most = |node: &Node| {
        let patterns = &seen[&node.layer()];
        let head = node.head().unwrap_or(0);
        let option = |(prompt, pattern): (&Prompt, &Vec<Vec<f64>>)| {
            choice(&prompt.labels().into_iter().map(|place| pattern[head][place]).collect::<Vec<f64>>())
        };
        prompts.iter().zip(patterns).map(option).collect()
    };
    Ok(heads.iter().map(most).collect())
}

/// Edits that make every head follow the algorithm.
fn algorithm<'a>(codes: &'a [[Code; 3]], chosen: &'a [Vec<usize>]) -> Vec<HeadEdit<'a>> {
    let of_head = |(code, chosen): (&'a [Code; 3], &'a Vec<usize>)| {
        [code[0].class_mean(move |prompt| chosen[prompt]), code[1].class_mean(|_| 0)]
    };
    codes.iter().zip(chosen).flat_map(of_head).collect()
}

fn one_set(
    run: &Run,
    params: &Params,
    study: &Study,
    (heads, codes): (&[Node], &[[Code; 3]]),
    (set, prompts): (&Changed, &[Prompt]),
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch) = (study.name(), params.common.questions.batch);
    let correct: Vec<usize> = prompts.iter().map(|prompt| prompt.correct).collect();
    let chosen = looked_at(study, prompts, heads, batch)?;
    let low = params.low;
    let [q, k, v] = Space::ALL;
    let edits: [(&str, Vec<HeadEdit<'_>>); 6] = [
        ("full", Vec::new()),
        ("low-rank QK", low_rank(codes, &[q, k], low)),
        ("low-rank QKV", low_rank(codes, &[q, k, v], low)),
        ("low-rank V", low_rank(codes, &[v], low)),
        ("static", low_rank(codes, &[q], 0)),
        ("algorithm", algorithm(codes, &chosen)),
    ];
    let mut outcomes: Vec<(&str, Outcome)> = Vec::new();
    for (variant, edits) in &edits {
        let (letters, attention) = with_attention(study, prompts, heads, edits, batch)?;
        outcomes.push((variant, Outcome { summary: Summary::of(&letters, &correct), attention: Some(attention) }));
    }
    let letters = resampled(run, study, prompts, heads, batch)?;
    outcomes.push(("resampled", Outcome { summary: Summary::of(&letters, &correct), attention: None }));
    // The direct effect of the heads together.
    let effects = direct(&study.subject, prompts, batch)?;
    let members = study.nodes.iter().zip(&effects.net).filter(|(node, _)| heads.contains(node));
    let together: f64 = members.map(|(_, effect)| mean(&right(effect, prompts))).sum();
    for (variant, Outcome { summary, attention }) in &outcomes {
        tables.mutations.push(row![
            name,
            &*set.id,
            &*set.name,
            *variant,
            prompts.len(),
            summary.loss,
            summary.m,
            summary.accuracy,
            attention.map(|a| a[0]),
            attention.map(|a| a[1]),
            (*variant == "full").then_some(together)
        ])?;
    }
    let of = |variant: &str| outcomes.iter().find(|(name, _)| *name == variant).map(|(_, outcome)| outcome.summary);
    let (Some(full), Some(removed)) = (of("full"), of("resampled")) else { return Ok(()) };
    let [least_loss, least_m] = params.least_contribution;
    let (by_loss, by_m) = (removed.loss - full.loss, full.m - removed.m);
    for (variant, Outcome { summary, .. }) in &outcomes {
        let rho = (by_loss >= least_loss).then(|| (removed.loss - summary.loss) / by_loss);
        let rho_m = (by_m >= least_m).then(|| (summary.m - removed.m) / by_m);
        tables.derived.push(row![name, &*set.id, &*set.name, *variant, by_loss, by_m, rho, rho_m])?;
        if *variant == "low-rank QK" {
            run.metric(&format!("{name}.{}.rho", set.id), rho, "fraction");
            run.metric(&format!("{name}.{}.rho_m", set.id), rho_m, "fraction");
            run.metric(&format!("{name}.{}.low_rank", set.id), summary.accuracy, "fraction");
        }
        if *variant == "algorithm" {
            run.metric(&format!("{name}.{}.algorithm.m_share", set.id), summary.m / full.m, "fraction");
            run.metric(&format!("{name}.{}.algorithm.accuracy", set.id), summary.accuracy, "fraction");
        }
    }
    run.metric(&format!("{name}.{}.full", set.id), full.accuracy, "fraction");
    Ok(())
}

/// Moves queries from the mean of the right option to that of the next option, and measures how often the answer
/// follows.
fn steering(
    run: &Run,
    params: &Params,
    study: &Study,
    (heads, codes): (&[Node], &[[Code; 3]]),
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch) = (study.name(), params.common.questions.batch);
    let prompts = &study.eval.prompts;
    let options = study.eval.options();
    let last = heads.iter().map(|head| head.layer()).max();
    // Edits all heads of the last block with Correct Letter heads, in addition to the Correct Letter heads alone.
    let everywhere: Vec<Node> =
        study.nodes.iter().copied().filter(|node| node.head().is_some() && Some(node.layer()) == last).collect();
    let all = crate::codes::codes(&study.subject, &study.fit.prompts, &everywhere, batch)?;
    for (who, codes) in [("Correct Letter heads", codes), ("all heads of the last of their blocks", &all)] {
        let next = |prompt: usize| (prompts[prompt].correct + 1) % options;
        let edits: Vec<HeadEdit<'_>> = codes
            .iter()
            .map(|code| {
                let code = &code[0];
                code.edit(move |prompt, _, x| {
                    let (from, to) = (&code.class_means[prompts[prompt].correct], &code.class_means[next(prompt)]);
                    x.iter().zip(from).zip(to).map(|((x, from), to)| x + to - from).collect()
                })
            })
            .collect();
        let (letters, _) = edited(&study.subject, prompts, &edits, &[], batch)?;
        let share = |of: &dyn Fn(usize) -> usize| {
            let hits = letters.iter().enumerate().map(|(i, z)| f64::from(u8::from(choice(z) == of(i))));
            mean(&hits.collect::<Vec<_>>())
        };
        let (moved, stayed) = (share(&next), share(&|i| prompts[i].correct));
        tables.steering.push(row![name, who, moved, stayed])?;
        if who != "Correct Letter heads" {
            run.metric(&format!("{name}.steered.next"), moved, "fraction");
            run.metric(&format!("{name}.steered.old"), stayed, "fraction");
        }
    }
    Ok(())
}

struct Tables {
    mutations: Builder,
    derived: Builder,
    steering: Builder,
    skipped: Builder,
}

impl Tables {
    fn new() -> Self {
        let set = |name: &str, about: &str| {
            Schema::new(name, about)
                .text("subject", "name of the model")
                .text("mutation", "short name of the changed set")
        };
        let mutations = set("mutations", "one variant of the Correct Letter heads on one changed set")
            .text("name", "name of the changed set")
            .text("variant", "edit of the Correct Letter heads")
            .int("questions", "number of questions")
            .float("loss", "mean cross-entropy among the labels in the prompt", "nats")
            .float("m", "mean net logit of the right label", "logits")
            .float("accuracy", "share of questions answered correctly", "fraction")
            .float("right_label", "mean raw attention of the heads to the right label", "fraction")
            .float("other_labels", "mean raw attention of the heads to each other label", "fraction")
            .float("de", "direct effect of all unedited heads together on the right label", "logits");
        let derived = set("derived", "the share of the heads' contribution that one variant keeps on one changed set")
            .text("name", "name of the changed set")
            .text("variant", "edit of the Correct Letter heads")
            .float("contribution", "loss with resampled heads minus loss of the full model", "nats")
            .float("contribution_m", "net logit of the full model minus net logit with resampled heads", "logits")
            .float("rho", "share of the contribution kept, by loss; empty if the contribution is too small", "fraction")
            .float(
                "rho_m",
                "share of the contribution kept, by net logit; empty if the contribution is too small",
                "fraction",
            );
        let steering = Schema::new("steering", "one group of heads whose queries are moved to the next option")
            .text("subject", "name of the model")
            .text("heads", "heads whose queries are moved")
            .float("next", "share of questions answered with the next option", "fraction")
            .float("old", "share of questions still answered with the right option", "fraction");
        let skipped = set("skipped", "one changed set that a model cannot read")
            .int("kept", "number of questions whose labels are single tokens")
            .int("left_out", "number of questions whose labels are not single tokens or whose prompt is too long");
        let [mutations, derived, steering, skipped] = [mutations, derived, steering, skipped].map(Builder::new);
        Self { mutations, derived, steering, skipped }
    }
}
