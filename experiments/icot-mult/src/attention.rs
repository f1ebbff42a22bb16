//! The attention tree that gathers partial products (arXiv 2510.00184, figures 4, 8 and 10).
//!
//! Attention patterns are averaged over held-out problems, with the true answer as input. They give:
//!
//! - the pair of operand digits that each first-block head attends to most, which its query position can cache;
//! - the share of the pairs needed for an answer digit that the last block can retrieve;
//! - the entropy of each head's attention, in nats;
//! - a causal check: the fall of a digit's logit when one entry of the last block's pattern is set to zero.
//!
//! Tables: `attention` (mean patterns), `pairs`, `retrieval`, `entropy`, `cuts`, `arcs` (the attention tree of one
//! answer digit).

use std::collections::BTreeSet;

use crate::multiplication::Problem;
use anyhow::Result;
use candle_core::{D, DType, IndexOp, Tensor};
use capture::Keep;
use experiment::Run;
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use patching::{Edit, run_with_edits};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::params::Trained;
use crate::subject::{Pair, Place, Scene, Subject, leave_open};

/// Parameters of `attention`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to analyse, among those that the training produced.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Number of validation problems.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// Index k of the answer digit c_k whose attention tree is drawn and cut. Null selects c2, as in the paper, or c1
    /// for two-digit operands.
    pub digit: Option<usize>,
    /// Smallest mean attention weight (a fraction) at which a key position counts as attended to.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f64,
    /// Smallest mean attention weight (a fraction) on two operand digits together at which a position counts as having
    /// cached their pair.
    #[schemars(range(min = 0, max = 1))]
    pub pair_mass: f64,
}

/// Attention statistics of one model.
struct Attention {
    /// Mean attention probabilities, `[layer][head][query][key]`.
    mean: Vec<Vec<Vec<Vec<f64>>>>,
    /// Mean entropy of the attention rows, in nats, `[layer][head]`.
    entropy: Vec<Vec<f64>>,
}

/// Analyses every method and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let problems = subject.held_out(run, "problems", params.problems)?;
    let digit = subject.digit(params.digit)?;
    let mut tables = Tables::new(subject.labels());
    let mut progress = run.task("attention", params.methods.len() as u64, "models");
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let attention = mean_attention(run, &subject, &model, &problems)?;
        let (mass, recall) = tables.tree(*method, &subject, &attention, &params)?;
        tables.maps(*method, &attention)?;
        tables.arcs(*method, subject.place(Place::Predicting, digit), &attention, params.threshold)?;
        let scene = Scene { run, subject: &subject, method: *method, model: &model, digit };
        let largest = tables.cuts(&scene, &attention, &problems, params.threshold)?;
        method.metric(run, "pair_mass", mass, "fraction");
        method.metric(run, "middle.recall", recall, "fraction");
        method.metric(run, "largest_cut", largest, "");
        progress.at(index as u64 + 1, &method.to_string());
    }
    leave_open(run, &params.methods, &["pair_mass", "middle.recall", "largest_cut"]);
    tables.record(run)
}

fn mean_attention(run: &Run, subject: &Subject, model: &Decoder, problems: &[Problem]) -> Result<Attention> {
    let sites: Vec<Site> = (0..model.n_layers()).map(|layer| Site::Block(Layer(layer), Point::Pattern)).collect();
    let patterns = subject.activations(run, model, problems, &sites, &Keep::default())?;
    let (mut mean, mut entropy) = (Vec::new(), Vec::new());
    for site in &sites {
        let pattern = patterns[site].to_dtype(DType::F64)?; // [problems, heads, query, key]
        let layer = pattern.mean(0)?;
        mean.push((0..layer.dim(0)?).map(|head| layer.i(head)?.to_vec2()).collect::<candle_core::Result<_>>()?);
        let log = pattern.maximum(1e-300)?.log()?;
        entropy.push((pattern * log)?.sum(D::Minus1)?.neg()?.mean(2)?.mean(0)?.to_vec1()?);
    }
    Ok(Attention { mean, entropy })
}

/// The pair of operand digits that a first-block head attends to most from one query position.
struct CachedPair {
    head: usize,
    query: usize,
    pair: Pair,
}

/// The cached pair of every first-block head at every query position after b's first digit.
fn cached_pairs(n: usize, attention: &Attention) -> Vec<CachedPair> {
    let heads = attention.mean[0].iter().enumerate();
    let rows = heads.flat_map(|(head, rows)| {
        rows.iter().enumerate().skip(n + 1).map(move |(query, row)| (head, query, &row[..=query]))
    });
    rows.map(|(head, query, row)| CachedPair { head, query, pair: Pair::of(row, n) }).collect()
}

/// The tables of all methods.
struct Tables {
    labels: Vec<String>,
    attention: Builder,
    pairs: Builder,
    retrieval: Builder,
    entropy: Builder,
    cuts: Builder,
    arcs: Builder,
}

impl Tables {
    fn new(labels: Vec<String>) -> Self {
        let head = |name: &str, about: &str| {
            Schema::new(name, about)
                .text("method", "training method")
                .int("layer", "block index, from 0")
                .int("head", "head index, from 0")
        };
        let entry = |name: &str, about: &str| {
            head(name, about)
                .text("query", "label of the query position")
                .text("key", "label of the key position")
                .float("weight", "mean attention probability", "fraction")
        };
        Self {
            labels,
            attention: Builder::new(entry(
                "attention",
                "the mean attention from one query position to one key position",
            )),
            pairs: Builder::new(
                head("pairs", "the two operand digits that a first-block head attends to most from one query")
                    .text("query", "label of the query position")
                    .int("a", "digit index in the first operand, 0 is the units digit")
                    .int("b", "digit index in the second operand, 0 is the units digit")
                    .float("mass", "attention probability on both digits together", "fraction"),
            ),
            retrieval: Builder::new(
                Schema::new(
                    "retrieval",
                    "the pairs of operand digits that the last block can retrieve to predict one answer digit",
                )
                .text("method", "training method")
                .text("digit", "answer digit, c0 is the units digit")
                .int("needed", "number of pairs (i, j) with i + j = k")
                .int("found", "number of needed pairs cached at a position that the last block attends to")
                .float("recall", "found / needed", "fraction"),
            ),
            entropy: Builder::new(head("entropy", "the attention entropy of one head").float(
                "entropy",
                "mean entropy of the attention rows",
                "nats",
            )),
            cuts: Builder::new(
                entry(
                    "cuts",
                    "an intervention that zeroes one entry of the last block's pattern and renormalises the row",
                )
                .text("digit", "answer digit predicted at the query position")
                .float("fall", "mean decrease of the true digit's logit", ""),
            ),
            arcs: Builder::new(entry("arcs", "one edge of the attention tree of one answer digit").text(
                "step",
                "fetch: last block, from the predicting position; gather: first block, from the fetched positions",
            )),
        }
    }

    fn maps(&mut self, method: Trained, attention: &Attention) -> Result<()> {
        for (layer, heads) in attention.mean.iter().enumerate() {
            for (head, rows) in heads.iter().enumerate() {
                for (query, row) in rows.iter().enumerate() {
                    for (key, weight) in row.iter().enumerate().take(query + 1) {
                        let (query, key) = (&self.labels[query], &self.labels[key]);
                        self.attention.push(row![method.to_string(), layer, head, query, key, *weight])?;
                    }
                }
                self.entropy.push(row![method.to_string(), layer, head, attention.entropy[layer][head]])?;
            }
        }
        Ok(())
    }

    /// Adds to `pairs` and `retrieval`. Returns the mean pair mass and the mean recall over the middle digits.
    fn tree(
        &mut self,
        method: Trained,
        subject: &Subject,
        attention: &Attention,
        params: &Params,
    ) -> Result<(f64, f64)> {
        let n = subject.n();
        let cached = cached_pairs(n, attention);
        for CachedPair { head, query, pair: Pair { a, b, mass } } in &cached {
            self.pairs.push(row![method.to_string(), 0, *head, &self.labels[*query], *a, *b, *mass])?;
        }
        let last = attention.mean.last().map_or(&[][..], Vec::as_slice);
        let mut recalls = Vec::new();
        for k in 0..2 * n - 1 {
            let position = subject.place(Place::Predicting, k);
            let attended: BTreeSet<usize> = last
                .iter()
                .flat_map(|rows| rows[position].iter().enumerate())
                .filter(|(_, weight)| **weight >= params.threshold)
                .map(|(key, _)| key)
                .collect();
            let fetched: BTreeSet<(usize, usize)> = cached
                .iter()
                .filter(|cached| attended.contains(&cached.query) && cached.pair.mass >= params.pair_mass)
                .map(|cached| (cached.pair.a, cached.pair.b))
                .collect();
            let needed: Vec<(usize, usize)> = (0..n).filter(|i| *i <= k && k - i < n).map(|i| (i, k - i)).collect();
            let found = needed.iter().filter(|pair| fetched.contains(pair)).count();
            let recall = found as f64 / needed.len() as f64;
            self.retrieval.push(row![method.to_string(), format!("c{k}"), needed.len(), found, recall])?;
            if k > 0 && k + 2 < 2 * n {
                recalls.push(recall);
            }
        }
        let mass: Vec<f64> = cached.iter().map(|cached| cached.pair.mass).collect();
        Ok((probes::mean(&mass), probes::mean(&recalls)))
    }

    /// Adds the keys that `position` attends to in the last block, and the keys that those attend to in the first
    /// block. Rows are ordered by key.
    fn arcs(&mut self, method: Trained, position: usize, attention: &Attention, threshold: f64) -> Result<()> {
        let last = attention.mean.len() - 1;
        let attended = |layer: usize, query: usize| {
            let heads = attention.mean[layer].iter().enumerate();
            let entries = heads.flat_map(move |(head, rows)| {
                rows[query].iter().enumerate().map(move |(key, weight)| (key, layer, head, query, *weight))
            });
            entries.filter(move |(.., weight)| *weight >= threshold).collect::<Vec<_>>()
        };
        let mut arcs = attended(last, position);
        if last > 0 {
            let fetched: BTreeSet<usize> = arcs.iter().map(|(key, ..)| *key).collect();
            arcs.extend(fetched.into_iter().flat_map(|query| attended(0, query)));
        }
        arcs.sort_by_key(|(key, layer, head, query, _)| (*key, *layer, *head, *query));
        for (key, layer, head, query, weight) in arcs {
            let step = if layer == last { "fetch" } else { "gather" };
            let (query, key) = (&self.labels[query], &self.labels[key]);
            self.arcs.push(row![method.to_string(), layer, head, query, key, weight, step])?;
        }
        Ok(())
    }

    /// Zeroes each entry at or above the threshold, one at a time. Returns the largest decrease of the logit.
    fn cuts(&mut self, scene: &Scene<'_>, attention: &Attention, problems: &[Problem], threshold: f64) -> Result<f64> {
        let Scene { run, subject, method, model, digit } = *scene;
        let layer = attention.mean.len() - 1;
        let position = subject.place(Place::Predicting, digit);
        let tokens = subject.tokens(problems, model)?;
        let right: Vec<u32> =
            problems.iter().map(|problem| subject.params.task.vocabulary.digit(problem.answer()[digit])).collect();
        let right = Tensor::new(right, tokens.device())?.unsqueeze(1)?;
        let logit = |edits: Vec<Edit<'_>>| -> Result<f64> {
            let logits = run_with_edits(model, &tokens, edits)?.i((.., position))?.contiguous()?;
            Ok(logits.gather(&right, 1)?.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
        };
        let before = logit(Vec::new())?;
        let mut largest = f64::NEG_INFINITY;
        for (head, rows) in attention.mean[layer].iter().enumerate() {
            for (key, weight) in rows[position].iter().enumerate().filter(|(_, weight)| **weight >= threshold) {
                run.check_interrupted()?;
                let site = Site::Block(Layer(layer), Point::Pattern);
                let edit = Edit::new(site, move |pattern| zero_key(pattern, key)).in_head(head).at_position(position);
                let fall = before - logit(vec![edit])?;
                largest = largest.max(fall);
                let (from, to) = (&self.labels[position], &self.labels[key]);
                self.cuts.push(row![method.to_string(), layer, head, from, to, *weight, format!("c{digit}"), fall])?;
            }
        }
        Ok(largest)
    }

    fn record(self, run: &Run) -> Result<()> {
        for table in [self.attention, self.pairs, self.retrieval, self.entropy, self.cuts, self.arcs] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}

/// Zeroes one key and renormalises every row to sum to one. A row with all its weight on that key becomes zero.
fn zero_key(pattern: &Tensor, key: usize) -> candle_core::Result<Tensor> {
    let keys = pattern.dim(D::Minus1)?;
    let keep: Vec<f32> = (0..keys).map(|index| f32::from(u8::from(index != key))).collect();
    let kept = pattern.broadcast_mul(&Tensor::new(keep, pattern.device())?.to_dtype(pattern.dtype())?)?;
    let sum = kept.sum_keepdim(D::Minus1)?.maximum(1e-12)?;
    kept.broadcast_div(&sum)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn zeroing_a_key_renormalises_the_rows() {
        let pattern = Tensor::new(&[[0.5f64, 0.3, 0.2], [0., 1., 0.]], &Device::Cpu).unwrap();
        let rows = zero_key(&pattern, 1).unwrap().to_vec2::<f64>().unwrap();
        assert!((rows[0][0] - 0.5 / 0.7).abs() < 1e-9 && rows[0][1] == 0. && (rows[0][2] - 0.2 / 0.7).abs() < 1e-9);
        assert_eq!(rows[1], [0., 0., 0.]);
    }

    #[test]
    fn the_cached_pair_holds_the_two_most_attended_digits() {
        // n = 2, positions a0 a1 * b0 b1 %: at % the head attends to a1 and b0
        let mut rows = vec![vec![0.; 6]; 6];
        rows[5] = vec![0.05, 0.5, 0., 0.4, 0., 0.05];
        let attention = Attention { mean: vec![vec![rows]], entropy: vec![vec![0.]] };
        let cached = cached_pairs(2, &attention);
        assert_eq!(cached.len(), 3);
        let CachedPair { query, pair, .. } = cached[2];
        assert_eq!((query, pair.a, pair.b), (5, 1, 0));
        assert!((pair.mass - 0.9).abs() < 1e-12);
    }
}
