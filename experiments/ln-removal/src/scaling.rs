//! How much text the removal needs as models grow (arXiv 2507.02559, appendix B and section 6.2 of its specification here):
//! tokens until the held-out loss of the model without norms stays within a margin of the control's, against parameters.
//!
//! Tables: `points` (one model size), `fit` (the power law through them).

use anyhow::{Context, Result, bail};
use experiment::Run;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

/// Parameters of `scaling`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Removals of models of several sizes, each listed under `needs:`.
    #[schemars(length(min = 2))]
    pub removals: Vec<String>,
    /// The variant without norms.
    pub variant: String,
    /// What is near enough to the control, in nats.
    #[schemars(range(min = 0))]
    pub margin: f64,
}

/// One model.
struct Point {
    removal: String,
    draw: i64,
    parameters: f64,
    /// Tokens until all norms are gone, and the loss stays within the margin.
    tokens: Option<f64>,
    gone: f64,
}

/// Reads the removals and fits the power law.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut points = Vec::new();
    for removal in &params.removals {
        points.extend(read(run, removal, &params).with_context(|| format!("params.removals: {removal}"))?);
    }
    let mut table = Builder::new(
        Schema::new("points", "one model")
            .text("removal", "experiment")
            .int("draw", "start and batches")
            .float("parameters", "numbers that are trained", "")
            .float("gone", "tokens until the last norm is fixed", "tokens")
            .float(
                "tokens",
                "tokens until the loss stays within the margin of the control's, none if it never does",
                "tokens",
            ),
    );
    for point in &points {
        table.push(row![&*point.removal, point.draw, point.parameters, point.gone, point.tokens])?;
    }
    run.record(table.finish()?);
    let reached: Vec<(f64, f64)> = points.iter().filter_map(|point| Some((point.parameters, point.tokens?))).collect();
    let exponent = slope(&reached);
    let mut table = Builder::new(
        Schema::new("fit", "the power law tokens = factor * parameters ^ exponent")
            .int("models", "models that came within the margin")
            .float("exponent", "least squares in logarithms", ""),
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
    let (draws, parameters) = (summary.ints("draw")?, summary.ints("parameters")?);
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
        let Some(last) = last else { bail!("{label} fixes no norm") };
        let curve = at_labels
            .iter()
            .zip(at_steps.iter().zip(&gaps))
            .filter(|(l, (step, _))| *l == label && step.is_some_and(|step| step >= last));
        // from the end: the first step from which on the gap stays within the margin
        let curve: Vec<(i64, f64)> = curve.filter_map(|(_, (step, gap))| Some(((*step)?, *gap))).collect();
        let within = curve.iter().rev().take_while(|(_, gap)| *gap <= params.margin).last();
        points.push(Point {
            removal: removal.to_owned(),
            draw: draws[row].unwrap_or(1),
            parameters: parameters[row].unwrap_or(0) as f64,
            tokens: within.map(|(step, _)| *step as f64 * per_step),
            gone: last as f64 * per_step,
        });
    }
    Ok(points)
}

/// Least-squares slope of the second number's logarithm on the first's; none for fewer than two different first ones.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).sum::<f64>() / logs.len() as f64;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let along: f64 = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let spread: f64 = logs.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    (spread > 1e-12).then(|| along / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published points give 0.37 (arXiv 2507.02559, appendix B).
    #[test]
    fn the_published_exponent() {
        let points = [(124e6, 157e6), (355e6, 259e6), (774e6, 310e6), (1.56e9, 413e6)];
        assert!((slope(&points).unwrap() - 0.37).abs() < 0.01);
        assert_eq!(slope(&points[..1]), None);
    }
}
