//! Encoders: from the state of a document to the hypervector of its words, with what holds them to account: splits by target,
//! inputs without a model, labels without a meaning, states of other documents (arXiv 2509.25045, sections 4 and 6).
//!
//! Tables: `variants`, `curves` (during training), `scores` (cosine and accuracy on every set, and of predictors that know
//! nothing or half), `precision` (what three readouts find in documents in words).

use std::collections::HashMap;
use std::path::PathBuf;

use crate::analogies::{Analogy, Part};
use anyhow::{Context, Result, anyhow, bail};
use candle_core::{Device, Tensor};
use config::Changes;
use experiment::{Needed, Objective, Progress, Run, distinct};
use probes::mean;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore};
use rand_chacha::ChaCha12Rng;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};
use training::{AdamWConfig, MeanLoss, Plan, Schedule};
use vsa::{Bipolar, Codebook, Vector};

use crate::documents::{Documents, Set, Targets, Ties, seed_of};
use crate::layers::Pooling;
use crate::readout::{Found, Query, READOUTS, Readout, Words};
use crate::states;
use crate::store;
use encoder::{Encoder, Loss, Shape};

/// Parameters of `encoder` and `ablations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Seed of the codebook.
    pub codebook_seed: u64,
    /// What every encoder has, unless it says otherwise.
    pub encoder: Setting,
    /// Encoders, each trained by itself.
    #[schemars(length(min = 1), extend("x-varies" = "encoder"))]
    pub variants: Vec<Variant>,
    /// How they are trained.
    pub training: Training,
}

/// How encoders are trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Documents in a batch.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Times that each training document is seen.
    #[schemars(range(min = 1))]
    pub epochs: u64,
    /// The optimiser.
    pub adamw: AdamWConfig,
    /// Learning rate over steps.
    pub schedule: Schedule,
    /// Largest norm of the gradient.
    pub clip_norm: Option<f64>,
    /// Epochs between evaluations; the weights with the best cosine on validation documents are kept.
    #[schemars(range(min = 1))]
    pub evaluate_every: u64,
    /// Documents of each set that are evaluated.
    #[schemars(range(min = 1))]
    pub evaluated: usize,
}

/// What an encoder learns from what.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// How states become the input.
    pub pooling: Pooling,
    /// Which documents are for testing.
    pub split: Split,
    /// How zero components of targets are broken into signs.
    pub ties: Ties,
    /// What is minimised.
    pub loss: Loss,
    /// Components of hypervectors.
    #[schemars(range(min = 64))]
    pub dimension: usize,
    /// Width of the network.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// Its blocks.
    #[schemars(range(min = 0))]
    pub blocks: usize,
    /// Dropout in its blocks.
    #[schemars(range(min = 0, max = 0.99))]
    pub dropout: f64,
    /// Documents in symbols to learn from and be tested on; fewer when there are not so many.
    #[schemars(range(min = 10))]
    pub documents: usize,
    /// Whether the weights at the end are kept, whatever they do on validation documents.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_last: bool,
}

/// An encoder: its source, and the keys of `encoder` that differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Its name in tables and figures.
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"))]
    pub name: String,
    /// The model whose states it reads, by its name in the needed `states`.
    pub source: String,
    /// The keys of `encoder` that differ, such as `pooling: last_layer`.
    #[serde(default, skip_serializing_if = "Changes::is_empty")]
    pub set: Changes,
    /// Whether every target word is replaced by another, always the same one: what is then found was memorised, not read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub swapped: bool,
    /// Whether it is also evaluated on states of other documents and on words without a relation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub controls: bool,
}

/// Which documents are for training, validation and testing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// By chance, 80, 10 and 10 in a hundred, as in the reference's code: targets of test documents are those of training
    /// documents.
    Documents,
    /// By target: no training document has a target of a test document. The same four words in another order, whose hypervector
    /// is the same, may well be in training.
    Targets,
    /// By target, and no training document has a word in any place that is a target of validation or test.
    Words,
}

impl Params {
    /// An encoder's setting.
    ///
    /// # Errors
    /// When the variant sets a key that `encoder` lacks, or a value that does not fit.
    pub fn setting(&self, variant: &Variant) -> Result<Setting> {
        Ok(variant.set.apply(&variant.name, &self.encoder)?)
    }
}

/// Where an encoder's weights lie; they are not kept in the repository.
pub fn weights_file(variant: &str) -> String {
    format!("artifacts/{variant}.safetensors")
}

/// The experiment among `needs` whose name ends so.
pub fn needed(run: &Run, ending: &str) -> Result<Needed> {
    let name = run.config().body.needs.iter().find(|name| name.ends_with(ending));
    let name = name.with_context(|| {
        format!(
            "no experiment under `needs:` ends in `{ending}`; say whose results to use, such as hyperprobe/{ending}"
        )
    })?;
    run.need(name)
}

/// An encoder that is ready, and what belongs to it.
pub struct Ready {
    /// The encoder.
    pub encoder: Encoder,
    /// The codebook of its hypervectors.
    pub book: Codebook<Bipolar>,
    /// Its setting.
    pub setting: Setting,
    /// Itself.
    pub variant: Variant,
}

impl Ready {
    /// A finished encoder by its name, on the CPU.
    pub fn open(need: &Needed, states: &Needed, documents: &Documents, name: &str) -> Result<Self> {
        let of = &need.manifest().config;
        let params: Params = need.params()?;
        let known: Vec<&str> = params.variants.iter().map(|variant| variant.name.as_str()).collect();
        let variant = params.variants.iter().find(|variant| variant.name == name);
        let variant = variant.with_context(|| {
            format!("{}/{} has no encoder `{name}`; it has {}", of.paper, of.experiment, known.join(", "))
        })?;
        let setting = params.setting(variant)?;
        let d_in = store::Contents::read(states, &variant.source)?.d_model;
        let Setting { width, dimension, blocks, .. } = setting;
        let path = store::available(need, &weights_file(name))?;
        let weights = weights::load(&path, &Device::Cpu)?.tensors;
        let encoder = Encoder::from_weights(Shape { d_in, width, dimension, blocks }, &weights)?;
        let book = Codebook::new(dimension, params.codebook_seed, documents.corpus.concepts())?;
        Ok(Self { encoder, book, setting, variant: variant.clone() })
    }
}

/// Trains all encoders, as many at a time as there are threads, and hands in the tables.
pub fn run(run: &Run, mut params: Params) -> Result<()> {
    params.training.evaluated = run.samples(params.training.evaluated);
    distinct("params.variants", params.variants.iter().map(|variant| variant.name.as_str()))?;
    let need = needed(run, "states")?;
    let documents = states::documents(&need)?;
    let outcomes = run.parallel_map(&params.variants, |variant| {
        train(run, &params, &need, &documents, variant).with_context(|| variant.name.clone())
    })?;
    report(run, &params, &documents, &outcomes)
}

/// Documents with their inputs and targets.
pub struct Material {
    /// `[documents, d_in]`, on the CPU.
    pub x: Tensor,
    /// Where encoders work.
    pub device: Device,
    /// What each is encoded to.
    pub targets: Vec<Bipolar>,
    /// The words of each, of analogies.
    pub words: Vec<Words>,
}

impl Material {
    fn of(
        need: &Needed,
        variant: &Variant,
        setting: &Setting,
        set: Set,
        (documents, targets, swap): (&[Analogy], &Targets<'_>, &Swap<'_>),
        (rng, device): (&ChaCha12Rng, &Device),
    ) -> Result<Self> {
        let x = store::read(need, &variant.source, (set, documents), setting.pooling)?;
        let swapped: Vec<Analogy> = documents.iter().map(|one| swap.of(one)).collect();
        let of = |(number, one): (usize, &Analogy)| targets.of(one, seed_of(rng, number));
        Ok(Self {
            targets: swapped.iter().enumerate().map(of).collect::<Result<_>>()?,
            words: swapped.iter().map(|one| places(swap.book, one)).collect::<Result<_>>()?,
            x,
            device: device.clone(),
        })
    }

    /// Inputs of some documents.
    pub fn rows(&self, rows: &[usize]) -> Result<Tensor> {
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        Ok(self.x.index_select(&Tensor::new(rows, self.x.device())?, 0)?.to_device(&self.device)?)
    }

    /// Their targets.
    pub fn targets(&self, rows: &[usize]) -> Vec<&Bipolar> {
        rows.iter().map(|row| &self.targets[*row]).collect()
    }
}

/// The words of a document as places in a codebook: the example pair, the key, wherever they stand, and the target.
pub fn places(book: &Codebook<Bipolar>, analogy: &Analogy) -> Result<Words> {
    let place = |word: &str| book.index(word).ok_or_else(|| anyhow!("`{word}` is not a concept of the codebook"));
    let [a, b] = analogy.example();
    Ok(Words { given: [place(&a)?, place(&b)?, place(&analogy.key())?], target: place(&analogy.target())? })
}

/// Puts another word in the place of every target.
struct Swap<'a> {
    book: &'a Codebook<Bipolar>,
    to: Option<HashMap<String, String>>,
}

impl<'a> Swap<'a> {
    /// Every word stands for the next in a drawn circle.
    fn new(book: &'a Codebook<Bipolar>, wanted: bool, rng: &mut ChaCha12Rng) -> Self {
        let circle = || {
            let mut order: Vec<&String> = book.names().iter().collect();
            order.shuffle(rng);
            let next = order.iter().cycle().skip(1);
            order.iter().zip(next).map(|(from, to)| ((*from).clone(), (*to).clone())).collect()
        };
        Self { book, to: wanted.then(circle) }
    }

    fn of(&self, analogy: &Analogy) -> Analogy {
        let mut swapped = analogy.clone();
        if let Some(to) = self.to.as_ref().and_then(|to| to.get(&analogy.target())) {
            swapped.words[3] = to.clone();
        }
        swapped
    }
}

/// Rows of the three parts.
pub struct Rows {
    /// To fit.
    pub train: Vec<usize>,
    /// To choose.
    pub validation: Vec<usize>,
    /// To report.
    pub test: Vec<usize>,
}

impl Rows {
    fn new(documents: &Documents, count: usize, split: Split, rng: &mut ChaCha12Rng) -> Result<Self> {
        let all = documents.of(Set::Symbols);
        let mut rows = Self { train: Vec::new(), validation: Vec::new(), test: Vec::new() };
        match split {
            Split::Documents => {
                let mut order: Vec<usize> = (0..all.len().min(count)).collect();
                order.shuffle(rng);
                let tenth = order.len() / 10;
                rows.test = order.split_off(order.len() - tenth);
                rows.validation = order.split_off(order.len() - tenth);
                rows.train = order;
            }
            Split::Targets | Split::Words => {
                let known = |one: &Analogy| {
                    one.words.iter().all(|word| documents.corpus.part(&word.to_lowercase()) == Part::Train)
                };
                for (row, one) in all.iter().enumerate().take(count) {
                    match documents.part(one) {
                        Part::Train if split == Split::Words && !known(one) => {}
                        Part::Train => rows.train.push(row),
                        Part::Validation => rows.validation.push(row),
                        Part::Test => rows.test.push(row),
                    }
                }
            }
        }
        if [&rows.train, &rows.validation, &rows.test].iter().any(|rows| rows.is_empty()) {
            bail!("{} documents are too few for training, validation and test", all.len().min(count));
        }
        Ok(rows)
    }
}

/// Cosine and accuracy on one set.
#[derive(Clone, Debug)]
struct Score {
    set: String,
    documents: usize,
    cosine: f64,
    accuracy: f64,
}

/// What one readout finds in one set.
#[derive(Clone, Debug)]
struct Precision {
    set: String,
    readout: &'static str,
    documents: usize,
    /// The target is among the first 1, 3, 5.
    at: [f64; 3],
    /// Most similar items above the threshold.
    clear: f64,
    /// Documents of which the key's query gave the target, and those of which all three words at once gave it.
    by: [f64; 2],
}

struct Outcome {
    variant: Variant,
    setting: Setting,
    parameters: usize,
    curve: Vec<Row>,
    scores: Vec<Score>,
    precision: Vec<Precision>,
}

fn train(run: &Run, params: &Params, need: &Needed, documents: &Documents, variant: &Variant) -> Result<Outcome> {
    let setting = params.setting(variant)?;
    let book = Codebook::<Bipolar>::new(setting.dimension, params.codebook_seed, documents.corpus.concepts())?;
    let targets = Targets::new(&book, setting.ties, &mut run.rng("third"));
    let swap = Swap::new(&book, variant.swapped, &mut run.rng("swap"));
    let of = |set: Set| {
        let with = (documents.of(set), &targets, &swap);
        Material::of(need, variant, &setting, set, with, (&run.rng(&format!("ties.{}", set.name())), run.device()))
    };
    let symbols = of(Set::Symbols)?;
    let rows = Rows::new(documents, setting.documents, setting.split, &mut run.rng("split"))?;
    let (encoder, curve) = fit(run, &params.training, &setting, &variant.name, &symbols, &rows)?;
    let parameters = encoder.n_parameters();
    weights::save(&run.output(&weights_file(&variant.name)), &Default::default(), &encoder.weights())?;
    let mut judge = Judge {
        encoder: &encoder,
        book: &book,
        most: params.training.evaluated,
        scores: Vec::new(),
        precision: Vec::new(),
    };
    for (name, rows) in [("train", &rows.train), ("validation", &rows.validation), ("test", &rows.test)] {
        judge.score(&symbols, name, rows, None)?;
    }
    // what is read from documents as in training, and from others
    judge.read(&symbols, "symbols, test", &rows.test, None)?;
    let words = of(Set::Words)?;
    for part in [Part::Train, Part::Validation, Part::Test] {
        let of = documents.of(Set::Words).iter().enumerate().filter(|(_, one)| documents.part(one) == part);
        let rows: Vec<usize> = of.map(|(row, _)| row).collect();
        judge.read(&words, &format!("words, {part} targets"), &rows, None)?;
    }
    if variant.controls {
        let all: Vec<usize> = (0..documents.of(Set::Words).len()).collect();
        judge.read(&words, "words, permuted states", &all, Some(&run.rng("permuted")))?;
        judge.score(&symbols, "test, permuted states", &rows.test, Some(&run.rng("permuted")))?;
        let random = of(Set::Random)?;
        judge.read(
            &random,
            "words without relation",
            &(0..documents.of(Set::Random).len()).collect::<Vec<_>>(),
            None,
        )?;
        judge.random_keys(&words, &all, &run.rng("keys"))?;
    }
    let Judge { scores, precision, .. } = judge;
    Ok(Outcome { variant: variant.clone(), setting, parameters, curve, scores, precision })
}

/// Trains an encoder and gives it with the weights that did best on validation documents.
pub fn fit(
    run: &Run,
    training: &Training,
    setting: &Setting,
    label: &str,
    material: &Material,
    rows: &Rows,
) -> Result<(Encoder, Vec<Row>)> {
    let Setting { width, dimension, blocks, .. } = *setting;
    let shape = Shape { d_in: material.x.dim(1)?, width, dimension, blocks };
    let encoder = Encoder::fresh(shape, &mut run.rng("init"), run.device())?;
    let per_epoch = rows.train.len().div_ceil(training.batch_size) as u64;
    let plan = Plan {
        steps: training.epochs * per_epoch,
        accumulate: 1,
        adamw: training.adamw,
        schedule: training.schedule,
        clip_norm: training.clip_norm,
        checkpoint_every: (10 * per_epoch).max(200),
        recompute: false,
    };
    let mut objective = EncoderObjective {
        encoder: &encoder,
        training,
        setting: *setting,
        material,
        rows,
        per_epoch,
        batches: run.rng("batches"),
        dropout: run.rng("dropout"),
        order: (u64::MAX, Vec::new()),
        best: run.work(label).join("best.kept"),
        label,
    };
    let rows = run.train(label, &encoder.parameters(), &plan, &mut objective)?;
    let best = weights::load(&objective.best, run.device())?.tensors;
    Ok((Encoder::from_weights(shape, &best)?, rows))
}

/// Evaluates a finished encoder.
struct Judge<'a> {
    encoder: &'a Encoder,
    book: &'a Codebook<Bipolar>,
    most: usize,
    scores: Vec<Score>,
    precision: Vec<Precision>,
}

impl Judge<'_> {
    /// Outputs for some rows; with a generator, each row's features are put in an order of its own first.
    fn outputs(&self, material: &Material, rows: &[usize], permuted: Option<&ChaCha12Rng>) -> Result<Vec<Tensor>> {
        let chunk = |rows: &[usize]| {
            let x = material.rows(rows)?;
            let x = match permuted {
                None => x,
                Some(rng) => {
                    let mut values = x.to_vec2::<f32>()?;
                    values
                        .iter_mut()
                        .zip(rows)
                        .for_each(|(x, row)| x.shuffle(&mut training::stream_at(rng, *row as u64)));
                    Tensor::from_vec(values.concat(), x.dims(), &material.device)?
                }
            };
            Ok(self.encoder.encode(&x)?)
        };
        rows.chunks(256).map(chunk).collect()
    }

    /// Scores a set, and gives the outputs.
    fn score(
        &mut self,
        material: &Material,
        set: &str,
        rows: &[usize],
        permuted: Option<&ChaCha12Rng>,
    ) -> Result<Vec<Tensor>> {
        let rows = &rows[..rows.len().min(self.most)];
        let outputs = self.outputs(material, rows, permuted)?;
        let mut met = Vec::new();
        for (o, rows) in outputs.iter().zip(rows.chunks(256)) {
            met.extend(encoder::agreement(o, &material.targets(rows))?);
        }
        let (cosines, shares): (Vec<f64>, Vec<f64>) = met.into_iter().unzip();
        let (cosine, accuracy) = (mean(&cosines), mean(&shares));
        self.scores.push(Score { set: set.to_owned(), documents: rows.len(), cosine, accuracy });
        Ok(outputs)
    }

    fn read(&mut self, material: &Material, set: &str, rows: &[usize], permuted: Option<&ChaCha12Rng>) -> Result<()> {
        let rows = &rows[..rows.len().min(self.most)];
        if rows.is_empty() {
            return Ok(());
        }
        let vectors = signs(&self.score(material, set, rows, permuted)?)?;
        let readout = Readout::new(self.book);
        let all: Vec<[Found; 3]> =
            vectors.par_iter().zip(rows).map(|(v, row)| readout.compare(v, &material.words[*row]).all()).collect();
        for (which, name) in READOUTS.into_iter().enumerate() {
            let share = |is: &dyn Fn(&Found, usize) -> bool| {
                let hit = |(found, row): (&[Found; 3], &usize)| is(&found[which], material.words[*row].target);
                all.iter().zip(rows).filter(|both| hit(*both)).count() as f64 / rows.len() as f64
            };
            let at = [1, 3, 5].map(|first| share(&|found, target| found.among(target, first)));
            let clear = share(&|found, _| found.best().1 >= readout.threshold());
            let by = [Query::Key, Query::Context]
                .map(|query| share(&|found, target| found.query == Some(query) && found.best().0 == target));
            self.precision.push(Precision { set: set.to_owned(), readout: name, documents: rows.len(), at, clear, by });
        }
        Ok(())
    }

    /// Unbinding with four drawn words at once, which have nothing to do with the document: how often one of its own words is
    /// among the most similar items.
    fn random_keys(&mut self, material: &Material, rows: &[usize], rng: &ChaCha12Rng) -> Result<()> {
        let rows = &rows[..rows.len().min(self.most)];
        let vectors = signs(&self.outputs(material, rows, None)?)?;
        let hits = |first: usize| {
            let hit = |(v, row): (&Bipolar, &usize)| {
                let mut rng = training::stream_at(rng, *row as u64);
                let Words { given: [a, b, c], target } = material.words[*row];
                let unbound =
                    (0..4).fold(v.clone(), |v, _| v.unbind(&self.book.vectors()[rng.random_range(0..self.book.len())]));
                let nearest = vsa::nearest(self.book.vectors(), &unbound, first);
                nearest.iter().any(|hit| [a, b, c, target].contains(&hit.index))
            };
            vectors.iter().zip(rows).filter(|both| hit(*both)).count() as f64 / rows.len().max(1) as f64
        };
        let at = [1, 3, 5].map(hits);
        let set = "words, keys of nothing".to_owned();
        let by = [f64::NAN; 2];
        self.precision.push(Precision { set, readout: "any word", documents: rows.len(), at, clear: f64::NAN, by });
        Ok(())
    }
}

/// The hypervectors of some outputs.
fn signs(outputs: &[Tensor]) -> Result<Vec<Bipolar>> {
    Ok(outputs.iter().map(encoder::signs).collect::<candle_core::Result<Vec<_>>>()?.concat())
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Times that each document was seen.
    pub epoch: f64,
    /// Mean training loss since the row before.
    pub train: Option<f64>,
    /// Loss on validation documents.
    pub validation: f64,
    /// Cosine there.
    pub cosine: f64,
    /// Components of the right sign there.
    pub accuracy: f64,
    /// Whether the weights of this evaluation were kept, in place of earlier ones.
    pub kept: bool,
}

/// The evaluation whose weights are kept at the end.
pub fn best(rows: &[Row]) -> Option<&Row> {
    rows.iter().rev().find(|row| row.kept)
}

struct EncoderObjective<'a> {
    encoder: &'a Encoder,
    training: &'a Training,
    setting: Setting,
    material: &'a Material,
    rows: &'a Rows,
    per_epoch: u64,
    batches: ChaCha12Rng,
    dropout: ChaCha12Rng,
    /// An epoch, and its order of documents.
    order: (u64, Vec<usize>),
    best: PathBuf,
    label: &'a str,
}

impl EncoderObjective<'_> {
    /// Loss, cosine and accuracy on validation documents.
    fn validation(&self) -> Result<[f64; 3]> {
        let rows = &self.rows.validation[..self.rows.validation.len().min(self.training.evaluated)];
        let (mut losses, mut met) = (Vec::new(), Vec::new());
        for rows in rows.chunks(256) {
            let targets = self.material.targets(rows);
            let pre = self.encoder.forward(&self.material.rows(rows)?, None)?.detach();
            let y = encoder::targets(&targets, pre.device())?;
            let loss = encoder::loss(self.setting.loss, &pre, &y)?.to_scalar::<f32>()?;
            losses.push(f64::from(loss) * rows.len() as f64);
            met.extend(encoder::agreement(&pre.tanh()?, &targets)?);
        }
        let (cosines, shares): (Vec<f64>, Vec<f64>) = met.into_iter().unzip();
        Ok([losses.iter().sum::<f64>() / rows.len() as f64, mean(&cosines), mean(&shares)])
    }
}

impl Objective for EncoderObjective<'_> {
    type Row = Row;

    fn loss(&mut self, step: u64, _: u32) -> Result<Tensor> {
        let (epoch, batch) = (step / self.per_epoch, (step % self.per_epoch) as usize);
        if self.order.0 != epoch {
            let mut order = self.rows.train.clone();
            order.shuffle(&mut training::stream_at(&self.batches, epoch));
            self.order = (epoch, order);
        }
        let size = self.training.batch_size;
        let rows = &self.order.1[batch * size..self.order.1.len().min((batch + 1) * size)];
        let key = training::stream_at(&self.dropout, step).next_u64();
        let dropout = (self.setting.dropout > 0.).then_some((self.setting.dropout, key));
        let pre = self.encoder.forward(&self.material.rows(rows)?, dropout)?;
        let y = encoder::targets(&self.material.targets(rows), pre.device())?;
        Ok(encoder::loss(self.setting.loss, &pre, &y)?)
    }

    fn evaluate(&mut self, at: Progress, mean: &mut MeanLoss, rows: &[Row]) -> Result<Option<Row>> {
        if !at.is_due(self.training.evaluate_every * self.per_epoch) {
            return Ok(None);
        }
        let epoch = at.step as f64 / self.per_epoch as f64;
        let [validation, cosine, accuracy] = self.validation()?;
        let kept = self.setting.keep_last || best(rows).is_none_or(|best| cosine > best.cosine);
        if kept {
            weights::save(&self.best, &Default::default(), &self.encoder.weights())?;
        }
        tracing::info!("{} epoch {epoch:.0}: validation cosine {cosine:.3}, accuracy {accuracy:.3}", self.label);
        Ok(Some(Row { epoch, train: mean.take(), validation, cosine, accuracy, kept }))
    }
}

fn report(run: &Run, params: &Params, documents: &Documents, outcomes: &[Outcome]) -> Result<()> {
    let mut variants = Builder::new(
        Schema::new("variants", "one encoder")
            .text("variant", "which")
            .text("source", "whose states it reads")
            .text("pooling", "how they become its input")
            .text("split", "how documents were split")
            .text("ties", "what becomes of noughts in targets")
            .text("loss", "what was minimised")
            .int("dimension", "components of its hypervectors")
            .int("parameters", "trainable numbers")
            .float("best_epoch", "whose weights were kept", ""),
    );
    let mut curves = Builder::new(
        Schema::new("curves", "one encoder at one time of its training")
            .text("variant", "which encoder")
            .float("epoch", "times that each training document was seen", "")
            .float("train_loss", "mean since the row before", "")
            .float("validation_loss", "on validation documents", "")
            .float("cosine", "of outputs with targets, on validation documents", "")
            .float("accuracy", "components of the right sign, on validation documents", "fraction"),
    );
    let mut scores = Builder::new(
        Schema::new("scores", "one encoder on one set")
            .text("variant", "which encoder, or a predictor that is none")
            .text("set", "which documents; in symbols, unless words are named")
            .int("documents", "how many")
            .float("cosine", "of outputs with targets", "")
            .float("accuracy", "components of the right sign", "fraction"),
    );
    let mut precision = Builder::new(
        Schema::new("precision", "one readout of one encoder on one set")
            .text("variant", "which encoder")
            .text("set", "which documents")
            .text("readout", "published looks at the target while it chooses; blind and key do not; any word: one of the document's four counts")
            .int("documents", "how many")
            .float("at_1", "the most similar item is the target", "fraction")
            .float("at_3", "the target is among the three most similar", "fraction")
            .float("at_5", "among the five most similar", "fraction")
            .float("clear", "the most similar item is above the threshold", "fraction")
            .float("by_key", "the target is found by the key's query", "fraction")
            .float("by_context", "the target is found by the query with all three words", "fraction"),
    );
    for outcome in outcomes {
        let Outcome { variant, setting, parameters, curve, scores: all, precision: found } = outcome;
        let name = &*variant.name;
        variants.push(row![
            name,
            &*variant.source,
            setting.pooling.name(),
            &*word(&setting.split),
            &*word(&setting.ties),
            &*word(&setting.loss),
            setting.dimension,
            *parameters,
            best(curve).map(|row| row.epoch)
        ])?;
        for Row { epoch, train, validation, cosine, accuracy, .. } in curve {
            curves.push(row![name, *epoch, *train, *validation, *cosine, *accuracy])?;
        }
        for Score { set, documents, cosine, accuracy } in all {
            scores.push(row![name, &**set, *documents, *cosine, *accuracy])?;
            let set = id(set);
            run.metric(&format!("{name}.{set}.cosine"), *cosine, "");
            run.metric(&format!("{name}.{set}.accuracy"), *accuracy, "fraction");
        }
        for Precision { set, readout, documents, at, clear, by } in found {
            let known = |x: f64| x.is_finite().then_some(x);
            let [clear, key, context] = [*clear, by[0], by[1]].map(known);
            precision.push(row![name, &**set, *readout, *documents, at[0], at[1], at[2], clear, key, context])?;
            run.metric(&format!("{name}.{}.{}.by_key", id(set), id(readout)), key, "fraction");
            run.metric(&format!("{name}.{}.{}.at_1", id(set), id(readout)), at[0], "fraction");
        }
    }
    for (name, count, cosine, accuracy) in ignorant(run, params, documents)? {
        scores.push(row![name, "test", count, cosine, accuracy])?;
        run.metric(&format!("{}.test.cosine", id(name)), cosine, "");
        run.metric(&format!("{}.test.accuracy", id(name)), accuracy, "fraction");
    }
    for table in [variants, curves, scores, precision] {
        run.record(table.finish()?);
    }
    Ok(())
}

fn id(name: &str) -> String {
    name.replace(", ", ".").replace(' ', "_").replace('-', "minus_")
}

/// Predictors that know nothing, or the example alone: cosine and accuracy on targets with ties at -1.
fn ignorant(run: &Run, params: &Params, documents: &Documents) -> Result<[(&'static str, usize, f64, f64); 2]> {
    let dimension = params.encoder.dimension;
    let book = Codebook::<Bipolar>::new(dimension, params.codebook_seed, documents.corpus.concepts())?;
    let targets = Targets::new(&book, Ties::Negative, &mut run.rng("third"));
    let constant = Bipolar::identity(dimension).negative();
    let (mut constants, mut halves) = (Vec::new(), Vec::new());
    let of_test = documents.of(Set::Symbols).iter().filter(|one| documents.part(one) == Part::Test);
    for one in of_test.take(params.training.evaluated) {
        let y = targets.of(one, 0)?;
        constants.push((constant.cosine(&y), constant.agreement(&y)));
        let [a, b] = one.example();
        let example = book.vector(&a)?.bind(book.vector(&b)?);
        // -1 where the example is, which is always right, and 0, read as -1, elsewhere
        halves.push((((1. - example.mean()) / 2.).sqrt(), constant.agreement(&y)));
    }
    let means = |all: &[(f64, f64)]| {
        (mean(&all.iter().map(|x| x.0).collect::<Vec<_>>()), mean(&all.iter().map(|x| x.1).collect::<Vec<_>>()))
    };
    let ((c, ca), (h, ha)) = (means(&constants), means(&halves));
    Ok([("constant -1", constants.len(), c, ca), ("example alone", halves.len(), h, ha)])
}

/// A setting in tables, as in the configuration.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}
