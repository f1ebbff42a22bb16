//! `claims.csv` and `published.csv` from metrics, for single runs and joined sweeps alike.

use config::{
    Body,
    claims::{Metric, compare, evaluate},
};
use tables::{Table, Value, standard};

use crate::error::Error;

/// Both tables, under the claims and published numbers of a configuration.
pub(crate) fn judge(body: &Body, points: &[Vec<Metric>]) -> Result<(Table, Table), Error> {
    let claims = standard::claims_table(&evaluate(&body.claims, points)?)?;
    let published = standard::published_table(&compare(&body.published, points)?)?;
    Ok((claims, published))
}

/// The metrics of each point from `metrics.csv`, whose leading columns are the swept keys.
pub(crate) fn points_of(metrics: &Table) -> Result<Vec<Vec<Metric>>, Error> {
    let keys: Vec<Vec<Value>> = metrics
        .schema()
        .columns
        .iter()
        .take_while(|c| c.name != "metric")
        .map(|c| metrics.values(&c.name))
        .collect::<Result<_, _>>()?;
    let (names, values, units) = (metrics.texts("metric")?, metrics.values("value")?, metrics.texts("unit")?);
    let mut points: Vec<(Vec<String>, Vec<Metric>)> = Vec::new();
    for i in 0..metrics.len() {
        let key: Vec<String> = keys.iter().map(|column| column[i].to_string()).collect();
        let metric = Metric {
            name: names[i].clone().unwrap_or_default(),
            value: values[i].as_f64(),
            unit: units[i].clone().unwrap_or_default(),
        };
        match points.iter_mut().find(|(k, _)| *k == key) {
            Some((_, point)) => point.push(metric),
            None => points.push((key, vec![metric])),
        }
    }
    Ok(points.into_iter().map(|(_, point)| point).collect())
}
