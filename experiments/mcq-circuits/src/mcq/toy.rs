//! A synthetic world of items and nouns, simple enough for a model with 0.15 million weights.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mutation::{SYMBOLS, random};
use super::{Order, Question, Separators, letters};

/// The token before each text.
const BOS: &str = "<bos>";

/// The knowledge that an answer requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// The question names the item itself.
    Copy,
    /// The question names a noun. Each noun always has the same item, so the model must store the pairs in its weights.
    Fact,
    /// The question names a noun whose item the prompt states before, among two more facts than there are options.
    Bind,
}

/// The labels that options have in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Regime {
    /// Always A, B, C, D.
    Fixed,
    /// A to D in order (80 %), consecutive letters from a random start (10 %) or random letters (10 %).
    Mixed,
    /// Always distinct random letters in random order.
    Random,
}

/// A kind of synthetic question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Toy {
    /// Number of items.
    #[schemars(range(min = 3, max = 512))]
    pub items: usize,
    /// Number of options per question.
    #[schemars(range(min = 2, max = 9))]
    pub options: usize,
    /// The knowledge that an answer requires.
    pub task: Task,
    /// Whether the question or the options come first; with both, one is chosen at random for each question.
    #[schemars(length(min = 1, max = 2))]
    pub orders: Vec<Order>,
    /// The labels that options have in training.
    pub regime: Regime,
    /// Share of questions with one to four tokens of prelude, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub prelude_share: f64,
    /// Share of questions whose labels are followed by a dot or a colon instead of being in brackets, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub separator_share: f64,
    /// Share of questions with an empty line before one of the options, from 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub blank_share: f64,
    /// Share of pairs of right item and option index that training never shows, from 0 to 1.
    #[schemars(range(min = 0, max = 0.5))]
    pub held_out: f64,
}

/// A kind of question with its fixed random choices: the item of each noun, and the held-out pairs.
#[derive(Clone, Debug)]
pub struct World {
    toy: Toy,
    /// The item of each noun.
    facts: Vec<usize>,
    /// Whether training never shows an item at an option index, `[item * options + index]`.
    held_out: Vec<bool>,
}

impl Toy {
    /// The vocabulary in the order of token ids: special words, letters, digits, symbols, items, nouns.
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

    /// The token before each text.
    #[must_use]
    pub fn bos(&self) -> &'static str {
        BOS
    }

    /// The maximum number of tokens in a prompt, including BOS and one mutation.
    #[must_use]
    pub fn longest(&self) -> usize {
        let facts = if self.task == Task::Bind { 4 * (self.options + 2) } else { 0 };
        1 + 4 + facts + 5 + 5 * self.options + 1 + 3
    }

    /// Checks constraints that a JSON schema cannot express.
    ///
    /// # Errors
    ///
    /// Returns a message if there are fewer items than a question needs.
    pub fn check(&self) -> Result<(), String> {
        let least = self.options + if self.task == Task::Bind { 2 } else { 0 };
        if self.items < least {
            return Err(format!("items: {} are too few, because a question names {least}; raise items", self.items));
        }
        Ok(())
    }
}

impl World {
    /// Samples the facts and the held-out pairs.
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

    /// Number of options per question.
    #[must_use]
    pub fn options(&self) -> usize {
        self.toy.options
    }

    /// A training question; never a held-out one.
    pub fn train(&self, rng: &mut impl Rng) -> Question {
        loop {
            let question = self.sample(None, rng);
            if !self.is_held_out(&question) {
                let labels = self.labels(rng);
                return self.varied(Question { labels, ..question }, rng);
            }
        }
    }

    /// An evaluation question: labels A to D, nothing else varied, the right option at index `correct`.
    pub fn ask(&self, order: Order, correct: usize, rng: &mut impl Rng) -> Question {
        Question { order, ..self.sample(Some(correct), rng) }
    }

    /// An evaluation question from the held-out pairs; `None` if there are none.
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

    fn sample(&self, correct: Option<usize>, rng: &mut impl Rng) -> Question {
        let correct = correct.unwrap_or_else(|| rng.random_range(0..self.toy.options));
        let right = rng.random_range(0..self.toy.items);
        self.with(right, correct, rng)
    }

    /// A question whose right item is at a given option index.
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
                let mut stated: Vec<(usize, usize)> =
                    nouns.iter().copied().zip(chosen.iter().copied().chain(more)).collect();
                let asked = stated[correct].0;
                stated.shuffle(rng);
                let facts: Vec<String> =
                    stated.iter().map(|(noun_of, of)| format!("{} is {} ;", noun(*noun_of), item(*of))).collect();
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

    /// Applies the variations of training other than labels.
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
    fn the_right_option_answers_the_question_and_all_options_differ() {
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
    fn training_never_shows_held_out_pairs() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let world = World::new(&toy(Task::Copy, Regime::Mixed), &mut rng);
        assert_eq!(world.held_out.iter().filter(|held| **held).count(), 6); // 5 % of 128
        for _ in 0..2000 {
            assert!(!world.is_held_out(&world.train(&mut rng)));
            assert!(world.is_held_out(&world.ask_held_out(Order::OptionsFirst, &mut rng).unwrap()));
        }
    }

    #[test]
    fn regimes_have_the_documented_labels() {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let share = |regime, rng: &mut ChaCha12Rng| {
            let world = World::new(&toy(Task::Copy, regime), rng);
            let plain = (0..4000).filter(|_| world.train(rng).labels.concat() == "ABCD").count();
            plain as f64 / 4000.
        };
        assert_eq!(share(Regime::Fixed, &mut rng), 1.);
        assert!(share(Regime::Random, &mut rng) < 0.01);
        // 80 %, plus one in 23 of the consecutive ones.
        assert!((share(Regime::Mixed, &mut rng) - 0.804).abs() < 0.03);
    }

    #[test]
    fn variations_stay_within_the_maximum_length() {
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
