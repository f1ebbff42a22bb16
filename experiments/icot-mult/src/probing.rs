//! Can the running column sums be read off the residual stream? (arXiv 2510.00184, figure 3.)
//!
//! A linear probe for each digit k says c_hat_k = s_k + (carry of c_hat_{k-1}) from the residual stream, at the place that
//! predicts c_k and at the place where c_k is the input (there c_hat_k mod 10 can be seen already, so it is easier).
//! Beside every error stands that of always saying the mean.
//!
//! Tables: `probes` (error and R² of every probe), `points` (held-out problems, predicted against
//! true), `errors` (the probes of the figure beside the mean).

use crate::multiplication::Problem;
use anyhow::Result;
use capture::Keep;
use experiment::Run;
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use probes::{Descent, Linear, Matrix, mean_absolute_error, mean_absolute_error_of_mean, r_squared};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::params::Trained;
use crate::subject::{Place, Subject, left_out, stream_sites};

/// Parameters of `probes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to look at, of those that the training made.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Problems that probes are fitted on.
    #[schemars(range(min = 2))]
    pub fitted: usize,
    /// Validation problems that they are judged on.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// Penalty of the ridge regression.
    #[schemars(range(min = 0))]
    pub penalty: f64,
    /// Also fit as the paper does, by AdamW and without an intercept; not when null.
    pub adamw: Option<AdamWProbe>,
    /// Problems of each digit that go into the table of points.
    #[schemars(range(min = 1))]
    pub points: usize,
}

/// Settings of the paper's probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdamWProbe {
    /// Learning rate.
    #[schemars(range(min = 0))]
    pub lr: f64,
    /// Decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Passes over the problems, at most.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Problems in a step.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
}

/// Measures every method and hands in the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let held_out = subject.held_out(run, "problems", params.problems)?;
    let others = subject.others(run, params.fitted);
    let mut table = Builder::new(
        Schema::new("probes", "one linear probe for a running column sum")
            .text("method", "way of training")
            .text("site", "where the residual stream is read")
            .text("position", "whether c_k is predicted there or is the input")
            .text("fit", "ridge (closed form, with intercept) or adamw (as published, without)")
            .text("digit", "answer digit, c0 the units")
            .float("mae", "mean absolute error on held-out problems", "")
            .float("r2", "share of variance predicted on held-out problems", "fraction")
            .float("mae_of_mean", "mean absolute error of always saying the mean", ""),
    );
    let mut points = Builder::new(
        Schema::new("points", "one held-out problem and what the probe says, layer 1 after attention, ridge")
            .text("method", "way of training")
            .text("digit", "answer digit, c0 the units")
            .text("position", "whether c_k is predicted there or is the input")
            .float("truth", "running column sum", "")
            .float("predicted", "what the probe says", ""),
    );
    let mut errors = Builder::new(
        Schema::new("errors", "error of the figure's probe of one digit, or of always saying the mean")
            .text("method", "way of training, or mean")
            .text("position", "whether c_k is predicted there or is the input")
            .text("digit", "answer digit, c0 the units")
            .float("mae", "mean absolute error on held-out problems", ""),
    );
    let mut bar = run.task("probes", params.methods.len() as u64, "models");
    let mut done = Vec::new();
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let found = probe(run, &subject, &model, [&others, &held_out], &params)?;
        for result in &found {
            for (k, (mae, (r2, mean))) in result.mae.iter().zip(result.r2.iter().zip(&result.mae_of_mean)).enumerate() {
                let (site, place) = (result.site.to_string(), result.place.name());
                table.push(row![method.to_string(), site, place, result.fit, format!("c{k}"), *mae, *r2, *mean])?;
                if result.is_figure(&model) && middle(subject.n()).contains(&k) {
                    if index == 0 {
                        errors.push(row!["mean", place, format!("c{k}"), *mean])?;
                    }
                    errors.push(row![method.to_string(), place, format!("c{k}"), *mae])?;
                    for (truth, predicted) in result.pairs[k].iter().take(params.points) {
                        points.push(row![method.to_string(), format!("c{k}"), place, *truth, *predicted])?;
                    }
                }
            }
        }
        done.push((*method, found, model.n_layers()));
        bar.at(index as u64 + 1, &method.to_string());
    }
    metrics(run, subject.n(), &done);
    run.record(table.finish()?);
    run.record(points.finish()?);
    run.record(errors.finish()?);
    Ok(())
}

/// Digits whose sums have carries to keep: all but the first two and the last.
fn middle(n: usize) -> std::ops::Range<usize> {
    2.min(2 * n - 2)..2 * n - 1
}

/// All probes at one site and place, with one kind of fit.
struct Probes {
    site: Site,
    place: Place,
    fit: &'static str,
    mae: Vec<f64>,
    r2: Vec<f64>,
    mae_of_mean: Vec<f64>,
    /// Truth and prediction of held-out problems, by digit.
    pairs: Vec<Vec<(f64, f64)>>,
}

impl Probes {
    /// Whether the paper's figure shows it: the last block, between attention and MLP, by ridge.
    fn is_figure(&self, model: &Decoder) -> bool {
        self.site == Site::Block(Layer(model.n_layers() - 1), Point::ResidMid) && self.fit == "ridge"
    }
}

fn probe(
    run: &Run,
    subject: &Subject,
    model: &Decoder,
    [others, held_out]: [&[Problem]; 2],
    params: &Params,
) -> Result<Vec<Probes>> {
    let digits = 2 * subject.n();
    let sites = stream_sites(model);
    let first = subject.place(Place::Predicting, 0);
    let keep = Keep { positions: Some((first..=first + digits).map(|place| place as isize).collect()), heads: None };
    let fitted = subject.activations(run, model, others, &sites, &keep)?;
    let judged = subject.activations(run, model, held_out, &sites, &keep)?;
    let sums = |problems: &[Problem]| {
        let sums: Vec<Vec<u32>> = problems.iter().map(Problem::running_sums).collect();
        move |k: usize| Matrix::from_fn(sums.len(), 1, |problem, _| f64::from(sums[problem][k]))
    };
    let (fitted_sums, judged_sums) = (sums(others), sums(held_out));
    let mut all = Vec::new();
    for site in sites {
        for place in Place::ALL {
            let shift = subject.place(place, 0) - first;
            let kinds = ["ridge"].into_iter().chain(params.adamw.map(|_| "adamw"));
            for fit in kinds {
                run.check_interrupted()?;
                let mut probes = Probes {
                    site,
                    place,
                    fit,
                    mae: Vec::new(),
                    r2: Vec::new(),
                    mae_of_mean: Vec::new(),
                    pairs: Vec::new(),
                };
                for k in 0..digits {
                    let at = |tensor: &candle_core::Tensor| -> Result<Matrix> {
                        Ok(probes::matrix(&tensor.narrow(1, k + shift, 1)?.squeeze(1)?)?)
                    };
                    let (x, held_x) = (at(&fitted[&site])?, at(&judged[&site])?);
                    let (y, held_y) = (fitted_sums(k), judged_sums(k));
                    let probe = match (fit, params.adamw) {
                        ("adamw", Some(how)) => {
                            let mut rng = run.rng(&format!("probe {site} {} c{k}", place.name()));
                            let AdamWProbe { lr, weight_decay, epochs, batch_size } = how;
                            let how = Descent { lr, weight_decay, epochs, batch: batch_size, ..Descent::default() };
                            let (fit, held) = ([x.as_ref(), y.as_ref()], [held_x.as_ref(), held_y.as_ref()]);
                            Linear::descend(fit, held, &how, &mut rng)?
                        }
                        _ => Linear::ridge(x.as_ref(), y.as_ref(), params.penalty)?,
                    };
                    let said = probe.predict(held_x.as_ref());
                    probes.mae.extend(mean_absolute_error(said.as_ref(), held_y.as_ref()));
                    probes.r2.extend(r_squared(said.as_ref(), held_y.as_ref()));
                    probes.mae_of_mean.extend(mean_absolute_error_of_mean(y.as_ref(), held_y.as_ref()));
                    probes.pairs.push((0..said.nrows()).map(|row| (held_y[(row, 0)], said[(row, 0)])).collect());
                }
                all.push(probes);
            }
        }
    }
    Ok(all)
}

/// The figure's probes (last block after attention, by ridge), at both places; those of other methods stay open.
fn metrics(run: &Run, n: usize, done: &[(Trained, Vec<Probes>, usize)]) {
    let left_out = left_out(&done.iter().map(|(trained, ..)| *trained).collect::<Vec<_>>()).collect::<Vec<_>>();
    let mut all: Vec<Trained> = done.iter().map(|(trained, ..)| *trained).chain(left_out).collect();
    all.sort();
    for trained in all {
        let of = |place: Place| {
            let (_, found, n_layers) = done.iter().find(|(known, ..)| *known == trained)?;
            let site = Site::Block(Layer(n_layers - 1), Point::ResidMid);
            found.iter().find(|probes| probes.place == place && probes.site == site && probes.fit == "ridge")
        };
        for place in Place::ALL {
            let (name, probes) = (place.name(), of(place));
            for k in 0..2 * n {
                trained.metric(run, &format!("{name}.c{k}.mae"), probes.map(|probes| probes.mae[k]), "");
            }
            let worst = probes.map(|probes| {
                middle(n).map(|k| probes.mae[k] / probes.mae_of_mean[k]).fold(f64::NEG_INFINITY, f64::max)
            });
            trained.metric(run, &format!("{name}.middle.largest_mae_over_mean"), worst, "");
        }
    }
}
