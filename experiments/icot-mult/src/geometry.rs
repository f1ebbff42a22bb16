//! The shapes that digits make: Minkowski sums in head outputs, and the pentagonal prism (arXiv 2510.00184, figures 5, 6).
//!
//! A head of the first block that looks at two digits writes the sum of two vectors, one per digit: its outputs form
//! clusters, one per value of one digit, each with the same shape inside for the other.
//! In the final residual stream the predicted digit lies on a prism: parity along one direction, two pentagons across.
//!
//! Tables: `minkowski` (points of the four panels), `sums` (how additive), `prism` (points), `prism_digits` (means of
//! each digit), `prism_edges`, `prism_fit`.

use crate::multiplication::Problem;
use anyhow::Result;
use candle_core::{DType, IndexOp};
use capture::Keep;
use experiment::Run;
use hooks::{HookedModel, Layer, Point, Site};
use probes::{Fourier, Matrix, MatrixRef, Pca, additive_r2, overlap};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::params::Trained;
use crate::subject::{Pair, Place, Scene, Subject, leave_open};

/// The value whose points the last panel takes a closer look at, as in the paper.
const BOXED: usize = 3;
/// By how much the box round them is wider than they are.
const PADDING: f64 = 0.02;

/// Parameters of `geometry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to look at, of those that the training made.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Problems for the head outputs; none of those held out.
    #[schemars(range(min = 20))]
    pub sums: usize,
    /// Validation problems for the prism.
    #[schemars(range(min = 20))]
    pub problems: usize,
    /// The digit c_k where both are looked at; c2, as in the paper, when null (c1 at two digits).
    pub digit: Option<usize>,
    /// Head of the first block, from 0; the one with most attention on two operand digits when null.
    pub head: Option<usize>,
    /// Points of each panel that go into the tables.
    #[schemars(range(min = 1))]
    pub points: usize,
}

/// Measures every method and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let problems = subject.held_out(run, "problems", params.problems)?;
    let others = subject.others(run, params.sums);
    let digit = subject.digit(params.digit)?;
    let mut out = Tables::new();
    let mut bar = run.task("geometry", params.methods.len() as u64, "models");
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let seen = Scene { run, subject: &subject, method: *method, model: &model, digit };
        out.sums(&seen, &others, &params)?;
        out.prism(&seen, &problems, &params)?;
        bar.at(index as u64 + 1, &method.to_string());
    }
    let names = ["additivity_r2", "nested_score", "parity_r2", "pentagon_r2", "between_share"];
    leave_open(run, &params.methods, &names);
    out.hand_in(run)
}

/// A head and the operand digits that it looks at.
struct Chosen {
    head: usize,
    pair: Pair,
}

/// The head of the first block with most mean attention on one digit of each operand from where the digit is predicted.
fn choose(scene: &Scene<'_>, problems: &[Problem], asked: Option<usize>) -> Result<Chosen> {
    let (n, heads) = (scene.subject.n(), scene.model.n_heads());
    anyhow::ensure!(
        asked.is_none_or(|head| head < heads),
        "params.head: there is no head {}; the model has {heads} (0 to {})",
        asked.unwrap_or(0),
        heads - 1
    );
    let site = Site::Block(Layer(0), Point::Pattern);
    let place = scene.subject.place(Place::Predicting, scene.digit);
    let keep = Keep { positions: Some(vec![place as isize]), heads: None };
    let some = &problems[..problems.len().min(1000)];
    let seen = scene.subject.activations(scene.run, scene.model, some, &[site], &keep)?;
    let mean = seen[&site].to_dtype(DType::F64)?.mean(0)?.i((.., 0))?.to_vec2::<f64>()?; // [head, key]
    let heads = mean.iter().enumerate().filter(|(head, _)| asked.is_none_or(|asked| asked == *head));
    heads
        .map(|(head, row)| Chosen { head, pair: Pair::of(row, n) })
        .reduce(|best, next| if next.pair.mass > best.pair.mass { next } else { best })
        .ok_or_else(|| anyhow::anyhow!("the model has no heads"))
}

/// A digit of an operand, for every problem.
fn digits_of(problems: &[Problem], of: impl Fn(&Problem) -> Vec<u8>, place: usize) -> Vec<usize> {
    problems.iter().map(|problem| usize::from(of(problem)[place])).collect()
}

/// The tables on their way.
struct Tables {
    minkowski: Builder,
    sums: Builder,
    prism: Builder,
    prism_digits: Builder,
    prism_edges: Builder,
    prism_fit: Builder,
}

impl Tables {
    fn new() -> Self {
        let point = |schema: Schema| {
            schema
                .float("pc1", "coordinate along the first principal component", "")
                .float("pc2", "along the second", "")
                .float("pc3", "along the third", "")
        };
        let explained = |schema: Schema| {
            (1..=3).fold(schema, |schema, k| {
                schema.float(format!("explained_{k}"), format!("variance along principal component {k}"), "fraction")
            })
        };
        let ends = |schema: Schema, end: &str| {
            ["x", "y", "z"]
                .iter()
                .fold(schema, |schema, axis| schema.float(format!("{axis}_{end}"), format!("{axis} of the {end}"), ""))
        };
        Self {
            minkowski: Builder::new(point(
                Schema::new("minkowski", "output of attention in the first block for one problem")
                    .text("method", "way of training")
                    .text(
                        "panel",
                        "a: all heads where c0 is predicted; b, c: one head where a middle digit is; d: the box",
                    )
                    .text("coloured", "operand digit that the colour shows")
                    .int("digit", "its value"),
            )),
            sums: Builder::new(explained(
                Schema::new("sums", "how far the outputs of one head are sums of one vector per digit")
                    .text("method", "way of training")
                    .text("place", "where they are taken")
                    .int("head", "head of the first block, from 0")
                    .text("digits", "operand digits that it looks at most")
                    .float("mass", "mean attention on both", "fraction")
                    .float("additivity_r2", "variance that mu + A[a] + B[b] explains", "fraction")
                    .float(
                        "nested_score",
                        "overlap of the top three directions within one b with those of all",
                        "fraction",
                    )
                    .float("nested_chance", "overlap of random directions, 3 / d", "fraction"),
            )),
            prism: Builder::new(point(
                Schema::new("prism", "final residual stream for one problem")
                    .text("method", "way of training")
                    .int("digit", "the true digit that is predicted there"),
            )),
            prism_digits: Builder::new(point(
                Schema::new("prism_digits", "mean of the final residual stream over the problems of one digit")
                    .text("method", "way of training")
                    .int("digit", "the true digit that is predicted there"),
            )),
            prism_edges: Builder::new(ends(
                ends(
                    Schema::new("prism_edges", "an edge between the means of two digits")
                        .text("method", "way of training")
                        .text("kind", "even or odd pentagon, or across (digits five apart)"),
                    "from",
                ),
                "to",
            )),
            prism_fit: Builder::new(explained(
                Schema::new("prism_fit", "how much of a prism the means of the digits are")
                    .text("method", "way of training")
                    .text("digit", "answer digit that is predicted")
                    .int("parity_component", "principal component that parity lies along, from 1")
                    .float("parity_r2", "variance of the means along it that parity explains", "fraction")
                    .float(
                        "pentagon_r2",
                        "variance along the other two that two waves in ten digits explain",
                        "fraction",
                    )
                    .float(
                        "between_share",
                        "variance between digits over all variance, in the three components",
                        "fraction",
                    ),
            )),
        }
    }

    fn sums(&mut self, scene: &Scene<'_>, problems: &[Problem], params: &Params) -> Result<()> {
        let Scene { run, subject, method, model, digit } = *scene;
        let Chosen { head: number, pair } = choose(scene, problems, params.head)?;
        let whole = Site::Block(Layer(0), Point::AttnOut);
        let first = subject.rows(run, model, problems, whole, subject.place(Place::Predicting, 0))?;
        let site = Site::Block(Layer(0), Point::Result);
        let place = subject.place(Place::Predicting, digit);
        let keep = Keep { positions: Some(vec![place as isize]), heads: Some(vec![number]) };
        let seen = subject.activations(run, model, problems, &[site], &keep)?;
        let head = probes::matrix(&seen[&site].i((.., 0, 0))?)?;
        let (a, b) = (digits_of(problems, Problem::a_digits, pair.a), digits_of(problems, Problem::b_digits, pair.b));
        let b0 = digits_of(problems, Problem::b_digits, 0);
        let (a_name, b_name) = (format!("a{}", pair.a), format!("b{}", pair.b));

        let all = Pca::fit(first.as_ref(), 3)?.transform(first.as_ref())?;
        let pca = Pca::fit(head.as_ref(), 3)?;
        let at = pca.transform(head.as_ref())?;
        let inside = boxed(at.as_ref(), &b);
        let every: Vec<usize> = (0..problems.len()).collect();
        let method_name = method.to_string();
        let mut panel = |panel: &str, coloured: &str, at: &Matrix, digits: &[usize], rows: &[usize]| -> Result<()> {
            for row in rows.iter().take(params.points) {
                let [x, y, z] = [0, 1, 2].map(|k| at[(*row, k)]);
                self.minkowski.push(row![method_name.as_str(), panel, coloured, digits[*row], x, y, z])?;
            }
            Ok(())
        };
        panel("a", "b0", &all, &b0, &every)?;
        panel("b", &b_name, &at, &b, &every)?;
        panel("c", &a_name, &at, &a, &every)?;
        panel("d", &a_name, &at, &a, &inside)?;
        let additivity = additive_r2(head.as_ref(), &[&a, &b])?;
        let nested = nested(head.as_ref(), &pca, &b)?;
        let [e1, e2, e3] = three(&pca);
        let (place, digits) = (format!("predicting c{digit}"), format!("{a_name} {b_name}"));
        let chance = 3. / head.ncols() as f64;
        self.sums.push(row![
            method.to_string(),
            place,
            number,
            digits,
            pair.mass,
            additivity,
            nested,
            chance,
            e1,
            e2,
            e3
        ])?;
        method.metric(run, "additivity_r2", additivity, "fraction");
        method.metric(run, "nested_score", nested, "fraction");
        Ok(())
    }

    fn prism(&mut self, scene: &Scene<'_>, problems: &[Problem], params: &Params) -> Result<()> {
        let Scene { run, subject, method, model, digit } = *scene;
        let last = Site::Block(Layer(model.n_layers() - 1), Point::ResidPost);
        let stream = subject.rows(run, model, problems, last, subject.place(Place::Predicting, digit))?;
        let truth = digits_of(problems, Problem::answer, digit);
        let pca = Pca::fit(stream.as_ref(), 3)?;
        let at = pca.transform(stream.as_ref())?;
        for row in 0..at.nrows().min(params.points) {
            let [x, y, z] = [0, 1, 2].map(|k| at[(row, k)]);
            self.prism.push(row![method.to_string(), truth[row], x, y, z])?;
        }
        let Some(means) = means(at.as_ref(), &truth) else {
            anyhow::bail!("some digit never occurs as c{digit} in {} problems: raise params.problems", problems.len());
        };
        let fit = fit(means.as_ref())?;
        for digit in 0..10 {
            let [x, y, z] = [0, 1, 2].map(|k| means[(digit, k)]);
            self.prism_digits.push(row![method.to_string(), digit, x, y, z])?;
        }
        for (kind, from, to) in edges(means.as_ref(), fit.parity) {
            let [x, y, z] = [0, 1, 2].map(|k| means[(from, k)]);
            let [u, v, w] = [0, 1, 2].map(|k| means[(to, k)]);
            self.prism_edges.push(row![method.to_string(), kind, x, y, z, u, v, w])?;
        }
        let between = between(at.as_ref(), means.as_ref(), &truth);
        let [e1, e2, e3] = three(&pca);
        let name = format!("c{digit}");
        let Fit { parity, parity_r2, pentagon_r2 } = fit;
        self.prism_fit.push(row![method.to_string(), name, parity + 1, parity_r2, pentagon_r2, between, e1, e2, e3])?;
        method.metric(run, "parity_r2", parity_r2, "fraction");
        method.metric(run, "pentagon_r2", pentagon_r2, "fraction");
        method.metric(run, "between_share", between, "fraction");
        Ok(())
    }

    fn hand_in(self, run: &Run) -> Result<()> {
        let Self { minkowski, sums, prism, prism_digits, prism_edges, prism_fit } = self;
        for table in [minkowski, sums, prism, prism_digits, prism_edges, prism_fit] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}

fn three(pca: &Pca) -> [f64; 3] {
    let explained = pca.explained();
    [explained[0], explained[1], explained[2]]
}

/// Points inside the box, along the axes, round those whose digit is the boxed one.
fn boxed(at: MatrixRef<'_>, digits: &[usize]) -> Vec<usize> {
    let ends: Vec<[f64; 2]> = (0..3)
        .map(|k| {
            let of = digits.iter().enumerate().filter(|(_, digit)| **digit == BOXED).map(|(row, _)| at[(row, k)]);
            let [low, high] = of.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], x| [low.min(x), high.max(x)]);
            let room = (high - low) * PADDING;
            [low - room, high + room]
        })
        .collect();
    let inside = |row: &usize| (0..3).all(|k| (ends[k][0]..=ends[k][1]).contains(&at[(*row, k)]));
    (0..at.nrows()).filter(inside).collect()
}

/// Mean overlap of the top three directions within each value of a digit with those of all; values with few samples are
/// left out.
fn nested(x: MatrixRef<'_>, all: &Pca, digits: &[usize]) -> Result<f64> {
    let mut scores = Vec::new();
    for digit in 0..10 {
        let rows: Vec<usize> = (0..x.nrows()).filter(|row| digits[*row] == digit).collect();
        if rows.len() < 10 {
            continue;
        }
        let part = Matrix::from_fn(rows.len(), x.ncols(), |row, column| x[(rows[row], column)]);
        scores.push(overlap(Pca::fit(part.as_ref(), 3)?.components.as_ref(), all.components.as_ref())?);
    }
    Ok(probes::mean(&scores))
}

/// Mean coordinates of each digit, `[10, 3]`; nothing when a digit does not occur.
fn means(at: MatrixRef<'_>, truth: &[usize]) -> Option<Matrix> {
    let mut sums = Matrix::zeros(10, 3);
    let mut counts = [0f64; 10];
    for (row, digit) in truth.iter().enumerate() {
        counts[*digit] += 1.;
        (0..3).for_each(|k| sums[(*digit, k)] += at[(row, k)]);
    }
    counts.iter().all(|count| *count > 0.).then(|| Matrix::from_fn(10, 3, |digit, k| sums[(digit, k)] / counts[digit]))
}

struct Fit {
    /// Component along which parity lies, from 0.
    parity: usize,
    parity_r2: f64,
    pentagon_r2: f64,
}

/// Parity along the component that fits it best, two waves in ten digits along the other two.
fn fit(means: MatrixRef<'_>) -> Result<Fit> {
    let row = |k: usize| Matrix::from_fn(1, 10, |_, digit| means[(digit, k)]);
    let (parity, pentagon) = (Fourier::new(10, &[5])?, Fourier::new(10, &[2])?);
    let along = |k: usize| -> Result<f64> { Ok(parity.r_squared(row(k).as_ref())?.first().copied().unwrap_or(0.)) };
    let scores = [along(0)?, along(1)?, along(2)?];
    let best = (0..3).fold(0, |best, k| if scores[k] > scores[best] { k } else { best });
    let others: Vec<Matrix> = (0..3).filter(|k| *k != best).map(row).collect();
    // both together, so that a component with little variance counts little
    let (mut held, mut total) = (0., 0.);
    for other in &others {
        let values: Vec<f64> = (0..10).map(|digit| other[(0, digit)]).collect();
        let variance = probes::standard_deviation(&values).powi(2);
        held += variance * pentagon.r_squared(other.as_ref())?.first().copied().unwrap_or(0.);
        total += variance;
    }
    Ok(Fit { parity: best, parity_r2: scores[best], pentagon_r2: held / total })
}

/// Even digits in a ring by their angle across parity, odd ones likewise, and each digit with the one five above.
fn edges(means: MatrixRef<'_>, parity: usize) -> Vec<(&'static str, usize, usize)> {
    let across: Vec<usize> = (0..3).filter(|k| *k != parity).collect();
    let mut edges = Vec::new();
    for (kind, first) in [("even", 0), ("odd", 1)] {
        let mut ring: Vec<usize> = (first..10).step_by(2).collect();
        let centre = |k: usize| ring.iter().map(|digit| means[(*digit, k)]).sum::<f64>() / ring.len() as f64;
        let (x, y) = (centre(across[0]), centre(across[1]));
        let angle = |digit: usize| (means[(digit, across[1])] - y).atan2(means[(digit, across[0])] - x);
        ring.sort_by(|a, b| angle(*a).total_cmp(&angle(*b)));
        edges.extend((0..ring.len()).map(|i| (kind, ring[i], ring[(i + 1) % ring.len()])));
    }
    edges.extend((0..5).map(|digit| ("across", digit, digit + 5)));
    edges
}

/// Variance of the digits' means over the whole variance.
fn between(at: MatrixRef<'_>, means: MatrixRef<'_>, truth: &[usize]) -> f64 {
    let centre: Vec<f64> =
        (0..3).map(|k| (0..at.nrows()).map(|row| at[(row, k)]).sum::<f64>() / at.nrows() as f64).collect();
    let (mut between, mut total) = (0., 0.);
    for (row, digit) in truth.iter().enumerate() {
        for k in 0..3 {
            between += (means[(*digit, k)] - centre[k]).powi(2);
            total += (at[(row, k)] - centre[k]).powi(2);
        }
    }
    between / total
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    /// A perfect prism: height by parity, two waves in ten digits around.
    fn prism() -> Matrix {
        Matrix::from_fn(10, 3, |digit, k| {
            let angle = TAU * 2. * digit as f64 / 10.;
            [angle.cos(), if digit % 2 == 0 { 0.4 } else { -0.4 }, angle.sin()][k]
        })
    }

    #[test]
    fn a_prism_is_one() {
        let fit = fit(prism().as_ref()).unwrap();
        assert_eq!(fit.parity, 1);
        assert!((fit.parity_r2 - 1.).abs() < 1e-9 && (fit.pentagon_r2 - 1.).abs() < 1e-9);
        // round the even pentagon the digit goes up or down by four
        let edges = edges(prism().as_ref(), 1);
        assert_eq!(edges.len(), 15);
        for (kind, from, to) in edges {
            let step = (to + 10 - from) % 10;
            assert!(if kind == "across" { step == 5 } else { step == 4 || step == 6 }, "{kind} {from} {to}");
        }
    }

    #[test]
    fn a_ramp_is_no_prism() {
        let ramp = Matrix::from_fn(10, 3, |digit, k| {
            (digit * (k + 1)) as f64 + if k == 0 { 0. } else { ((digit * digit) % 7) as f64 }
        });
        let fit = fit(ramp.as_ref()).unwrap();
        assert!(fit.parity_r2 < 0.3 && fit.pentagon_r2 < 0.5, "{} {}", fit.parity_r2, fit.pentagon_r2);
    }

    #[test]
    fn the_box_holds_its_own_points() {
        let at = Matrix::from_fn(40, 3, |row, k| (row % 10) as f64 + 0.01 * (row * (k + 1)) as f64);
        let digits: Vec<usize> = (0..40).map(|row| row % 10).collect();
        let inside = boxed(at.as_ref(), &digits);
        assert!((0..40).filter(|row| row % 10 == BOXED).all(|row| inside.contains(&row)) && inside.len() < 12);
    }
}
