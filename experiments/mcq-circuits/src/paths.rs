//! Path patching into the queries of the Correct Letter heads: which earlier nodes determine where these heads attend
//! (arXiv 2307.09458, section 3.1 and appendix B).
//!
//! For each earlier node, the sender's write is replaced by its write in a source prompt with a different right option,
//! and every other node stays fixed. The resulting queries are then patched into the clean run.
//!
//! Tables: `paths` (a row per sender, and one for the whole queries).

use anyhow::Result;
use experiment::Run;
use patching::{Node, patch_queries, patch_whole_queries, run_nodes};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::letters::{Letters, Summary, reader, rows};
use crate::prompts::{Prompt, batches, tokens};
use crate::study::{Common, Study, direct, each, sources};

/// Parameters of `paths`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Settings shared by all analyses: models, questions and classification thresholds.
    pub common: Common,
    /// Number of senders to mark as shown, taken by absolute change of the net logit.
    #[schemars(range(min = 1))]
    pub shown: usize,
}

/// Analyses every model and records the table.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut table = Builder::new(
        Schema::new("paths", "one sender, patched into the queries of the Correct Letter heads")
            .text("subject", "name of the model")
            .text("sender", "name of the sending node, or `whole query`")
            .text("class", "class of the sender by its attention, or MLP")
            .int("rank", "rank by absolute change of m, from 1; empty for the whole query")
            .text("shown", "whether the sender is among the largest ones to show")
            .float("m", "change of the net logit m of the right label", "logits")
            .float("loss", "change of the loss among the labels", "nats")
            .float("share", "share of the change of m that the whole query causes", "fraction"),
    );
    each(run, &params.common, |study| analyse(run, &params, study, &mut table))?;
    run.record(table.finish()?);
    Ok(())
}

fn analyse(run: &Run, params: &Params, study: &Study, table: &mut Builder) -> Result<()> {
    let name = study.name();
    let receivers = study.letter_heads();
    let last = receivers.iter().map(|node| node.layer()).max();
    let senders: Vec<Node> = study.nodes.iter().copied().filter(|node| Some(node.layer()) < last).collect();
    if receivers.is_empty() || senders.is_empty() {
        ["top_share", "sum_share", "whole"].iter().for_each(|what| run.metric(&format!("{name}.{what}"), None, ""));
        return Ok(());
    }
    let (prompts, batch) = (&study.eval.prompts, params.common.questions.batch);
    let eval = direct(&study.subject, prompts, batch)?;
    let mut rng = run.rng(&format!("sources.{name}"));
    let sources = sources(prompts, &mut rng);
    let mut after = vec![vec![Letters::new(); prompts.len()]; senders.len() + 1];
    let all = batches(prompts, batch);
    let mut task = run.task(&format!("{name} paths"), all.len() as u64, "batches");
    for (done, indices) in all.iter().enumerate() {
        run.check_interrupted()?;
        let model = &study.subject.model;
        let base = run_nodes(model, &tokens(prompts, indices, &model.device())?)?;
        let picked: Vec<&Prompt> = indices.iter().map(|index| &prompts[*index]).collect();
        let read = reader(&picked);
        let from: Vec<usize> = indices.iter().map(|index| sources[*index]).collect();
        let source = eval.writes.gather(&from)?;
        let mut letters = patch_queries(model, &base, &source, (&senders, &receivers), &read)?;
        letters.push(patch_whole_queries(model, &base, &source, &receivers, &read)?);
        for (sender, letters) in letters.iter().enumerate() {
            for (index, row) in indices.iter().zip(rows(letters)?) {
                after[sender][*index] = row;
            }
        }
        task.at(done as u64 + 1, "");
    }
    let correct = study.eval.correct();
    let clean = Summary::of(&eval.letters, &correct);
    let change = |letters: &Vec<Letters>| {
        let summary = Summary::of(letters, &correct);
        [summary.m - clean.m, summary.loss - clean.loss]
    };
    let changes: Vec<[f64; 2]> = after.iter().map(change).collect();
    let whole = changes[senders.len()];
    let mut order: Vec<usize> = (0..senders.len()).collect();
    order.sort_by(|a, b| changes[*b][0].abs().total_cmp(&changes[*a][0].abs()));
    for (rank, sender) in order.iter().enumerate() {
        let (node, [m, loss]) = (senders[*sender], changes[*sender]);
        let class = study.class(node).map_or("MLP", |class| class.name());
        let shown = if rank < params.shown { "yes" } else { "no" };
        table.push(row![name, node.to_string().as_str(), class, rank + 1, shown, m, loss, m / whole[0]])?;
    }
    table.push(row![name, "whole query", "", None::<i64>, "yes", whole[0], whole[1], 1.])?;
    let sum: f64 = changes[..senders.len()].iter().map(|change| change[0]).sum();
    run.metric(&format!("{name}.whole"), whole[0], "logits");
    run.metric(&format!("{name}.top_share"), changes[order[0]][0] / whole[0], "fraction");
    run.metric(&format!("{name}.sum_share"), sum / whole[0], "fraction");
    Ok(())
}
