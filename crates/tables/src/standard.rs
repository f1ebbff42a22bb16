//! The tables that every run folder has: metrics, claims and published numbers.

use config::claims::{Comparison, Metric, Verdict};

use crate::{build::Builder, error::Error, row, schema::Schema, table::Table};

/// `metrics.csv`: the numbers that claims and published values are held against.
pub fn metrics() -> Schema {
    Schema::new("metrics", "one named number of the run")
        .text("metric", "name, as in the configuration's claims and published numbers")
        .float("value", "what came out", "")
        .text("unit", "unit of the value")
}

/// `claims.csv`: what should have come out, and whether it did.
pub fn claims() -> Schema {
    Schema::new("claims", "one claim of the configuration, decided by its threshold")
        .text("id", "short name of the claim")
        .text("artefact", "checklist id of the table or figure it rests on")
        .text("claim", "the claim in words")
        .text("metric", "the metric that decides, with `minus` where two are taken off each other")
        .float("measured", "what came out", "")
        .float("published", "the paper's value of the same quantity", "")
        .text("threshold", "what the measured value must meet")
        .text("holds", "yes, no, or n/a where nothing was measured")
        .int("n", "points of the sweep that the value is taken over")
        .text("unit", "unit of measured and published")
        .text("source", "where the claim stands")
}

/// `published.csv`: the paper's numbers beside ours.
pub fn published() -> Schema {
    Schema::new("published", "one published number beside ours")
        .text("artefact", "checklist id of the table or figure it belongs to")
        .text("statement", "what it is, in words")
        .text("metric", "name of our metric")
        .float("ours", "what came out, the mean over the points of a sweep", "")
        .float("published", "the paper's value; empty where none could be found", "")
        .float("difference", "ours minus published", "")
        .text("unit", "unit of both")
        .text("source", "where it stands: paper, section, table")
        .text("provenance", "how it is known: published, read, computed, pilot or unstated")
}

/// Measures as a table.
///
/// # Errors
/// When polars fails.
pub fn metrics_table(metrics: &[Metric]) -> Result<Table, Error> {
    let mut builder = Builder::new(crate::standard::metrics());
    for metric in metrics {
        builder.push(row![&metric.name, metric.value, &metric.unit])?;
    }
    builder.finish()
}

/// Decided claims as a table.
///
/// # Errors
/// When polars fails.
pub fn claims_table(verdicts: &[Verdict]) -> Result<Table, Error> {
    let mut builder = Builder::new(claims());
    for verdict in verdicts {
        let claim = &verdict.claim;
        let metric = match &claim.minus {
            Some(minus) => format!("{} minus {minus}", claim.metric),
            None => claim.metric.clone(),
        };
        let holds = match verdict.holds {
            Some(true) => "yes",
            Some(false) => "no",
            None => "n/a",
        };
        builder.push(row![
            &claim.id,
            &claim.artefact,
            &claim.statement,
            metric,
            verdict.measured,
            claim.published,
            claim.threshold.to_string(),
            holds,
            verdict.n,
            &claim.unit,
            &claim.source
        ])?;
    }
    builder.finish()
}

/// Published numbers beside ours as a table.
///
/// # Errors
/// When polars fails.
pub fn published_table(comparisons: &[Comparison]) -> Result<Table, Error> {
    let mut builder = Builder::new(published());
    for comparison in comparisons {
        let of = &comparison.published;
        builder.push(row![
            &of.artefact,
            &of.statement,
            &of.metric,
            comparison.ours,
            of.value,
            comparison.difference,
            &of.unit,
            &of.source,
            of.provenance.to_string(),
        ])?;
    }
    builder.finish()
}
