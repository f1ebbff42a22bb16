//! Measures, claims and published numbers of one run, as tables.

use anyhow::Result;
use config::Envelope;
use config::claims::{self, Measure};
use tables::Table;

/// `measures`, `claims` and `published`, in this order.
///
/// # Errors
/// When a claim or a published number names a measure that the run did not report.
pub(crate) fn standard(config: &Envelope, measures: &[Measure]) -> Result<[Table; 3]> {
    let points = [measures.to_vec()];
    let verdicts = claims::evaluate(&config.body.claims, &points)?;
    let compared = claims::compare(&config.body.published, &points)?;
    Ok([
        tables::standard::measures_table(measures)?,
        tables::standard::claims_table(&verdicts)?,
        tables::standard::published_table(&compared)?,
    ])
}
