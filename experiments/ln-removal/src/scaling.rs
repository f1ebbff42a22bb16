//! Scaling of the amount of text needed for norm removal with model size (arXiv 2507.02559, appendix B).
//!
//! For each model: the number of training tokens until the held-out loss of the model without norms stays within a
//! margin (in nats) of the control's loss. A power law `tokens = factor · parameters ^ exponent` is fitted by least
//! squares in logarithms.
//!
//! Tables: `points` (one model), `fit` (the power law).

use anyhow::{Context, Result, bail};
use experiment::Run;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

/// Parameters of `scaling`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Removal experiments on models of several sizes. Each must be listed under `needs:`.
    #[schemars(length(min = 2))]
    pub removals: Vec<String>,
    /// Name of the variant whose norms are removed.
    pub variant: String,
    /// Largest difference to the control's loss that counts as recovered, in nats.
    #[schemars(range(min = 0))]
    pub margin: f64,
}

/// The removal of one model.
struct Point {
    removal: String,
    seed: i64,
    parameters: f64,
    /// Tokens until the loss stays within the margin, with all norms removed.
    tokens: Option<f64>,
    /// Tokens until the last norm is removed.
    all_removed: f64,
}

/// Reads the removals, fits the power law and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut points = Vec::new();
    for removal in &params.removals {
        points.extend(read(run, removal, &params).with_context(|| format!("params.removals: {removal}"))?);
    }
    let mut table = Builder::new(
        Schema::new("points", "the removal of norms from one model")
            .text("removal", "removal experiment")
            .int("seed", "seed index of the initial model and batches, from 1")
            .float("parameters", "number of trained parameters", "")
            .float("gone", "training tokens until the last norm is removed", "tokens")
            .float(
                "tokens",
                "training tokens until the loss stays within the margin of the control's; empty if it never does",
                "tokens",
            ),
    );
    for point in &points {
        table.push(row![&*point.removal, point.seed, point.parameters, point.all_removed, point.tokens])?;
    }
    run.record(table.finish()?);
    let reached: Vec<(f64, f64)> = points.iter().filter_map(|point| Some((point.parameters, point.tokens?))).collect();
    let exponent = slope(&reached);
    let mut table = Builder::new(
        Schema::new("fit", "the power law tokens = factor * parameters ^ exponent")
            .int("models", "number of models that reached the margin")
            .float("exponent", "exponent, by least squares in logarithms", ""),
    );
    table.push(row![reached.len(), exponent])?;
    run.record(table.finish()?);
    run.metric("exponent", exponent, "");
    run.metric("reached", reached.len() as f64 / points.len().max(1) as f64, "fraction");
    Ok(())
}

fn read(run: &Run, removal: &str, params: &Params) -> Result<Vec<Point>> {
    let need = run.need(removal)?;
    let (summary, validation) = (need.table("summary")?, need.table("validation")?);
    let texts = |table: &tables::Table, column: &str| -> Result<Vec<String>> {
        Ok(table.texts(column)?.into_iter().map(Option::unwrap_or_default).collect())
    };
    let (recipes, labels) = (texts(&summary, "recipe")?, texts(&summary, "variant")?);
    let (seeds, parameters) = (summary.ints("seed")?, summary.ints("parameters")?);
    let (steps, tokens) = (summary.ints("steps")?, summary.ints("tokens")?);
    let events = need.table("events")?;
    let (event_labels, event_steps) = (texts(&events, "variant")?, events.ints("step")?);
    let (at_labels, at_steps, gaps) =
        (texts(&validation, "variant")?, validation.ints("step")?, validation.floats("gap")?);
    let mut points = Vec::new();
    for row in (0..summary.len()).filter(|row| recipes[*row] == params.variant) {
        let label = &labels[row];
        let steps = steps[row].unwrap_or(1).max(1) as f64;
        let per_step = tokens[row].unwrap_or(0) as f64 / steps;
        let last =
            event_labels.iter().zip(&event_steps).filter(|(l, _)| *l == label).filter_map(|(_, step)| *step).max();
        let Some(last) = last else { bail!("variant `{label}` removes no norm; choose another params.variant") };
        let curve = at_labels
            .iter()
            .zip(at_steps.iter().zip(&gaps))
            .filter(|(l, (step, _))| *l == label && step.is_some_and(|step| step >= last));
        // searched from the end: the first step after which the gap always stays within the margin
        let curve: Vec<(i64, f64)> = curve.filter_map(|(_, (step, gap))| Some(((*step)?, *gap))).collect();
        let within = curve.iter().rev().take_while(|(_, gap)| *gap <= params.margin).last();
        points.push(Point {
            removal: removal.to_owned(),
            seed: seeds[row].unwrap_or(1),
            parameters: parameters[row].unwrap_or(0) as f64,
            tokens: within.map(|(step, _)| *step as f64 * per_step),
            all_removed: last as f64 * per_step,
        });
    }
    Ok(points)
}

/// Least-squares slope of ln y on ln x; `None` for fewer than two distinct x.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / logs.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let variance: f64 = logs.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    (variance > 1e-12).then(|| covariance / variance)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// arXiv 2507.02559, appendix B.
    #[test]
    fn the_published_points_give_the_published_exponent() {
        let points = [(124e6, 157e6), (355e6, 259e6), (774e6, 310e6), (1.56e9, 413e6)];
        assert!((slope(&points).unwrap() - 0.37).abs() < 0.01);
        assert_eq!(slope(&points[..1]), None);
    }
}
