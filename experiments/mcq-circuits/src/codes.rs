//! Queries, keys and values of chosen heads on questions with letters A to D in order: their principal directions, and
//! edits that keep only some of these (arXiv 2307.09458, section 4).
//!
//! Centring: queries minus their mean over prompts; keys minus the prompt's own mean over its labels, because the
//! softmax ignores a constant that all labels share; values minus their mean over all labels.

use std::cell::RefCell;
use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::DType;
use hooks::Layer;
use patching::Node;
use probes::{Matrix, Pca};

use crate::edits::{HeadEdit, HeadEdits, Space};
use crate::letters::Letters;
use crate::prompts::Prompt;
use crate::subject::{Subject, letters_with};

/// The vectors of one head in one space, `[prompts][1 or options][d_head]`.
pub type Vectors = Vec<Vec<Vec<f64>>>;

/// Vectors, each with its class.
pub type Classed = Vec<(usize, Vec<f64>)>;

/// The vectors of one head in one space on the fit questions, with their statistics.
pub struct Code {
    /// The block index.
    pub layer: Layer,
    /// The head index in the block.
    pub head: usize,
    /// The space: queries, keys or values.
    pub space: Space,
    /// The vectors, not centred.
    pub vectors: Vectors,
    /// All principal directions of the centred vectors.
    pub pca: Pca,
    /// The mean that centres the vectors.
    mean: Vec<f64>,
    /// The mean centred vector of each class: the right option for queries, the label's position for keys and values.
    pub class_means: Vec<Vec<f64>>,
}

/// The vectors of some heads in all three spaces, `[heads][spaces]`.
pub fn collect(subject: &Subject, prompts: &[Prompt], heads: &[Node], batch: usize) -> Result<Vec<[Vectors; 3]>> {
    let found: RefCell<Vec<[Vectors; 3]>> =
        RefCell::new(heads.iter().map(|_| [(); 3].map(|()| vec![Vec::new(); prompts.len()])).collect());
    let mut edits = Vec::new();
    for (at, node) in heads.iter().enumerate() {
        let Some(head) = node.head() else { continue };
        for (which, space) in Space::ALL.into_iter().enumerate() {
            let found = &found;
            edits.push(HeadEdit {
                layer: node.layer(),
                head,
                space,
                change: Box::new(move |prompt, vectors: &mut [Vec<f64>]| {
                    found.borrow_mut()[at][which][prompt] = vectors.to_vec();
                }),
            });
        }
    }
    edited(subject, prompts, &edits, &[], batch)?;
    drop(edits);
    Ok(found.into_inner())
}

/// The attention of watched blocks, `[prompts][heads][seq]` by block.
pub type Patterns = BTreeMap<Layer, Vectors>;

/// The label logits of prompts with some edits, and the attention of watched blocks from the last position,
/// `[prompts][heads][seq]` by block.
pub fn edited(
    subject: &Subject,
    prompts: &[Prompt],
    edits: &[HeadEdit<'_>],
    watched: &[Layer],
    batch: usize,
) -> Result<(Vec<Letters>, Patterns)> {
    let mut seen: Patterns = watched.iter().map(|layer| (*layer, vec![Vec::new(); prompts.len()])).collect();
    let hook = |rows: &[usize]| HeadEdits { edits, prompts, rows: rows.to_vec(), watched, seen: BTreeMap::new() };
    let letters = letters_with(&subject.model, prompts, batch, hook, |rows, hook| {
        for (layer, pattern) in hook.seen {
            let pattern = pattern.to_dtype(DType::F64)?.to_vec3::<f64>()?;
            for (row, of_prompt) in rows.iter().zip(pattern) {
                if let Some(all) = seen.get_mut(&layer) {
                    all[*row] = of_prompt;
                }
            }
        }
        Ok(())
    })?;
    Ok((letters, seen))
}

/// The centred vectors, each with its class.
fn centred(space: Space, vectors: &Vectors, mean: &[f64], correct: &[usize]) -> Classed {
    let mut all = Vec::new();
    for (of_prompt, right) in vectors.iter().zip(correct) {
        let own = prompt_mean(of_prompt);
        let middle = if space == Space::Key { &own } else { mean };
        for (label, vector) in of_prompt.iter().enumerate() {
            let class = if space == Space::Query { *right } else { label };
            all.push((class, vector.iter().zip(middle).map(|(x, m)| x - m).collect()));
        }
    }
    all
}

/// The mean over the vectors.
fn prompt_mean(vectors: &[Vec<f64>]) -> Vec<f64> {
    let width = vectors.first().map_or(0, Vec::len);
    (0..width).map(|i| vectors.iter().map(|v| v[i]).sum::<f64>() / vectors.len() as f64).collect()
}

/// The rows as a matrix.
pub fn matrix(rows: &[Vec<f64>]) -> Matrix {
    Matrix::from_fn(rows.len(), rows.first().map_or(0, Vec::len), |row, column| rows[row][column])
}

impl Code {
    /// Computes the statistics of one head in one space.
    pub fn new(node: Node, space: Space, vectors: Vectors, correct: &[usize], options: usize) -> Result<Self> {
        let flat: Vec<Vec<f64>> = vectors.iter().flatten().cloned().collect();
        let mean = prompt_mean(&flat);
        let all = centred(space, &vectors, &mean, correct);
        let rows: Vec<Vec<f64>> = all.iter().map(|(_, row)| row.clone()).collect();
        let width = mean.len();
        let pca = Pca::fit(matrix(&rows).as_ref(), width.min(rows.len()))?;
        let class_mean = |class: usize| {
            let members: Vec<Vec<f64>> =
                all.iter().filter(|(of, _)| *of == class).map(|(_, row)| row.clone()).collect();
            if members.is_empty() { vec![0.; width] } else { prompt_mean(&members) }
        };
        let class_means = (0..options).map(class_mean).collect();
        Ok(Self { layer: node.layer(), head: node.head().unwrap_or(0), space, vectors, pca, mean, class_means })
    }

    /// Centres vectors of these or other prompts; each gets its class: the right option for queries, the label's
    /// position otherwise.
    pub fn centred(&self, vectors: &Vectors, correct: &[usize]) -> Classed {
        centred(self.space, vectors, &self.mean, correct)
    }

    /// Projects a centred vector on the first `rank` principal directions.
    pub fn projected(&self, x: &[f64], rank: usize) -> Vec<f64> {
        let mut part = vec![0.; x.len()];
        for row in 0..rank.min(self.pca.components.nrows()) {
            let direction = self.pca.components.row(row);
            let along: f64 = x.iter().enumerate().map(|(i, x)| x * direction[i]).sum();
            part.iter_mut().enumerate().for_each(|(i, p)| *p += along * direction[i]);
        }
        part
    }

    /// The coordinates of a centred vector along the first `count` principal directions.
    pub fn coordinates(&self, x: &[f64], count: usize) -> Vec<f64> {
        let along = |row: usize| x.iter().enumerate().map(|(i, x)| x * self.pca.components[(row, i)]).sum();
        (0..count.min(self.pca.components.nrows())).map(along).collect()
    }

    /// The mean that centres the vectors. Keys are centred by their prompt's own mean instead.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// An edit that keeps `rank` principal directions of the centred vectors; 0 keeps the mean alone.
    pub fn low_rank(&self, rank: usize) -> HeadEdit<'_> {
        self.edit(move |_, _, x| self.projected(x, rank))
    }

    /// An edit that replaces each centred vector with the mean of a class. For queries `of` gives the class of a
    /// prompt; for keys and values it is the label's position.
    pub fn class_mean<'a>(&'a self, of: impl Fn(usize) -> usize + 'a) -> HeadEdit<'a> {
        self.edit(move |prompt, label, _| {
            let class = if self.space == Space::Query { of(prompt) } else { label };
            self.class_means[class].clone()
        })
    }

    /// An edit that maps centred vectors; `change` receives the prompt's index, the label's index and the centred
    /// vector.
    pub fn edit<'a>(&'a self, change: impl Fn(usize, usize, &[f64]) -> Vec<f64> + 'a) -> HeadEdit<'a> {
        HeadEdit {
            layer: self.layer,
            head: self.head,
            space: self.space,
            change: Box::new(move |prompt, vectors: &mut [Vec<f64>]| {
                let own = prompt_mean(vectors);
                let middle = if self.space == Space::Key { &own } else { &self.mean };
                for (label, vector) in vectors.iter_mut().enumerate() {
                    let varies: Vec<f64> = vector.iter().zip(middle).map(|(x, m)| x - m).collect();
                    *vector = change(prompt, label, &varies).iter().zip(middle).map(|(x, m)| x + m).collect();
                }
            }),
        }
    }
}

/// The class with the nearest mean (Euclidean distance); the first of equally near ones.
pub fn nearest(x: &[f64], means: &[Vec<f64>]) -> usize {
    let distance = |mean: &Vec<f64>| mean.iter().zip(x).map(|(m, x)| (m - x) * (m - x)).sum::<f64>();
    (0..means.len()).fold(0, |best, class| if distance(&means[class]) < distance(&means[best]) { class } else { best })
}

/// The codes of some heads in all spaces, `[heads][spaces]`.
pub fn codes(subject: &Subject, prompts: &[Prompt], heads: &[Node], batch: usize) -> Result<Vec<[Code; 3]>> {
    let correct: Vec<usize> = prompts.iter().map(|prompt| prompt.correct).collect();
    let options = prompts.first().map_or(0, Prompt::options);
    let found = collect(subject, prompts, heads, batch)?;
    heads
        .iter()
        .zip(found)
        .map(|(node, [q, k, v])| {
            let code = |space, vectors| Code::new(*node, space, vectors, &correct, options);
            Ok([code(Space::Query, q)?, code(Space::Key, k)?, code(Space::Value, v)?])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of six prompts with three labels, in four dimensions.
    fn code() -> Code {
        let key = |p: usize, k: usize| (0..4).map(|i| ((p * 5 + k * 3 + i * i) % 7) as f64).collect::<Vec<f64>>();
        let vectors: Vectors = (0..6).map(|p| (0..3).map(|k| key(p, k)).collect()).collect();
        Code::new(Node::Head(Layer(0), 0), Space::Key, vectors, &[0, 1, 2, 0, 1, 2], 3).unwrap()
    }

    #[test]
    fn full_rank_keeps_the_vector_and_rank_zero_the_prompt_mean() {
        let code = code();
        for (rank, whole) in [(4, true), (0, false)] {
            for of_prompt in &code.vectors {
                let mut vectors = of_prompt.clone();
                (code.low_rank(rank).change)(0, &mut vectors);
                let expected = if whole { of_prompt.clone() } else { vec![prompt_mean(of_prompt); 3] };
                for (ours, theirs) in vectors.iter().flatten().zip(expected.iter().flatten()) {
                    assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}");
                }
            }
        }
    }

    #[test]
    fn class_means_are_nearest_to_themselves() {
        let code = code();
        for (class, mean) in code.class_means.iter().enumerate() {
            assert_eq!(nearest(mean, &code.class_means), class);
        }
        let sum: f64 = (0..4).map(|i| code.class_means.iter().map(|m| m[i]).sum::<f64>().abs()).sum();
        assert!(sum < 1e-9, "keys are centred within their prompt");
        let mut vectors = code.vectors[0].clone();
        (code.class_mean(|_| 0).change)(0, &mut vectors);
        let own = prompt_mean(&code.vectors[0]);
        assert!((vectors[1][2] - own[2] - code.class_means[1][2]).abs() < 1e-12);
        assert_eq!(code.coordinates(&code.class_means[0], 2).len(), 2);
    }
}
