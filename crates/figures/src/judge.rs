//! `claims.csv` and `published.csv` from measures: the same for single runs and joined sweeps.

use config::{
    Body,
    claims::{Measure, compare, evaluate},
};
use tables::{Table, Value, standard};

use crate::error::Error;

/// Both tables, under the configuration's claims and published numbers.
pub(crate) fn judge(body: &Body, points: &[Vec<Measure>]) -> Result<(Table, Table), Error> {
    let claims = standard::claims_table(&evaluate(&body.claims, points)?)?;
    let published = standard::published_table(&compare(&body.published, points)?)?;
    Ok((claims, published))
}

/// The measures of each point out of `measures.csv`, whose leading columns are the swept keys.
pub(crate) fn points_of(measures: &Table) -> Result<Vec<Vec<Measure>>, Error> {
    let keys: Vec<Vec<Value>> = measures
        .schema()
        .columns
        .iter()
        .take_while(|c| c.name != "measure")
        .map(|c| measures.values(&c.name))
        .collect::<Result<_, _>>()?;
    let (names, values, units) = (measures.texts("measure")?, measures.values("value")?, measures.texts("unit")?);
    let mut points: Vec<(Vec<String>, Vec<Measure>)> = Vec::new();
    for i in 0..measures.len() {
        let key: Vec<String> = keys.iter().map(|column| column[i].to_string()).collect();
        let measure = Measure {
            name: names[i].clone().unwrap_or_default(),
            value: values[i].as_f64(),
            unit: units[i].clone().unwrap_or_default(),
        };
        match points.iter_mut().find(|(k, _)| *k == key) {
            Some((_, point)) => point.push(measure),
            None => points.push((key, vec![measure])),
        }
    }
    Ok(points.into_iter().map(|(_, point)| point).collect())
}
