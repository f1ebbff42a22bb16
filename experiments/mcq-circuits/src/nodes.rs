//! Direct, total and indirect effects of every head and MLP at the last position on the right label, and the effects of
//! patching sets of nodes together (arXiv 2307.09458, section 3.1).
//!
//! ```text
//! DE   = effect of the node's write on the label logits, with the final norm frozen at the prompt's own scale
//! dDE  = change of DE when the write comes from a source prompt with another right option, all else fixed
//! TE   = effect of the same replacement with everything after the node recomputed
//! IE   = TE - dDE
//! ```
//!
//! m is the net logit of the right label, in logits. Losses are among the labels only, in nats.
//!
//! Tables: `effects` (a row per node), `ablations` (mean and zero ablations), `sets` (patching the best k nodes together),
//! `pairs` (the sampled source prompts), `circuit` (metrics of each model).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use experiment::Run;
use patching::{Node, Writes, patch_nodes, run_nodes};
use probes::{mean, standard_deviation};
use rand::Rng;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::letters::{Letters, Summary, loss, net_logit, reader, rows};
use crate::prompts::{Prompt, batches, tokens};
use crate::study::{Common, Direct, Study, direct, each, right, sources};

/// Parameters of `nodes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Settings shared by all analyses: models, questions and classification thresholds.
    pub common: Common,
    /// Number of source prompts sampled for each prompt.
    #[schemars(range(min = 1))]
    pub draws: usize,
    /// Number of random control sets per set of best nodes; each has as many nodes in the same blocks.
    #[schemars(range(min = 1))]
    pub random_draws: usize,
    /// Minimum absolute difference, in logits or nats, between the two runs of a pair; smaller pairs are left out of
    /// ratios.
    #[schemars(range(min = 0))]
    pub least_effect: f64,
}

/// Analyses every model and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut tables = Tables::new();
    each(run, &params.common, |study| analyse(run, &params, study, &mut tables))?;
    tables.record(run)
}

/// The effects of one node over prompts and seeds.
#[derive(Clone, Debug, Default)]
struct Effect {
    /// Changes of the net logit: direct and total.
    m: Vec<[f64; 2]>,
    /// Changes of the loss: direct and total.
    loss: Vec<[f64; 2]>,
    /// 1 if the prompt is still answered correctly, else 0.
    right: Vec<f64>,
}

fn analyse(run: &Run, params: &Params, study: &Study, tables: &mut Tables) -> Result<()> {
    let name = study.name();
    let batch = params.common.questions.batch;
    let eval = direct(&study.subject, &study.eval.prompts, batch)?;
    let gap = eval.gap(&study.eval.prompts);
    run.metric(&format!("{name}.completeness_gap"), gap, "logits");
    let mut rng = run.rng(&format!("pairs.{name}"));
    let sources: Vec<Vec<usize>> = (0..params.draws).map(|_| sources(&study.eval.prompts, &mut rng)).collect();
    for (draw, sources) in sources.iter().enumerate() {
        for (prompt, source) in sources.iter().enumerate() {
            tables.pairs.push(row![name, draw, prompt, *source])?;
        }
    }
    let effects = effects(run, study, &eval, &sources, batch)?;
    let ablations = ablations(run, study, &eval, batch)?;
    report(run, study, &eval, &effects, tables)?;
    for (way, letters) in &ablations {
        for (node, letters) in study.nodes.iter().zip(letters) {
            let Summary { loss, m, accuracy } = Summary::of(letters, &study.eval.correct());
            tables.ablations.push(row![name, node.to_string().as_str(), *way, loss, m, accuracy])?;
        }
    }
    sets(run, params, study, &eval, &sources[0], tables)
}

/// One sweep of activation patching over groups of nodes.
struct Sweep<'a> {
    /// The name of the sweep, unique within one model.
    label: String,
    /// The prompts whose runs are patched.
    prompts: &'a [Prompt],
    /// The source activations, one row per prompt.
    source: &'a Writes,
    /// The groups; nodes of a group are patched together.
    groups: &'a [Vec<Node>],
}

/// The label logits of every prompt after each group of nodes is patched, `[groups][prompts]`. Finished batches are
/// kept until the run ends, so that an interrupted sweep resumes.
fn patched(run: &Run, study: &Study, sweep: &Sweep<'_>, batch: usize) -> Result<Vec<Vec<Letters>>> {
    let Sweep { label, prompts, source, groups } = sweep;
    let model = &study.subject.model;
    let mut found = vec![vec![Letters::new(); prompts.len()]; groups.len()];
    let all = batches(prompts, batch);
    let mut task = run.task(&format!("{} {label}", study.name()), all.len() as u64, "batches");
    for (number, indices) in all.iter().enumerate() {
        run.check_interrupted()?;
        let file = run.work(&format!("{}-{label}-{number}.json", study.name()));
        let letters = remembered(&file, &run.identity(), || {
            let base = run_nodes(model, &tokens(prompts, indices, &model.device())?)?;
            let picked: Vec<&Prompt> = indices.iter().map(|index| &prompts[*index]).collect();
            let letters = patch_nodes(model, &base, &source.gather(indices)?, groups, &reader(&picked))?;
            letters.iter().map(rows).collect()
        })?;
        for (group, letters) in letters.into_iter().enumerate() {
            for (index, row) in indices.iter().zip(letters) {
                found[group][*index] = row;
            }
        }
        task.at(number as u64 + 1, "");
    }
    Ok(found)
}

/// The results of a finished batch, with the identity of its run.
#[derive(Serialize, Deserialize)]
struct Kept {
    identity: String,
    letters: Vec<Vec<Letters>>,
}

/// Reads the file if it belongs to this run; otherwise computes the value and writes it.
fn remembered(
    file: &Path,
    identity: &str,
    compute: impl FnOnce() -> Result<Vec<Vec<Letters>>>,
) -> Result<Vec<Vec<Letters>>> {
    let kept = storage::read_text(file).ok().and_then(|text| serde_json::from_str::<Kept>(&text).ok());
    if let Some(kept) = kept.filter(|kept| kept.identity == identity) {
        return Ok(kept.letters);
    }
    let kept = Kept { identity: identity.to_owned(), letters: compute()? };
    storage::write_atomic(file, serde_json::to_string(&kept)?.as_bytes())?;
    Ok(kept.letters)
}

fn effects(run: &Run, study: &Study, eval: &Direct, draws: &[Vec<usize>], batch: usize) -> Result<Vec<Effect>> {
    let prompts = &study.eval.prompts;
    let groups: Vec<Vec<Node>> = study.nodes.iter().map(|node| vec![*node]).collect();
    let mut effects = vec![Effect::default(); study.nodes.len()];
    for (draw, sources) in draws.iter().enumerate() {
        let source = eval.writes.gather(sources)?;
        let sweep = Sweep { label: format!("draw-{draw}"), prompts, source: &source, groups: &groups };
        let after = patched(run, study, &sweep, batch)?;
        for (node, effect) in effects.iter_mut().enumerate() {
            for (i, prompt) in prompts.iter().enumerate() {
                let (c, source) = (prompt.correct, sources[i]);
                let before = &eval.letters[i];
                // The source's write, scaled by this prompt's norm.
                let scaled = eval.scales[source] / eval.scales[i];
                let change = eval.net[node][source].iter().zip(&eval.net[node][i]).map(|(to, from)| to * scaled - from);
                let directly: Letters = change.zip(before).map(|(change, z)| z + change).collect();
                let total = &after[node][i];
                effect.m.push([&directly, total].map(|z| net_logit(z, c) - net_logit(before, c)));
                effect.loss.push([&directly, total].map(|z| loss(z, c) - loss(before, c)));
                effect.right.push(if crate::letters::choice(total) == c { 1. } else { 0. });
            }
        }
    }
    Ok(effects)
}

/// The name of an ablation and the label logits under it, `[nodes][prompts]`.
type Ablation = (&'static str, Vec<Vec<Letters>>);

/// Ablates every node by its mean, its balanced mean and zero.
fn ablations(run: &Run, study: &Study, eval: &Direct, batch: usize) -> Result<Vec<Ablation>> {
    let groups: Vec<Vec<Node>> = study.nodes.iter().map(|node| vec![*node]).collect();
    let prompts = &study.eval.prompts;
    let fit = &study.direct.writes;
    let correct = study.fit.correct();
    let with_option = |option: usize| (0..correct.len()).filter(|i| correct[*i] == option).collect::<Vec<usize>>();
    let rows: Vec<Vec<usize>> = (0..study.fit.options()).map(with_option).collect();
    let fewest = rows.iter().map(Vec::len).min().unwrap_or(0);
    let balanced: Vec<usize> = rows.iter().flat_map(|rows| rows[..fewest].to_vec()).collect();
    let ways = [
        ("mean", fit.mean(prompts.len())?),
        ("balanced mean", fit.gather(&balanced)?.mean(prompts.len())?),
        ("zero", eval.writes.zeros()?),
    ];
    let sweep = |(way, writes): (&'static str, Writes)| {
        let sweep = Sweep { label: way.replace(' ', "-"), prompts, source: &writes, groups: &groups };
        Ok((way, patched(run, study, &sweep, batch)?))
    };
    ways.into_iter().map(sweep).collect()
}

fn report(run: &Run, study: &Study, eval: &Direct, effects: &[Effect], tables: &mut Tables) -> Result<()> {
    let (name, prompts) = (study.name(), &study.eval.prompts);
    let positive: f64 = study.effects.iter().filter(|effect| **effect > 0.).sum();
    let mut share = 0.;
    let mut indirect = 0;
    for (rank, node) in study.ranking.iter().enumerate() {
        let id = study.nodes[*node];
        share += study.effects[*node].max(0.) / positive;
        let on_eval = right(&eval.net[*node], prompts);
        let of = |pairs: &[[f64; 2]], which: usize| mean(&pairs.iter().map(|pair| pair[which]).collect::<Vec<_>>());
        let Effect { m, loss, right } = &effects[*node];
        let (dde, te, dde_loss, te_loss) = (of(m, 0), of(m, 1), of(loss, 0), of(loss, 1));
        if id.head().is_some() && (te - dde).abs() > 2. * dde.abs() {
            indirect += 1;
        }
        let class = study.class(id).map_or("MLP", |class| class.name());
        tables.effects.push(row![
            name,
            id.to_string().as_str(),
            if id.head().is_some() { "head" } else { "MLP" },
            id.layer().0,
            id.head().map(|head| head as i64),
            class,
            rank + 1,
            if rank < study.kept { "yes" } else { "no" },
            study.effects[*node],
            share,
            mean(&on_eval),
            standard_deviation(&on_eval) / (on_eval.len() as f64).sqrt(),
            dde,
            te,
            te - dde,
            dde_loss,
            te_loss,
            te_loss - dde_loss,
            mean(right)
        ])?;
    }
    let heads = study.circuit().iter().filter(|node| node.head().is_some()).count();
    let all_heads = study.nodes.iter().filter(|node| node.head().is_some()).count();
    let clean = Summary::of(&eval.letters, &study.eval.correct());
    let reached: f64 = study.ranking[..study.kept].iter().map(|node| study.effects[*node] / positive).sum();
    let numbers = [
        ("kept", study.kept as f64, "nodes"),
        ("kept_share", study.kept as f64 / study.nodes.len() as f64, "fraction"),
        ("heads", heads as f64, "heads"),
        ("heads_share", heads as f64 / all_heads as f64, "fraction"),
        ("mlps", (study.kept - heads) as f64, "MLPs"),
        ("reached", reached, "fraction"),
        ("m", clean.m, "logits"),
        ("loss", clean.loss, "nats"),
        ("accuracy", clean.accuracy, "fraction"),
        ("indirect_heads", f64::from(indirect), "heads"),
        ("left_out", (study.fit.left_out + study.eval.left_out) as f64, "questions"),
    ];
    for (what, value, unit) in numbers {
        run.metric(&format!("{name}.{what}"), value, unit);
        tables.circuit.push(row![name, what, value])?;
    }
    Ok(())
}

/// The nodes of one kind, by decreasing direct effect.
fn ranked(study: &Study, kind: &str) -> Vec<Node> {
    let nodes = study.ranking.iter().map(|node| study.nodes[*node]);
    nodes.filter(|node| kind == "both" || (node.head().is_some() == (kind == "heads"))).collect()
}

/// A kind of nodes, the number of nodes, whether the set is a random control, and the nodes.
type NodeSet = (&'static str, usize, bool, Vec<Node>);

/// The best k nodes of each kind with their random controls, and the values of k by kind.
fn node_sets(run: &Run, params: &Params, study: &Study) -> (BTreeMap<&'static str, Vec<usize>>, Vec<NodeSet>) {
    let mut rng = run.rng(&format!("random.{}", study.name()));
    let mut sizes: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
    let mut groups: Vec<NodeSet> = Vec::new();
    for kind in ["heads", "MLPs", "both"] {
        let nodes = ranked(study, kind);
        let mut ks: Vec<usize> = (0..).map(|power| 1 << power).take_while(|k| *k < nodes.len()).collect();
        ks.extend([nodes.len()].iter().chain((kind == "both").then_some(&study.kept)));
        ks.sort_unstable();
        ks.dedup();
        for k in &ks {
            groups.push((kind, *k, false, nodes[..*k].to_vec()));
            for _ in 0..params.random_draws {
                groups.push((kind, *k, true, random_like(&nodes[..*k], &nodes, &mut rng)));
            }
        }
        sizes.insert(kind, ks);
    }
    (sizes, groups)
}

fn sets(
    run: &Run,
    params: &Params,
    study: &Study,
    eval: &Direct,
    sources: &[usize],
    tables: &mut Tables,
) -> Result<()> {
    let (name, batch) = (study.name(), params.common.questions.batch);
    let (sizes, groups) = node_sets(run, params, study);
    let node_groups: Vec<Vec<Node>> = groups.iter().map(|group| group.3.clone()).collect();
    // Noising patches the prompt with nodes of its source; denoising patches the source with nodes of the prompt.
    let prompts = &study.eval.prompts;
    let swapped: Vec<Prompt> = sources
        .iter()
        .zip(prompts)
        .map(|(source, prompt)| Prompt { correct: prompt.correct, ..prompts[*source].clone() })
        .collect();
    let of_sources = eval.writes.gather(sources)?;
    let sweep = |label: &str, prompts, source| {
        let sweep = Sweep { label: label.to_owned(), prompts, source, groups: &node_groups };
        patched(run, study, &sweep, batch)
    };
    let noised = sweep("noising", prompts, &of_sources)?;
    let denoised = sweep("denoising", &swapped, &eval.writes)?;
    let of_source: Vec<Letters> = sources.iter().map(|source| eval.letters[*source].clone()).collect();
    for (mode, letters, from, to) in
        [("noising", &noised, &eval.letters, &of_source), ("denoising", &denoised, &of_source, &eval.letters)]
    {
        for (kind, ks) in &sizes {
            for k in ks {
                for control in [false, true] {
                    let members = groups
                        .iter()
                        .zip(letters)
                        .filter(|(group, _)| (group.0, group.1, group.2) == (kind, *k, control));
                    let all: Vec<SetEffect> = members
                        .map(|(_, letters)| {
                            SetEffect::of(letters, [from, to], &study.eval.correct(), params.least_effect)
                        })
                        .collect();
                    let over = |of: fn(&SetEffect) -> f64| mean(&all.iter().map(of).collect::<Vec<_>>());
                    let r = over(|effect| effect.r);
                    let control = if control { "random nodes of the same blocks" } else { "best nodes" };
                    tables.sets.push(row![
                        name,
                        mode,
                        *kind,
                        *k,
                        control,
                        over(|effect| effect.summary.loss),
                        over(|effect| effect.summary.accuracy),
                        over(|effect| effect.summary.m),
                        r,
                        over(|effect| effect.r_loss),
                        over(|effect| effect.left_out as f64)
                    ])?;
                    if *kind == "both" {
                        let control = if control == "best nodes" { "" } else { ".random" };
                        if *k == study.kept {
                            run.metric(&format!("{name}.circuit.{mode}.r{control}"), r, "");
                        }
                        if *k == study.nodes.len() && control.is_empty() {
                            run.metric(&format!("{name}.all.{mode}.gap"), (r - 1.).abs(), "fraction");
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Samples as many nodes as `chosen` has, from the same blocks.
fn random_like(chosen: &[Node], of: &[Node], rng: &mut impl Rng) -> Vec<Node> {
    let mut pools: BTreeMap<usize, Vec<Node>> = BTreeMap::new();
    of.iter().for_each(|node| pools.entry(node.layer().0).or_default().push(*node));
    pools.values_mut().for_each(|pool| pool.shuffle(rng));
    chosen.iter().filter_map(|node| pools.get_mut(&node.layer().0)?.pop()).collect()
}

/// The effect of patching one set of nodes.
struct SetEffect {
    summary: Summary,
    /// The mean fraction of the change from one run to the other, by net logit.
    r: f64,
    /// The same, by loss.
    r_loss: f64,
    /// The number of pairs whose runs differ too little for a ratio of net logits.
    left_out: usize,
}

impl SetEffect {
    fn of(letters: &[Letters], [from, to]: [&Vec<Letters>; 2], correct: &[usize], least: f64) -> Self {
        let ratios = |of: fn(&[f64], usize) -> f64| -> Vec<f64> {
            let ratio = |i: usize| {
                let [patched, from, to] = [&letters[i], &from[i], &to[i]].map(|z| of(z, correct[i]));
                ((to - from).abs() >= least).then(|| (patched - from) / (to - from))
            };
            (0..letters.len()).filter_map(ratio).collect()
        };
        let (by_m, by_loss) = (ratios(net_logit), ratios(loss));
        Self {
            summary: Summary::of(letters, correct),
            r: mean(&by_m),
            r_loss: mean(&by_loss),
            left_out: letters.len() - by_m.len(),
        }
    }
}

struct Tables {
    effects: Builder,
    ablations: Builder,
    sets: Builder,
    pairs: Builder,
    circuit: Builder,
}

impl Tables {
    fn new() -> Self {
        let effects = Schema::new("effects", "one node of one model")
            .text("subject", "name of the model")
            .text("node", "name of the node, a head or an MLP")
            .text("kind", "kind of the node: head or MLP")
            .int("layer", "index of the block")
            .int("head", "index of the head in its block; empty for an MLP")
            .text("class", "class of the head by its attention, or MLP")
            .int("rank", "rank by direct effect on the fit questions, from 1")
            .text("kept", "whether the node belongs to the circuit, the first nodes that reach the requested share")
            .float("de_fit", "mean direct effect on the right label, fit questions", "logits")
            .float("cum_share", "share of the positive direct effect up to this rank", "fraction")
            .float("de", "mean direct effect on the right label, evaluation questions", "logits")
            .float("de_sem", "standard error of `de`", "logits")
            .float("delta_de", "change of the net logit m through the direct path alone", "logits")
            .float("te", "change of the net logit m with everything after the node recomputed", "logits")
            .float("ie", "indirect effect: `te` minus `delta_de`", "logits")
            .float("delta_de_loss", "change of the loss through the direct path alone", "nats")
            .float("te_loss", "change of the loss with everything after the node recomputed", "nats")
            .float("ie_loss", "indirect effect on the loss: `te_loss` minus `delta_de_loss`", "nats")
            .float("accuracy", "share of questions still answered correctly", "fraction");
        let ablations = Schema::new("ablations", "one node of one model, replaced in one way")
            .text("subject", "name of the model")
            .text("node", "name of the node, a head or an MLP")
            .text("way", "value that replaces the node: mean, mean over right options balanced, or zero")
            .float("loss", "mean cross-entropy among the labels only", "nats")
            .float("m", "mean net logit of the right label", "logits")
            .float("accuracy", "share of questions answered correctly", "fraction");
        let sets = Schema::new("sets", "one set of nodes that are patched together")
            .text("subject", "name of the model")
            .text("mode", "noising: nodes of the source in the prompt; denoising: nodes of the prompt in the source")
            .text("kinds", "kinds of nodes in the set: heads, MLPs or both")
            .int("k", "number of nodes")
            .text("nodes", "whether the nodes are the best by direct effect or random ones")
            .float("loss", "mean loss of the prompt's right label", "nats")
            .float("accuracy", "share of prompts answered with that label", "fraction")
            .float("m", "mean net logit of that label", "logits")
            .float("r", "fraction of the change of m from one run to the other", "fraction")
            .float("r_loss", "fraction of the change of the loss from one run to the other", "fraction")
            .float("left_out", "number of pairs whose runs differ too little for a ratio", "pairs");
        let pairs = Schema::new("pairs", "one source prompt of one prompt")
            .text("subject", "name of the model")
            .int("seed", "index of the seed")
            .int("prompt", "index of the prompt")
            .int("source", "index of the source prompt, whose activations are patched in");
        let circuit = Schema::new("circuit", "one metric of one model")
            .text("subject", "name of the model")
            .text("number", "name of the metric")
            .float("value", "value of the metric", "");
        let [effects, ablations, sets, pairs, circuit] = [effects, ablations, sets, pairs, circuit].map(Builder::new);
        Self { effects, ablations, sets, pairs, circuit }
    }

    fn record(self, run: &Run) -> Result<()> {
        for table in [self.effects, self.ablations, self.sets, self.pairs, self.circuit] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}
