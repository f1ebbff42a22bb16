//! What an analysis looks at: a model, and questions for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::mcq::{Mutation, Order, Question, Row, Style, World, colours};
use anyhow::{Context, Result, bail};
use experiment::{Needed, Run};
use hooks::{End, Hook, HookedModel, NoHook, Start};
use hub::{Hub, Repo};
use models::{Decoder, NormPlace, Transform};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::Model;

use crate::letters::{Letters, choice, reader, rows};
use crate::prompts::{Asker, Prompt, batches, tokens};
use crate::train;

/// A checkpoint of a small model's training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Knows A to D in order and nothing else.
    Early,
    /// Begins to copy labels.
    Middle,
    /// At the end of training.
    Late,
}

impl Stage {
    /// All of them, in the order of training.
    pub const ALL: [Self; 3] = [Self::Early, Self::Middle, Self::Late];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Early => "early",
            Self::Middle => "middle",
            Self::Late => "late",
        })
    }
}

/// A model and its questions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in tables and figures.
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"))]
    pub name: String,
    /// The model: `mcq-circuits/train:options_first_late` for a small model at a stage of its training (early, middle or
    /// late), which is asked what it was trained on; a folder as on the hub, a .gguf file, or a repository such as
    /// Qwen/Qwen2.5-0.5B or its revision.
    pub model: Model,
    /// Questions for a model that mcq-circuits/train did not train. Default: four colours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<Ask>,
}

/// Questions for a model that reads English.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Which colour a thing has that was told just before.
    Colours {
        /// What stands before everything; may be empty.
        prelude: String,
        /// Options of a question.
        #[schemars(range(min = 2, max = 9))]
        options: usize,
    },
    /// MMLU, from the hub.
    Mmlu {
        /// What stands before the question; {subject} becomes the subject.
        prelude: String,
        /// Which subjects; without: all 57.
        #[serde(default)]
        subjects: Option<Vec<String>>,
        /// Longest prompt, in tokens.
        #[schemars(range(min = 16))]
        longest: usize,
        /// Which part of MMLU the questions are from; without: test.
        #[serde(default)]
        split: Option<Split>,
        /// Only subjects of which the model answers at least this share of the validation questions.
        #[serde(default)]
        #[schemars(range(min = 0, max = 1))]
        least_accuracy: Option<f64>,
    },
}

/// A part of MMLU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// 14,042 questions.
    Test,
    /// 1,531 questions.
    Validation,
    /// 285 questions, five of each subject, meant as solved examples.
    Dev,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
            Self::Dev => "dev",
        }
    }
}

/// How many questions, and which are kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Questions {
    /// Questions to estimate from: rankings, means, bases.
    #[schemars(range(min = 8))]
    pub fit: usize,
    /// Other questions, which every reported number is of.
    #[schemars(range(min = 8))]
    pub eval: usize,
    /// Whether only questions that the model answers rightly are kept.
    pub answered_only: bool,
    /// Prompts that go through the model together.
    #[schemars(range(min = 1))]
    pub batch: usize,
}

/// What each question of a subject is drawn from.
enum Pool {
    Toy { world: World, orders: Vec<Order> },
    Colours { prelude: String, options: usize },
    Rows { rows: Vec<Row>, dev: Vec<Row>, prelude: String, longest: usize },
}

/// A model that is ready to be looked into, and its questions.
pub struct Subject {
    /// Its name.
    pub name: String,
    /// The model; every head has keys and values of its own.
    pub model: Decoder,
    /// Its trainable numbers, as it was published.
    pub parameters: usize,
    /// Turns questions into prompts.
    pub asker: Asker,
    pool: Pool,
}

/// Questions with their prompts, all of one number of options.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// The questions.
    pub questions: Vec<Question>,
    /// The same in tokens.
    pub prompts: Vec<Prompt>,
    /// Questions that were drawn and not kept, because the answer was wrong or the prompt could not be used.
    pub left_out: usize,
}

impl Set {
    /// Which option is right, of each.
    pub fn correct(&self) -> Vec<usize> {
        self.prompts.iter().map(|prompt| prompt.correct).collect()
    }

    /// Options of a question.
    pub fn options(&self) -> usize {
        self.prompts.first().map_or(0, Prompt::options)
    }
}

impl Subject {
    /// Opens a model and finds its questions.
    pub fn open(run: &Run, source: &Source) -> Result<Self> {
        Self::find(run, source).with_context(|| format!("params.subjects: {}", source.name))
    }

    fn find(run: &Run, source: &Source) -> Result<Self> {
        let name = source.name.clone();
        let opened = source.model.open(run)?;
        let tokenizer = opened.tokenizer?;
        if opened.model.config().architecture.norm_place == NormPlace::After {
            bail!("its heads write through a norm, which direct effects here do not decompose");
        }
        let parameters = opened.model.config().n_parameters();
        let (model, style, pool, example) = match source.model.trained() {
            Some((experiment, trained)) => {
                let (world, orders, example) = small_world(&run.need(experiment)?, trained)?;
                (opened.model, Style::Words, Pool::Toy { world, orders }, Some(example))
            }
            None => {
                let ask = source.ask.clone().unwrap_or(Ask::Colours { prelude: String::new(), options: 4 });
                let pool = pool(&ask)?;
                let mut rng = run.rng("try");
                let example = match &pool {
                    Pool::Rows { rows, prelude, .. } => rows.first().map(|row| row.ask(prelude)),
                    pool => Some(pool.draw(0, &mut rng)),
                };
                (opened.model.transformed(&[Transform::OwnKeysAndValues])?, Style::Prose, pool, example)
            }
        };
        let asker = Asker::new(tokenizer, style, &example.context("there are no questions")?)?;
        let mut subject = Self { name, model: model.frozen(), parameters, asker, pool };
        if let Some(Ask::Mmlu { least_accuracy: Some(least), subjects, .. }) = &source.ask {
            subject.only_known(run, *least, subjects.as_deref())?;
        }
        Ok(subject)
    }

    /// Keeps questions of those subjects that the model knows, by its answers to the validation questions.
    fn only_known(&mut self, run: &Run, least: f64, subjects: Option<&[String]>) -> Result<()> {
        let Pool::Rows { prelude, longest, .. } = &self.pool else { return Ok(()) };
        let mut right: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        let validation = mmlu(Split::Validation, subjects)?;
        let mut task = run.task(&format!("{} subjects", self.name), validation.len() as u64, "questions");
        for (done, row) in validation.iter().enumerate() {
            run.check_interrupted()?;
            if let Ok(prompt) = self.asker.ask(&row.ask(prelude)).map(|prompt| vec![prompt])
                && prompt[0].tokens.len() <= *longest
            {
                let answer = choice(&letters(&self.model, &prompt, 1)?[0]);
                let (hits, asked) = right.entry(row.subject.clone()).or_default();
                *hits += usize::from(answer == row.answer);
                *asked += 1;
            }
            task.at(done as u64 + 1, &row.subject);
        }
        let known = |hits: usize, asked: usize| hits as f64 >= least * asked as f64;
        let kept: BTreeSet<String> =
            right.into_iter().filter(|(_, (hits, asked))| known(*hits, *asked)).map(|(subject, _)| subject).collect();
        let list: Vec<&str> = kept.iter().map(String::as_str).collect();
        tracing::info!(
            "{}: answers {least} of the validation questions of {} subjects: {}",
            self.name,
            kept.len(),
            list.join(", ")
        );
        if kept.is_empty() {
            bail!("the model answers {least} of the validation questions of no subject");
        }
        if let Pool::Rows { rows, .. } = &mut self.pool {
            rows.retain(|row| kept.contains(&row.subject));
        }
        Ok(())
    }

    /// Blocks and heads of each.
    pub fn sizes(&self) -> (usize, usize) {
        (self.model.n_layers(), self.model.n_heads())
    }

    /// Questions to fit on and to be judged by, none in both, equally many for every right place of the list.
    pub fn sets(&self, run: &Run, questions: &Questions) -> Result<[Set; 2]> {
        let (fit, eval) = (run.samples(questions.fit), run.samples(questions.eval));
        let mut rng = run.rng(&format!("questions.{}", self.name));
        match &self.pool {
            Pool::Rows { rows, prelude, longest, .. } => {
                let mut rows: Vec<&Row> = rows.iter().filter(|row| row.is_clear()).collect();
                rows.shuffle(&mut rng);
                let (first, second) = rows.split_at(rows.len() * fit / (fit + eval));
                let from = |rows: &[&Row], count: usize| -> Result<Set> {
                    // the right choice goes to each place in turn
                    let place = |(number, row): (usize, &&Row)| {
                        let question = row.ask(prelude);
                        let mut order: Vec<usize> = (0..4).filter(|choice| *choice != row.answer).collect();
                        order.insert(number % 4, row.answer);
                        question.reordered(&order)
                    };
                    self.keep(rows.iter().enumerate().map(place), count, *longest, questions)
                };
                Ok([from(first, fit)?, from(second, eval)?])
            }
            pool => {
                let mut draw = |count: usize| {
                    let most = if questions.answered_only { 20 * count } else { count };
                    let drawn: Vec<Question> = (0..most).map(|number| pool.draw(number, &mut rng)).collect();
                    self.keep(drawn.into_iter(), count, usize::MAX, questions)
                };
                Ok([draw(fit)?, draw(eval)?])
            }
        }
    }

    /// The first `count` questions that may be kept, equally many of each right place as far as there are enough.
    fn keep(
        &self,
        drawn: impl Iterator<Item = Question>,
        count: usize,
        longest: usize,
        questions: &Questions,
    ) -> Result<Set> {
        let mut set = Set::default();
        let mut drawn = drawn.peekable();
        let mut per_place = vec![0; self.pool.options()];
        let most = count.div_ceil(per_place.len());
        while set.prompts.len() < count && drawn.peek().is_some() {
            let mut asked = Vec::new();
            for question in drawn.by_ref().take(questions.batch.max(8)) {
                match self.asker.ask(&question) {
                    Ok(prompt) if prompt.tokens.len() <= longest => asked.push((question, prompt)),
                    _ => set.left_out += 1,
                }
            }
            let prompts: Vec<Prompt> = asked.iter().map(|(_, prompt)| prompt.clone()).collect();
            let letters = match questions.answered_only {
                true => letters(&self.model, &prompts, questions.batch)?,
                false => Vec::new(),
            };
            for (row, (question, prompt)) in asked.into_iter().enumerate() {
                let right = letters.get(row).is_none_or(|letters| choice(letters) == prompt.correct);
                if right && per_place[prompt.correct] < most && set.prompts.len() < count {
                    per_place[prompt.correct] += 1;
                    set.questions.push(question);
                    set.prompts.push(prompt);
                } else if !right {
                    set.left_out += 1;
                }
            }
        }
        if set.prompts.len() < count.min(8) {
            bail!(
                "{}: only {} questions could be kept of those drawn, {} were left out; \
                 a model at chance cannot be analysed by its right answers: set params.questions.answered_only to false",
                self.name,
                set.prompts.len(),
                set.left_out
            );
        }
        Ok(set)
    }

    /// Whether it is one of our toys.
    pub fn is_toy(&self) -> bool {
        matches!(self.pool, Pool::Toy { .. })
    }

    /// The same questions with solved examples before them, those that are then too long left out. Examples for MMLU are
    /// its own: the first of the same subject in the file of examples.
    pub fn with_examples(&self, set: &Set, examples: &[Question], shots: usize) -> Set {
        let mut with = Set::default();
        for question in &set.questions {
            let own: Vec<Question> = match &self.pool {
                Pool::Rows { dev, prelude, .. } => {
                    let same = dev.iter().map(|row| row.ask(prelude));
                    same.filter(|example| example.prelude == question.prelude).collect()
                }
                _ => examples.to_vec(),
            };
            let blocks = own.iter().take(shots).map(|example| format!("{}\n", self.asker.solved(example)));
            let mut question = question.clone();
            if shots > 0 {
                let prelude = (!question.prelude.is_empty()).then(|| question.prelude.clone());
                question.prelude = prelude.into_iter().chain(blocks).collect::<Vec<_>>().join("\n");
            }
            match self.asker.ask(&question) {
                Ok(prompt) if prompt.tokens.len() <= self.model.config().n_positions => {
                    with.questions.push(question);
                    with.prompts.push(prompt);
                }
                _ => with.left_out += 1,
            }
        }
        with
    }

    /// The same questions, changed; those whose labels are then no tokens of their own are left out.
    pub fn changed(&self, set: &Set, mutations: &[Mutation], rng: &mut ChaCha12Rng) -> Set {
        let mut changed = Set::default();
        for question in &set.questions {
            let mut question = question.clone();
            mutations.iter().for_each(|mutation| mutation.apply(&mut question, rng));
            match self.asker.ask(&question) {
                Ok(prompt) if prompt.tokens.len() <= self.model.config().n_positions => {
                    changed.questions.push(question);
                    changed.prompts.push(prompt);
                }
                _ => changed.left_out += 1,
            }
        }
        changed
    }
}

impl Pool {
    fn options(&self) -> usize {
        match self {
            Self::Toy { world, .. } => world.options(),
            Self::Colours { options, .. } => *options,
            Self::Rows { .. } => 4,
        }
    }

    /// A question whose right place is the number's turn.
    fn draw(&self, number: usize, rng: &mut ChaCha12Rng) -> Question {
        let correct = number % self.options();
        match self {
            Self::Toy { world, orders } => world.ask(orders[(number / self.options()) % orders.len()], correct, rng),
            Self::Colours { prelude, options } => {
                Question { prelude: prelude.clone(), ..colours(*options, correct, rng) }
            }
            Self::Rows { rows, prelude, .. } => rows[number % rows.len()].ask(prelude),
        }
    }
}

/// The world that a small model was trained on, its orders of question and options, and a question of it. `name` is the
/// model's name with the stage of its training.
fn small_world(need: &Needed, name: &str) -> Result<(World, Vec<Order>, Question)> {
    let params: train::Params = need.params()?;
    let variant = params.models.iter().find(|variant| {
        let stage = name.strip_prefix(variant.name.as_str()).and_then(|rest| rest.strip_prefix('_'));
        stage.is_some_and(|stage| Stage::ALL.iter().any(|known| known.to_string() == stage))
    });
    let known: Vec<&str> = params.models.iter().map(|variant| variant.name.as_str()).collect();
    let variant = variant.with_context(|| {
        format!("`{name}` is not a model and a stage, such as {}_late; there are: {}", known[0], known.join(", "))
    })?;
    let questions = variant.base(&params)?.questions;
    let stream = |name: &str| need.rng(&variant.stream_name(name));
    let world = World::new(&questions, &mut stream("world"));
    let example = world.train(&mut stream("try"));
    Ok((world, questions.orders, example))
}

fn pool(ask: &Ask) -> Result<Pool> {
    match ask {
        Ask::Colours { prelude, options } => Ok(Pool::Colours { prelude: prelude.clone(), options: *options }),
        Ask::Mmlu { prelude, subjects, longest, split, .. } => {
            let rows = mmlu(split.unwrap_or(Split::Test), subjects.as_deref())?;
            let dev = mmlu(Split::Dev, subjects.as_deref())?;
            Ok(Pool::Rows { rows, dev, prelude: prelude.clone(), longest: *longest })
        }
    }
}

/// Rows of a split of MMLU, of some subjects or all.
fn mmlu(split: Split, subjects: Option<&[String]>) -> Result<Vec<Row>> {
    let known = crate::mcq::SUBJECTS;
    if let Some(unknown) = subjects.into_iter().flatten().find(|subject| !known.contains(&subject.as_str())) {
        bail!("MMLU has no subject `{unknown}`; it has {}", known.join(", "));
    }
    let repo = Repo::dataset("cais/mmlu", "main");
    let path = Hub::from_env()?.file(&repo, &format!("all/{}-00000-of-00001.parquet", split.name()), None)?;
    let mut rows = Row::read(&path)?;
    rows.retain(|row| subjects.is_none_or(|subjects| subjects.contains(&row.subject)));
    Ok(rows)
}

/// Label logits of every prompt, in its place.
pub fn letters(model: &Decoder, prompts: &[Prompt], batch: usize) -> Result<Vec<Letters>> {
    letters_with(model, prompts, batch, |_| NoHook, |_, _| Ok(()))
}

/// Label logits of every prompt when a hook, one for each batch, reads and writes on the way; `after` gets the hook back.
pub fn letters_with<H: Hook>(
    model: &Decoder,
    prompts: &[Prompt],
    batch: usize,
    hook: impl Fn(&[usize]) -> H,
    mut after: impl FnMut(&[usize], H) -> Result<()>,
) -> Result<Vec<Letters>> {
    let mut letters = vec![Letters::new(); prompts.len()];
    for indices in batches(prompts, batch) {
        let tokens = tokens(prompts, &indices, &model.device())?;
        let mut hook = hook(&indices);
        let logits = model.forward_between(Start::Tokens(&tokens), End::LastLogits(1), &mut hook)?;
        let picked: Vec<&Prompt> = indices.iter().map(|index| &prompts[*index]).collect();
        for (index, row) in indices.iter().zip(rows(&reader(&picked)(&logits)?)?) {
            letters[*index] = row;
        }
        after(&indices, hook)?;
    }
    Ok(letters)
}

/// The letter of a place in the list, whatever its label is.
pub fn letter(place: usize) -> String {
    u8::try_from(place).map_or("?".to_owned(), |place| char::from(b'A' + place).to_string())
}
