//! Compares all models: headline metrics of the other experiments, and where in each model the classes of nodes are.
//!
//! Tables: `models` (a row per model and number), `overview` (direct effect by block and class).

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use experiment::{Needed, Run};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

/// Parameters of `comparison`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The metrics to compare, in the order of the table.
    #[schemars(length(min = 1))]
    pub numbers: Vec<Number>,
}

/// A metric that every model has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// The experiment that measures it, one of `needs`.
    pub from: String,
    /// The metric without the model's name, such as `heads_share`.
    pub metric: String,
    /// The name in tables and figures.
    pub statement: String,
}

/// Reads the other experiments and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let mut read: BTreeMap<&str, (Needed, BTreeMap<String, f64>)> = BTreeMap::new();
    for number in &params.numbers {
        if !read.contains_key(number.from.as_str()) {
            let need = run.need(&number.from).with_context(|| format!("params.numbers: {}", number.statement))?;
            let metrics = metrics(&need)?;
            read.insert(&number.from, (need, metrics));
        }
    }
    let nodes = run.need("mcq-circuits/nodes")?;
    let subjects: Vec<String> =
        nodes.table("circuit")?.distinct("subject")?.into_iter().map(|subject| subject.to_string()).collect();
    let mut models = Builder::new(
        Schema::new("models", "one metric of one model")
            .text("subject", "name of the model")
            .text("number", "name of the metric")
            .float("value", "value of the metric; empty if it was not measured", ""),
    );
    for number in &params.numbers {
        let Some((_, metrics)) = read.get(number.from.as_str()) else { continue };
        for subject in &subjects {
            let value = metrics.get(&format!("{subject}.{}", number.metric)).copied();
            models.push(row![&**subject, &*number.statement, value])?;
        }
    }
    run.metric("models", subjects.len() as f64, "models");
    run.record(models.finish()?);
    run.record(overview(&nodes)?);
    Ok(())
}

fn metrics(need: &Needed) -> Result<BTreeMap<String, f64>> {
    let table = need.table("metrics")?;
    let names = table.texts("metric")?.into_iter().flatten();
    Ok(names.zip(table.floats("value")?).filter(|(_, value)| !value.is_nan()).collect())
}

/// The direct effect and number of nodes, by block and class.
fn overview(nodes: &Needed) -> Result<tables::Table> {
    let effects = nodes.table("effects")?;
    let texts = |column: &str| -> Result<Vec<String>> {
        Ok(effects.texts(column)?.into_iter().map(Option::unwrap_or_default).collect())
    };
    let (subject, class) = (texts("subject")?, texts("class")?);
    let (layer, de) = (effects.ints("layer")?, effects.floats("de")?);
    let mut sums: BTreeMap<(String, i64, String), (i64, f64)> = BTreeMap::new();
    for row in 0..effects.len() {
        let key = (subject[row].clone(), layer[row].unwrap_or(0), class[row].clone());
        let (count, sum) = sums.entry(key).or_default();
        *count += 1;
        *sum += de[row];
    }
    let mut table = Builder::new(
        Schema::new("overview", "one class of nodes in one block of one model")
            .text("subject", "name of the model")
            .int("layer", "index of the block")
            .text("class", "class of the heads by their attention, or MLP")
            .int("nodes", "number of nodes")
            .float("de", "sum of the nodes' direct effects on the right label", "logits"),
    );
    for ((subject, layer, class), (count, sum)) in sums {
        table.push(row![&*subject, layer, &*class, count, sum])?;
    }
    Ok(table.finish()?)
}
