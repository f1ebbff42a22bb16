//! Fourier structure of digit representations (arXiv 2510.00184, table 1).
//!
//! Three objects are functions of a digit 0 .. 9:
//!
//! - the embedding, one function per dimension;
//! - the output of each last-block MLP neuron, projected onto the digit embeddings;
//! - the final residual stream at the position that predicts a middle digit, projected onto the digit unembeddings.
//!
//! Each function is fitted by least squares with Fourier modes of a few frequencies k, in cycles per ten digits.
//! Controls are random functions, a linear ramp and the indicator of one digit. R² is the fraction of variance
//! explained.
//!
//! Tables: `fits` (R² of each basis), `power` (share of variance at each frequency).

use anyhow::Result;
use experiment::Run;
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use probes::{Fourier, Matrix, mean, median};
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::params::Trained;
use crate::subject::{Place, Subject, digit_rows, leave_open};

/// The two sets of frequencies in the paper's table. The second has ten basis functions for ten points, so it fits any
/// row exactly.
const BASES: [(&str, &[usize]); 2] = [("k = 0, 1, 2, 5", &[0, 1, 2, 5]), ("k = 0 .. 5", &[0, 1, 2, 3, 4, 5])];

/// Parameters of `fourier`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to analyse, among those that the training produced.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Number of validation problems for the final residual stream.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// Index k of the answer digit c_k at whose predicting position the stream is read. Null selects c2, as in the
    /// paper, or c1 for two-digit operands.
    pub digit: Option<usize>,
    /// Number of random functions in the noise control.
    #[schemars(range(min = 1))]
    pub noise: usize,
}

/// Analyses every method and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let problems = subject.held_out(run, "problems", params.problems)?;
    let digit = subject.digit(params.digit)?;
    let mut all: Vec<(Option<Trained>, &str, Matrix)> = Vec::new();
    for method in &params.methods {
        let model = subject.model(run, *method)?;
        let position = subject.place(Place::Predicting, digit);
        let last = Site::Block(Layer(model.n_layers() - 1), Point::ResidPost);
        let stream = subject.rows(run, &model, &problems, last, position)?;
        for (object, rows) in objects(&subject, &model, &stream)? {
            all.push((Some(*method), object, rows));
        }
    }
    let mut rng = run.rng("noise");
    let noise = Matrix::from_fn(params.noise, 10, |_, _| StandardNormal.sample(&mut rng));
    let single = |of: fn(f64) -> f64| Matrix::from_fn(1, 10, |_, n| of(n as f64));
    let controls = [("noise", noise), ("ramp", single(|n| n)), ("one digit", single(|n| f64::from(u8::from(n == 3.))))];
    all.extend(controls.into_iter().map(|(name, rows)| (None, name, rows)));

    let mut fits = Builder::new(
        Schema::new("fits", "the fit of one Fourier basis to the functions of one object")
            .text("method", "training method, or control")
            .text("object", "object expressed as functions of the digit")
            .text("basis", "frequencies in the Fourier basis, in cycles per ten digits")
            .int("rows", "number of fitted functions")
            .float("median_r2", "median R² over the functions", "fraction")
            .float("mean_r2", "mean R² over the functions", "fraction"),
    );
    let mut power = Builder::new(
        Schema::new("power", "the share of one object's variance over the digits at one frequency")
            .text("method", "training method, or control")
            .text("object", "object expressed as functions of the digit")
            .int("frequency", "cycles per ten digits")
            .float("share", "share of the variance at this frequency", "fraction"),
    );
    for (trained, object, rows) in &all {
        let method = trained.map_or_else(|| "control".to_owned(), |trained| trained.to_string());
        for (basis, frequencies) in BASES {
            let r2 = Fourier::new(10, frequencies)?.r_squared(rows.as_ref())?;
            let (median, mean) = (median(&r2), mean(&r2));
            fits.push(row![method.as_str(), *object, basis, r2.len(), median, mean])?;
            if frequencies.len() == 4 {
                let name = format!("{}.median_r2", object.replace(' ', "_"));
                match trained {
                    Some(trained) => trained.metric(run, &name, median, "fraction"),
                    None => run.metric(&format!("{method}.{name}"), median, "fraction"),
                }
            }
        }
        for (index, share) in Fourier::power(rows.as_ref())?.into_iter().enumerate() {
            power.push(row![method.as_str(), *object, index + 1, share])?;
        }
    }
    let names = ["embedding.median_r2", "mlp_output.median_r2", "final_stream.median_r2"];
    leave_open(run, &params.methods, &names);
    run.record(fits.finish()?);
    run.record(power.finish()?);
    Ok(())
}

/// The three objects, with one function of the digit per row, `[functions, 10]`.
fn objects(subject: &Subject, model: &Decoder, stream: &Matrix) -> Result<[(&'static str, Matrix); 3]> {
    let vocabulary = subject.params.task.vocabulary;
    let matrix = |tensor: candle_core::Tensor| probes::matrix(&tensor);
    let (embed, unembed) =
        (matrix(digit_rows(model, vocabulary, false)?)?, matrix(digit_rows(model, vocabulary, true)?)?);
    let weights = model.weights();
    let name = format!("blocks.{}.mlp.W_out", model.n_layers() - 1);
    let out = weights.get(&name).ok_or_else(|| anyhow::anyhow!("the model has no weight `{name}`"))?;
    let out = matrix(out.clone())?; // [d_mlp, d_model]
    Ok([
        ("embedding", embed.transpose().to_owned()),
        ("mlp output", out * embed.transpose()),
        ("final stream", stream * unembed.transpose()),
    ])
}
