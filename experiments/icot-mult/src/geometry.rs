//! The geometry of digit representations: Minkowski sums and a pentagonal prism (arXiv 2510.00184, figures 5 and 6).
//!
//! A first-block head that attends to two digits writes approximately `mu + A[a] + B[b]`, with one vector per digit. The
//! outputs then form one cluster per value of b, and every cluster has the same inner structure over a. In the final
//! residual stream, the means of the predicted digits form a prism. Parity varies along one principal component, and
//! the even and the odd digits form a pentagon each in the other two. Variances are reported as fractions explained.
//!
//! Tables: `minkowski` (points of the figure's four panels), `sums` (additivity of a head's outputs), `prism` (points),
//! `prism_digits` (mean of each digit), `prism_edges`, `prism_fit`.

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

/// The digit whose cluster the last panel enlarges, as in the paper.
const BOXED: usize = 3;
/// Margin of the box around that cluster on each side, as a fraction of the cluster's extent.
const PADDING: f64 = 0.02;

/// Parameters of `geometry`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to analyse, among those that the training produced.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Number of problems for the head outputs. None of them is held out.
    #[schemars(range(min = 20))]
    pub sums: usize,
    /// Number of validation problems for the prism.
    #[schemars(range(min = 20))]
    pub problems: usize,
    /// Index k of the answer digit c_k at whose predicting position both analyses read. Null selects c2, as in the
    /// paper, or c1 for two-digit operands.
    pub digit: Option<usize>,
    /// Index of the first-block head, from 0. Null selects the head with the largest attention on two operand digits.
    pub head: Option<usize>,
    /// Number of points per panel that are recorded.
    #[schemars(range(min = 1))]
    pub points: usize,
}

/// Analyses every method and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let problems = subject.held_out(run, "problems", params.problems)?;
    let others = subject.others(run, params.sums);
    let digit = subject.digit(params.digit)?;
    let mut tables = Tables::new();
    let mut progress = run.task("geometry", params.methods.len() as u64, "models");
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let scene = Scene { run, subject: &subject, method: *method, model: &model, digit };
        tables.sums(&scene, &others, &params)?;
        tables.prism(&scene, &problems, &params)?;
        progress.at(index as u64 + 1, &method.to_string());
    }
    let names = ["additivity_r2", "nested_score", "parity_r2", "pentagon_r2", "between_share"];
    leave_open(run, &params.methods, &names);
    tables.record(run)
}

/// A head and the pair of operand digits that it attends to most.
struct ChosenHead {
    head: usize,
    pair: Pair,
}

/// The first-block head with the largest mean attention on one digit of each operand, from the position that predicts
/// the scene's digit; or the requested head.
fn choose_head(scene: &Scene<'_>, problems: &[Problem], requested: Option<usize>) -> Result<ChosenHead> {
    let (n, heads) = (scene.subject.n(), scene.model.n_heads());
    anyhow::ensure!(
        requested.is_none_or(|head| head < heads),
        "params.head: there is no head {}; the model has {heads} heads (0 to {})",
        requested.unwrap_or(0),
        heads - 1
    );
    let site = Site::Block(Layer(0), Point::Pattern);
    let position = scene.subject.place(Place::Predicting, scene.digit);
    let keep = Keep { positions: Some(vec![position as isize]), heads: None };
    let sample = &problems[..problems.len().min(1000)];
    let patterns = scene.subject.activations(scene.run, scene.model, sample, &[site], &keep)?;
    let mean = patterns[&site].to_dtype(DType::F64)?.mean(0)?.i((.., 0))?.to_vec2::<f64>()?; // [head, key]
    let heads = mean.iter().enumerate().filter(|(head, _)| requested.is_none_or(|requested| requested == *head));
    heads
        .map(|(head, row)| ChosenHead { head, pair: Pair::of(row, n) })
        .reduce(|best, next| if next.pair.mass > best.pair.mass { next } else { best })
        .ok_or_else(|| anyhow::anyhow!("the model has no heads"))
}

/// Digit `index` of an operand or the answer, for every problem.
fn digits_of(problems: &[Problem], of: impl Fn(&Problem) -> Vec<u8>, index: usize) -> Vec<usize> {
    problems.iter().map(|problem| usize::from(of(problem)[index])).collect()
}

/// The tables of all methods.
struct Tables {
    minkowski: Builder,
    sums: Builder,
    prism: Builder,
    prism_digits: Builder,
    prism_edges: Builder,
    prism_fit: Builder,
}

/// Coordinates along the three principal components.
fn with_point(schema: Schema) -> Schema {
    ["first", "second", "third"].iter().zip(1..).fold(schema, |schema, (ordinal, k)| {
        schema.float(format!("pc{k}"), format!("coordinate along the {ordinal} principal component"), "")
    })
}

/// Shares of variance of the three principal components.
fn with_explained(schema: Schema) -> Schema {
    (1..=3).fold(schema, |schema, k| {
        let about = format!("share of the total variance along principal component {k}");
        schema.float(format!("explained_{k}"), about, "fraction")
    })
}

/// Coordinates of one end of an edge.
fn with_end(schema: Schema, end: &str, about: &str) -> Schema {
    ["x", "y", "z"].iter().zip(1..).fold(schema, |schema, (axis, k)| {
        schema.float(format!("{axis}_{end}"), format!("coordinate of the {about} along principal component {k}"), "")
    })
}

fn minkowski_schema() -> Schema {
    with_point(
        Schema::new("minkowski", "the attention output of the first block for one problem, in principal components")
            .text("method", "training method")
            .text(
                "panel",
                "a: all heads, at the position that predicts c0; b and c: one head, at the position that predicts a \
                 middle digit; d: the points of c in the box around one cluster",
            )
            .text("coloured", "operand digit shown by colour")
            .int("digit", "value of that operand digit"),
    )
}

fn sums_schema() -> Schema {
    with_explained(
        Schema::new("sums", "the additivity of one head's outputs in the digits that it attends to")
            .text("method", "training method")
            .text("place", "position where the outputs are read, named by the answer digit that it predicts")
            .int("head", "index of the first-block head, from 0")
            .text("digits", "operand digits that the head attends to most")
            .float("mass", "mean attention probability on both digits together", "fraction")
            .float("additivity_r2", "R² of the additive model mu + A[a] + B[b]", "fraction")
            .float(
                "nested_score",
                "overlap of the top three principal directions at a fixed b with those over all problems",
                "fraction",
            )
            .float("nested_chance", "expected overlap of random directions, 3 / d_model", "fraction"),
    )
}

fn prism_schema(name: &str, about: &str, digit: &str) -> Schema {
    with_point(Schema::new(name, about).text("method", "training method").int("digit", digit))
}

fn prism_edges_schema() -> Schema {
    let schema = Schema::new("prism_edges", "an edge between the mean streams of two digits")
        .text("method", "training method")
        .text("kind", "even or odd: edge of that pentagon; across: edge between digits five apart");
    with_end(with_end(schema, "from", "first end"), "to", "second end")
}

fn prism_fit_schema() -> Schema {
    with_explained(
        Schema::new("prism_fit", "the fit of a pentagonal prism to the mean streams of the ten digits")
            .text("method", "training method")
            .text("digit", "answer digit predicted at the position where the stream is read, c0 is the units digit")
            .int("parity_component", "principal component along which parity varies, from 1")
            .float("parity_r2", "R² of parity along that component", "fraction")
            .float(
                "pentagon_r2",
                "R² of the Fourier mode with two cycles per ten digits along the other two components",
                "fraction",
            )
            .float(
                "between_share",
                "variance between digits as a share of the total variance in the three components",
                "fraction",
            ),
    )
}

/// The first three coordinates of a row.
fn coordinates(points: &Matrix, row: usize) -> [f64; 3] {
    [0, 1, 2].map(|k| points[(row, k)])
}

impl Tables {
    fn new() -> Self {
        let digit = "value of the answer digit predicted at that position";
        Self {
            minkowski: Builder::new(minkowski_schema()),
            sums: Builder::new(sums_schema()),
            prism: Builder::new(prism_schema(
                "prism",
                "the final residual stream of one problem, in principal components",
                digit,
            )),
            prism_digits: Builder::new(prism_schema(
                "prism_digits",
                "the mean final residual stream of the problems with one answer digit, in principal components",
                digit,
            )),
            prism_edges: Builder::new(prism_edges_schema()),
            prism_fit: Builder::new(prism_fit_schema()),
        }
    }

    fn sums(&mut self, scene: &Scene<'_>, problems: &[Problem], params: &Params) -> Result<()> {
        let Scene { run, subject, method, model, digit } = *scene;
        let ChosenHead { head: chosen, pair } = choose_head(scene, problems, params.head)?;
        let all_heads = Site::Block(Layer(0), Point::AttnOut);
        let first = subject.rows(run, model, problems, all_heads, subject.place(Place::Predicting, 0))?;
        let site = Site::Block(Layer(0), Point::Result);
        let position = subject.place(Place::Predicting, digit);
        let keep = Keep { positions: Some(vec![position as isize]), heads: Some(vec![chosen]) };
        let results = subject.activations(run, model, problems, &[site], &keep)?;
        let head = probes::matrix(&results[&site].i((.., 0, 0))?)?;
        let (a, b) = (digits_of(problems, Problem::a_digits, pair.a), digits_of(problems, Problem::b_digits, pair.b));
        let b0 = digits_of(problems, Problem::b_digits, 0);
        let (a_name, b_name) = (format!("a{}", pair.a), format!("b{}", pair.b));

        let all = Pca::fit(first.as_ref(), 3)?.transform(first.as_ref())?;
        let pca = Pca::fit(head.as_ref(), 3)?;
        let points = pca.transform(head.as_ref())?;
        let inside = boxed(points.as_ref(), &b);
        let every: Vec<usize> = (0..problems.len()).collect();
        let method_name = method.to_string();
        let mut panel =
            |panel: &str, coloured: &str, points: &Matrix, digits: &[usize], rows: &[usize]| -> Result<()> {
                for row in rows.iter().take(params.points) {
                    let [x, y, z] = coordinates(points, *row);
                    self.minkowski.push(row![method_name.as_str(), panel, coloured, digits[*row], x, y, z])?;
                }
                Ok(())
            };
        panel("a", "b0", &all, &b0, &every)?;
        panel("b", &b_name, &points, &b, &every)?;
        panel("c", &a_name, &points, &a, &every)?;
        panel("d", &a_name, &points, &a, &inside)?;
        let additivity = additive_r2(head.as_ref(), &[&a, &b])?;
        let nested = nested(head.as_ref(), &pca, &b)?;
        let [e1, e2, e3] = explained(&pca);
        let (place, digits) = (format!("predicting c{digit}"), format!("{a_name} {b_name}"));
        let chance = 3. / head.ncols() as f64;
        self.sums.push(row![
            method.to_string(),
            place,
            chosen,
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
        let points = pca.transform(stream.as_ref())?;
        for (row, truth) in truth.iter().enumerate().take(points.nrows().min(params.points)) {
            let [x, y, z] = coordinates(&points, row);
            self.prism.push(row![method.to_string(), *truth, x, y, z])?;
        }
        let Some(means) = means(points.as_ref(), &truth) else {
            anyhow::bail!(
                "params.problems: some digit never occurs as c{digit} in {} problems; use more",
                problems.len()
            );
        };
        let fit = fit(means.as_ref())?;
        for digit in 0..10 {
            let [x, y, z] = coordinates(&means, digit);
            self.prism_digits.push(row![method.to_string(), digit, x, y, z])?;
        }
        for (kind, from, to) in edges(means.as_ref(), fit.parity) {
            let ([x, y, z], [x_to, y_to, z_to]) = (coordinates(&means, from), coordinates(&means, to));
            self.prism_edges.push(row![method.to_string(), kind, x, y, z, x_to, y_to, z_to])?;
        }
        let between = between_share(points.as_ref(), means.as_ref(), &truth);
        let [e1, e2, e3] = explained(&pca);
        let name = format!("c{digit}");
        let Fit { parity, parity_r2, pentagon_r2 } = fit;
        self.prism_fit.push(row![method.to_string(), name, parity + 1, parity_r2, pentagon_r2, between, e1, e2, e3])?;
        method.metric(run, "parity_r2", parity_r2, "fraction");
        method.metric(run, "pentagon_r2", pentagon_r2, "fraction");
        method.metric(run, "between_share", between, "fraction");
        Ok(())
    }

    fn record(self, run: &Run) -> Result<()> {
        let Self { minkowski, sums, prism, prism_digits, prism_edges, prism_fit } = self;
        for table in [minkowski, sums, prism, prism_digits, prism_edges, prism_fit] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}

fn explained(pca: &Pca) -> [f64; 3] {
    let explained = pca.explained();
    [explained[0], explained[1], explained[2]]
}

/// Indices of the points inside the axis-aligned box around the cluster of the digit [`BOXED`].
fn boxed(points: MatrixRef<'_>, digits: &[usize]) -> Vec<usize> {
    let ends: Vec<[f64; 2]> = (0..3)
        .map(|k| {
            let of = digits.iter().enumerate().filter(|(_, digit)| **digit == BOXED).map(|(row, _)| points[(row, k)]);
            let [low, high] = of.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], x| [low.min(x), high.max(x)]);
            let padding = (high - low) * PADDING;
            [low - padding, high + padding]
        })
        .collect();
    let inside = |row: &usize| (0..3).all(|k| (ends[k][0]..=ends[k][1]).contains(&points[(*row, k)]));
    (0..points.nrows()).filter(inside).collect()
}

/// Overlap of the top three principal directions at each value of a digit with those over all problems, averaged over
/// the values. Values with fewer than ten problems are skipped.
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

/// Mean coordinates of each digit, `[10, 3]`; `None` if a digit does not occur.
fn means(points: MatrixRef<'_>, truth: &[usize]) -> Option<Matrix> {
    let mut sums = Matrix::zeros(10, 3);
    let mut counts = [0f64; 10];
    for (row, digit) in truth.iter().enumerate() {
        counts[*digit] += 1.;
        (0..3).for_each(|k| sums[(*digit, k)] += points[(row, k)]);
    }
    counts.iter().all(|count| *count > 0.).then(|| Matrix::from_fn(10, 3, |digit, k| sums[(digit, k)] / counts[digit]))
}

struct Fit {
    /// Principal component along which parity varies, from 0.
    parity: usize,
    parity_r2: f64,
    pentagon_r2: f64,
}

/// Fits parity along the component that it explains best, and the Fourier mode with two cycles per ten digits along the
/// other two.
fn fit(means: MatrixRef<'_>) -> Result<Fit> {
    let row = |k: usize| Matrix::from_fn(1, 10, |_, digit| means[(digit, k)]);
    let (parity, pentagon) = (Fourier::new(10, &[5])?, Fourier::new(10, &[2])?);
    let along = |k: usize| -> Result<f64> { Ok(parity.r_squared(row(k).as_ref())?.first().copied().unwrap_or(0.)) };
    let scores = [along(0)?, along(1)?, along(2)?];
    let best = (0..3).fold(0, |best, k| if scores[k] > scores[best] { k } else { best });
    let others: Vec<Matrix> = (0..3).filter(|k| *k != best).map(row).collect();
    // components are weighted by their variance
    let (mut explained, mut total) = (0., 0.);
    for other in &others {
        let values: Vec<f64> = (0..10).map(|digit| other[(0, digit)]).collect();
        let variance = probes::standard_deviation(&values).powi(2);
        explained += variance * pentagon.r_squared(other.as_ref())?.first().copied().unwrap_or(0.);
        total += variance;
    }
    Ok(Fit { parity: best, parity_r2: scores[best], pentagon_r2: explained / total })
}

/// Edges of the two pentagons, even and odd, in the order of the angle in the plane orthogonal to parity, and the edges
/// between digits five apart. Each edge is its kind and its two digits.
fn edges(means: MatrixRef<'_>, parity: usize) -> Vec<(&'static str, usize, usize)> {
    let plane: Vec<usize> = (0..3).filter(|k| *k != parity).collect();
    let mut edges = Vec::new();
    for (kind, first) in [("even", 0), ("odd", 1)] {
        let mut ring: Vec<usize> = (first..10).step_by(2).collect();
        let centre = |k: usize| ring.iter().map(|digit| means[(*digit, k)]).sum::<f64>() / ring.len() as f64;
        let (x, y) = (centre(plane[0]), centre(plane[1]));
        let angle = |digit: usize| (means[(digit, plane[1])] - y).atan2(means[(digit, plane[0])] - x);
        ring.sort_by(|a, b| angle(*a).total_cmp(&angle(*b)));
        edges.extend((0..ring.len()).map(|i| (kind, ring[i], ring[(i + 1) % ring.len()])));
    }
    edges.extend((0..5).map(|digit| ("across", digit, digit + 5)));
    edges
}

/// Variance between the digits' means as a share of the total variance.
fn between_share(points: MatrixRef<'_>, means: MatrixRef<'_>, truth: &[usize]) -> f64 {
    let centre: Vec<f64> =
        (0..3).map(|k| (0..points.nrows()).map(|row| points[(row, k)]).sum::<f64>() / points.nrows() as f64).collect();
    let (mut between, mut total) = (0., 0.);
    for (row, digit) in truth.iter().enumerate() {
        for k in 0..3 {
            between += (means[(*digit, k)] - centre[k]).powi(2);
            total += (points[(row, k)] - centre[k]).powi(2);
        }
    }
    between / total
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use super::*;

    /// A perfect prism: parity along component 1, two cycles per ten digits in the other two.
    fn prism() -> Matrix {
        Matrix::from_fn(10, 3, |digit, k| {
            let angle = TAU * 2. * digit as f64 / 10.;
            [angle.cos(), if digit % 2 == 0 { 0.4 } else { -0.4 }, angle.sin()][k]
        })
    }

    #[test]
    fn a_perfect_prism_has_r2_one() {
        let fit = fit(prism().as_ref()).unwrap();
        assert_eq!(fit.parity, 1);
        assert!((fit.parity_r2 - 1.).abs() < 1e-9 && (fit.pentagon_r2 - 1.).abs() < 1e-9);
        // neighbours in a pentagon differ by four or six modulo ten
        let edges = edges(prism().as_ref(), 1);
        assert_eq!(edges.len(), 15);
        for (kind, from, to) in edges {
            let step = (to + 10 - from) % 10;
            assert!(if kind == "across" { step == 5 } else { step == 4 || step == 6 }, "{kind} {from} {to}");
        }
    }

    #[test]
    fn a_ramp_has_a_low_r2() {
        let ramp = Matrix::from_fn(10, 3, |digit, k| {
            (digit * (k + 1)) as f64 + if k == 0 { 0. } else { ((digit * digit) % 7) as f64 }
        });
        let fit = fit(ramp.as_ref()).unwrap();
        assert!(fit.parity_r2 < 0.3 && fit.pentagon_r2 < 0.5, "{} {}", fit.parity_r2, fit.pentagon_r2);
    }

    #[test]
    fn the_box_contains_its_cluster() {
        let points = Matrix::from_fn(40, 3, |row, k| (row % 10) as f64 + 0.01 * (row * (k + 1)) as f64);
        let digits: Vec<usize> = (0..40).map(|row| row % 10).collect();
        let inside = boxed(points.as_ref(), &digits);
        assert!((0..40).filter(|row| row % 10 == BOXED).all(|row| inside.contains(&row)) && inside.len() < 12);
    }
}
