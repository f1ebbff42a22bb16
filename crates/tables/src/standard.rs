//! The tables that every run folder has: measures, claims and published numbers.

use config::claims::{Comparison, Measure, Verdict};

use crate::{build::Builder, error::Error, row, schema::Schema, table::Table};

/// `measures.csv`: the numbers that claims and published values are held against.
pub fn measures() -> Schema {
    Schema::new("measures", "one named number of the run")
        .text("measure", "name, as in the configuration's claims and published numbers")
        .float("value", "what came out", "")
        .text("unit", "unit of the value")
}

/// `claims.csv`: what should have come out, and whether it did.
pub fn claims() -> Schema {
    Schema::new("claims", "one claim of the configuration, decided by its bar")
        .text("id", "short name of the claim")
        .text("artefact", "checklist id of the table or figure it rests on")
        .text("claim", "the claim in words")
        .text("measure", "the measure that decides, with `minus` where two are taken off each other")
        .float("measured", "what came out", "")
        .float("published", "the paper's value of the same quantity", "")
        .text("bar", "what the measured value must meet")
        .text("holds", "yes, no, or n/a where nothing was measured")
        .int("n", "points of the sweep that the value is taken over")
        .text("unit", "unit of measured and published")
        .text("source", "where the claim stands")
}

/// `published.csv`: the paper's numbers beside ours.
pub fn published() -> Schema {
    Schema::new("published", "one published number beside ours")
        .text("artefact", "checklist id of the table or figure it belongs to")
        .text("says", "what it is, in words")
        .text("measure", "name of our measure")
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
pub fn measures_table(measures: &[Measure]) -> Result<Table, Error> {
    let mut builder = Builder::new(crate::standard::measures());
    for measure in measures {
        builder.push(row![&measure.name, measure.value, &measure.unit])?;
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
        let measure = match &claim.minus {
            Some(minus) => format!("{} minus {minus}", claim.measure),
            None => claim.measure.clone(),
        };
        let holds = match verdict.holds {
            Some(true) => "yes",
            Some(false) => "no",
            None => "n/a",
        };
        builder.push(row![
            &claim.id,
            &claim.artefact,
            &claim.says,
            measure,
            verdict.measured,
            claim.published,
            claim.bar.to_string(),
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
            &of.says,
            &of.measure,
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
