//! All models side by side: the headline numbers of the other experiments, a row per model (and the overview of where in a
//! model each class of nodes sits).
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
    /// The numbers, in the order of the table.
    #[schemars(length(min = 1))]
    pub numbers: Vec<Number>,
}

/// A number that every model has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Number {
    /// The experiment that measured it, one of `needs`.
    pub from: String,
    /// Its metric without the model's name, such as `heads_share`.
    pub metric: String,
    /// What tables and figures call it.
    pub statement: String,
}

/// Reads the other experiments and hands in the tables.
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
        Schema::new("models", "one number of one model")
            .text("subject", "which model")
            .text("number", "which number")
            .float("value", "its value; none where it was not measured", ""),
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

/// Direct effect and number of nodes by block and class.
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
            .text("subject", "which model")
            .int("layer", "block")
            .text("class", "what its heads look at, or MLP")
            .int("nodes", "how many")
            .float("de", "direct effect on the right label, together", "logits"),
    );
    for ((subject, layer, class), (count, sum)) in sums {
        table.push(row![&*subject, layer, &*class, count, sum])?;
    }
    Ok(table.finish()?)
}
