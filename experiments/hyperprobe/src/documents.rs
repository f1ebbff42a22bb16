//! Documents of an experiment: analogies in symbols and in words, their encoder targets and their split.

use std::collections::BTreeSet;

use crate::analogies::{Analogy, Corpus, Order, Part, SMALL};
use anyhow::{Result, anyhow, bail};
use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha12Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use vsa::{Bipolar, Codebook, Tie, Vector};

/// The relations between words that documents are built from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Relations {
    /// All 37 relations: 106,482 training documents, 1,196 concepts.
    All,
    /// Ten varied relations: 43,752 training documents, 601 concepts.
    Ten,
    /// The named relations only.
    Only(Vec<String>),
}

impl Relations {
    /// The corpus of these relations. Fails on a name that is not a relation.
    pub fn corpus(&self) -> Result<Corpus> {
        let only = |names: &[&str]| {
            Corpus::only(names).map_err(|unknown| {
                let all = Corpus::whole();
                let known: Vec<&str> = all.categories.iter().map(|category| category.name.as_str()).collect();
                anyhow!("params.corpus.relations: unknown relation `{unknown}`; use one of {}", known.join(", "))
            })
        };
        match self {
            Self::All => Ok(Corpus::whole()),
            Self::Ten => only(&SMALL),
            Self::Only(names) => only(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        }
    }
}

/// The relations and the number of sampled documents of each set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The relations that documents are built from.
    pub relations: Relations,
    /// Number of documents in symbols, `a : b = c : d`; capped at the number available.
    #[schemars(range(min = 1))]
    pub symbols: usize,
    /// Number of documents in words, `a is to b as c is to d`; capped at the number available.
    #[schemars(range(min = 1))]
    pub words: usize,
    /// Number of documents in words made of four random, unrelated words.
    #[schemars(range(min = 1))]
    pub random: usize,
}

/// A set of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Analogies in symbols, which encoders are trained on.
    Symbols,
    /// Analogies in words, which are probed.
    Words,
    /// Four unrelated words: a baseline in which no relation can be found.
    Random,
}

impl Set {
    /// All sets, in declaration order.
    pub const ALL: [Self; 3] = [Self::Symbols, Self::Words, Self::Random];

    /// The name in file names and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Symbols => "symbols",
            Self::Words => "words",
            Self::Random => "random",
        }
    }

    /// The prompt of a document of this set, up to the position before the last word.
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
    /// The corpus that the documents are sampled from.
    pub corpus: Corpus,
    symbols: Vec<Analogy>,
    words: Vec<Analogy>,
    random: Vec<Analogy>,
}

impl Documents {
    /// Samples documents; equal samples and generators give equal documents.
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

    /// The split of a document, by its target.
    pub fn part(&self, analogy: &Analogy) -> Part {
        self.corpus.part(&analogy.target())
    }
}

/// Samples documents of four different words, taken from any relations.
fn unrelated(corpus: &Corpus, count: usize, rng: &mut ChaCha12Rng) -> Result<Vec<Analogy>> {
    let all: BTreeSet<&String> =
        corpus.categories.iter().flat_map(|category| category.pairs.iter().flatten()).collect();
    let all: Vec<&String> = all.into_iter().collect();
    let mut documents = Vec::with_capacity(count);
    for _ in 0..count {
        // A few attempts suffice, because the vocabulary has hundreds of different words.
        let four = (0..1000).find_map(|_| {
            let words: Vec<&String> = all.choose_multiple(rng, 4).copied().collect();
            let distinct: BTreeSet<String> = words.iter().map(|word| word.to_lowercase()).collect();
            (distinct.len() == 4).then_some(words)
        });
        let Some([a, b, c, d]) = four.as_deref() else {
            bail!("params.corpus.relations: the relations have fewer than four different words; add a relation")
        };
        let words = [a, b, c, d].map(|word| (*word).clone());
        documents.push(Analogy { words, order: Order::Standard, category: 0 });
    }
    Ok(documents)
}

/// Tie-breaking of zero components in a bundle of two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// Zeros become -1, as published. The bundle is then -1 wherever either of its two vectors is -1.
    Negative,
    /// Zeros become a random sign, sampled anew for each document.
    Random,
    /// A third vector, the same for all documents, joins the bundle, so that no zeros occur.
    Third,
}

/// Builds the target hypervector of each document.
#[derive(Debug)]
pub struct Targets<'a> {
    book: &'a Codebook<Bipolar>,
    ties: Ties,
    third: Bipolar,
}

impl<'a> Targets<'a> {
    /// Targets from the vectors of a codebook.
    pub fn new(book: &'a Codebook<Bipolar>, ties: Ties, rng: &mut ChaCha12Rng) -> Self {
        Self { book, ties, third: Bipolar::random(book.dimension(), rng) }
    }

    /// The sign of example ⊙ partner + key ⊙ target (arXiv 2509.25045, section 3; section 4 for the crossed orders).
    /// `seed` decides random ties.
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

/// The seed of one document's random ties.
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
    fn samples_are_reproducible_and_have_the_requested_size() {
        let rng = ChaCha12Rng::seed_from_u64(1);
        let documents = Documents::draw(&sample(), &rng).unwrap();
        let again = Documents::draw(&sample(), &rng).unwrap();
        for (set, count) in Set::ALL.into_iter().zip([50, 20, 10]) {
            assert_eq!((documents.of(set).len(), documents.of(set)), (count, again.of(set)));
        }
        let more = Documents::draw(&Sample { symbols: 80, ..sample() }, &rng).unwrap();
        assert_eq!(
            more.of(Set::Symbols)[..50],
            documents.of(Set::Symbols)[..],
            "a larger sample starts with the smaller one"
        );
        assert_eq!(more.of(Set::Words), documents.of(Set::Words));
        let unknown = Relations::Only(vec!["capitals".into()]).corpus().unwrap_err().to_string();
        assert!(unknown.contains("`capitals`") && unknown.contains("country_capital"), "{unknown}");
    }

    #[test]
    fn targets_contain_both_pairs() {
        let rng = ChaCha12Rng::seed_from_u64(2);
        let documents = Documents::draw(&sample(), &rng).unwrap();
        let book = Codebook::<Bipolar>::new(4096, 101, documents.corpus.concepts()).unwrap();
        // All three kinds of ties leave an expected cosine of 0.5 with either pair.
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
