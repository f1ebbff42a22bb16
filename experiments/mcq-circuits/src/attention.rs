//! What heads look at from the last place, and what they print by it (arXiv 2307.09458, section 3.2 and appendix E).
//!
//! Attention is weighted with the size of what each place's value writes, `a_s |W_O v_s|`, unless it is called raw.
//!
//! Tables: `heads` (a row per head), `groups` (shares of groups of tokens), `matrices` (attended label or option, and logit
//! effect, by right option), `strips` (single prompts), `classes` (counts, with bounds moved), `confusion` (class by what a
//! head looks at, against class by what it does to the logits).

use std::collections::BTreeMap;

use crate::mcq::Part;
use anyhow::Result;
use experiment::Run;
use patching::Node;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::heads::{Class, GROUPS, diagonality, index};
use crate::prompts::Prompt;
use crate::study::{Common, Study, each};
use crate::subject::letter;

/// Parameters of `attention`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models, questions, rules.
    pub common: Common,
    /// How many heads are shown, by the size of their direct effect.
    #[schemars(range(min = 1))]
    pub shown: usize,
    /// How far bounds are moved to see how much classes depend on them.
    pub shift: f64,
}

/// Looks at every model and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut tables = Tables::new();
    each(run, &params.common, |study| analyse(run, &params, study, &mut tables))?;
    tables.record(run)
}

/// Mean direct effect on each label by right option, `[right][label]`.
fn logit_matrix(study: &Study, node: usize) -> Vec<Vec<f64>> {
    let options = study.fit.options();
    let mut matrix = vec![vec![0.; options]; options];
    let mut counts = vec![0.; options];
    for (effect, prompt) in study.direct.net[node].iter().zip(&study.fit.prompts) {
        counts[prompt.correct] += 1.;
        effect.iter().enumerate().for_each(|(label, x)| matrix[prompt.correct][label] += x);
    }
    for (row, count) in matrix.iter_mut().zip(&counts) {
        row.iter_mut().for_each(|x| *x /= f64::max(*count, 1.));
    }
    matrix
}

/// The positive part of a matrix, made to sum to 1.
fn positive(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let sum: f64 = matrix.iter().flatten().map(|x| x.max(0.)).sum();
    let share = |x: &f64| if sum > 0. { x.max(0.) / sum } else { 0. };
    matrix.iter().map(|row| row.iter().map(share).collect()).collect()
}

/// What a head does to the logits: raises the right label, one label, or hardly anything.
fn printed(matrix: &[Vec<f64>], m: f64) -> &'static str {
    let share = positive(matrix);
    let largest = matrix.iter().flatten().fold(0., |most: f64, x| most.max(x.abs()));
    let columns = (0..share.len()).map(|k| share.iter().map(|row| row[k]).sum::<f64>()).fold(0., f64::max);
    if largest < 0.01 * m.abs() {
        "nothing"
    } else if diagonality(&share) >= 0.5 {
        "right label"
    } else if columns >= 0.5 {
        "one label"
    } else {
        "mixed"
    }
}

fn analyse(run: &Run, params: &Params, study: &Study, tables: &mut Tables) -> Result<()> {
    let name = study.name();
    let (_, n_heads) = study.subject.sizes();
    let m = crate::letters::Summary::of(&study.direct.letters, &study.fit.correct()).m;
    let mut heads: Vec<usize> = (0..study.nodes.len()).filter(|node| study.nodes[*node].head().is_some()).collect();
    heads.sort_by(|a, b| study.effects[*b].abs().total_cmp(&study.effects[*a].abs()));
    let mut confusion: BTreeMap<(&str, &str), i64> = BTreeMap::new();
    for (place, node) in heads.iter().enumerate() {
        let id = study.nodes[*node];
        let Some(head) = index(id, n_heads) else { continue };
        let (portrait, class) = (&study.portraits[head], study.classes[head]);
        let logits = logit_matrix(study, *node);
        let prints = printed(&logits, m);
        *confusion.entry((class.name(), prints)).or_default() += 1;
        let flag = |holds: bool| if holds { "yes" } else { "no" };
        tables.heads.push(row![
            name,
            id.to_string().as_str(),
            id.layer().0,
            class.name(),
            study.effects[*node],
            portrait.bos,
            portrait.right_label,
            portrait.on_labels(),
            portrait.on_options(),
            portrait.groups.get("last line").copied(),
            diagonality(&portrait.labels),
            diagonality(&portrait.contents),
            diagonality(&positive(&logits)),
            portrait.columns().into_iter().fold(0., f64::max),
            portrait.entropy(),
            flag(class == Class::SingleLetter && portrait.is_conditional()),
            flag(class == Class::ContentGatherer && portrait.line_ends),
            prints
        ])?;
        if place >= params.shown {
            continue;
        }
        let label = format!("{id} {}", class.short());
        for group in GROUPS {
            tables.groups.push(row![name, &*label, group, portrait.groups.get(group).copied()])?;
        }
        for (what, matrix) in [("labels", &portrait.labels), ("options", &portrait.contents), ("logits", &logits)] {
            for (right, row) in matrix.iter().enumerate() {
                for (k, value) in row.iter().enumerate() {
                    tables.matrices.push(row![name, &*label, what, letter(right), letter(k), *value])?;
                }
            }
        }
    }
    strips(study, &heads, tables)?;
    for ((class, prints), count) in confusion {
        tables.confusion.push(row![name, class, prints, count])?;
    }
    classes(run, params, study, tables)
}

/// One prompt for each right option, for the strongest head of each class.
fn strips(study: &Study, heads: &[usize], tables: &mut Tables) -> Result<()> {
    let (_, n_heads) = study.subject.sizes();
    for class in Class::ALL {
        let of_class = |node: &&usize| study.class(study.nodes[**node]) == Some(class);
        let Some(node) = heads.iter().find(of_class) else { continue };
        let id = study.nodes[*node];
        let Some(head) = index(id, n_heads) else { continue };
        let one = |right| study.eval.prompts.iter().position(|prompt| prompt.correct == right);
        let numbers: Vec<usize> = (0..study.eval.options()).filter_map(one).collect();
        let labels = token_labels(study, &numbers);
        for (number, labels) in numbers.iter().zip(labels) {
            let (prompt, look) = (&study.eval.prompts[*number], &study.looks[head][*number]);
            let total: f64 = look.weighted.iter().sum();
            for (place, label) in labels.iter().enumerate() {
                tables.strips.push(row![
                    study.name(),
                    format!("{id} {}", class.short()).as_str(),
                    letter(prompt.correct),
                    place,
                    label,
                    look.raw[place],
                    look.weighted[place] / total
                ])?;
            }
        }
    }
    Ok(())
}

/// A label for each token of some prompts: its place and word; where the prompts have the same length and other words, its
/// place and part, so that they share columns.
fn token_labels(study: &Study, numbers: &[usize]) -> Vec<Vec<String>> {
    let prompts: Vec<&Prompt> = numbers.iter().map(|number| &study.eval.prompts[*number]).collect();
    let aligned = prompts.windows(2).all(|pair| pair[0].tokens.len() == pair[1].tokens.len());
    let label = |prompt: &Prompt, place: usize| {
        let same = prompts.iter().all(|other| other.tokens.get(place) == prompt.tokens.get(place));
        match prompt.parts[place] {
            Part::Content(option) if aligned && !same => format!("{place} option {}", letter(option)),
            Part::Question if aligned && !same => format!("{place} asked"),
            _ => format!("{place} {}", study.subject.asker.word(prompt.tokens[place])),
        }
    };
    prompts.iter().map(|prompt| (0..prompt.tokens.len()).map(|place| label(prompt, place)).collect()).collect()
}

/// How many heads each class has, and how much of the positive direct effect, with all bounds as they are and moved.
fn classes(run: &Run, params: &Params, study: &Study, tables: &mut Tables) -> Result<()> {
    let name = study.name();
    let heads: Vec<(Node, f64)> = study
        .nodes
        .iter()
        .copied()
        .zip(study.effects.iter().copied())
        .filter(|(node, _)| node.head().is_some())
        .collect();
    let positive: f64 = study.effects.iter().filter(|effect| **effect > 0.).sum();
    for shift in [-params.shift, 0., params.shift] {
        let classes = study.classed(&params.common.thresholds.shifted(shift));
        for class in Class::ALL {
            let members = heads.iter().zip(&classes).filter(|(_, of)| **of == class).map(|(head, _)| head.1);
            let effects: Vec<f64> = members.collect();
            let share = effects.iter().map(|effect| effect.max(0.)).sum::<f64>() / positive;
            tables.classes.push(row![name, class.name(), shift, effects.len(), share])?;
            if shift == 0. {
                let key = class.name().replace(' ', "_");
                run.metric(&format!("{name}.{key}.heads"), effects.len() as f64, "heads");
                run.metric(&format!("{name}.{key}.share"), share, "fraction");
            }
        }
    }
    let best = |of: &dyn Fn(&crate::heads::Portrait) -> f64| study.portraits.iter().map(of).fold(0., f64::max);
    run.metric(&format!("{name}.best_label_diagonal"), best(&|portrait| diagonality(&portrait.labels)), "fraction");
    run.metric(&format!("{name}.best_option_diagonal"), best(&|portrait| diagonality(&portrait.contents)), "fraction");
    Ok(())
}

struct Tables {
    heads: Builder,
    groups: Builder,
    matrices: Builder,
    strips: Builder,
    classes: Builder,
    confusion: Builder,
}

impl Tables {
    fn new() -> Self {
        let heads = Schema::new("heads", "one head of one model")
            .text("subject", "which model")
            .text("head", "which head")
            .int("layer", "its block")
            .text("class", "by what it looks at")
            .float("de", "direct effect on the right label, fit questions", "logits")
            .float("bos", "raw attention on the beginning of the sequence", "fraction")
            .float("right_label", "raw attention on the right label", "fraction")
            .float("on_labels", "share of all labels", "fraction")
            .float("on_options", "share of what options say and of their line ends", "fraction")
            .float("on_last_line", "share of the last line", "fraction")
            .float("label_diagonal", "share of the right label among labels, averaged over right places", "fraction")
            .float("option_diagonal", "share of the right option among options", "fraction")
            .float("logit_diagonal", "share of the right label in what it adds to logits", "fraction")
            .float("column", "largest share of one label", "fraction")
            .float("entropy", "entropy over labels as a share of ln N", "fraction")
            .text(
                "conditional",
                "of single letter heads: whether the label is looked at twice as much when it is right",
            )
            .text("line_ends", "of content gatherers: whether line ends hold more than contents")
            .text("prints", "what it does to the logits");
        let groups = Schema::new("groups", "one group of tokens of one head")
            .text("subject", "which model")
            .text("head", "which head")
            .text("group", "which tokens")
            .float("share", "of its attention, without the beginning of the sequence", "fraction");
        let matrices = Schema::new("matrices", "one cell of one head's matrix")
            .text("subject", "which model")
            .text("head", "which head")
            .text("matrix", "labels or options looked at, or change of the labels' logits")
            .text("right", "place of the right option")
            .text("label", "place of the option or label")
            .float("value", "share of attention (all cells sum to 1), or logits", "");
        let strips = Schema::new("strips", "one token of one prompt")
            .text("subject", "which model")
            .text("head", "strongest of its class")
            .text("right", "place of the right option")
            .int("place", "of the token")
            .text("token", "place and token")
            .float("raw", "attention from the last place", "fraction")
            .float("weighted", "weighted with the size of what is written", "fraction");
        let classes = Schema::new("classes", "one class of heads of one model")
            .text("subject", "which model")
            .text("class", "which")
            .float("shift", "of all bounds", "")
            .int("heads", "how many")
            .float("share", "of the positive direct effect", "fraction");
        let confusion = Schema::new("confusion", "heads of one class that do one thing to the logits")
            .text("subject", "which model")
            .text("class", "by what they look at")
            .text("prints", "by what they do to the logits")
            .int("heads", "how many");
        let [heads, groups, matrices, strips, classes, confusion] =
            [heads, groups, matrices, strips, classes, confusion].map(Builder::new);
        Self { heads, groups, matrices, strips, classes, confusion }
    }

    fn record(self, run: &Run) -> Result<()> {
        for table in [self.heads, self.groups, self.matrices, self.strips, self.classes, self.confusion] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}
