//! Measures, claims and published numbers of one run, as tables.

use anyhow::Result;
use config::Envelope;
use config::claims::{self, Measure};
use tables::Table;

/// `measures`, `claims` and `published`, in this order, from the measures of each draw. In the table, those of the second
/// are called `name@2`, and so on.
///
/// # Errors
/// When a claim or a published number names a measure that the run did not report.
pub(crate) fn standard(config: &Envelope, draws: &[Vec<Measure>]) -> Result<[Table; 3]> {
    // nothing at all is one draw without measures: claims on it are mistakes
    let draws = if draws.is_empty() { &[Vec::new()] } else { draws };
    let verdicts = claims::evaluate(&config.body.claims, draws)?;
    let compared = claims::compare(&config.body.published, draws)?;
    let named = |(draw, measures): (usize, &Vec<Measure>)| -> Vec<Measure> {
        let name = |name: &str| if draw == 0 { name.to_owned() } else { format!("{name}@{}", draw + 1) };
        measures.iter().map(|measure| Measure { name: name(&measure.name), ..measure.clone() }).collect()
    };
    let measures: Vec<Measure> = draws.iter().enumerate().flat_map(named).collect();
    Ok([
        tables::standard::measures_table(&measures)?,
        tables::standard::claims_table(&verdicts)?,
        tables::standard::published_table(&compared)?,
    ])
}
