//! Are digits waves? (arXiv 2510.00184, table 1.)
//!
//! Three objects are written as functions of a digit: the embedding, what the last block's MLP writes towards each digit,
//! and the final residual stream where a middle digit is predicted, read out towards each digit.
//! Each is fitted by waves of few frequencies; beside it stand rows of noise, a plain ramp and a single digit.
//!
//! Tables: `fits` (share of variance that the waves hold), `power` (share of variance at each frequency).

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

/// The two sets of frequencies of the table; with all of them ten functions meet ten points, so that any row fits.
const BASES: [(&str, &[usize]); 2] = [("k = 0, 1, 2, 5", &[0, 1, 2, 5]), ("k = 0 .. 5", &[0, 1, 2, 3, 4, 5])];

/// Parameters of `fourier`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to look at, of those that the training made.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Validation problems for the final residual stream.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// The digit c_k that is predicted there; c2, as in the paper, when null (c1 at two digits).
    pub digit: Option<usize>,
    /// Rows of noise in the control.
    #[schemars(range(min = 1))]
    pub noise: usize,
}

/// Measures every method and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let problems = subject.held_out(run, "problems", params.problems)?;
    let digit = subject.digit(params.digit)?;
    let mut all: Vec<(Option<Trained>, &str, Matrix)> = Vec::new();
    for method in &params.methods {
        let model = subject.model(run, *method)?;
        let place = subject.place(Place::Predicting, digit);
        let last = Site::Block(Layer(model.n_layers() - 1), Point::ResidPost);
        let stream = subject.rows(run, &model, &problems, last, place)?;
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
        Schema::new("fits", "how well few waves over the digits fit the rows of an object")
            .text("method", "way of training, or control")
            .text("object", "what is a function of the digit")
            .text("basis", "frequencies of the waves")
            .int("rows", "functions fitted")
            .float("median_r2", "median share of variance that the waves hold", "fraction")
            .float("mean_r2", "mean share of variance that the waves hold", "fraction"),
    );
    let mut power = Builder::new(
        Schema::new("power", "share of an object's variance over the digits at one frequency")
            .text("method", "way of training, or control")
            .text("object", "what is a function of the digit")
            .int("frequency", "waves in ten digits")
            .float("share", "share of the variance", "fraction"),
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

/// The three objects, a function of the digit in each row.
fn objects(subject: &Subject, model: &Decoder, stream: &Matrix) -> Result<[(&'static str, Matrix); 3]> {
    let vocabulary = subject.params.task.vocabulary;
    let matrix = |tensor: candle_core::Tensor| probes::matrix(&tensor);
    let (embed, unembed) =
        (matrix(digit_rows(model, vocabulary, false)?)?, matrix(digit_rows(model, vocabulary, true)?)?);
    let weights = model.weights();
    let name = format!("blocks.{}.mlp.W_out", model.n_layers() - 1);
    let out = weights.get(&name).ok_or_else(|| anyhow::anyhow!("the model has no `{name}`"))?;
    let out = matrix(out.clone())?; // [d_mlp, d_model]
    Ok([
        ("embedding", embed.transpose().to_owned()),
        ("mlp output", out * embed.transpose()),
        ("final stream", stream * unembed.transpose()),
    ])
}
