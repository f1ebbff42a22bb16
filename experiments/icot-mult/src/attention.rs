//! Who looks where: the attention tree (arXiv 2510.00184, figures 4, 8 and 10).
//!
//! Attention patterns are averaged over held-out problems with the true answer as input.
//! From them: the pair of operand digits that each head of the first block looks at (what its place can cache), which of
//! the pairs that a digit needs the last block fetches, how spread attention is, and, as a causal check, how far a
//! digit's logit falls when one entry of the pattern is cut.
//!
//! Tables: `attention` (mean patterns), `pairs`, `retrieval`, `entropy`, `cuts`, `arcs` (the tree of one digit).

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
    /// Models to look at, of those that the training made.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Validation problems.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// The digit c_k whose tree is drawn and cut; c2, as in the paper, when null (c1 at two digits).
    pub digit: Option<usize>,
    /// Mean weight from which on a place counts as looked at.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f64,
    /// Mean weight on two operand digits together from which on a place counts as having cached their pair.
    #[schemars(range(min = 0, max = 1))]
    pub pair_mass: f64,
}

/// Mean attention of one model, `[layer][head][query][key]`.
struct Attention {
    mean: Vec<Vec<Vec<Vec<f64>>>>,
    /// Mean entropy of each head's rows, in nats, `[layer][head]`.
    entropy: Vec<Vec<f64>>,
}

/// Measures every method and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let problems = subject.held_out(run, "problems", params.problems)?;
    let digit = subject.digit(params.digit)?;
    let mut out = Tables::new(subject.labels());
    let mut bar = run.task("attention", params.methods.len() as u64, "models");
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let attention = attention(run, &subject, &model, &problems)?;
        let (mass, recall) = out.tree(*method, &subject, &attention, &params)?;
        out.maps(*method, &attention)?;
        out.arcs(*method, subject.place(Place::Predicting, digit), &attention, params.threshold)?;
        let scene = Scene { run, subject: &subject, method: *method, model: &model, digit };
        let largest = out.cuts(&scene, &attention, &problems, params.threshold)?;
        method.metric(run, "pair_mass", mass, "fraction");
        method.metric(run, "middle.recall", recall, "fraction");
        method.metric(run, "largest_cut", largest, "");
        bar.at(index as u64 + 1, &method.to_string());
    }
    leave_open(run, &params.methods, &["pair_mass", "middle.recall", "largest_cut"]);
    out.hand_in(run)
}

fn attention(run: &Run, subject: &Subject, model: &Decoder, problems: &[Problem]) -> Result<Attention> {
    let sites: Vec<Site> = (0..model.n_layers()).map(|layer| Site::Block(Layer(layer), Point::Pattern)).collect();
    let seen = subject.activations(run, model, problems, &sites, &Keep::default())?;
    let (mut mean, mut entropy) = (Vec::new(), Vec::new());
    for site in &sites {
        let pattern = seen[site].to_dtype(DType::F64)?; // [problems, heads, query, key]
        let layer = pattern.mean(0)?;
        mean.push((0..layer.dim(0)?).map(|head| layer.i(head)?.to_vec2()).collect::<candle_core::Result<_>>()?);
        let log = pattern.maximum(1e-300)?.log()?;
        entropy.push((pattern * log)?.sum(D::Minus1)?.neg()?.mean(2)?.mean(0)?.to_vec1()?);
    }
    Ok(Attention { mean, entropy })
}

/// The pair of operand digits that a head of the first block looks at from one place.
struct Cached {
    head: usize,
    query: usize,
    pair: Pair,
}

/// Of every head of the first block and every place after the first digit of b.
fn cached(n: usize, attention: &Attention) -> Vec<Cached> {
    let heads = attention.mean[0].iter().enumerate();
    let places = heads.flat_map(|(head, rows)| {
        rows.iter().enumerate().skip(n + 1).map(move |(query, row)| (head, query, &row[..=query]))
    });
    places.map(|(head, query, row)| Cached { head, query, pair: Pair::of(row, n) }).collect()
}

/// The tables on their way.
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
                .text("method", "way of training")
                .int("layer", "block, from 0")
                .int("head", "head, from 0")
        };
        let entry = |name: &str, about: &str| {
            head(name, about).text("query", "place that looks").text("key", "place that is looked at").float(
                "weight",
                "mean attention probability",
                "fraction",
            )
        };
        Self {
            labels,
            attention: Builder::new(entry("attention", "mean attention of one place to another")),
            pairs: Builder::new(
                head("pairs", "the operand digits that a head of the first block looks at most from one place")
                    .text("query", "place that looks")
                    .int("a", "digit of the first operand, 0 the units")
                    .int("b", "digit of the second operand")
                    .float("mass", "attention on both together", "fraction"),
            ),
            retrieval: Builder::new(
                Schema::new(
                    "retrieval",
                    "pairs of one answer digit that the last block can fetch where it predicts it",
                )
                .text("method", "way of training")
                .text("digit", "answer digit, c0 the units")
                .int("needed", "pairs (i, j) with i + j = k")
                .int("found", "of these, cached at a place that is looked at")
                .float("recall", "their share", "fraction"),
            ),
            entropy: Builder::new(head("entropy", "spread of one head").float(
                "entropy",
                "mean entropy of a row",
                "nats",
            )),
            cuts: Builder::new(
                entry("cuts", "one entry of the last block's pattern set to zero and the row brought back to one")
                    .text("digit", "answer digit that is predicted there")
                    .float("fall", "mean fall of the true digit's logit", ""),
            ),
            arcs: Builder::new(
                entry("arcs", "the tree of one answer digit: what its place looks at, and they in turn")
                    .text("step", "fetch: the last block, from the place that predicts; gather: the first, from those"),
            ),
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

    /// Pairs and retrieval; gives the mean mass, and the mean recall over the middle digits.
    fn tree(
        &mut self,
        method: Trained,
        subject: &Subject,
        attention: &Attention,
        params: &Params,
    ) -> Result<(f64, f64)> {
        let n = subject.n();
        let cached = cached(n, attention);
        for Cached { head, query, pair: Pair { a, b, mass } } in &cached {
            self.pairs.push(row![method.to_string(), 0, *head, &self.labels[*query], *a, *b, *mass])?;
        }
        let last = attention.mean.last().map_or(&[][..], Vec::as_slice);
        let mut recalls = Vec::new();
        for k in 0..2 * n - 1 {
            let place = subject.place(Place::Predicting, k);
            let looked_at: BTreeSet<usize> = last
                .iter()
                .flat_map(|rows| rows[place].iter().enumerate())
                .filter(|(_, weight)| **weight >= params.threshold)
                .map(|(key, _)| key)
                .collect();
            let fetched: BTreeSet<(usize, usize)> = cached
                .iter()
                .filter(|cached| looked_at.contains(&cached.query) && cached.pair.mass >= params.pair_mass)
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

    /// What the place looks at through the last block, and what those places look at through the first; rows in the order
    /// of the places that are looked at.
    fn arcs(&mut self, method: Trained, place: usize, attention: &Attention, threshold: f64) -> Result<()> {
        let last = attention.mean.len() - 1;
        let looked_at = |layer: usize, query: usize| {
            let heads = attention.mean[layer].iter().enumerate();
            let entries = heads.flat_map(move |(head, rows)| {
                rows[query].iter().enumerate().map(move |(key, weight)| (key, layer, head, query, *weight))
            });
            entries.filter(move |(.., weight)| *weight >= threshold).collect::<Vec<_>>()
        };
        let mut arcs = looked_at(last, place);
        if last > 0 {
            let fetched: BTreeSet<usize> = arcs.iter().map(|(key, ..)| *key).collect();
            arcs.extend(fetched.into_iter().flat_map(|query| looked_at(0, query)));
        }
        arcs.sort_by_key(|(key, layer, head, query, _)| (*key, *layer, *head, *query));
        for (key, layer, head, query, weight) in arcs {
            let step = if layer == last { "fetch" } else { "gather" };
            let (query, key) = (&self.labels[query], &self.labels[key]);
            self.arcs.push(row![method.to_string(), layer, head, query, key, weight, step])?;
        }
        Ok(())
    }

    /// Cuts each entry that counts, one at a time; gives the largest fall.
    fn cuts(&mut self, scene: &Scene<'_>, attention: &Attention, problems: &[Problem], threshold: f64) -> Result<f64> {
        let Scene { run, subject, method, model, digit } = *scene;
        let layer = attention.mean.len() - 1;
        let place = subject.place(Place::Predicting, digit);
        let tokens = subject.tokens(problems, model)?;
        let right: Vec<u32> =
            problems.iter().map(|problem| subject.params.task.vocabulary.digit(problem.answer()[digit])).collect();
        let right = Tensor::new(right, tokens.device())?.unsqueeze(1)?;
        let logit = |edits: Vec<Edit<'_>>| -> Result<f64> {
            let logits = run_with_edits(model, &tokens, edits)?.i((.., place))?.contiguous()?;
            Ok(logits.gather(&right, 1)?.mean_all()?.to_dtype(DType::F64)?.to_scalar()?)
        };
        let before = logit(Vec::new())?;
        let mut largest = f64::NEG_INFINITY;
        for (head, rows) in attention.mean[layer].iter().enumerate() {
            for (key, weight) in rows[place].iter().enumerate().filter(|(_, weight)| **weight >= threshold) {
                run.check_interrupted()?;
                let site = Site::Block(Layer(layer), Point::Pattern);
                let cut = Edit::new(site, move |pattern| cut(pattern, key)).in_head(head).at_position(place);
                let fall = before - logit(vec![cut])?;
                largest = largest.max(fall);
                let (from, to) = (&self.labels[place], &self.labels[key]);
                self.cuts.push(row![method.to_string(), layer, head, from, to, *weight, format!("c{digit}"), fall])?;
            }
        }
        Ok(largest)
    }

    fn hand_in(self, run: &Run) -> Result<()> {
        for table in [self.attention, self.pairs, self.retrieval, self.entropy, self.cuts, self.arcs] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}

/// The pattern with nothing on one key, each row brought back to a sum of one (a row that had all there stays empty).
fn cut(pattern: &Tensor, key: usize) -> candle_core::Result<Tensor> {
    let keys = pattern.dim(D::Minus1)?;
    let keep: Vec<f32> = (0..keys).map(|at| f32::from(u8::from(at != key))).collect();
    let left = pattern.broadcast_mul(&Tensor::new(keep, pattern.device())?.to_dtype(pattern.dtype())?)?;
    let sum = left.sum_keepdim(D::Minus1)?.maximum(1e-12)?;
    left.broadcast_div(&sum)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_cut_row_still_adds_up() {
        let pattern = Tensor::new(&[[0.5f64, 0.3, 0.2], [0., 1., 0.]], &Device::Cpu).unwrap();
        let cut = cut(&pattern, 1).unwrap().to_vec2::<f64>().unwrap();
        assert!((cut[0][0] - 0.5 / 0.7).abs() < 1e-9 && cut[0][1] == 0. && (cut[0][2] - 0.2 / 0.7).abs() < 1e-9);
        assert_eq!(cut[1], [0., 0., 0.]);
    }

    #[test]
    fn a_head_on_two_digits_has_cached_their_pair() {
        // n = 2: a0 a1 * b0 b1 %: from % one head looks at a1 and b0
        let mut rows = vec![vec![0.; 6]; 6];
        rows[5] = vec![0.05, 0.5, 0., 0.4, 0., 0.05];
        let attention = Attention { mean: vec![vec![rows]], entropy: vec![vec![0.]] };
        let cached = cached(2, &attention);
        assert_eq!(cached.len(), 3);
        let Cached { query, pair, .. } = cached[2];
        assert_eq!((query, pair.a, pair.b), (5, 1, 0));
        assert!((pair.mass - 0.9).abs() < 1e-12);
    }
}
