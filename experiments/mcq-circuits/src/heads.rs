//! The attention of each head from the last position, and the class that follows from it (arXiv 2307.09458, section
//! 3.2). The rules are ours, because the paper classifies heads by inspection.

use std::collections::BTreeMap;

use crate::mcq::Part;
use anyhow::Result;
use candle_core::{D, DType, Tensor};
use hooks::{End, Hook, HookedModel, Layer, Point, Site, Start};
use models::Decoder;
use patching::Node;
use probes::mean;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::prompts::{Prompt, batches, tokens};

/// The thresholds of the classification rules.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Minimum share of attention on labels, or on contents and line ends.
    pub share: f64,
    /// Minimum diagonality of a Correct Letter head or a Content Gatherer.
    pub diagonal: f64,
    /// Minimum share of a single label for a Single Letter head.
    pub column: f64,
    /// Maximum diagonality of a Uniform head.
    pub flat: f64,
    /// Minimum entropy over labels of a Uniform head, as a fraction of ln N for N labels.
    pub entropy: f64,
    /// Minimum share of the last line for an Amplification head.
    pub last_line: f64,
}

impl Thresholds {
    /// All thresholds, each increased by `by`.
    pub fn shifted(self, by: f64) -> Self {
        Self {
            share: self.share + by,
            diagonal: self.diagonal + by,
            column: self.column + by,
            flat: self.flat + by,
            entropy: self.entropy + by,
            last_line: self.last_line + by,
        }
    }
}

/// The class of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Attends to the label of the right option and raises its logit.
    CorrectLetter,
    /// Attends mostly to one label.
    SingleLetter,
    /// Attends to all labels equally.
    Uniform,
    /// Attends to the content of the right option.
    ContentGatherer,
    /// Attends to the last line and raises the right label.
    Amplification,
    /// None of these.
    Other,
}

impl Class {
    /// All classes, in the order in which rules are tried.
    pub const ALL: [Self; 6] = [
        Self::CorrectLetter,
        Self::SingleLetter,
        Self::Uniform,
        Self::ContentGatherer,
        Self::Amplification,
        Self::Other,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::CorrectLetter => "correct letter",
            Self::SingleLetter => "single letter",
            Self::Uniform => "uniform",
            Self::ContentGatherer => "content gatherer",
            Self::Amplification => "amplification",
            Self::Other => "other",
        }
    }
}

impl Class {
    /// A one-word name for labels of figures.
    pub fn short(self) -> &'static str {
        match self {
            Self::CorrectLetter => "correct",
            Self::SingleLetter => "single",
            Self::Uniform => "uniform",
            Self::ContentGatherer => "content",
            Self::Amplification => "amplify",
            Self::Other => "other",
        }
    }
}

/// Attention from the last position of one prompt, `[seq]`, raw and weighted by the norm of each value's write, `a_s
/// |W_O v_s|`.
#[derive(Clone, Debug)]
pub struct Look {
    /// The attention probabilities.
    pub raw: Vec<f64>,
    /// The weighted attention, not normalised.
    pub weighted: Vec<f64>,
}

/// The attention of every head from the last position of every prompt, `[n_layers * n_heads][prompts]`.
pub fn looks(model: &Decoder, prompts: &[Prompt], batch: usize) -> Result<Vec<Vec<Look>>> {
    let (n_layers, n_heads) = (model.n_layers(), model.n_heads());
    let weights = model.weights();
    let mut found = vec![vec![None; prompts.len()]; n_layers * n_heads];
    for indices in batches(prompts, batch) {
        let tokens = tokens(prompts, &indices, &model.device())?;
        let mut seen = Seen { patterns: Vec::new(), values: Vec::new() };
        let end = End::Resid(Layer(n_layers));
        model.forward_between(Start::Tokens(&tokens), end, &mut seen)?;
        for (layer, (pattern, values)) in seen.patterns.iter().zip(&seen.values).enumerate() {
            let pattern = pattern.to_dtype(DType::F64)?; // [b, heads, seq]
            let out = &weights[&format!("blocks.{layer}.attn.W_O")]; // [heads * e, d]
            let width = values.dim(D::Minus1)?;
            for head in 0..n_heads {
                let v = values.narrow(2, head, 1)?.squeeze(2)?.contiguous()?; // [b, seq, e]
                let w = out.narrow(0, head * width, width)?;
                let written: Tensor = v.broadcast_matmul(&w)?.sqr()?.sum(D::Minus1)?.sqrt()?; // [b, seq]
                let written = written.to_dtype(DType::F64)?.to_vec2::<f64>()?;
                let raw = pattern.narrow(1, head, 1)?.squeeze(1)?.to_vec2::<f64>()?;
                for ((index, raw), written) in indices.iter().zip(raw).zip(written) {
                    let weighted = raw.iter().zip(&written).map(|(a, w)| a * w).collect();
                    found[layer * n_heads + head][*index] = Some(Look { raw, weighted });
                }
            }
        }
    }
    Ok(found.into_iter().map(|head| head.into_iter().flatten().collect()).collect())
}

/// The patterns of the last position `[batch, heads, seq]` and the values `[batch, seq, heads, d_head]`, block by
/// block.
struct Seen {
    patterns: Vec<Tensor>,
    values: Vec<Tensor>,
}

impl Hook for Seen {
    fn wants(&self, site: Site) -> bool {
        matches!(site, Site::Block(_, Point::Pattern | Point::V))
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> candle_core::Result<Tensor> {
        match site {
            Site::Block(_, Point::V) => self.values.push(tensor.contiguous()?),
            _ => self.patterns.push(tensor.narrow(2, tensor.dim(2)? - 1, 1)?.squeeze(2)?.contiguous()?),
        }
        Ok(tensor)
    }
}

/// The attention of one head over prompts. Shares are of value-weighted attention, excluding BOS.
#[derive(Clone, Debug)]
pub struct Portrait {
    /// The share of each group of tokens.
    pub groups: BTreeMap<&'static str, f64>,
    /// The raw attention to BOS.
    pub bos: f64,
    /// The raw attention to the right label.
    pub right_label: f64,
    /// The attended label by right option, `[right][attended]`; sums to 1.
    pub labels: Vec<Vec<f64>>,
    /// The attended option (contents and line ends) by right option, `[right][attended]`; sums to 1.
    pub contents: Vec<Vec<f64>>,
    /// Whether line ends get more attention than contents.
    pub line_ends: bool,
}

/// The names of the groups, in the order of a prompt.
pub const GROUPS: [&str; 10] = [
    "prelude",
    "question",
    "brackets",
    "right label",
    "other labels",
    "right content",
    "other content",
    "right end",
    "other ends",
    "last line",
];

/// The group of a token; `None` for BOS.
fn group(part: Part, correct: usize) -> Option<&'static str> {
    let right = |option: usize, names: [&'static str; 2]| if option == correct { names[0] } else { names[1] };
    match part {
        Part::Bos => None,
        Part::Prelude => Some("prelude"),
        Part::Question => Some("question"),
        Part::Punctuation => Some("brackets"),
        Part::Label(option) => Some(right(option, ["right label", "other labels"])),
        Part::Content(option) => Some(right(option, ["right content", "other content"])),
        Part::End(option) => Some(right(option, ["right end", "other ends"])),
        Part::Final => Some("last line"),
    }
}

impl Portrait {
    /// The portrait of one head.
    pub fn of(looks: &[Look], prompts: &[Prompt]) -> Self {
        let options = prompts.first().map_or(0, Prompt::options);
        let mut groups: BTreeMap<&'static str, f64> = GROUPS.iter().map(|name| (*name, 0.)).collect();
        let mut labels = vec![vec![0.; options]; options];
        let mut contents = labels.clone();
        let (mut bos, mut right_label, mut counted) = (0., 0., 0.);
        let mut per_option = vec![0.; options];
        let (mut ends, mut inside) = (0., 0.);
        prompts.iter().for_each(|prompt| per_option[prompt.correct] += 1.);
        for (look, prompt) in looks.iter().zip(prompts) {
            let c = prompt.correct;
            let places = || look.raw.iter().zip(&look.weighted).zip(&prompt.parts);
            let total: f64 = places().filter(|(_, part)| **part != Part::Bos).map(|((_, w), _)| w).sum();
            for ((raw, weighted), part) in places() {
                match part {
                    Part::Bos => bos += raw,
                    Part::Label(option) if *option == c => right_label += raw,
                    _ => {}
                }
                match part {
                    Part::Label(option) => labels[c][*option] += weighted / per_option[c],
                    Part::Content(option) | Part::End(option) => contents[c][*option] += weighted / per_option[c],
                    _ => {}
                }
                match part {
                    Part::End(_) => ends += weighted,
                    Part::Content(_) => inside += weighted,
                    _ => {}
                }
                if let Some(name) = group(*part, c).filter(|_| total > 0.) {
                    *groups.entry(name).or_default() += weighted / total;
                }
            }
            counted += 1.;
        }
        let normalised = |mut matrix: Vec<Vec<f64>>| {
            let sum: f64 = matrix.iter().flatten().sum();
            matrix.iter_mut().flatten().for_each(|x| *x /= if sum > 0. { sum } else { 1. });
            matrix
        };
        groups.values_mut().for_each(|share| *share /= counted);
        Self {
            groups,
            bos: bos / counted,
            right_label: right_label / counted,
            labels: normalised(labels),
            contents: normalised(contents),
            line_ends: ends > inside,
        }
    }

    fn share(&self, names: &[&str]) -> f64 {
        names.iter().filter_map(|name| self.groups.get(name)).sum()
    }

    /// The share of all labels.
    pub fn on_labels(&self) -> f64 {
        self.share(&["right label", "other labels"])
    }

    /// The share of all contents and line ends.
    pub fn on_options(&self) -> f64 {
        self.share(&["right content", "other content", "right end", "other ends"])
    }

    /// The share of each label over all prompts.
    pub fn columns(&self) -> Vec<f64> {
        (0..self.labels.len()).map(|k| self.labels.iter().map(|row| row[k]).sum()).collect()
    }

    /// The entropy over labels as a fraction of ln N.
    pub fn entropy(&self) -> f64 {
        let columns = self.columns();
        let nats: f64 = columns.iter().filter(|x| **x > 0.).map(|x| -x * x.ln()).sum();
        nats / (columns.len().max(2) as f64).ln()
    }

    /// The class of the first rule that applies; `effect` is the head's mean direct effect on the right label.
    pub fn class(&self, effect: f64, t: &Thresholds) -> Class {
        let (on_labels, diagonal) = (self.on_labels() >= t.share, diagonality(&self.labels));
        let column = self.columns().into_iter().fold(0., f64::max);
        if on_labels && diagonal >= t.diagonal && effect > 0. {
            Class::CorrectLetter
        } else if on_labels && column >= t.column {
            Class::SingleLetter
        } else if on_labels && diagonal < t.flat && self.entropy() >= t.entropy {
            Class::Uniform
        } else if self.on_options() >= t.share && diagonality(&self.contents) >= t.diagonal {
            Class::ContentGatherer
        } else if self.share(&["last line"]) >= t.last_line && effect > 0. {
            Class::Amplification
        } else {
            Class::Other
        }
    }

    /// Whether a Single Letter head gives its label at least twice the attention when it is right.
    pub fn is_conditional(&self) -> bool {
        let columns = self.columns();
        let k = (0..columns.len()).fold(0, |best, k| if columns[k] > columns[best] { k } else { best });
        let others: Vec<f64> = (0..columns.len()).filter(|i| *i != k).map(|i| self.labels[i][k]).collect();
        self.labels.get(k).is_some_and(|row| row[k] >= 2. * mean(&others))
    }
}

/// The sum of the diagonal of a matrix that sums to 1; 1 / N for a flat one.
pub fn diagonality(matrix: &[Vec<f64>]) -> f64 {
    (0..matrix.len()).map(|i| matrix[i][i]).sum()
}

/// The index of a head among those of all blocks; `None` for an MLP.
pub fn index(node: Node, n_heads: usize) -> Option<usize> {
    node.head().map(|head| node.layer().0 * n_heads + head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Thresholds =
        Thresholds { share: 0.3, diagonal: 0.5, column: 0.5, flat: 0.35, entropy: 0.9, last_line: 0.5 };

    /// Two prompts with two options, `BOS (A content end) (B content end) last`, one per right option.
    fn prompts() -> Vec<Prompt> {
        let parts = [0, 1].iter().flat_map(|k| [Part::Label(*k), Part::Content(*k), Part::End(*k)]);
        let parts: Vec<Part> = [Part::Bos].into_iter().chain(parts).chain([Part::Final]).collect();
        let prompt = |correct| Prompt { tokens: vec![0; 8], parts: parts.clone(), answers: vec![1, 2], correct };
        vec![prompt(0), prompt(1)]
    }

    fn portrait(weights: [[f64; 8]; 2]) -> Portrait {
        let look = |weights: &[f64; 8]| Look { raw: weights.to_vec(), weighted: weights.to_vec() };
        Portrait::of(&weights.each_ref().map(look), &prompts())
    }

    #[test]
    fn classes_follow_their_rules() {
        let class = |weights, effect| portrait(weights).class(effect, &BOUNDS);
        let right = [[0.2, 0.8, 0., 0., 0., 0., 0., 0.], [0.2, 0., 0., 0., 0.8, 0., 0., 0.]];
        assert_eq!(class(right, 1.), Class::CorrectLetter);
        // Without a positive effect, the head counts as one that attends mostly to a single label.
        assert_eq!(class(right, -1.), Class::SingleLetter);
        let single = [[0.1, 0.9, 0., 0., 0., 0., 0., 0.], [0.9, 0.1, 0., 0., 0., 0., 0., 0.]];
        assert_eq!(class(single, -1.), Class::SingleLetter);
        assert!(portrait(single).is_conditional());
        let content = [[0., 0., 0.5, 0.4, 0., 0., 0., 0.1], [0., 0., 0., 0., 0., 0.5, 0.4, 0.1]];
        assert_eq!(class(content, 0.), Class::ContentGatherer);
        assert!(!portrait(content).line_ends);
        let last = [[0.3, 0., 0., 0., 0., 0., 0., 0.7]; 2];
        assert_eq!((class(last, 1.), class(last, -1.)), (Class::Amplification, Class::Other));
        let shares = portrait(content);
        assert!((shares.groups.values().sum::<f64>() - 1.).abs() < 1e-12);
        assert!((shares.contents.iter().flatten().sum::<f64>() - 1.).abs() < 1e-12);
        // With two labels, a uniform head meets the flatness thresholds only if the other thresholds are raised.
        let flat = [[0., 0.5, 0., 0., 0.5, 0., 0., 0.]; 2];
        let wide = Thresholds { column: 0.6, flat: 0.55, diagonal: 0.6, ..BOUNDS };
        assert_eq!(portrait(flat).class(0., &wide), Class::Uniform);
        assert!((portrait(flat).entropy() - 1.).abs() < 1e-12);
        assert_eq!(BOUNDS.shifted(0.1).share, 0.4);
    }
}
