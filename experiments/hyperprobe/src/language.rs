//! The small language model: a decoder trained on analogies and facts alone, in place of a pretrained one.
//!
//! It sees whole documents whose targets are for training, and of all others everything but the target, so that it has read
//! every word. What it does with a target that it has never been asked for is therefore its own doing.
//!
//! Tables: `curves` (loss, and accuracy by part of the data during training).

use std::collections::BTreeSet;

use crate::analogies::{Analogy, Part};
use crate::facts::{Fact, facts};
use anyhow::{Context, Result, bail};
use candle_core::{D, Tensor};
use experiment::Run;
use hooks::{End, HookedModel, NoHook, Start};
use models::{Config, Decoder};
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::{LanguageModel, LanguageTask, Shape, padded};
use tables::{Builder, Schema, row};
use tokens::{Bos, Tokenizer};
use training::{Parameter, Plan};

use crate::documents::Relations;
use crate::source::spaced;

/// Name of the trained model.
const MODEL: &str = "language";
const BOS: &str = "<bos>";
const PAD: &str = "<pad>";

/// Parameters of `language`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// What is read.
    pub corpus: Reading,
    /// The decoder.
    pub model: Shape,
    /// Documents in a batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Of so many batches one is of questions with their context instead, a quarter as many of them.
    #[schemars(range(min = 1))]
    pub facts_every: u64,
    /// Steps, optimiser, schedule, checkpoints.
    pub training: Plan,
    /// Steps between evaluations.
    #[schemars(range(min = 1))]
    pub evaluate_every: u64,
    /// Documents of each part that an evaluation asks.
    #[schemars(range(min = 1))]
    pub evaluated: usize,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The relations.
    pub relations: Relations,
}

/// Longest sequence: a question with its context and an answer.
const LONGEST: usize = 64;

/// Whether a question is for training. The rule for targets would put all of a country's answers in one part by accident of
/// their letters; questions are parted by their own place.
pub fn fact_part(place: usize) -> Part {
    match place % 20 {
        0..14 => Part::Train,
        14..17 => Part::Validation,
        _ => Part::Test,
    }
}

/// Trains the small model and records the table.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    params.evaluated = run.samples(params.evaluated);
    let corpus = params.corpus.relations.corpus()?;
    let words = vocabulary(&corpus, &facts());
    let folder = run.work("tokenizer");
    let tokenizer = tokens::word_level(&folder, &words, BOS)?;
    let config = params.model.config(words.len(), LONGEST);
    config.check().context("params.model")?;
    let model = Decoder::fresh(&config, &mut run.rng("init"), run.device())?;
    let library = Library::new(&corpus, &tokenizer)?;
    let mut asked = Vec::new();
    for part in [Part::Train, Part::Validation, Part::Test] {
        let mut of: Vec<Analogy> =
            corpus.verbose().into_iter().filter(|one| corpus.part(&one.target()) == part).collect();
        of.shuffle(&mut run.rng("evaluated"));
        of.truncate(params.evaluated);
        if of.is_empty() {
            bail!("params.corpus.relations: no document in words has a target of the part {part}");
        }
        asked.push((part, of));
    }
    let batches = run.rng("batches");
    let task = ReadingTask { model: &model, params: &params, tokenizer: &tokenizer, library, asked, batches };
    let mut objective = LanguageModel::new(&model, &params.training, params.evaluate_every, None, task);
    let rows = run.train(MODEL, &Parameter::all(model.parameters()), &params.training, &mut objective)?;
    // not below models/, whose files are kept in the repository
    models::save(&run.output(&format!("artifacts/{MODEL}.safetensors")), &model)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        storage::write_atomic(&run.output(&format!("models/{file}")), &storage::read(&folder.join(file))?)?;
    }
    report(run, &config, &rows)
}

/// Every word and mark that is read, in a fixed order.
fn vocabulary(corpus: &crate::analogies::Corpus, facts: &[Fact]) -> Vec<String> {
    let mut words: BTreeSet<String> = corpus
        .categories
        .iter()
        .flat_map(|category| category.pairs.iter().flatten().cloned())
        .chain([":", "=", "is", "to", "as"].map(str::to_owned))
        .collect();
    for fact in facts {
        let all = format!("{} {}", fact.prompt(), fact.answer);
        words.extend(spaced(&all).split(' ').map(str::to_owned));
        for (text, _) in fact.cut() {
            words.extend(spaced(&text).split(' ').map(str::to_owned));
        }
    }
    [BOS, PAD].map(str::to_owned).into_iter().chain(words).collect()
}

/// Everything that is read, in tokens.
struct Library {
    documents: Vec<Vec<u32>>,
    facts: Vec<Vec<u32>>,
}

impl Library {
    fn new(corpus: &crate::analogies::Corpus, tokenizer: &Tokenizer) -> Result<Self> {
        let encode = |text: &str| -> Result<Vec<u32>> { Ok(tokenizer.encode(&spaced(text), Bos::Always)?.ids) };
        let mut documents = Vec::new();
        let symbols = corpus.training().into_iter().map(|one| (one.prompt(), one));
        let words = corpus.verbose().into_iter().map(|one| (one.verbose_prompt(), one));
        for (prompt, analogy) in symbols.chain(words) {
            let known = corpus.part(&analogy.target()) == Part::Train;
            let target = if known { format!(" {}", analogy.words[3]) } else { String::new() };
            documents.push(encode(&format!("{prompt}{target}"))?);
        }
        let whole = |(place, fact): (usize, &Fact)| match fact_part(place) {
            Part::Train => encode(&format!("{} {}\n", fact.prompt(), fact.answer)),
            _ => encode(&fact.context),
        };
        let facts = facts().iter().enumerate().map(whole).collect::<Result<_>>()?;
        Ok(Self { documents, facts })
    }
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    step: u64,
    train: Option<f64>,
    /// Share of documents in words whose target is the likeliest token, by part.
    right: Vec<(String, f64)>,
}

/// Documents to train on, and documents to evaluate on.
struct ReadingTask<'a> {
    model: &'a Decoder,
    params: &'a Params,
    tokenizer: &'a Tokenizer,
    library: Library,
    asked: Vec<(Part, Vec<Analogy>)>,
    batches: ChaCha12Rng,
}

impl ReadingTask<'_> {
    /// Fraction of documents whose target is the most likely next token, by part.
    fn next_token(&self, part: Part, documents: &[Analogy]) -> Result<(String, f64)> {
        let mut hits = 0;
        for some in documents.chunks(256) {
            let ids = some.iter().map(|one| Ok(self.tokenizer.encode(&one.verbose_prompt(), Bos::Always)?.ids));
            // every document in words has ten tokens, so nothing is padded
            let ids = padded(&ids.collect::<Result<Vec<_>>>()?, 0, &self.model.device())?;
            let logits =
                self.model.forward_between(Start::Tokens(&ids), End::LastLogits(1), &mut NoHook)?.squeeze(1)?;
            let answers = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
            let is_right = |(one, id): &(&Analogy, u32)| self.tokenizer.id(&one.words[3]) == Some(*id);
            hits += some.iter().zip(answers).filter(is_right).count();
        }
        Ok((part.to_string(), hits as f64 / documents.len() as f64))
    }
}

impl LanguageTask for ReadingTask<'_> {
    type Row = Row;

    fn batch(&self, position: u64) -> Result<[Tensor; 2]> {
        let mut rng = training::stream_at(&self.batches, position);
        let facts = position % self.params.facts_every == self.params.facts_every - 1;
        let (from, count) = match facts {
            true => (&self.library.facts, self.params.batch_size.div_ceil(4)),
            false => (&self.library.documents, self.params.batch_size),
        };
        let sampled: Vec<&Vec<u32>> = (0..count).filter_map(|_| from.choose(&mut rng)).collect();
        let pad = self.tokenizer.id(PAD).context("the vocabulary has a padding token")?;
        let inputs: Vec<Vec<u32>> = sampled.iter().map(|ids| ids[..ids.len() - 1].to_vec()).collect();
        let targets: Vec<Vec<u32>> = sampled.iter().map(|ids| ids[1..].to_vec()).collect();
        let device = self.model.device();
        Ok([padded(&inputs, pad, &device)?, padded(&targets, ops::IGNORED, &device)?])
    }

    fn evaluate(&mut self, step: u64, train: Option<f64>, _: &[Row]) -> Result<Row> {
        let right = self.asked.iter().map(|(part, documents)| self.next_token(*part, documents));
        let right = right.collect::<Result<Vec<_>>>()?;
        let shares: Vec<String> = right.iter().map(|(part, share)| format!("{part} {share:.2}")).collect();
        tracing::info!("language step {step}: {}", shares.join(", "));
        Ok(Row { step, train, right })
    }
}

fn report(run: &Run, config: &Config, rows: &[Row]) -> Result<()> {
    let mut curves = Builder::new(
        Schema::new("curves", "one part of the data at one time of the training")
            .int("step", "optimiser steps done")
            .text("part", "what documents with these targets are for")
            .float("next_token", "documents in words whose target is the likeliest next token", "fraction")
            .float("train_loss", "mean loss over all tokens since the row before", "nats"),
    );
    for Row { step, train, right } in rows {
        for (part, share) in right {
            curves.push(row![*step, &**part, *share, *train])?;
        }
    }
    for (part, share) in rows.last().map(|row| row.right.as_slice()).unwrap_or_default() {
        run.metric(&format!("{part}.next_token"), *share, "fraction");
    }
    run.metric("parameters", config.n_parameters() as f64, "");
    run.record(curves.finish()?);
    Ok(())
}
