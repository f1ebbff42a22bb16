//! Analogies `a : b = c : d`, built from pairs of words that stand in one relation (after arXiv 2509.25045, section 4).
//!
//! The relations include capitals, plurals, opposites, and numbers with their squares. Training documents use the
//! symbols `:` and `=`, in four word orders. Test documents use words: `a is to b as c is to d`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A field of knowledge, used to group relations in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// Capitals, languages, currencies.
    Factual,
    /// Opposites, male and female forms, animal sounds and shelters.
    Semantic,
    /// Hypernyms: a thing and its kind.
    Hierarchies,
    /// Affixes and comparison.
    Morphology,
    /// Verb forms and plurals.
    Verbal,
    /// Arithmetic.
    Mathematics,
}

impl Area {
    /// All areas, in declaration order.
    pub const ALL: [Self; 6] =
        [Self::Factual, Self::Semantic, Self::Hierarchies, Self::Morphology, Self::Verbal, Self::Mathematics];
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Factual => "factual knowledge",
            Self::Semantic => "semantic relations",
            Self::Hierarchies => "semantic hierarchies",
            Self::Morphology => "morphology",
            Self::Verbal => "verbal and grammatical forms",
            Self::Mathematics => "mathematics",
        })
    }
}

/// Word pairs of one relation; the first words of all pairs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// The name, such as `country_capital`.
    pub name: String,
    /// The field of knowledge.
    pub area: Area,
    /// Whether the second word determines the first, so that the pair can be reversed.
    pub flips: bool,
    /// The pairs.
    pub pairs: Vec<[String; 2]>,
}

/// The order of the words of two pairs A and B in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// A's first word, A's second, B's first, B's second.
    Standard,
    /// Both pairs reversed.
    Flipped,
    /// Second words, then first words, each time B's before A's.
    SecondsFirst,
    /// First words, then second words, each time B's before A's.
    FirstsFirst,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standard => "standard",
            Self::Flipped => "flipped",
            Self::SecondsFirst => "seconds first",
            Self::FirstsFirst => "firsts first",
        })
    }
}

/// Four words, of which the last is to be predicted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Analogy {
    /// The words as written; all four differ when case is ignored.
    pub words: [String; 4],
    /// The word order.
    pub order: Order,
    /// The index of the category in its [`Corpus`].
    pub category: usize,
}

impl Analogy {
    /// The training document up to the position before its last word: ` w1 : w2 = w3 :`.
    #[must_use]
    pub fn prompt(&self) -> String {
        let [a, b, c, _] = &self.words;
        format!(" {a} : {b} = {c} :")
    }

    /// The test document up to the position before its last word: `w1 is to w2 as w3 is to`.
    #[must_use]
    pub fn verbose_prompt(&self) -> String {
        let [a, b, c, _] = &self.words;
        format!("{a} is to {b} as {c} is to")
    }

    /// The word to predict, in lower case.
    #[must_use]
    pub fn target(&self) -> String {
        self.words[3].to_lowercase()
    }

    /// The partner of the target in its pair, in lower case. It is the third word in the uncrossed orders and the
    /// second word in the crossed ones.
    #[must_use]
    pub fn key(&self) -> String {
        self.words[if self.is_crossed() { 1 } else { 2 }].to_lowercase()
    }

    /// The pair that does not contain the target, in lower case.
    #[must_use]
    pub fn example(&self) -> [String; 2] {
        let other = if self.is_crossed() { [0, 2] } else { [0, 1] };
        other.map(|at| self.words[at].to_lowercase())
    }

    fn is_crossed(&self) -> bool {
        matches!(self.order, Order::SecondsFirst | Order::FirstsFirst)
    }
}

/// The split that a document belongs to, decided by its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Used to fit the encoder.
    Train,
    /// Used to choose settings.
    Validation,
    /// Used for reported results only.
    Test,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// Categories of word pairs and the documents built from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// The categories.
    pub categories: Vec<Category>,
    /// Every word in lower case, with the categories that contain it.
    concepts: BTreeMap<String, BTreeSet<usize>>,
}

/// The ten categories of the small corpus, chosen to stay varied.
pub const SMALL: [&str; 10] = [
    "country_capital",
    "country_nationality",
    "adj_comparative",
    "verb_inf_Ved",
    "plural_regular",
    "un+adjective",
    "antonyms_gradable",
    "male_female",
    "animal_sound",
    "math_double",
];

impl Corpus {
    /// All 37 categories.
    #[must_use]
    pub fn whole() -> Self {
        Self::of(categories())
    }

    /// Some of the categories by name, in the order of [`Self::whole`].
    ///
    /// # Errors
    ///
    /// Returns the first name that is not a category.
    pub fn only(names: &[&str]) -> Result<Self, String> {
        let all = categories();
        if let Some(unknown) = names.iter().find(|name| !all.iter().any(|category| category.name == **name)) {
            return Err((*unknown).to_owned());
        }
        Ok(Self::of(all.into_iter().filter(|category| names.contains(&category.name.as_str())).collect()))
    }

    fn of(categories: Vec<Category>) -> Self {
        let mut concepts: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (index, category) in categories.iter().enumerate() {
            for word in category.pairs.iter().flatten() {
                concepts.entry(word.to_lowercase()).or_default().insert(index);
            }
        }
        Self { categories, concepts }
    }

    /// Every word of the corpus in lower case, sorted.
    pub fn concepts(&self) -> impl Iterator<Item = &str> {
        self.concepts.keys().map(String::as_str)
    }

    /// The distinct training documents, in a fixed order. Every ordered pair of word pairs appears in standard order.
    /// It also appears reversed if the second word determines the first, and in both crossed orders unless the category
    /// is arithmetic.
    #[must_use]
    pub fn training(&self) -> Vec<Analogy> {
        let mut seen = BTreeSet::new();
        self.training_with_repeats().into_iter().filter(|analogy| seen.insert(analogy.words.clone())).collect()
    }

    /// The training documents with repeats: a document that two relations share appears twice.
    #[must_use]
    pub fn training_with_repeats(&self) -> Vec<Analogy> {
        let mut documents = Vec::new();
        for (category, of) in self.categories.iter().enumerate() {
            let maths = of.area == Area::Mathematics;
            let orders = [
                (Order::Standard, true),
                (Order::Flipped, of.flips),
                (Order::SecondsFirst, !maths),
                (Order::FirstsFirst, !maths),
            ];
            for order in orders.into_iter().filter(|(_, wanted)| *wanted).map(|(order, _)| order) {
                for (i, a) in of.pairs.iter().enumerate() {
                    let others = of.pairs.iter().enumerate().filter(|(j, _)| *j != i);
                    documents.extend(others.filter_map(|(_, b)| analogy(a, b, order, category)));
                }
            }
        }
        documents
    }

    /// The test documents: every unordered pair of word pairs in standard order, and reversed if the second word
    /// determines the first. Arithmetic uses both orders of its pairs.
    #[must_use]
    pub fn verbose(&self) -> Vec<Analogy> {
        let mut documents = Vec::new();
        for (category, of) in self.categories.iter().enumerate() {
            let maths = of.area == Area::Mathematics;
            for order in [Order::Standard, Order::Flipped].into_iter().take(if of.flips { 2 } else { 1 }) {
                for (i, a) in of.pairs.iter().enumerate() {
                    let others = of.pairs.iter().enumerate().filter(|(j, _)| *j > i || (maths && *j < i));
                    documents.extend(others.filter_map(|(_, b)| analogy(a, b, order, category)));
                }
            }
        }
        documents
    }

    /// The split of the documents with this target (in lower case). Words of several categories are in the training
    /// split. Other words are assigned by a hash of their letters: 70 % training, 15 % validation, 15 % test.
    #[must_use]
    pub fn part(&self, target: &str) -> Part {
        let numeric = target.bytes().all(|byte| byte.is_ascii_digit());
        let shared = self.concepts.get(target).is_some_and(|categories| categories.len() > 1);
        if shared && !numeric {
            return Part::Train;
        }
        match fnv1a(target) % 100 {
            0..70 => Part::Train,
            70..85 => Part::Validation,
            _ => Part::Test,
        }
    }
}

/// Builds an analogy, or `None` if two of the four words are the same.
fn analogy([a1, a2]: &[String; 2], [b1, b2]: &[String; 2], order: Order, category: usize) -> Option<Analogy> {
    let words = match order {
        Order::Standard => [a1, a2, b1, b2],
        Order::Flipped => [a2, a1, b2, b1],
        Order::SecondsFirst => [b2, a2, b1, a1],
        Order::FirstsFirst => [b1, a1, b2, a2],
    };
    let distinct: BTreeSet<String> = words.iter().map(|word| word.to_lowercase()).collect();
    (distinct.len() == 4).then(|| Analogy { words: words.map(Clone::clone), order, category })
}

/// The 64-bit FNV-1a hash of the UTF-8 bytes.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// The word lists. Each starts with a head line `@name fields ..`; each entry has as many fields and ends with `;`.
const WORDS: &str = include_str!("analogies/words.txt");

/// Relations taken from lists with more than two columns: list, columns, name, area, whether the second word determines
/// the first.
const FROM_TABLES: [(&str, [usize; 2], &str, Area, bool); 12] = [
    ("country", [0, 1], "country_capital", Area::Factual, true),
    ("country", [0, 2], "country_nationality", Area::Semantic, true),
    ("country", [0, 3], "country_language", Area::Factual, false),
    ("country", [0, 4], "country_currency", Area::Factual, false),
    ("adjective", [0, 1], "adj_comparative", Area::Morphology, true),
    ("adjective", [0, 2], "adj_superlative", Area::Morphology, true),
    ("verb", [0, 1], "verb_inf_3pSg", Area::Verbal, true),
    ("verb", [0, 2], "verb_inf_Ving", Area::Verbal, true),
    ("verb", [0, 3], "verb_inf_Ved", Area::Verbal, true),
    ("verb", [2, 1], "verb_Ving_3pSg", Area::Verbal, true),
    ("verb", [2, 3], "verb_Ving_Ved", Area::Verbal, true),
    ("verb", [1, 3], "verb_3pSg_Ved", Area::Verbal, true),
];

/// Relations that have a list of their own.
const LISTS: [(&str, Area, bool); 18] = [
    ("plural_regular", Area::Verbal, true),
    ("plural_irregular", Area::Verbal, true),
    ("un+adjective", Area::Morphology, true),
    ("re+verb", Area::Morphology, true),
    ("noun+less", Area::Morphology, true),
    ("adjective+ness", Area::Morphology, true),
    ("adjective+ly", Area::Morphology, true),
    ("verb+able", Area::Morphology, true),
    ("verb+er", Area::Morphology, true),
    ("verb+tion", Area::Morphology, true),
    ("verb+ment", Area::Morphology, true),
    ("antonyms_gradable", Area::Semantic, true),
    ("antonyms_binary", Area::Semantic, true),
    ("male_female", Area::Semantic, true),
    ("animal_sound", Area::Semantic, true),
    ("animal_shelter", Area::Semantic, false),
    ("hypernyms_animals", Area::Hierarchies, false),
    ("hypernyms_misc", Area::Hierarchies, false),
];

/// The lists by name, each as its entries' fields.
fn lists() -> BTreeMap<&'static str, Vec<Vec<&'static str>>> {
    let list = |part: &'static str| {
        let (head, entries) = part.split_once('\n').unwrap_or((part, ""));
        let name = head.split_whitespace().next().unwrap_or_default();
        (name, entries.split(';').map(|entry| entry.split_whitespace().collect()).collect())
    };
    WORDS.split('@').skip(1).map(list).collect()
}

/// The entries of the named list that have exactly `N` fields.
pub(crate) fn tables<const N: usize>(list: &str) -> Vec<[&'static str; N]> {
    let entries = lists().remove(list).unwrap_or_default();
    entries.into_iter().filter_map(|entry| entry.try_into().ok()).collect()
}

fn categories() -> Vec<Category> {
    let lists = lists();
    let pairs = |list: &str, [first, second]: [usize; 2]| -> Vec<[String; 2]> {
        let entries = lists.get(list).map(Vec::as_slice).unwrap_or_default();
        entries.iter().filter_map(|entry| Some([(*entry.get(first)?).into(), (*entry.get(second)?).into()])).collect()
    };
    let tables = FROM_TABLES.iter().map(|(list, columns, name, area, flips)| Category {
        name: (*name).to_owned(),
        area: *area,
        flips: *flips,
        pairs: pairs(list, *columns),
    });
    let lists = LISTS.iter().map(|(name, area, flips)| Category {
        name: (*name).to_owned(),
        area: *area,
        flips: *flips,
        pairs: pairs(name, [0, 1]),
    });
    tables.chain(lists).chain(arithmetic()).collect()
}

/// Squares, cubes, quotients, doubles and roots below 1,000, of even numbers and multiples of five up to 100.
fn arithmetic() -> impl Iterator<Item = Category> {
    type Map = fn(u32) -> Option<u32>;
    fn share(a: u32, by: u32) -> Option<u32> {
        a.is_multiple_of(by).then(|| a / by)
    }
    let maps: [(&str, Map); 7] = [
        ("math_squares", |a| Some(a * a)),
        ("math_cubes", |a| Some(a * a * a)),
        ("math_division2", |a| share(a, 2)),
        ("math_division5", |a| share(a, 5)),
        ("math_division10", |a| share(a, 10)),
        ("math_double", |a| Some(2 * a)),
        ("math_root", |a| Some(a.isqrt()).filter(|root| root * root == a)),
    ];
    maps.into_iter().map(|(name, map)| {
        let base = (2..=100).filter(|a| a % 2 == 0 || a % 5 == 0);
        let pair = |a: u32| map(a).filter(|b| *b < 1000).map(|b| [a.to_string(), b.to_string()]);
        Category {
            name: name.to_owned(),
            area: Area::Mathematics,
            flips: false,
            pairs: base.filter_map(pair).collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of pairs, then numbers of documents: standard, reversed, crossed, verbose.
    const COUNTS: [(&str, [usize; 5]); 37] = [
        ("country_capital", [44, 1892, 1892, 3784, 1892]),
        ("country_nationality", [44, 1892, 1892, 3784, 1892]),
        ("country_language", [44, 1828, 0, 3656, 914]),
        ("country_currency", [44, 1784, 0, 3568, 892]),
        ("adj_comparative", [39, 1482, 1482, 2964, 1482]),
        ("adj_superlative", [39, 1482, 1482, 2964, 1482]),
        ("verb_inf_3pSg", [35, 1190, 1190, 2380, 1190]),
        ("verb_inf_Ving", [35, 1190, 1190, 2380, 1190]),
        ("verb_inf_Ved", [35, 1190, 1190, 2380, 1190]),
        ("verb_Ving_3pSg", [35, 1190, 1190, 2380, 1190]),
        ("verb_Ving_Ved", [35, 1190, 1190, 2380, 1190]),
        ("verb_3pSg_Ved", [35, 1190, 1190, 2380, 1190]),
        ("plural_regular", [37, 1332, 1332, 2664, 1332]),
        ("plural_irregular", [20, 380, 380, 760, 380]),
        ("un+adjective", [24, 552, 552, 1104, 552]),
        ("re+verb", [20, 380, 380, 760, 380]),
        ("noun+less", [20, 380, 380, 760, 380]),
        ("adjective+ness", [20, 380, 380, 760, 380]),
        ("adjective+ly", [24, 552, 552, 1104, 552]),
        ("verb+able", [20, 380, 380, 760, 380]),
        ("verb+er", [20, 380, 380, 760, 380]),
        ("verb+tion", [20, 380, 380, 760, 380]),
        ("verb+ment", [20, 380, 380, 760, 380]),
        ("antonyms_gradable", [30, 870, 870, 1740, 870]),
        ("antonyms_binary", [20, 380, 380, 760, 380]),
        ("male_female", [24, 552, 552, 1104, 552]),
        ("animal_sound", [18, 306, 306, 612, 306]),
        ("animal_shelter", [14, 182, 0, 364, 91]),
        ("hypernyms_animals", [27, 632, 0, 1264, 316]),
        ("hypernyms_misc", [30, 810, 0, 1620, 405]),
        ("math_squares", [18, 300, 0, 0, 300]),
        ("math_cubes", [5, 18, 0, 0, 18]),
        ("math_division2", [50, 2400, 0, 0, 2400]),
        ("math_division5", [20, 372, 0, 0, 372]),
        ("math_division10", [10, 88, 0, 0, 88]),
        ("math_double", [60, 3480, 0, 0, 3480]),
        ("math_root", [6, 28, 0, 0, 28]),
    ];

    #[test]
    fn every_category_has_the_expected_document_counts() {
        let corpus = Corpus::whole();
        let (training, verbose) = (corpus.training_with_repeats(), corpus.verbose());
        assert_eq!(corpus.categories.len(), COUNTS.len());
        for (index, (category, (name, expected))) in corpus.categories.iter().zip(COUNTS).enumerate() {
            let of = |orders: &[Order]| {
                training.iter().filter(|one| one.category == index && orders.contains(&one.order)).count()
            };
            let crossed = of(&[Order::SecondsFirst, Order::FirstsFirst]);
            let in_words = verbose.iter().filter(|one| one.category == index).count();
            let ours = [category.pairs.len(), of(&[Order::Standard]), of(&[Order::Flipped]), crossed, in_words];
            assert_eq!((category.name.as_str(), ours), (name, expected));
            let firsts: BTreeSet<&String> = category.pairs.iter().map(|[first, _]| first).collect();
            assert_eq!(firsts.len(), category.pairs.len(), "{name}: first words differ");
        }
        assert_eq!((training.len(), verbose.len()), (33_394 + 21_472 + 53_416, 30_776));
    }

    #[test]
    fn distinct_documents_concepts_and_targets_are_counted() {
        let corpus = Corpus::whole();
        let training = corpus.training();
        let targets: BTreeSet<String> = training.iter().map(Analogy::target).collect();
        let numbers = corpus.concepts().filter(|word| word.parse::<u32>().is_ok()).count();
        assert_eq!((training.len(), corpus.concepts().count(), numbers, targets.len()), (106_482, 1_196, 123, 1_181));
        let shared = corpus.concepts.iter().filter(|(word, of)| of.len() > 1 && word.parse::<u32>().is_err()).count();
        assert_eq!(shared, 300);
        let small = Corpus::only(&SMALL).unwrap();
        assert_eq!((small.training().len(), small.concepts().count(), small.verbose().len()), (43_752, 601, 13_548));
        assert_eq!(Corpus::only(&["capitals"]), Err("capitals".to_owned()));
    }

    #[test]
    fn every_target_belongs_to_one_split() {
        assert_eq!([fnv1a(""), fnv1a("a")], [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c]);
        assert_eq!(["peso", "oslo", "krone"].map(|word| fnv1a(word) % 100), [40, 6, 20]);
        let corpus = Corpus::whole();
        let counts = |targets: Vec<String>| {
            let mut counts = [0; 3];
            targets.iter().for_each(|target| counts[corpus.part(target) as usize] += 1);
            counts
        };
        let training: Vec<String> = corpus.training().iter().map(Analogy::target).collect();
        let distinct: BTreeSet<String> = training.iter().cloned().collect();
        assert_eq!(counts(distinct.into_iter().collect()), [917, 141, 123]);
        assert_eq!(counts(training), [91_695, 8_187, 6_600]);
        assert_eq!(counts(corpus.verbose().iter().map(Analogy::target).collect()), [25_803, 2_748, 2_225]);
    }

    #[test]
    fn key_completes_the_targets_pair_and_example_is_the_other_pair() {
        let corpus = Corpus::whole();
        for analogy in corpus.training().iter().step_by(97) {
            let pairs = &corpus.categories[analogy.category].pairs;
            let is_pair = |a: &str, b: &str| {
                pairs.iter().any(|[x, y]| {
                    let (x, y) = (x.to_lowercase(), y.to_lowercase());
                    (x == a && y == b) || (x == b && y == a)
                })
            };
            let [a, b] = analogy.example();
            assert!(is_pair(&analogy.key(), &analogy.target()) && is_pair(&a, &b), "{analogy:?}");
        }
        let words = ["France", "Paris", "Italy", "Rome"].map(str::to_owned);
        let analogy = Analogy { words, order: Order::Standard, category: 0 };
        assert_eq!(analogy.prompt(), " France : Paris = Italy :");
        assert_eq!(analogy.verbose_prompt(), "France is to Paris as Italy is to");
    }
}
