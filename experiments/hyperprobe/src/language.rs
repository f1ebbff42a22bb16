//! The toy language model: a small decoder that has read nothing but analogies and facts, and stands in for a real one.
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
use experiment::{Interrupted, Run};
use hooks::{End, HookedModel, NoHook, Start};
use models::{Activation, Config, Decoder, Step};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use tokens::{Bos, Tokenizer};
use training::{Checkpoints, Ended, Error, MeanLoss, Objective, Parameter, Plan};

use crate::documents::Relations;
use crate::source::spaced;

/// Where the weights lie; they are not kept in the repository.
pub const WEIGHTS: &str = "artifacts/language.safetensors";
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

/// Sizes of the toy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Number of blocks.
    #[schemars(range(min = 2))]
    pub n_layers: usize,
    /// Heads in each block; must divide `d_model`.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Width of the residual stream; the MLP is four times as wide.
    #[schemars(range(min = 1))]
    pub d_model: usize,
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

/// Trains the toy and hands in the table.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    params.evaluated = run.samples(params.evaluated);
    let corpus = params.corpus.relations.corpus()?;
    let words = vocabulary(&corpus, &facts());
    let folder = run.work("tokenizer");
    let tokenizer = tokens::word_level(&folder, &words, BOS)?;
    let Shape { n_layers, n_heads, d_model } = params.model;
    let config = Config {
        n_layers,
        n_heads,
        d_model,
        d_mlp: 4 * d_model,
        d_vocab: words.len(),
        n_positions: LONGEST,
        activation: Activation::GeluErf,
        ..Config::gpt2_small()
    };
    config.check().context("params.model")?;
    let model = Decoder::fresh(&config, &mut run.rng("init"), run.device())?;
    let reading = Library::new(&corpus, &tokenizer)?;
    let steps = run.steps(params.training.steps);
    let plan = Plan { steps, ..params.training.clone() };
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
    let mut lesson = Lesson {
        model: &model,
        params: &params,
        steps,
        tokenizer: &tokenizer,
        reading,
        asked,
        batches: run.rng("batches"),
        history: History::default(),
    };
    let parameters: Vec<Parameter> = Parameter::all(model.parameters());
    let checkpoints = Checkpoints::new(&run.work("language"), &run.identity());
    let mut task = run.task("language", steps, "steps");
    if training::train(&parameters, &plan, &mut lesson, &checkpoints, &mut task)? == Ended::Interrupted {
        return Err(Interrupted.into());
    }
    let history = lesson.history;
    models::save(&run.output(WEIGHTS), &model)?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        storage::write_atomic(&run.output(&format!("models/{file}")), &storage::read(&folder.join(file))?)?;
    }
    report(run, &config, &history)
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

/// What the training has seen; part of every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct History {
    rows: Vec<Row>,
    since: MeanLoss,
}

struct Lesson<'a> {
    model: &'a Decoder,
    params: &'a Params,
    steps: u64,
    tokenizer: &'a Tokenizer,
    reading: Library,
    asked: Vec<(Part, Vec<Analogy>)>,
    batches: ChaCha12Rng,
    history: History,
}

impl Lesson<'_> {
    /// Inputs and targets `[batch, longest]`; padding counts for nothing.
    fn batch(&self, position: u64) -> Result<[Tensor; 2]> {
        let mut rng = training::stream_at(&self.batches, position);
        let facts = position % self.params.facts_every == self.params.facts_every - 1;
        let (from, count) = match facts {
            true => (&self.reading.facts, self.params.batch_size.div_ceil(4)),
            false => (&self.reading.documents, self.params.batch_size),
        };
        let drawn: Vec<&Vec<u32>> = (0..count).filter_map(|_| from.choose(&mut rng)).collect();
        let seq = drawn.iter().map(|ids| ids.len() - 1).max().unwrap_or(0);
        let pad = self.tokenizer.id(PAD).context("the vocabulary has a padding token")?;
        let (mut inputs, mut targets) = (vec![pad; drawn.len() * seq], vec![ops::IGNORED; drawn.len() * seq]);
        for (row, ids) in drawn.iter().enumerate() {
            inputs[row * seq..][..ids.len() - 1].copy_from_slice(&ids[..ids.len() - 1]);
            targets[row * seq..][..ids.len() - 1].copy_from_slice(&ids[1..]);
        }
        let device = self.model.device();
        let tensor = |ids| Tensor::from_vec(ids, (drawn.len(), seq), &device);
        Ok([tensor(inputs)?, tensor(targets)?])
    }

    fn judge(&self) -> Result<Vec<(String, f64)>> {
        let mut right = Vec::new();
        for (part, documents) in &self.asked {
            let mut hits = 0;
            for some in documents.chunks(256) {
                let ids = some.iter().map(|one| Ok(self.tokenizer.encode(&one.verbose_prompt(), Bos::Always)?.ids));
                let ids: Vec<Vec<u32>> = ids.collect::<Result<_>>()?;
                let (rows, seq) = (ids.len(), ids[0].len()); // every document in words has ten tokens
                let ids = Tensor::from_vec(ids.concat(), (rows, seq), &self.model.device())?;
                let logits =
                    self.model.forward_between(Start::Tokens(&ids), End::LastLogits(1), &mut NoHook)?.squeeze(1)?;
                let answers = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
                let is_right = |(one, id): &(&Analogy, u32)| self.tokenizer.id(&one.words[3]) == Some(*id);
                hits += some.iter().zip(answers).filter(is_right).count();
            }
            right.push((part.to_string(), hits as f64 / documents.len() as f64));
        }
        Ok(right)
    }
}

impl Objective for Lesson<'_> {
    fn loss(&mut self, step: u64, micro: u32) -> Result<Tensor, Error> {
        let position = step * u64::from(self.params.training.accumulate) + u64::from(micro);
        let [inputs, targets] = self.batch(position).map_err(Error::objective)?;
        let dropout = Some(training::stream_at(&self.batches, position).random());
        let how = Step { dropout, recompute: self.params.training.recompute, ..Step::default() };
        Ok(self.model.losses(&inputs, &targets, &[], how)?.losses.mean_all()?)
    }

    fn after(&mut self, done: u64, loss: Option<f64>) -> Result<(), Error> {
        self.history.since.add(loss);
        if done.is_multiple_of(self.params.evaluate_every) || done == self.steps {
            let train = self.history.since.take();
            let right = self.judge().map_err(Error::objective)?;
            let told: Vec<String> = right.iter().map(|(part, share)| format!("{part} {share:.2}")).collect();
            tracing::info!("language step {done}: {}", told.join(", "));
            self.history.rows.push(Row { step: done, train, right });
        }
        Ok(())
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!(self.history)
    }

    fn restore(&mut self, state: serde_json::Value) -> Result<(), Error> {
        self.history = serde_json::from_value(state).map_err(Error::objective)?;
        Ok(())
    }
}

fn report(run: &Run, config: &Config, history: &History) -> Result<()> {
    let mut curves = Builder::new(
        Schema::new("curves", "one part of the data at one time of the training")
            .int("step", "optimiser steps done")
            .text("part", "what documents with these targets are for")
            .float("next_token", "documents in words whose target is the likeliest next token", "fraction")
            .float("train_loss", "mean loss over all tokens since the row before", "nats"),
    );
    for Row { step, train, right } in &history.rows {
        for (part, share) in right {
            curves.push(row![*step, &**part, *share, *train])?;
        }
    }
    for (part, share) in history.rows.last().map(|row| row.right.as_slice()).unwrap_or_default() {
        run.metric(&format!("{part}.next_token"), *share, "fraction");
    }
    run.metric("parameters", config.n_parameters() as f64, "");
    run.record(curves.finish()?);
    Ok(())
}
