//! The attention of each head from the last position, and its direct effect on the logits of the labels (arXiv
//! 2307.09458, section 3.2 and appendix E).
//!
//! Value-weighted attention multiplies the attention by the norm of the value's write, `a_s |W_O v_s|`. All shares use
//! it unless a description says raw.
//!
//! Tables: `heads` (a row per head), `groups` (shares of groups of tokens), `matrices` (attended label or option and
//! logit effect, by right option), `strips` (single prompts), `classes` (number of heads per class, also with shifted
//! thresholds), `confusion` (class by attention against class by logit effect).

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
    /// Settings shared by all analyses: models, questions and classification thresholds.
    pub common: Common,
    /// Number of heads to show in `groups` and `matrices`, taken by absolute direct effect.
    #[schemars(range(min = 1))]
    pub shown: usize,
    /// Amount by which all thresholds shift down and up, to show how the classes depend on them.
    pub shift: f64,
}

/// Analyses every model and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut tables = Tables::new();
    each(run, &params.common, |study| analyse(run, &params, study, &mut tables))?;
    tables.record(run)
}

/// The mean direct effect on each label by right option, `[right][label]`.
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

/// The positive part of a matrix, normalised to sum to 1.
fn positive(matrix: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let sum: f64 = matrix.iter().flatten().map(|x| x.max(0.)).sum();
    let share = |x: &f64| if sum > 0. { x.max(0.) / sum } else { 0. };
    matrix.iter().map(|row| row.iter().map(share).collect()).collect()
}

/// Classifies a head by its effect on the logits.
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

/// Records one prompt for each right option, for the strongest head of each class.
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

/// A label for each token of some prompts: position and token. If the prompts have equal lengths but different tokens,
/// the label is position and part, so that the prompts share columns.
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

/// Counts the heads of each class and their share of the positive direct effect, with thresholds shifted down,
/// unshifted and shifted up.
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
            .text("subject", "name of the model")
            .text("head", "name of the head")
            .int("layer", "index of the head's block")
            .text("class", "class of the head by its attention")
            .float("de", "mean direct effect on the right label's net logit, fit questions", "logits")
            .float("bos", "raw attention to the beginning of the sequence", "fraction")
            .float("right_label", "raw attention to the right label", "fraction")
            .float("on_labels", "share of attention on all labels", "fraction")
            .float("on_options", "share of attention on the options' contents and line ends", "fraction")
            .float("on_last_line", "share of attention on the last line", "fraction")
            .float(
                "label_diagonal",
                "share of the right label in the attention on labels, averaged over right options",
                "fraction",
            )
            .float(
                "option_diagonal",
                "share of the right option in the attention on options, averaged over right options",
                "fraction",
            )
            .float("logit_diagonal", "share of the right label in the positive logit effects", "fraction")
            .float("column", "largest share of a single label in the attention on labels", "fraction")
            .float("entropy", "entropy of the attention over the N labels, divided by ln N", "fraction")
            .text(
                "conditional",
                "for single letter heads: whether the label gets at least twice the attention when it is right",
            )
            .text("line_ends", "for content gatherers: whether line ends get more attention than contents")
            .text("prints", "class of the head by its effect on the logits");
        let groups = Schema::new("groups", "one group of tokens of one head")
            .text("subject", "name of the model")
            .text("head", "name of the head")
            .text("group", "name of the group of tokens")
            .float("share", "share of the head's attention, excluding the beginning of the sequence", "fraction");
        let matrices = Schema::new("matrices", "one cell of one head's matrix")
            .text("subject", "name of the model")
            .text("head", "name of the head")
            .text("matrix", "attention on labels, attention on options, or effect on the labels' logits")
            .text("right", "letter of the right option's position")
            .text("label", "letter of the position of the option or label")
            .float("value", "share of attention (all cells sum to 1), or effect in logits", "");
        let strips = Schema::new("strips", "one token of one prompt")
            .text("subject", "name of the model")
            .text("head", "strongest head of its class, with a short class name")
            .text("right", "letter of the right option's position")
            .int("place", "position of the token")
            .text("token", "position and token")
            .float("raw", "attention from the last position", "fraction")
            .float("weighted", "attention weighted by the norm of the value's write, normalised", "fraction");
        let classes = Schema::new("classes", "one class of heads of one model")
            .text("subject", "name of the model")
            .text("class", "name of the class")
            .float("shift", "shift added to all thresholds", "")
            .int("heads", "number of heads")
            .float("share", "share of the positive direct effect of all nodes", "fraction");
        let confusion = Schema::new("confusion", "the heads with one class by attention and one class by logit effect")
            .text("subject", "name of the model")
            .text("class", "class of the heads by their attention")
            .text("prints", "class of the heads by their effect on the logits")
            .int("heads", "number of heads");
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
