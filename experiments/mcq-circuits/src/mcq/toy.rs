//! A made-up world of items and nouns, small enough for a model of 0.15 million weights.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mutation::{SYMBOLS, random};
use super::{Order, Question, Separators, letters};

/// What stands before a toy's text.
const BOS: &str = "<bos>";

/// What the model has to know to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// The question names the item itself.
    Copy,
    /// The question names a noun, and each noun has its item, always the same: knowledge in the weights.
    Fact,
    /// The question names a noun whose item was told just before, among two facts more than there are options.
    Bind,
}

/// Which labels options have in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// A, B, C, D, always.
    Fixed,
    /// Mostly (80 %) A to D in order; consecutive letters from a random start (10 %); random letters (10 %).
    Mixed,
    /// Distinct random letters in random order, always.
    Random,
}

/// A kind of toy question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Toy {
    /// Items there are.
    #[schemars(range(min = 3, max = 512))]
    pub items: usize,
    /// Options of a question.
    #[schemars(range(min = 2, max = 9))]
    pub options: usize,
    /// What the model has to know.
    pub task: Task,
    /// What comes first; both: either, as a coin says.
    #[schemars(length(min = 1, max = 2))]
    pub orders: Vec<Order>,
    /// Which labels options have.
    pub regime: Regime,
    /// Share of questions that have one to four words before them.
    #[schemars(range(min = 0, max = 1))]
    pub prelude_share: f64,
    /// Share of questions whose labels stand before a dot or a colon instead of in brackets.
    #[schemars(range(min = 0, max = 1))]
    pub separator_share: f64,
    /// Share of questions with an empty line before one of the options.
    #[schemars(range(min = 0, max = 1))]
    pub blank_share: f64,
    /// Share of pairs of a right item and its place in the list that training never sees.
    #[schemars(range(min = 0, max = 0.5))]
    pub held_out: f64,
}

/// A kind of question with what is drawn once: the item of each noun, and the pairs held out.
#[derive(Clone, Debug)]
pub struct World {
    toy: Toy,
    /// Item of each noun.
    facts: Vec<usize>,
    /// Whether training never sees an item at a place, `[item * options + place]`.
    held_out: Vec<bool>,
}

impl Toy {
    /// Every word that such questions may have, in the order of their ids: special words, letters, digits, symbols, items,
    /// nouns.
    #[must_use]
    pub fn vocabulary(&self) -> Vec<String> {
        let special = [BOS, "\n", "(", ")", "which", "is", "?", "Answer", ":", ";", ",", ".", "-", "[", "]"];
        let digits = (1..=9).map(|digit| digit.to_string());
        let lower = letters(self.options).into_iter().map(|letter| letter.to_lowercase());
        let items = (0..self.items).map(item);
        let nouns = (0..self.items).map(noun);
        let words = special.iter().map(|word| (*word).to_owned()).chain(letters(26)).chain(digits);
        words.chain(SYMBOLS.map(str::to_owned)).chain(items).chain(nouns).chain(lower).collect()
    }

    /// The word that stands before a text.
    #[must_use]
    pub fn bos(&self) -> &'static str {
        BOS
    }

    /// Most words that a prompt may have, BOS and one mutation included.
    #[must_use]
    pub fn longest(&self) -> usize {
        let facts = if self.task == Task::Bind { 4 * (self.options + 2) } else { 0 };
        1 + 4 + facts + 5 + 5 * self.options + 1 + 3
    }

    /// Checks what a schema cannot say.
    ///
    /// # Errors
    /// In words, when there are fewer items than a question needs.
    pub fn check(&self) -> Result<(), String> {
        let least = self.options + if self.task == Task::Bind { 2 } else { 0 };
        if self.items < least {
            return Err(format!("items: {} are too few for a question that names {least}", self.items));
        }
        Ok(())
    }
}

impl World {
    /// Draws the facts and the pairs held out.
    #[must_use]
    pub fn new(toy: &Toy, rng: &mut ChaCha12Rng) -> Self {
        let mut facts: Vec<usize> = (0..toy.items).collect();
        facts.shuffle(rng);
        let pairs = toy.items * toy.options;
        let mut order: Vec<usize> = (0..pairs).collect();
        order.shuffle(rng);
        let mut held_out = vec![false; pairs];
        order.iter().take((toy.held_out * pairs as f64).round() as usize).for_each(|pair| held_out[*pair] = true);
        Self { toy: toy.clone(), facts, held_out }
    }

    /// Options of a question.
    #[must_use]
    pub fn options(&self) -> usize {
        self.toy.options
    }

    /// A question as training has it; never one held out.
    pub fn train(&self, rng: &mut impl Rng) -> Question {
        loop {
            let question = self.draw(None, rng);
            if !self.is_held_out(&question) {
                let labels = self.labels(rng);
                return self.varied(Question { labels, ..question }, rng);
            }
        }
    }

    /// A question to be judged by: labels A to D, nothing else varied, the right option at place `correct` of the list.
    pub fn ask(&self, order: Order, correct: usize, rng: &mut impl Rng) -> Question {
        Question { order, ..self.draw(Some(correct), rng) }
    }

    /// The same, of the pairs that training never sees; nothing when there are none.
    pub fn ask_held_out(&self, order: Order, rng: &mut impl Rng) -> Option<Question> {
        let pairs: Vec<usize> = (0..self.held_out.len()).filter(|pair| self.held_out[*pair]).collect();
        let pair = *pairs.choose(rng)?;
        let options = self.toy.options;
        Some(Question { order, ..self.with(pair / options, pair % options, rng) })
    }

    fn is_held_out(&self, question: &Question) -> bool {
        let right = &question.options[question.correct];
        let item = right.trim_start_matches('w').parse::<usize>().unwrap_or(0);
        self.held_out[item * self.toy.options + question.correct]
    }

    fn draw(&self, correct: Option<usize>, rng: &mut impl Rng) -> Question {
        let correct = correct.unwrap_or_else(|| rng.random_range(0..self.toy.options));
        let right = rng.random_range(0..self.toy.items);
        self.with(right, correct, rng)
    }

    /// A question whose right item is at a place.
    fn with(&self, right: usize, correct: usize, rng: &mut impl Rng) -> Question {
        let Toy { items, options, task, .. } = self.toy;
        let others: Vec<usize> = (0..items).filter(|other| *other != right).collect();
        let mut chosen: Vec<usize> = others.choose_multiple(rng, options - 1).copied().collect();
        chosen.shuffle(rng);
        chosen.insert(correct, right);
        let question = match task {
            Task::Copy => format!("which is {} ?", item(right)),
            Task::Fact => {
                let noun_of = self.facts.iter().position(|fact| *fact == right).unwrap_or(0);
                format!("which is {} ?", noun(noun_of))
            }
            Task::Bind => {
                let mut nouns: Vec<usize> = (0..items).collect();
                nouns.shuffle(rng);
                let unused: Vec<usize> = (0..items).filter(|item| !chosen.contains(item)).collect();
                let more = unused.choose_multiple(rng, 2).copied();
                let mut told: Vec<(usize, usize)> =
                    nouns.iter().copied().zip(chosen.iter().copied().chain(more)).collect();
                let asked = told[correct].0;
                told.shuffle(rng);
                let facts: Vec<String> =
                    told.iter().map(|(noun_of, of)| format!("{} is {} ;", noun(*noun_of), item(*of))).collect();
                format!("{} which is {} ?", facts.join(" "), noun(asked))
            }
        };
        Question {
            prelude: String::new(),
            question,
            options: chosen.into_iter().map(item).collect(),
            labels: letters(options),
            correct,
            separators: Separators::Brackets,
            order: self.toy.orders.first().copied().unwrap_or(Order::QuestionFirst),
            blank_before: None,
        }
    }

    fn labels(&self, rng: &mut impl Rng) -> Vec<String> {
        let count = self.toy.options;
        let kind = match self.toy.regime {
            Regime::Fixed => 0.,
            Regime::Random => 1.,
            Regime::Mixed => rng.random::<f64>(),
        };
        if kind < 0.8 {
            letters(count)
        } else if kind < 0.9 {
            let start = rng.random_range(0..=26 - count);
            letters(26).into_iter().skip(start).take(count).collect()
        } else {
            random(&letters(26), count, rng)
        }
    }

    /// What training varies beside labels.
    fn varied(&self, question: Question, rng: &mut impl Rng) -> Question {
        let Toy { prelude_share, separator_share, blank_share, options, .. } = self.toy;
        let mut question = question;
        question.order = self.toy.orders.choose(rng).copied().unwrap_or(question.order);
        if rng.random::<f64>() < prelude_share {
            let words: Vec<&str> =
                (0..rng.random_range(1..=4)).map(|_| [",", ".", ";"][rng.random_range(0..3)]).collect();
            question.prelude = words.join(" ");
        }
        if rng.random::<f64>() < separator_share {
            question.separators = if rng.random() { Separators::Dot } else { Separators::Colon };
        }
        if rng.random::<f64>() < blank_share {
            question.blank_before = Some(rng.random_range(0..options));
        }
        question
    }
}

fn item(number: usize) -> String {
    format!("w{number}")
}

fn noun(number: usize) -> String {
    format!("n{number}")
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::super::{Style, text};
    use super::*;

    fn toy(task: Task, regime: Regime) -> Toy {
        Toy {
            items: 32,
            options: 4,
            task,
            orders: vec![Order::OptionsFirst],
            regime,
            prelude_share: 0.,
            separator_share: 0.,
            blank_share: 0.,
            held_out: 0.05,
        }
    }

    /// The item that a question asks for, found by reading it.
    fn asked(world: &World, question: &Question) -> String {
        let words: Vec<&str> = question.question.split(' ').collect();
        let name = words[words.len() - 2];
        match name.strip_prefix('n') {
            None => name.to_owned(),
            Some(number) if world.toy.task == Task::Fact => item(world.facts[number.parse::<usize>().unwrap()]),
            Some(_) => words[words.iter().position(|word| *word == name).unwrap() + 2].to_owned(),
        }
    }

    #[test]
    fn the_right_option_is_the_one_asked_for_and_all_differ() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        for task in [Task::Copy, Task::Fact, Task::Bind] {
            let world = World::new(&toy(task, Regime::Mixed), &mut rng);
            let known = world.toy.vocabulary();
            for _ in 0..200 {
                let question = world.train(&mut rng);
                assert_eq!(question.options[question.correct], asked(&world, &question), "{task:?}");
                let mut options = question.options.clone();
                options.sort();
                options.dedup();
                assert_eq!(options.len(), 4);
                let (written, _) = text(&question.pieces(Style::Words), Style::Words);
                let words: Vec<&str> = written.split(' ').collect();
                assert!(words.iter().all(|word| known.iter().any(|known| known == word)));
                assert!(words.len() < world.toy.longest(), "{}", words.len());
            }
        }
    }

    #[test]
    fn training_never_sees_the_pairs_held_out() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let world = World::new(&toy(Task::Copy, Regime::Mixed), &mut rng);
        assert_eq!(world.held_out.iter().filter(|held| **held).count(), 6); // 5 % of 128
        for _ in 0..2000 {
            assert!(!world.is_held_out(&world.train(&mut rng)));
            assert!(world.is_held_out(&world.ask_held_out(Order::OptionsFirst, &mut rng).unwrap()));
        }
    }

    #[test]
    fn regimes_have_the_labels_they_say() {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let share = |regime, rng: &mut ChaCha12Rng| {
            let world = World::new(&toy(Task::Copy, regime), rng);
            let plain = (0..4000).filter(|_| world.train(rng).labels.concat() == "ABCD").count();
            plain as f64 / 4000.
        };
        assert_eq!(share(Regime::Fixed, &mut rng), 1.);
        assert!(share(Regime::Random, &mut rng) < 0.01);
        // 80 %, and one in 23 of the consecutive ones
        assert!((share(Regime::Mixed, &mut rng) - 0.804).abs() < 0.03);
    }

    #[test]
    fn what_is_varied_stays_within_the_longest() {
        let mut rng = ChaCha12Rng::seed_from_u64(4);
        let everything =
            Toy { prelude_share: 1., separator_share: 1., blank_share: 1., ..toy(Task::Bind, Regime::Random) };
        let world = World::new(&everything, &mut rng);
        for _ in 0..200 {
            let question = world.train(&mut rng);
            assert!(!question.prelude.is_empty() && question.separators != Separators::Brackets);
            let (written, _) = text(&question.pieces(Style::Words), Style::Words);
            assert!(written.split(' ').count() < everything.longest());
        }
        assert!(Toy { items: 5, ..everything }.check().unwrap_err().contains("6"));
    }
}
