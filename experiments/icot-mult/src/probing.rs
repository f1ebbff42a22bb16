//! Linear probes for the running column sums in the residual stream (arXiv 2510.00184, figure 3).
//!
//! With s_k the k-th column sum, the probe for digit k predicts c_hat_k = s_k + floor(c_hat_{k-1} / 10) from the
//! residual stream. It reads either the position that predicts c_k or the position where c_k is the input. The second
//! task is easier, since c_hat_k mod 10 is known there. The baseline always predicts the mean of the fitting problems.
//!
//! Tables: `probes` (error and R² of every probe), `points` (true and predicted sums of held-out problems), `errors`
//! (the probes of the paper's figure beside the baseline).

use std::ops::Range;

use crate::multiplication::Problem;
use anyhow::Result;
use candle_core::Tensor;
use capture::Keep;
use experiment::Run;
use hooks::{HookedModel, Layer, Point, Site};
use models::Decoder;
use probes::{Descent, Linear, Matrix, MatrixRef, mean_absolute_error, mean_absolute_error_of_mean, r_squared};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::params::Trained;
use crate::subject::{Place, Subject, left_out, stream_sites};

/// Parameters of `probes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Models to analyse, among those that the training produced.
    #[schemars(length(min = 1))]
    pub methods: Vec<Trained>,
    /// Number of problems on which the probes are fitted.
    #[schemars(range(min = 2))]
    pub fitted: usize,
    /// Number of validation problems on which the probes are evaluated.
    #[schemars(range(min = 1))]
    pub problems: usize,
    /// L2 penalty of the ridge regression.
    #[schemars(range(min = 0))]
    pub penalty: f64,
    /// Settings of a second probe, fitted as in the paper by AdamW without an intercept. Null skips it.
    pub adamw: Option<AdamWProbe>,
    /// Number of problems per digit that are recorded in `points`.
    #[schemars(range(min = 1))]
    pub points: usize,
}

/// Settings of the paper's probe, which is fitted by AdamW.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdamWProbe {
    /// Learning rate.
    #[schemars(range(min = 0))]
    pub lr: f64,
    /// Decoupled weight decay.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Maximum number of passes over the fitting problems.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Number of problems in one step.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
}

/// Fits and evaluates the probes of every method and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let subject = Subject::open(run)?;
    let held_out = subject.held_out(run, "problems", params.problems)?;
    let others = subject.others(run, params.fitted);
    let mut tables = Tables::new();
    let mut progress = run.task("probes", params.methods.len() as u64, "models");
    let mut done = Vec::new();
    for (index, method) in params.methods.iter().enumerate() {
        let model = subject.model(run, *method)?;
        let n_layers = model.n_layers();
        let all = probe(run, &subject, &model, [&others, &held_out], &params)?;
        for probes in &all {
            tables.errors_of_all(*method, probes)?;
            if probes.is_figure(n_layers) {
                // the baseline does not depend on the model
                tables.figure(*method, probes, middle(subject.n()), params.points, index == 0)?;
            }
        }
        done.push((*method, all, n_layers));
        progress.at(index as u64 + 1, &method.to_string());
    }
    metrics(run, subject.n(), &done);
    for table in [tables.probes, tables.points, tables.errors] {
        run.record(table.finish()?);
    }
    Ok(())
}

/// Digits whose running sums depend on a carry chain: all but the first two and the last.
fn middle(n: usize) -> Range<usize> {
    2.min(2 * n - 2)..2 * n - 1
}

/// The tables of all methods.
struct Tables {
    probes: Builder,
    points: Builder,
    errors: Builder,
}

impl Tables {
    fn new() -> Self {
        // here `position` is not a token index but which of the two positions of a digit the probe reads
        let position = "position that the probe reads: predicting (the position that predicts c_k) or input (the \
                        position where c_k is the input)";
        let digit = "answer digit, c0 is the units digit";
        Self {
            probes: Builder::new(
                Schema::new("probes", "one linear probe for a running column sum")
                    .text("method", "training method")
                    .text("site", "hook site where the residual stream is read")
                    .text("position", position)
                    .text("fit", "ridge (closed form, with an intercept) or adamw (as published, without an intercept)")
                    .text("digit", digit)
                    .float("mae", "mean absolute error on held-out problems", "")
                    .float("r2", "R² on held-out problems", "fraction")
                    .float(
                        "mae_of_mean",
                        "mean absolute error on held-out problems of predicting the mean of the fitting problems",
                        "",
                    ),
            ),
            points: Builder::new(
                Schema::new(
                    "points",
                    "the true and the predicted running sum of one held-out problem, for the ridge probe of the last \
                     block after attention",
                )
                .text("method", "training method")
                .text("digit", digit)
                .text("position", position)
                .float("truth", "running column sum", "")
                .float("predicted", "running column sum predicted by the probe", ""),
            ),
            errors: Builder::new(
                Schema::new(
                    "errors",
                    "the error for one digit of the ridge probe of the last block after attention, or of always \
                     predicting the mean",
                )
                .text("method", "training method, or mean for the baseline that always predicts the mean")
                .text("position", position)
                .text("digit", digit)
                .float("mae", "mean absolute error on held-out problems", ""),
            ),
        }
    }

    fn errors_of_all(&mut self, method: Trained, probes: &Probes) -> Result<()> {
        let (site, position) = (probes.site.to_string(), probes.place.name());
        for k in 0..probes.mae.len() {
            let (mae, r2, mean) = (probes.mae[k], probes.r2[k], probes.mae_of_mean[k]);
            self.probes.push(row![method.to_string(), &site, position, probes.fit, format!("c{k}"), mae, r2, mean])?;
        }
        Ok(())
    }

    fn figure(
        &mut self,
        method: Trained,
        probes: &Probes,
        digits: Range<usize>,
        points: usize,
        with_baseline: bool,
    ) -> Result<()> {
        let position = probes.place.name();
        for k in digits {
            if with_baseline {
                self.errors.push(row!["mean", position, format!("c{k}"), probes.mae_of_mean[k]])?;
            }
            self.errors.push(row![method.to_string(), position, format!("c{k}"), probes.mae[k]])?;
            for (truth, predicted) in probes.pairs[k].iter().take(points) {
                self.points.push(row![method.to_string(), format!("c{k}"), position, *truth, *predicted])?;
            }
        }
        Ok(())
    }
}

/// The probes of all digits at one site and one kind of position, fitted in one way.
struct Probes {
    site: Site,
    place: Place,
    fit: &'static str,
    mae: Vec<f64>,
    r2: Vec<f64>,
    mae_of_mean: Vec<f64>,
    /// True and predicted running sums of the held-out problems, by digit.
    pairs: Vec<Vec<(f64, f64)>>,
}

impl Probes {
    fn new(site: Site, place: Place, fit: &'static str) -> Self {
        let [mae, r2, mae_of_mean] = [(); 3].map(|()| Vec::new());
        Self { site, place, fit, mae, r2, mae_of_mean, pairs: Vec::new() }
    }

    /// Whether the paper's figure shows these probes: ridge, in the last block, between attention and MLP.
    fn is_figure(&self, n_layers: usize) -> bool {
        self.site == Site::Block(Layer(n_layers - 1), Point::ResidMid) && self.fit == "ridge"
    }

    /// Evaluates the probe of the next digit on held-out problems.
    fn push(&mut self, probe: &Linear, [_, y]: [MatrixRef<'_>; 2], [held_x, held_y]: [MatrixRef<'_>; 2]) {
        let predicted = probe.predict(held_x);
        self.mae.extend(mean_absolute_error(predicted.as_ref(), held_y));
        self.r2.extend(r_squared(predicted.as_ref(), held_y));
        self.mae_of_mean.extend(mean_absolute_error_of_mean(y, held_y));
        self.pairs.push((0..predicted.nrows()).map(|row| (held_y[(row, 0)], predicted[(row, 0)])).collect());
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
    let positions = (first..=first + digits).map(|position| position as isize).collect();
    let keep = Keep { positions: Some(positions), heads: None };
    let fitting = subject.activations(run, model, others, &sites, &keep)?;
    let evaluation = subject.activations(run, model, held_out, &sites, &keep)?;
    let sums = |problems: &[Problem]| {
        let sums: Vec<Vec<u32>> = problems.iter().map(Problem::running_sums).collect();
        move |k: usize| Matrix::from_fn(sums.len(), 1, |problem, _| f64::from(sums[problem][k]))
    };
    let (fitting_sums, evaluation_sums) = (sums(others), sums(held_out));
    let mut all = Vec::new();
    for site in sites {
        for place in Place::ALL {
            let shift = subject.place(place, 0) - first;
            for fit in ["ridge"].into_iter().chain(params.adamw.map(|_| "adamw")) {
                run.check_interrupted()?;
                let mut probes = Probes::new(site, place, fit);
                for k in 0..digits {
                    let stream = |activations: &Tensor| -> Result<Matrix> {
                        Ok(probes::matrix(&activations.narrow(1, k + shift, 1)?.squeeze(1)?)?)
                    };
                    let (x, held_x) = (stream(&fitting[&site])?, stream(&evaluation[&site])?);
                    let (y, held_y) = (fitting_sums(k), evaluation_sums(k));
                    let (fitted, held) = ([x.as_ref(), y.as_ref()], [held_x.as_ref(), held_y.as_ref()]);
                    let probe = match (fit, params.adamw) {
                        ("adamw", Some(AdamWProbe { lr, weight_decay, epochs, batch_size })) => {
                            let mut rng = run.rng(&format!("probe {site} {} c{k}", place.name()));
                            let descent = Descent { lr, weight_decay, epochs, batch: batch_size, ..Descent::default() };
                            Linear::descend(fitted, held, &descent, &mut rng)?
                        }
                        _ => Linear::ridge(x.as_ref(), y.as_ref(), params.penalty)?,
                    };
                    probes.push(&probe, fitted, held);
                }
                all.push(probes);
            }
        }
    }
    Ok(all)
}

/// Records the metrics of the figure's probes. Metrics of methods that were not requested have no value.
fn metrics(run: &Run, n: usize, done: &[(Trained, Vec<Probes>, usize)]) {
    let requested: Vec<Trained> = done.iter().map(|(trained, ..)| *trained).collect();
    let mut all: Vec<Trained> = requested.iter().copied().chain(left_out(&requested)).collect();
    all.sort();
    for trained in all {
        let of = |place: Place| {
            let (_, found, n_layers) = done.iter().find(|(known, ..)| *known == trained)?;
            found.iter().find(|probes| probes.place == place && probes.is_figure(*n_layers))
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
