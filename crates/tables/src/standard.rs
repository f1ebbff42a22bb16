//! The tables that every run folder has: metrics, claims and published numbers.

use config::claims::{Comparison, Metric, Verdict};

use crate::{build::Builder, error::Error, row, schema::Schema, table::Table};

/// Separates the name of a metric from the number of its seed, from the second seed on.
const SEED: char = '@';

/// `metrics.csv`: the numbers that claims and published values are compared with.
pub fn metrics() -> Schema {
    Schema::new("metrics", "one named number of the run")
        .text("metric", "name, as in the configuration's claims and published numbers")
        .float("value", "measured value", "")
        .text("unit", "unit of the value")
}

/// `claims.csv`: the claims and their outcomes.
pub fn claims() -> Schema {
    Schema::new("claims", "one claim of the configuration, evaluated against its threshold")
        .text("id", "short name of the claim")
        .text("artefact", "checklist id of the table or figure that the claim is about")
        .text("statement", "the claim as a sentence")
        .text("metric", "the metric that decides, with `minus` for a difference of two")
        .float("measured", "measured value", "")
        .float("published", "the paper's value of the same quantity", "")
        .text("threshold", "the threshold for the measured value")
        .text("holds", "yes, no, open (not measured), not asked (of this size) or error")
        .text("note", "why the claim is not evaluated")
        .int("n", "points of the sweep that the value is taken over")
        .text("unit", "unit of measured and published")
        .text("source", "where the paper makes the claim")
}

/// `published.csv`: the paper's numbers beside ours.
pub fn published() -> Schema {
    Schema::new("published", "one published number beside ours")
        .text("artefact", "checklist id of the table or figure it belongs to")
        .text("statement", "the quantity, in words")
        .text("metric", "name of our metric")
        .float("ours", "measured value, the mean over the points of a sweep", "")
        .float("published", "the paper's value; empty where none could be found", "")
        .float("difference", "ours minus published", "")
        .text("unit", "unit of both")
        .text("source", "location: paper, section, table")
        .text("provenance", "how it is known: published, read, computed, pilot or unstated")
        .text("note", "why there is no number of ours")
}

/// The metrics of each seed as one table. Those of the second seed are called `name@2`, and so on.
///
/// # Errors
/// When polars fails.
pub fn metrics_table(seeds: &[Vec<Metric>]) -> Result<Table, Error> {
    let mut builder = Builder::new(metrics());
    for (seed, metrics) in seeds.iter().enumerate() {
        for Metric { name, value, unit } in metrics {
            let name = if seed == 0 { name.clone() } else { format!("{name}{SEED}{}", seed + 1) };
            builder.push(row![name, *value, unit])?;
        }
    }
    builder.finish()
}

/// The swept keys of a point, and the seed within it.
type Point = (Vec<Option<String>>, usize);

/// The metrics of each point out of `metrics.csv`: one point for each combination of swept keys (the leading columns)
/// and seed.
///
/// # Errors
/// When the table lacks a column of [`metrics`].
pub fn points(table: &Table) -> Result<Vec<Vec<Metric>>, Error> {
    let keys = table.schema().columns.iter().take_while(|column| column.name != "metric");
    let keys = keys.map(|column| table.texts(&column.name)).collect::<Result<Vec<_>, _>>()?;
    let (names, values, units) = (table.texts("metric")?, table.values("value")?, table.texts("unit")?);
    let mut points: Vec<(Point, Vec<Metric>)> = Vec::new();
    for (row, value) in values.iter().enumerate() {
        let (name, seed) = seed_of(names[row].as_deref().unwrap_or_default());
        let key = (keys.iter().map(|column| column[row].clone()).collect(), seed);
        let metric = Metric { name, value: value.as_f64(), unit: units[row].clone().unwrap_or_default() };
        match points.iter_mut().find(|(found, _)| *found == key) {
            Some((_, point)) => point.push(metric),
            None => points.push((key, vec![metric])),
        }
    }
    Ok(points.into_iter().map(|(_, point)| point).collect())
}

/// `name@2` as `name` and 2; a name without a number is of the first seed.
fn seed_of(name: &str) -> (String, usize) {
    let numbered = name.rsplit_once(SEED).and_then(|(name, seed)| Some((name, seed.parse().ok().filter(|n| *n > 1)?)));
    numbered.map_or_else(|| (name.to_owned(), 1), |(name, seed)| (name.to_owned(), seed))
}

/// The evaluated claims as a table.
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
        builder.push(row![
            &claim.id,
            &claim.artefact,
            &claim.statement,
            metric,
            verdict.measured,
            claim.published,
            claim.threshold.to_string(),
            verdict.holds.to_string(),
            &verdict.note,
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
            &comparison.note,
        ])?;
    }
    builder.finish()
}
