//! Measures, claims and published numbers of one run, as tables.

use anyhow::Result;
use config::Envelope;
use config::claims::{self, Metric};
use tables::Table;

/// `metrics`, `claims` and `published`, in this order, from the metrics of each draw. In the table, those of the second
/// are called `name@2`, and so on.
///
/// # Errors
/// When a claim or a published number names a metric that the run did not report.
pub(crate) fn standard(config: &Envelope, draws: &[Vec<Metric>]) -> Result<[Table; 3]> {
    // nothing at all is one draw without metrics: claims on it are mistakes
    let draws = if draws.is_empty() { &[Vec::new()] } else { draws };
    let verdicts = claims::evaluate(&config.body.claims, draws)?;
    let compared = claims::compare(&config.body.published, draws)?;
    let named = |(draw, metrics): (usize, &Vec<Metric>)| -> Vec<Metric> {
        let name = |name: &str| if draw == 0 { name.to_owned() } else { format!("{name}@{}", draw + 1) };
        metrics.iter().map(|metric| Metric { name: name(&metric.name), ..metric.clone() }).collect()
    };
    let metrics: Vec<Metric> = draws.iter().enumerate().flat_map(named).collect();
    Ok([
        tables::standard::metrics_table(&metrics)?,
        tables::standard::claims_table(&verdicts)?,
        tables::standard::published_table(&compared)?,
    ])
}
