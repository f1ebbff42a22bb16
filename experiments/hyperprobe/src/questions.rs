//! Question answering: which words of a question and its answer a state encodes before and after the model answers
//! (arXiv 2509.25045, section 6). The questions are our own, and the words that matter in each are listed.
//!
//! The encoder learns sets of words from truncated questions. The readout lists all concepts above the threshold,
//! without unbinding.
//!
//! Tables: `answers` (how well the model answers), `fit` and `curves` (the encoder and its training), `overlap`,
//! `proportions` and `drift` (extracted concepts before and after the answer), `correlations` (between metrics of a
//! question), `items` (every question).

use crate::analogies::{Corpus, Part};
use crate::facts::{Fact, concepts, facts};
use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use capture::{Choice, generate};
use experiment::Run;
use hooks::HookedModel;
use probes::{correlation, mean, standard_deviation};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use tables::{Builder, Schema, row};
use vsa::{Bipolar, Codebook, Tie, Vector};

use crate::documents::Ties;
use crate::ingestion;
use crate::language::fact_part;
use crate::layers::{Pooling, Starts, sizes};
use crate::readout::Readout;
use crate::source::{Source, Subject};
use crate::train::{Material, Row, Rows, Setting, Training, fit};

/// Parameters of `questions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The models to evaluate, in order.
    #[schemars(length(min = 1))]
    pub sources: Vec<Source>,
    /// Number of questions, at least 20; capped at the number available.
    #[schemars(range(min = 20))]
    pub questions: usize,
    /// Seed that generates the codebook.
    pub codebook_seed: u64,
    /// Settings of the encoder. Its split is by question, and its documents come from the questions.
    pub encoder: Setting,
    /// Settings of the encoder's training.
    pub training: Training,
    /// Number of k-means clusters over the layers; with few layers, one less than the number of states.
    #[schemars(range(min = 1))]
    pub clusters: usize,
    /// Number of prompts per forward pass.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Maximum length of an answer, in tokens.
    #[schemars(range(min = 1))]
    pub longest: usize,
}

/// One answered question.
struct Item {
    fact: Fact,
    part: Part,
    /// The text that the model wrote.
    written: String,
    f1: f64,
    exact: bool,
    mentioned: bool,
    /// The concepts in the state after the prompt and in the state after the answer.
    extracted: [Vec<String>; 2],
}

/// Asks every model all questions and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    if params.encoder.pooling == Pooling::Embeddings {
        bail!(
            "params.encoder.pooling: `embeddings` uses no states, which this experiment reads; choose another pooling"
        );
    }
    if params.encoder.ties != Ties::Negative {
        bail!("params.encoder.ties: sets of words are bundled with zeros set to -1; use `negative`");
    }
    crate::source::check(run, &params.sources)?;
    let facts: Vec<(usize, Fact)> = facts().into_iter().enumerate().take(params.questions).collect();
    let book = Codebook::<Bipolar>::new(params.encoder.dimension, params.codebook_seed, concepts(&Corpus::whole()))?;
    let mut tables = Tables::new();
    for source in &params.sources {
        run.check_interrupted()?;
        let subject = Subject::open(run, source)?;
        let (states, clusters) = sizes(subject.model.n_layers(), params.clusters);
        let starts = Starts::new(states, clusters, &mut run.rng("clusters"));
        let encoder = train(run, &params, &subject, &facts, &book, &starts, &mut tables)?;
        let items = ask(run, &params, &subject, &facts, &book, &starts, &encoder)?;
        answers(run, &subject.name, &items, &mut tables)?;
        overlap(run, &subject.name, &items, &mut tables)?;
        drift(&subject.name, &items, &mut tables)?;
        correlations(&subject.name, &items, &mut tables)?;
        record_items(&subject.name, &items, &mut tables)?;
    }
    tables.record(run)
}

/// The pooled states of the last tokens, `[documents, d_model]`.
fn pooled(subject: &Subject, tokens: &[Vec<u32>], params: &Params, starts: &Starts) -> Result<Tensor> {
    let seen = ingestion::read::<()>(subject, tokens, params.batch, None)?;
    let of = |seen: &ingestion::Seen<()>| -> Result<Vec<f32>> {
        Ok(seen.states.pooled(params.encoder.pooling, &seen.states.clusters(starts)?))
    };
    let rows = seen.par_iter().map(of).collect::<Result<Vec<_>>>()?;
    let width = rows.first().map_or(0, Vec::len);
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), width), &Device::Cpu)?)
}

fn train(
    run: &Run,
    params: &Params,
    subject: &Subject,
    facts: &[(usize, Fact)],
    book: &Codebook<Bipolar>,
    starts: &Starts,
    tables: &mut Tables,
) -> Result<encoder::Encoder> {
    let (mut tokens, mut targets) = (Vec::new(), Vec::new());
    let mut rows = Rows { train: Vec::new(), validation: Vec::new(), test: Vec::new() };
    for (index, fact) in facts {
        for (text, features) in fact.cut() {
            let vectors = features.iter().map(|word| book.vector(word)).collect::<Result<Vec<_>, _>>()?;
            match fact_part(*index) {
                Part::Train => rows.train.push(tokens.len()),
                Part::Validation => rows.validation.push(tokens.len()),
                Part::Test => rows.test.push(tokens.len()),
            }
            tokens.push(subject.encode(&text)?);
            targets.push(Bipolar::bundle(vectors).sign(Tie::Negative));
        }
    }
    let x = pooled(subject, &tokens, params, starts)?;
    let material = Material { x, device: run.device().clone(), targets, words: Vec::new() };
    let (encoder, curve) = fit(run, &params.training, &params.encoder, &subject.name, &material, &rows)?;
    for Row { epoch, train, validation, cosine, accuracy, .. } in curve {
        tables.curves.push(row![&*subject.name, epoch, train, validation, cosine, accuracy])?;
    }
    for (set, rows) in [("train", &rows.train), ("validation", &rows.validation), ("test", &rows.test)] {
        let o = encoder.encode(&material.rows(rows)?)?;
        let (cosines, shares): (Vec<f64>, Vec<f64>) =
            encoder::agreement(&o, &material.targets(rows))?.into_iter().unzip();
        tables.fit.push(row![&*subject.name, set, rows.len(), mean(&cosines), mean(&shares)])?;
        run.metric(&format!("{}.{set}.cosine", subject.name), mean(&cosines), "");
    }
    Ok(encoder)
}

fn ask(
    run: &Run,
    params: &Params,
    subject: &Subject,
    facts: &[(usize, Fact)],
    book: &Codebook<Bipolar>,
    starts: &Starts,
    encoder: &encoder::Encoder,
) -> Result<Vec<Item>> {
    let prompts = facts.iter().map(|(_, fact)| subject.encode(&fact.prompt())).collect::<Result<Vec<_>>>()?;
    let choice = Choice { most: params.longest, stop: subject.line_ends(), temperature: None };
    let mut written: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut task = run.task(&format!("{} answers", subject.name), prompts.len() as u64, "questions");
    let (mut done, positions) = (0, subject.model.config().n_positions);
    for indices in tokens::of_one_length(prompts.iter().map(Vec::len), params.batch) {
        run.check_interrupted()?;
        let seq = prompts[indices[0]].len();
        let ids: Vec<u32> = indices.iter().flat_map(|index| prompts[*index].iter().copied()).collect();
        let ids = Tensor::from_vec(ids, (indices.len(), seq), &subject.model.device())?;
        let choice = Choice { most: choice.most.min(positions - seq), ..choice.clone() };
        let new = generate(&subject.model, &ids, &choice, &mut run.rng("greedy"))?;
        indices.iter().zip(new).for_each(|(index, new)| written[*index] = new);
        done += indices.len();
        task.at(done as u64, "");
    }
    // The state after the answer is that of its last token, without the end of the line.
    let after: Vec<Vec<u32>> = prompts
        .iter()
        .zip(&written)
        .map(|(prompt, new)| {
            let new = new.iter().copied().filter(|id| !choice.stop.contains(id));
            prompt.iter().copied().chain(new).collect()
        })
        .collect();
    let readout = Readout::new(book);
    let mut extracted = Vec::new();
    for tokens in [&prompts, &after] {
        let x = pooled(subject, tokens, params, starts)?;
        let vectors = encoder::signs(&encoder.encode(&x.to_device(run.device())?)?)?;
        let members = |v: &Bipolar| -> Vec<String> {
            readout.members(v).into_iter().map(|(item, _)| book.name(item).to_owned()).collect()
        };
        extracted.push(vectors.par_iter().map(members).collect::<Vec<_>>());
    }
    let [before, after] = <[_; 2]>::try_from(extracted).ok().context("before and after")?;
    let item = |index: usize, fact: &Fact, ids: &[u32], extracted: [Vec<String>; 2]| {
        let written = subject.decode(ids).replace(['\n', '\r'], " ").trim().to_owned();
        let (truth, answered) = (plain(&fact.answer), plain(&written));
        Item {
            fact: fact.clone(),
            part: fact_part(index),
            f1: f1(&answered, &truth),
            exact: answered == truth,
            mentioned: written.to_lowercase().contains(&fact.answer.to_lowercase()),
            written,
            extracted,
        }
    };
    let both = before.into_iter().zip(after).map(|(before, after)| [before, after]);
    let all = facts.iter().zip(&written).zip(both);
    Ok(all.map(|(((index, fact), ids), extracted)| item(*index, fact, ids, extracted)).collect())
}

/// Words as SQuAD compares them: lower case, without punctuation or articles.
fn plain(text: &str) -> Vec<String> {
    let bare: String = text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    bare.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).map(str::to_owned).collect()
}

/// The F1 score: the harmonic mean of precision and recall over words.
fn f1(answered: &[String], truth: &[String]) -> f64 {
    let mut left = truth.to_vec();
    let common =
        answered.iter().filter(|word| left.iter().position(|one| one == *word).map(|at| left.remove(at)).is_some());
    let common = common.count() as f64;
    if common == 0. { 0. } else { 2. * common / (answered.len() + truth.len()) as f64 }
}

/// The Jaccard index |A ∩ B| / |A ∪ B|, where `alike` decides which words are equal; 0 if both sets are empty.
fn jaccard(a: &[String], b: &[String], alike: impl Fn(&str, &str) -> bool) -> f64 {
    let common = a.iter().filter(|x| b.iter().any(|y| alike(x, y))).count();
    let own = b.iter().filter(|y| !a.iter().any(|x| alike(x, y))).count();
    let all = a.len() + own;
    if all == 0 { 0. } else { common as f64 / all as f64 }
}

/// Whether one word contains the other, or their similarity ratio is at least 0.8.
fn nearly(x: &str, y: &str) -> bool {
    x.contains(y) || y.contains(x) || ratio(x, y) >= 0.8
}

/// The similarity ratio: twice the length of the longest common subsequence over the sum of both lengths.
fn ratio(x: &str, y: &str) -> f64 {
    let (x, y): (Vec<char>, Vec<char>) = (x.chars().collect(), y.chars().collect());
    let mut row = vec![0usize; y.len() + 1];
    for a in &x {
        let mut diagonal = 0;
        for (j, b) in y.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if a == b { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    let both = x.len() + y.len();
    if both == 0 { 1. } else { 2. * row[y.len()] as f64 / both as f64 }
}

fn answers(run: &Run, name: &str, items: &[Item], tables: &mut Tables) -> Result<()> {
    for part in [None, Some(Part::Train), Some(Part::Validation), Some(Part::Test)] {
        let of: Vec<&Item> = items.iter().filter(|item| part.is_none_or(|part| item.part == part)).collect();
        if of.is_empty() {
            continue;
        }
        let part = part.map_or("all".to_owned(), |part| part.to_string());
        let numbers = |value: &dyn Fn(&Item) -> f64| of.iter().map(|item| value(item)).collect::<Vec<f64>>();
        let yes = |is: bool| f64::from(u8::from(is));
        let [f1, exact, mentioned] =
            [numbers(&|item| item.f1), numbers(&|item| yes(item.exact)), numbers(&|item| yes(item.mentioned))];
        tables.answers.push(row![
            name,
            &*part,
            of.len(),
            mean(&f1),
            standard_deviation(&f1),
            mean(&exact),
            mean(&mentioned)
        ])?;
        run.metric(&format!("{name}.{part}.f1"), mean(&f1), "fraction");
        run.metric(&format!("{name}.{part}.exact"), mean(&exact), "fraction");
        run.metric(&format!("{name}.{part}.mentioned"), mean(&mentioned), "fraction");
    }
    Ok(())
}

/// A metric of a question, with its name in tables.
type Column = (&'static str, fn(&Item) -> f64);

const TIMES: [&str; 2] = ["before", "after"];

/// The name of a group of questions and the condition to be in it.
type Group = (&'static str, fn(&Item) -> bool);

const GROUPS: [Group; 4] = [
    ("all", |_| true),
    ("answered", |item| item.mentioned),
    ("not answered", |item| !item.mentioned),
    ("test questions", |item| item.part == Part::Test),
];

fn overlap(run: &Run, name: &str, items: &[Item], tables: &mut Tables) -> Result<()> {
    for (group, is) in GROUPS {
        let of: Vec<&Item> = items.iter().filter(|item| is(item)).collect();
        if of.is_empty() {
            continue;
        }
        for (at, time) in TIMES.into_iter().enumerate() {
            for (features, wanted) in [("question", 0), ("answer", 1)] {
                let scores = |alike: fn(&str, &str) -> bool| -> Vec<f64> {
                    of.iter().map(|item| jaccard(&item.extracted[at], item.features(wanted), alike)).collect()
                };
                let (exact, fuzzy) = (scores(|x, y| x == y), scores(nearly));
                tables.overlap.push(row![
                    name,
                    group,
                    time,
                    features,
                    of.len(),
                    mean(&exact),
                    standard_deviation(&exact),
                    mean(&fuzzy),
                    standard_deviation(&fuzzy)
                ])?;
                let id = group.replace(' ', "_");
                run.metric(&format!("{name}.{id}.{time}.{features}.jaccard"), mean(&exact), "fraction");
            }
            let shares: Vec<[f64; 3]> = of.iter().map(|item| item.shares(at)).collect();
            for (class, label) in ["question", "answer", "other"].into_iter().enumerate() {
                let values: Vec<f64> = shares.iter().map(|of| of[class]).collect();
                tables.proportions.push(row![name, group, time, label, mean(&values)])?;
                let id = group.replace(' ', "_");
                run.metric(&format!("{name}.{id}.{time}.{label}.share"), mean(&values), "fraction");
            }
        }
    }
    Ok(())
}

/// Changes in the extracted concepts from before to after the answer.
fn drift(name: &str, items: &[Item], tables: &mut Tables) -> Result<()> {
    for (group, is) in GROUPS {
        let of: Vec<&Item> = items.iter().filter(|item| is(item)).collect();
        let shared = |item: &&Item| jaccard(&item.extracted[0], &item.extracted[1], |x, y| x == y);
        let kept = (!of.is_empty()).then(|| mean(&of.iter().map(shared).collect::<Vec<_>>()));
        for (class, kind) in ["question", "answer", "other"].into_iter().enumerate() {
            let share = |at: usize| mean(&of.iter().map(|item| item.shares(at)[class]).collect::<Vec<_>>());
            if let Some(kept) = kept {
                let (before, after) = (share(0), share(1));
                tables.drift.push(row![name, group, kind, after - before, after / (before + 1e-6), kept])?;
            }
        }
    }
    Ok(())
}

fn correlations(name: &str, items: &[Item], tables: &mut Tables) -> Result<()> {
    let columns: [Column; 8] = [
        ("F1", |item| item.f1),
        ("answer mentioned", |item| f64::from(u8::from(item.mentioned))),
        ("question before", |item| jaccard(&item.extracted[0], item.features(0), |x, y| x == y)),
        ("question after", |item| jaccard(&item.extracted[1], item.features(0), |x, y| x == y)),
        ("answer before", |item| jaccard(&item.extracted[0], item.features(1), |x, y| x == y)),
        ("answer after", |item| jaccard(&item.extracted[1], item.features(1), |x, y| x == y)),
        ("before with after", |item| jaccard(&item.extracted[0], &item.extracted[1], |x, y| x == y)),
        ("concepts before", |item| item.extracted[0].len() as f64),
    ];
    for (x_name, x) in columns {
        for (y_name, y) in columns {
            let (x, y): (Vec<f64>, Vec<f64>) = items.iter().map(|item| (x(item), y(item))).unzip();
            let r = correlation(&x, &y);
            tables.correlations.push(row![name, x_name, y_name, r.is_finite().then_some(r)])?;
        }
    }
    Ok(())
}

fn record_items(name: &str, items: &[Item], tables: &mut Tables) -> Result<()> {
    for item in items {
        let part = item.part.to_string();
        let [before, after] =
            [0, 1].map(|at| item.extracted[at].iter().take(6).cloned().collect::<Vec<_>>().join(", "));
        tables.items.push(row![
            name,
            &*item.fact.question,
            &*item.fact.answer,
            &*part,
            &*item.written,
            item.f1,
            &*before,
            &*after
        ])?;
    }
    Ok(())
}

impl Item {
    /// The words that matter in the question (0) or in the answer (1).
    fn features(&self, of: usize) -> &[String] {
        if of == 0 { &self.fact.question_features } else { &self.fact.answer_features }
    }

    /// The shares of extracted concepts that belong to the question, to the answer and to neither; zeros if nothing was
    /// extracted.
    fn shares(&self, at: usize) -> [f64; 3] {
        let extracted: BTreeSet<&String> = self.extracted[at].iter().collect();
        let count = extracted.len().max(1) as f64;
        let inside = |features: &[String]| extracted.iter().filter(|word| features.contains(word)).count() as f64;
        let (question, answer) = (inside(self.features(0)), inside(self.features(1)));
        [question / count, answer / count, (extracted.len() as f64 - question - answer) / count]
    }
}

struct Tables {
    answers: Builder,
    fit: Builder,
    curves: Builder,
    overlap: Builder,
    proportions: Builder,
    drift: Builder,
    correlations: Builder,
    items: Builder,
}

impl Tables {
    fn new() -> Self {
        let of = |schema: Schema| schema.text("source", "name of the model");
        let answers = of(Schema::new("answers", "one split of the questions"))
            .text("part", "split of the questions, as the encoder uses them")
            .int("questions", "number of questions")
            .float("f1", "mean F1 score of the words against the right answer, as in SQuAD", "fraction")
            .float("f1_sd", "standard deviation of the F1 score over the questions", "")
            .float("exact", "share of questions whose text is exactly the answer", "fraction")
            .float("mentioned", "share of questions whose text contains the answer", "fraction");
        let fit = of(Schema::new("fit", "the encoder on one split of the documents"))
            .text("part", "split of the documents")
            .int("documents", "number of truncated questions")
            .float("cosine", "mean cosine of outputs and targets", "")
            .float("accuracy", "share of components with the right sign", "fraction");
        let curves = of(Schema::new("curves", "one encoder at one point of its training"))
            .float("epoch", "number of passes over the training documents", "")
            .float("train_loss", "mean training loss since the previous row", "")
            .float("validation_loss", "loss on the validation documents", "")
            .float("cosine", "mean cosine of outputs and targets on the validation documents", "")
            .float("accuracy", "share of components with the right sign on the validation documents", "fraction");
        let overlap = of(Schema::new(
            "overlap",
            "extracted concepts compared with the words that matter, in one group of questions",
        ))
        .text("group", "group of questions")
        .text("time", "whether the state is from before or after the answer")
        .text("features", "whether the words are those of the question or of the answer")
        .int("questions", "number of questions")
        .float("jaccard", "mean Jaccard index of extracted concepts and words that matter", "fraction")
        .float("jaccard_sd", "standard deviation of the Jaccard index over the questions", "")
        .float("fuzzy", "mean Jaccard index that counts similar words as equal", "fraction")
        .float("fuzzy_sd", "standard deviation of the fuzzy index over the questions", "");
        let proportions = of(Schema::new("proportions", "one kind of extracted concept at one time"))
            .text("group", "group of questions")
            .text("time", "whether the state is from before or after the answer")
            .text("kind", "whether the concepts belong to the question, the answer or neither")
            .float("share", "share of the extracted concepts, mean over the questions", "fraction");
        let drift =
            of(Schema::new("drift", "change in the share of one kind of extracted concept, after minus before"))
                .text("group", "group of questions")
                .text("kind", "whether the concepts belong to the question, the answer or neither")
                .float("drift", "share after the answer minus share before it", "")
                .float("ratio", "share after the answer divided by the share before it plus 1e-6", "")
                .float("kept", "mean Jaccard index of all concepts before and after the answer", "fraction");
        let correlations = of(Schema::new("correlations", "two metrics of a question"))
            .text("x", "first metric")
            .text("y", "second metric")
            .float("r", "Pearson's correlation over the questions", "");
        let items = of(Schema::new("items", "one question"))
            .text("question", "the question, without its context")
            .text("answer", "the right answer")
            .text("part", "split of the question, as the encoder uses it")
            .text("written", "the text that the model wrote")
            .float("f1", "F1 score of the words against the right answer", "fraction")
            .text("before", "most similar concepts in the state before the answer")
            .text("after", "most similar concepts in the state after the answer");
        let [answers, fit, curves, overlap, proportions, drift, correlations, items] =
            [answers, fit, curves, overlap, proportions, drift, correlations, items].map(Builder::new);
        Self { answers, fit, curves, overlap, proportions, drift, correlations, items }
    }

    fn record(self, run: &Run) -> Result<()> {
        let Self { answers, fit, curves, overlap, proportions, drift, correlations, items } = self;
        for table in [answers, fit, curves, overlap, proportions, drift, correlations, items] {
            run.record(table.finish()?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn answers_are_compared_as_in_squad() {
        let truth = plain("Paris");
        assert_eq!((f1(&plain("The Paris."), &truth), plain("The Paris.") == truth), (1., true));
        assert!((f1(&plain("It is Paris"), &truth) - 0.5).abs() < 1e-12);
        assert_eq!(f1(&plain("Rome"), &truth), 0.);
        assert_eq!(f1(&plain("paris paris"), &truth), 2. / 3.);
    }

    #[test]
    fn jaccard_supports_exact_and_fuzzy_equality() {
        let (a, b) = (words(&["paris", "capital"]), words(&["capitals", "france"]));
        assert_eq!(jaccard(&a, &b, |x, y| x == y), 0.);
        assert!((jaccard(&a, &b, nearly) - 1. / 3.).abs() < 1e-12);
        assert_eq!(jaccard(&a, &a, |x, y| x == y), 1.);
        assert_eq!(jaccard(&[], &[], nearly), 0.);
        // difflib.SequenceMatcher(None, "colour", "color").ratio() is 10/11 too
        assert!((ratio("colour", "color") - 10. / 11.).abs() < 1e-12);
    }
}
