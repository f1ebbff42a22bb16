//! Documents: analogies in symbols and in words, what they shall be encoded to, and which part of the data they are.

use std::collections::BTreeSet;

use crate::analogies::{Analogy, Corpus, Order, Part, SMALL};
use anyhow::{Result, anyhow, bail};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsa::{Bipolar, Codebook, Tie, Vector};

/// Which relations of words the documents are made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Relations {
    /// All 37: 106,482 training documents, 1,196 concepts.
    All,
    /// Ten that are still varied: 43,752 training documents, 601 concepts.
    Ten,
    /// These, by name.
    Only(Vec<String>),
}

impl Relations {
    /// The corpus.
    pub fn corpus(&self) -> Result<Corpus> {
        let only = |names: &[&str]| {
            Corpus::only(names).map_err(|unknown| {
                let all = Corpus::whole();
                let known: Vec<&str> = all.categories.iter().map(|category| category.name.as_str()).collect();
                anyhow!("params.corpus.relations: there is no relation `{unknown}`; there are {}", known.join(", "))
            })
        };
        match self {
            Self::All => Ok(Corpus::whole()),
            Self::Ten => only(&SMALL),
            Self::Only(names) => only(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    }
}

/// Relations and how many documents are drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The relations.
    pub relations: Relations,
    /// Documents in symbols, `a : b = c : d`; fewer when there are not so many.
    #[schemars(range(min = 1))]
    pub symbols: usize,
    /// Documents in words, `a is to b as c is to d`.
    #[schemars(range(min = 1))]
    pub words: usize,
    /// Documents in words of four words drawn at random, in which nothing relates to anything.
    #[schemars(range(min = 1))]
    pub random: usize,
}

/// A set of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// What encoders are trained on.
    Symbols,
    /// What is probed.
    Words,
    /// What has nothing to be found.
    Random,
}

impl Set {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Symbols, Self::Words, Self::Random];

    /// In names of files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symbols => "symbols",
            Self::Words => "words",
            Self::Random => "random",
        }
    }

    /// As the model reads a document of this set, up to the place of the last word.
    pub fn prompt(self, analogy: &Analogy) -> String {
        match self {
            Self::Symbols => analogy.prompt(),
            Self::Words | Self::Random => analogy.verbose_prompt(),
        }
    }
}

/// The documents of an experiment.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Where they are from.
    pub corpus: Corpus,
    symbols: Vec<Analogy>,
    words: Vec<Analogy>,
    random: Vec<Analogy>,
}

impl Documents {
    /// Draws documents; the same sample from the same generator.
    pub fn draw(sample: &Sample, rng: &ChaCha12Rng) -> Result<Self> {
        let corpus = sample.relations.corpus()?;
        let some = |mut all: Vec<Analogy>, count: usize, stream: u64| {
            all.shuffle(&mut training::stream_at(rng, stream));
            all.truncate(count);
            all
        };
        let symbols = some(corpus.training(), sample.symbols, 0);
        let words = some(corpus.verbose(), sample.words, 1);
        let random = unrelated(&corpus, sample.random, &mut training::stream_at(rng, 2))?;
        Ok(Self { corpus, symbols, words, random })
    }

    /// The documents of a set.
    pub fn of(&self, set: Set) -> &[Analogy] {
        match set {
            Set::Symbols => &self.symbols,
            Set::Words => &self.words,
            Set::Random => &self.random,
        }
    }

    /// Which part of the data a document is, by its target.
    pub fn part(&self, analogy: &Analogy) -> Part {
        self.corpus.part(&analogy.target())
    }
}

/// Four different words of any relations.
fn unrelated(corpus: &Corpus, count: usize, rng: &mut ChaCha12Rng) -> Result<Vec<Analogy>> {
    let all: BTreeSet<&String> =
        corpus.categories.iter().flat_map(|category| category.pairs.iter().flatten()).collect();
    let all: Vec<&String> = all.into_iter().collect();
    let mut documents = Vec::with_capacity(count);
    for _ in 0..count {
        // a few draws are enough: hundreds of words differ
        let four = (0..1000).find_map(|_| {
            let words: Vec<&String> = all.choose_multiple(rng, 4).copied().collect();
            let distinct: BTreeSet<String> = words.iter().map(|word| word.to_lowercase()).collect();
            (distinct.len() == 4).then_some(words)
        });
        let Some([a, b, c, d]) = four.as_deref() else { bail!("the relations have fewer than four different words") };
        let words = [a, b, c, d].map(|word| (*word).clone());
        documents.push(Analogy { words, order: Order::Standard, category: 0 });
    }
    Ok(documents)
}

/// What becomes of the noughts of a bundle of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// They are -1, as published: the bundle is then -1 wherever one of the two is.
    Negative,
    /// They are drawn, anew for each document.
    Random,
    /// A third vector, the same for all documents, is bundled with the two, so that there are none.
    Third,
}

/// Makes targets of documents.
#[derive(Debug)]
pub struct Targets<'a> {
    book: &'a Codebook<Bipolar>,
    ties: Ties,
    third: Bipolar,
}

impl<'a> Targets<'a> {
    /// With the vectors of a codebook.
    pub fn new(book: &'a Codebook<Bipolar>, ties: Ties, rng: &mut ChaCha12Rng) -> Self {
        Self { book, ties, third: Bipolar::random(book.dimension(), rng) }
    }

    /// Sign of example ⊙ its partner + key ⊙ target (arXiv 2509.25045, section 3; section 4 for the crossed orders). With drawn
    /// ties, from the seed.
    pub fn of(&self, analogy: &Analogy, seed: u64) -> Result<Bipolar> {
        let v = |word: &str| self.book.vector(word);
        let [a, b] = analogy.example();
        let pairs = [v(&a)?.bind(v(&b)?), v(&analogy.key())?.bind(v(&analogy.target())?)];
        Ok(match self.ties {
            Ties::Negative => Bipolar::bundle(&pairs).sign(Tie::Negative),
            Ties::Random => Bipolar::bundle(&pairs).sign(Tie::Random(seed)),
            Ties::Third => Bipolar::bundle(pairs.iter().chain([&self.third])).sign(Tie::Negative),
        })
    }
}

/// A seed that no other document has.
pub fn seed_of(rng: &ChaCha12Rng, document: usize) -> u64 {
    training::stream_at(rng, document as u64).random()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn sample() -> Sample {
        Sample { relations: Relations::Ten, symbols: 50, words: 20, random: 10 }
    }

    #[test]
    fn samples_repeat_and_fit() {
        let rng = ChaCha12Rng::seed_from_u64(1);
        let documents = Documents::draw(&sample(), &rng).unwrap();
        let again = Documents::draw(&sample(), &rng).unwrap();
        for (set, count) in Set::ALL.into_iter().zip([50, 20, 10]) {
            assert_eq!((documents.of(set).len(), documents.of(set)), (count, again.of(set)));
        }
        let more = Documents::draw(&Sample { symbols: 80, ..sample() }, &rng).unwrap();
        assert_eq!(more.of(Set::Symbols)[..50], documents.of(Set::Symbols)[..], "more documents begin with the same");
        assert_eq!(more.of(Set::Words), documents.of(Set::Words));
        let unknown = Relations::Only(vec!["capitals".into()]).corpus().unwrap_err().to_string();
        assert!(unknown.contains("`capitals`") && unknown.contains("country_capital"), "{unknown}");
    }

    #[test]
    fn targets_hold_both_pairs() {
        let rng = ChaCha12Rng::seed_from_u64(2);
        let documents = Documents::draw(&sample(), &rng).unwrap();
        let book = Codebook::<Bipolar>::new(4096, 101, documents.corpus.concepts()).unwrap();
        // ties at -1 leave 0.5 for either pair; a third vector 0.5 as well; drawn ties 0.5
        for ties in [Ties::Negative, Ties::Random, Ties::Third] {
            let targets = Targets::new(&book, ties, &mut rng.clone());
            for (number, analogy) in documents.of(Set::Symbols).iter().enumerate() {
                let y = targets.of(analogy, seed_of(&rng, number)).unwrap();
                let read = y.bind(book.vector(&analogy.key()).unwrap());
                let target = read.cosine(book.vector(&analogy.target()).unwrap());
                assert!((target - 0.5).abs() < 0.08, "{ties:?}: {target}");
                let mean = if ties == Ties::Negative { -0.5 } else { 0. };
                assert!((y.mean() - mean).abs() < 0.08, "{ties:?}: {}", y.mean());
            }
        }
    }
}
