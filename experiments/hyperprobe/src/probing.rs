//! Compares what probes find in documents in words with the model's own next token and with the words that its states
//! decode to (arXiv 2509.25045, section 5).
//!
//! Tables: `precision` (by split), `factors` (which concepts are extracted), `areas` (metrics by field of knowledge),
//! `spread` (target cosines and token ranks, by relation), `blank` (documents on which both methods fail), `lens`
//! (words that states decode to), `cross` (one method where the other finds nothing), `spearman` (rank correlations),
//! `records` (some documents in full).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::analogies::{Analogy, Area, Part};
use anyhow::{Context, Result, bail};
use experiment::{Needed, Run};
use probes::{mean, rank_correlation, standard_deviation};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, Value, row};
use vsa::Bipolar;

use crate::documents::{Documents, Set};
use crate::readout::{Found, Query, READOUTS, Readout, Words};
use crate::states;
use crate::store;
use crate::train::{Ready, needed, places};

/// Parameters of `probing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The encoders to evaluate, by their names in the `encoder` experiment under `needs:`. Each reads the states that
    /// it was trained on.
    #[schemars(length(min = 1))]
    pub encoders: Vec<String>,
    /// Number of documents per encoder that the table `records` shows in full.
    #[schemars(range(min = 0))]
    pub records: usize,
}

/// The results of one document.
struct Record<'a> {
    analogy: &'a Analogy,
    part: Part,
    area: Area,
    words: Words,
    /// The results of the readouts, in the order of [`READOUTS`].
    found: [Found; 3],
    /// The concepts that the published readout extracts, as a label.
    factors: String,
    kind: &'static str,
    next: NextRow,
}

/// A row of the table `next_tokens`.
#[derive(Clone, Debug)]
struct NextRow {
    token: String,
    score: [f64; 2],
    exact: f64,
    rank: Option<f64>,
    gap: Option<f64>,
    spelt: String,
    spelt_normed: String,
    /// Whether the target is a single token.
    single: bool,
}

const NONE: &str = "none";

/// A metric of a document, with its name in tables.
type Column<'a> = (&'static str, fn(&Record<'a>) -> f64);

/// Probes all documents in words and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let (states, encoders) = (needed(run, "states")?, needed(run, "encoder")?);
    let documents = states::documents(&states)?;
    let partners = partners(&documents);
    let mut tables = Tables::new();
    let mut lenses = HashSet::new();
    for name in &params.encoders {
        run.check_interrupted()?;
        let ready = Ready::open(&encoders, &states, &documents, name)?;
        let records = records(&states, &documents, &partners, &ready).with_context(|| name.clone())?;
        precision(run, name, &records, &mut tables)?;
        factors(run, name, &records, &mut tables)?;
        areas(run, name, &documents, &records, &mut tables)?;
        if lenses.insert(ready.variant.source.clone()) {
            lens(run, &ready.variant.source, &records, &mut tables)?;
        }
        cross(name, &records, &mut tables)?;
        spearman(name, &records, &mut tables)?;
        for record in records.iter().take(params.records) {
            tables.record_of(name, &ready, record)?;
        }
    }
    tables.record(run)
}

/// The partners of every word in any relation, in lower case.
fn partners(documents: &Documents) -> HashMap<String, HashSet<String>> {
    let mut partners: HashMap<String, HashSet<String>> = HashMap::new();
    for [a, b] in documents.corpus.categories.iter().flat_map(|category| &category.pairs) {
        let (a, b) = (a.to_lowercase(), b.to_lowercase());
        partners.entry(a.clone()).or_default().insert(b.clone());
        partners.entry(b).or_default().insert(a);
    }
    partners
}

fn records<'a>(
    states: &Needed,
    documents: &'a Documents,
    partners: &HashMap<String, HashSet<String>>,
    ready: &Ready,
) -> Result<Vec<Record<'a>>> {
    let all = documents.of(Set::Words);
    let x = store::read(states, &ready.variant.source, (Set::Words, all), ready.setting.pooling)?;
    let mut vectors: Vec<Bipolar> = Vec::with_capacity(all.len());
    for start in (0..all.len()).step_by(256) {
        let x = x.narrow(0, start, 256.min(all.len() - start))?;
        vectors.extend(encoder::signs(&ready.encoder.encode(&x)?)?);
    }
    let next = next_rows(states, &ready.variant.source, all.len())?;
    let readout = Readout::new(&ready.book);
    let each = |((analogy, v), next): ((&'a Analogy, &Bipolar), NextRow)| {
        let words = places(&ready.book, analogy)?;
        let found = readout.compare(v, &words).all();
        let kind = kind(ready, analogy, partners, &found[0], found[0].best().0);
        let factors = extracted(ready, analogy, partners, &found[0], readout.threshold());
        let area = documents.corpus.categories[analogy.category].area;
        Ok(Record { analogy, part: documents.part(analogy), area, words, found, factors, kind, next })
    };
    all.par_iter().zip(&vectors).zip(next).map(each).collect()
}

/// The model's own predictions, one row per document.
fn next_rows(states: &Needed, source: &str, count: usize) -> Result<Vec<NextRow>> {
    let table = states.table("next_tokens")?.filter("source", &[Value::from(source)])?;
    if table.len() != count {
        bail!(
            "the table next_tokens has {} rows of `{source}`, expected {count}; run the experiment that writes it again",
            table.len()
        );
    }
    let text = |column: &str| -> Result<Vec<String>> {
        Ok(table.texts(column)?.into_iter().map(Option::unwrap_or_default).collect())
    };
    let number = |column: &str| table.floats(column);
    let (token, spelt, spelt_normed) = (text("token")?, text("spelt")?, text("spelt_normed")?);
    let [score_1, score_5, exact] = [number("score_1")?, number("score_5")?, number("exact")?];
    let (rank, gap) = (number("rank")?, number("gap")?);
    let tokens = table.ints("target_tokens")?;
    let known = |x: f64| x.is_finite().then_some(x);
    let row = |i: usize| NextRow {
        token: token[i].clone(),
        score: [score_1[i], score_5[i]],
        exact: exact[i],
        rank: known(rank[i]),
        gap: known(gap[i]),
        spelt: spelt[i].clone(),
        spelt_normed: spelt_normed[i].clone(),
        single: tokens[i] == Some(1),
    };
    Ok((0..count).map(row).collect())
}

/// How a codebook item relates to a document.
fn kind(
    ready: &Ready,
    analogy: &Analogy,
    partners: &HashMap<String, HashSet<String>>,
    found: &Found,
    item: usize,
) -> &'static str {
    let Some(name) = ready.book.names().get(item) else { return "out of context" };
    let words = [0, 1, 2, 3].map(|at| analogy.words[at].to_lowercase());
    if *name == words[3] {
        return "target";
    }
    for (word, kind) in words.iter().zip(["example key", "example value", "key"]) {
        if name == word {
            return kind;
        }
    }
    let asked = match found.query {
        Some(query) => query.uses().iter().map(|at| words[*at].clone()).collect(),
        None => Vec::new(),
    };
    let own = partners.get(name);
    if own.is_some_and(|own| own.contains(name) || asked.iter().any(|word| own.contains(word))) {
        return "pair value";
    }
    if words.iter().any(|word| word.contains(name.as_str()) || name.contains(word.as_str())) {
        return "related";
    }
    "out of context"
}

/// The concepts that the published readout extracts, as a label. They are the kind of the most similar item, if its
/// cosine reaches the threshold, and the words that were unbound.
fn extracted(
    ready: &Ready,
    analogy: &Analogy,
    partners: &HashMap<String, HashSet<String>>,
    found: &Found,
    threshold: f64,
) -> String {
    let (item, most) = found.best();
    let mut factors: Vec<&str> = Vec::new();
    if most >= threshold {
        factors.push(kind(ready, analogy, partners, found, item));
    }
    match (found.query, found.searched) {
        (Some(Query::Original), _) => {}
        (Some(query), _) => factors.push(query.name()),
        (None, Some(word)) => factors.push(kind(ready, analogy, partners, found, word)),
        (None, None) => {}
    }
    if factors.contains(&"example key") && factors.contains(&"example value") {
        factors = vec!["example"];
    }
    factors.sort_unstable();
    factors.dedup();
    if factors.is_empty() { NONE.to_owned() } else { factors.join(" | ") }
}

fn precision(run: &Run, name: &str, records: &[Record<'_>], tables: &mut Tables) -> Result<()> {
    let is = |part: Part| move |record: &&Record<'_>| record.part == part;
    let groups: [(&str, Vec<&Record<'_>>); 5] = [
        ("all", records.iter().collect()),
        ("train", records.iter().filter(is(Part::Train)).collect()),
        ("validation", records.iter().filter(is(Part::Validation)).collect()),
        ("test", records.iter().filter(is(Part::Test)).collect()),
        ("single token", records.iter().filter(|record| record.next.single).collect()),
    ];
    for (part_name, of) in groups {
        if of.is_empty() {
            continue;
        }
        let part_id = part_name.replace(' ', "_");
        let mut push = |what: &str, values: Vec<f64>| {
            let (precision, sd) = (mean(&values), standard_deviation(&values));
            let id = what.replace(" @", "_").replace(' ', "_");
            run.metric(&format!("{name}.{part_id}.{id}"), precision, "fraction");
            tables.precision.push(row![name, part_name, what, of.len(), precision, sd])
        };
        push("next token @1", of.iter().map(|record| record.next.score[0]).collect())?;
        push("next token @5", of.iter().map(|record| record.next.score[1]).collect())?;
        push("next token exact", of.iter().map(|record| record.next.exact).collect())?;
        let spells = |spelt: &str| f64::from(u8::from(spelt.split(" | ").any(|word| word == "target")));
        push("states spell it", of.iter().map(|record| spells(&record.next.spelt)).collect())?;
        push("states spell it, final norm", of.iter().map(|record| spells(&record.next.spelt_normed)).collect())?;
        for (which, readout) in READOUTS.into_iter().enumerate() {
            for first in [1, 3, 5] {
                let hit =
                    |record: &&Record<'_>| f64::from(u8::from(record.found[which].among(record.words.target, first)));
                push(&format!("{readout} @{first}"), of.iter().map(hit).collect())?;
            }
        }
    }
    // A model that writes numbers digit by digit never predicts a whole number as its next token, so only single-token
    // targets are compared.
    let single: Vec<&Record<'_>> = records.iter().filter(|r| r.part == Part::Train && r.next.single).collect();
    let above: Vec<f64> = single.iter().map(|record| hit(record, 2) - record.next.score[0]).collect();
    let above = (!above.is_empty()).then(|| mean(&above));
    run.metric(&format!("{name}.train.key_above_next_token"), above, "fraction");
    Ok(())
}

fn hit(record: &Record<'_>, which: usize) -> f64 {
    f64::from(u8::from(record.found[which].among(record.words.target, 1)))
}

fn factors(run: &Run, name: &str, records: &[Record<'_>], tables: &mut Tables) -> Result<()> {
    let areas = [None].into_iter().chain(Area::ALL.map(Some));
    for area in areas {
        let of: Vec<&Record<'_>> =
            records.iter().filter(|record| area.is_none_or(|area| record.area == area)).collect();
        if of.is_empty() {
            continue;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        of.iter().for_each(|record| *counts.entry(&record.factors).or_default() += 1);
        let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let area_name = area.map_or("all".to_owned(), |area| area.to_string());
        let share = |count: usize| count as f64 / of.len() as f64;
        // Rare sets of concepts are merged, so that the figure stays readable.
        let (shown, rest) = counts.split_at(counts.len().min(8));
        for (factors, count) in shown {
            tables.factors.push(row![name, &*area_name, *factors, share(*count)])?;
        }
        if !rest.is_empty() {
            let count = rest.iter().map(|(_, count)| count).sum::<usize>();
            tables.factors.push(row![name, &*area_name, "others", share(count)])?;
        }
        if area.is_none() {
            let of = |wanted: &str| {
                counts.iter().filter(|(factors, _)| *factors == wanted).map(|(_, n)| share(*n)).sum::<f64>()
            };
            run.metric(&format!("{name}.key_target"), of("key | target"), "fraction");
            run.metric(
                &format!("{name}.key_or_context_target"),
                of("key | target") + of("context | target"),
                "fraction",
            );
            run.metric(&format!("{name}.nothing"), of(NONE), "fraction");
        }
    }
    Ok(())
}

fn areas(run: &Run, name: &str, documents: &Documents, records: &[Record<'_>], tables: &mut Tables) -> Result<()> {
    let metrics: [Column<'_>; 7] = [
        ("next token @1", |record| record.next.score[0]),
        ("next token @5", |record| record.next.score[1]),
        ("published @1", |record| hit(record, 0)),
        ("published @5", |record| f64::from(u8::from(record.found[0].among(record.words.target, 5)))),
        ("blind @1", |record| hit(record, 1)),
        ("key @1", |record| hit(record, 2)),
        ("cosine of the target, key", |record| record.found[2].target),
    ];
    for area in Area::ALL {
        let of: Vec<&Record<'_>> = records.iter().filter(|record| record.area == area).collect();
        if of.is_empty() {
            continue;
        }
        let area_name = area.to_string();
        for (metric, value) in metrics {
            let values: Vec<f64> = of.iter().map(|record| value(record)).collect();
            tables.areas.push(row![name, &*area_name, metric, of.len(), mean(&values), standard_deviation(&values)])?;
            let id = format!("{name}.{}.{}", area_name.replace(' ', "_"), metric.replace(" @", "_").replace(' ', "_"));
            run.metric(&id.replace(",", ""), mean(&values), "");
        }
        let blank = of.iter().filter(|record| record.next.score[1] == 0. && hit(record, 0) == 0.).count();
        tables.blank.push(row![name, &*area_name, blank as f64 / of.len() as f64])?;
    }
    for (index, category) in documents.corpus.categories.iter().enumerate() {
        let of: Vec<&Record<'_>> = records.iter().filter(|record| record.analogy.category == index).collect();
        let mut push = |quantity: &str, mut values: Vec<f64>| -> Result<()> {
            if !values.is_empty() {
                values.sort_by(f64::total_cmp);
                let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
                let area = category.area.to_string();
                tables.spread.push(row![name, &*category.name, &*area, quantity, at(0.25), at(0.5), at(0.75)])?;
            }
            Ok(())
        };
        push("cosine of the target, key", of.iter().map(|record| record.found[2].target).collect())?;
        push("rank of the target's token", of.iter().filter_map(|record| record.next.rank).collect())?;
        push("gap of the target's token", of.iter().filter_map(|record| record.next.gap).collect())?;
    }
    Ok(())
}

fn lens(run: &Run, source: &str, records: &[Record<'_>], tables: &mut Tables) -> Result<()> {
    for normed in [false, true] {
        let of =
            |record: &Record<'_>| if normed { record.next.spelt_normed.clone() } else { record.next.spelt.clone() };
        let norm = if normed { "final norm" } else { "as they are" };
        let hits: Vec<f64> = records
            .iter()
            .map(|record| f64::from(u8::from(of(record).split(" | ").any(|word| word == "target"))))
            .collect();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        records.iter().for_each(|record| *counts.entry(of(record)).or_default() += 1);
        run.metric(&format!("{source}.lens.{}", if normed { "normed" } else { "raw" }), mean(&hits), "fraction");
        for (label, count) in counts {
            tables.lens.push(row![source, norm, &*label, count as f64 / records.len() as f64])?;
        }
    }
    Ok(())
}

/// The labels of one method on the documents where the other finds nothing.
fn cross(name: &str, records: &[Record<'_>], tables: &mut Tables) -> Result<()> {
    let silent: Vec<&Record<'_>> = records.iter().filter(|record| record.next.spelt == NONE).collect();
    let missed: Vec<&Record<'_>> = records.iter().filter(|record| record.factors == NONE).collect();
    let mut push = |given: &str, of: &[&Record<'_>], label: &dyn Fn(&Record<'_>) -> String| -> Result<()> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        of.iter().for_each(|record| *counts.entry(label(record)).or_default() += 1);
        let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        for (label, count) in counts.into_iter().take(8) {
            tables.cross.push(row![name, given, &*label, of.len(), count as f64 / of.len() as f64])?;
        }
        Ok(())
    };
    push("states spell none of the words", &silent, &|record| record.factors.clone())?;
    push("the probe extracts nothing", &missed, &|record| record.next.spelt.clone())
}

fn spearman(name: &str, records: &[Record<'_>], tables: &mut Tables) -> Result<()> {
    let columns: [Column<'_>; 8] = [
        ("next token @1", |r| r.next.score[0]),
        ("next token @5", |r| r.next.score[1]),
        ("token rank", |r| r.next.rank.unwrap_or(f64::NAN)),
        ("token gap", |r| r.next.gap.unwrap_or(f64::NAN)),
        ("published @1", |r| hit(r, 0)),
        ("blind @1", |r| hit(r, 1)),
        ("key @1", |r| hit(r, 2)),
        ("target cosine", |r| r.found[2].target),
    ];
    for (x_name, x) in columns {
        for (y_name, y) in columns {
            let pairs: Vec<(f64, f64)> =
                records.iter().map(|r| (x(r), y(r))).filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let rho = rank_correlation(&x, &y);
            tables.spearman.push(row![name, x_name, y_name, rho.is_finite().then_some(rho)])?;
        }
    }
    Ok(())
}

struct Tables {
    precision: Builder,
    factors: Builder,
    areas: Builder,
    blank: Builder,
    spread: Builder,
    lens: Builder,
    cross: Builder,
    spearman: Builder,
    records: Builder,
}

impl Tables {
    fn new() -> Self {
        let of = |schema: Schema| schema.text("encoder", "name of the encoder (probe)");
        let precision = of(Schema::new("precision", "one method on one split of the documents in words"))
            .text("part", "split of the documents, decided by their target")
            .text("what", "the method, and the number of answers that count")
            .int("documents", "number of documents")
            .float(
                "precision",
                "share of documents whose target is among the answers; a token that starts it counts 0.5",
                "fraction",
            )
            .float("sd", "standard deviation over the documents", "");
        let factors = of(Schema::new("factors", "one set of extracted concepts in one field of knowledge"))
            .text("area", "field of knowledge, or `all`")
            .text("factors", "the kind of the most similar item and the words that were unbound for it")
            .float("share", "share of the documents", "fraction");
        let areas = of(Schema::new("areas", "one metric in one field of knowledge"))
            .text("area", "field of knowledge")
            .text("metric", "name of the metric")
            .int("documents", "number of documents")
            .float("mean", "mean over the documents", "")
            .float("sd", "standard deviation over the documents", "");
        let blank = of(Schema::new("blank", "one field of knowledge")).text("area", "field of knowledge").float(
            "share",
            "share of documents where neither the five most likely tokens nor the probe give the target",
            "fraction",
        );
        let spread = of(Schema::new("spread", "one quantity of one relation"))
            .text("relation", "name of the relation")
            .text("area", "field of knowledge")
            .text("quantity", "name of the quantity")
            .float("low", "first quartile over the documents", "")
            .float("median", "median over the documents", "")
            .float("high", "third quartile over the documents", "");
        let lens = Schema::new("lens", "one set of words that the states of one model decode to")
            .text("source", "name of the model")
            .text("norm", "whether the states pass the final norm before unembedding")
            .text("spelt", "words of the document that start with the most likely token of some state")
            .float("share", "share of the documents", "fraction");
        let cross = of(Schema::new("cross", "one label of one method, given a failure of the other"))
            .text("given", "the documents on which one method fails")
            .text("label", "the result of the other method")
            .int("documents", "number of documents on which the method fails")
            .float("share", "share of these documents", "fraction");
        let spearman = of(Schema::new("spearman", "two metrics of a document"))
            .text("x", "first metric")
            .text("y", "second metric")
            .float("rho", "Spearman's rank correlation over the documents", "");
        let records = of(Schema::new("records", "one document"))
            .text("document", "the prompt that the model read")
            .text("target", "the word that completes the analogy")
            .text("part", "split of the document, decided by its target")
            .text("next_token", "most likely next token")
            .text("query", "the query that was unbound by the published readout")
            .text("kind", "how the most similar item relates to the document")
            .text("found", "most similar items of the published readout and their cosines")
            .text("blind", "most similar item of the blind readout")
            .text("key", "most similar item of the key readout")
            .text("factors", "concepts that the published readout extracts");
        let [precision, factors, areas, blank, spread, lens, cross, spearman, records] =
            [precision, factors, areas, blank, spread, lens, cross, spearman, records].map(Builder::new);
        Self { precision, factors, areas, blank, spread, lens, cross, spearman, records }
    }

    fn record_of(&mut self, name: &str, ready: &Ready, record: &Record<'_>) -> Result<()> {
        let word = |item: usize| ready.book.names().get(item).cloned().unwrap_or_default();
        let found = &record.found[0];
        let nearest: Vec<String> =
            found.nearest.iter().take(3).map(|(item, cosine)| format!("{} {cosine:.2}", word(*item))).collect();
        let query = found.query.map_or("search", Query::name);
        let best = |which: usize| word(record.found[which].best().0);
        let part = record.part.to_string();
        Ok(self.records.push(row![
            name,
            &*Set::Words.prompt(record.analogy),
            &*record.analogy.target(),
            &*part,
            &*record.next.token,
            query,
            record.kind,
            &*nearest.join(", "),
            &*best(1),
            &*best(2),
            &*record.factors
        ])?)
    }

    fn record(self, run: &Run) -> Result<()> {
        let Self { precision, factors, areas, blank, spread, lens, cross, spearman, records } = self;
        for table in [precision, factors, areas, blank, spread, lens, cross, spearman, records] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}
