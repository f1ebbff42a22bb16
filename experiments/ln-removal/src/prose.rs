//! Simple English documents generated from a random stream, for models small enough to train on a laptop.
//!
//! There are six kinds of documents:
//!
//! - stories, in which people meet, move and give things to each other;
//! - reports, with nested clauses;
//! - dialogues;
//! - inventories, whose numbers are consistent;
//! - lists, each given twice;
//! - listings, whose columns are separated by tabs. Tabs occur in no other kind.
//!
//! Names, locations and things recur within a document, so attention to earlier tokens lowers the loss.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// First names.
pub const NAMES: [&str; 48] = [
    "Michael", "Jessica", "Matthew", "Ashley", "Joshua", "Amanda", "Daniel", "David", "James", "Robert", "John",
    "Joseph", "Andrew", "Ryan", "Sarah", "William", "Brian", "Nicole", "Anthony", "Heather", "Eric", "Adam", "Megan",
    "Kevin", "Thomas", "Kyle", "Rachel", "Laura", "Amber", "Richard", "Amy", "Crystal", "Michelle", "Mark", "Emily",
    "Aaron", "Charles", "Rebecca", "Jacob", "Stephen", "Patrick", "Sean", "Erin", "Kelly", "Nathan", "Paul", "Mary",
    "Scott",
];
/// Locations.
pub const LOCATIONS: [&str; 10] =
    ["store", "garden", "restaurant", "school", "hospital", "office", "house", "station", "market", "library"];
/// Things, singular and plural.
pub const THINGS: [(&str, &str); 12] = [
    ("ring", "rings"),
    ("bone", "bones"),
    ("basketball", "basketballs"),
    ("computer", "computers"),
    ("necklace", "necklaces"),
    ("drink", "drinks"),
    ("snack", "snacks"),
    ("letter", "letters"),
    ("key", "keys"),
    ("book", "books"),
    ("lamp", "lamps"),
    ("coin", "coins"),
];
const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const QUALITIES: [&str; 10] = ["old", "new", "small", "big", "red", "green", "heavy", "broken", "clean", "rare"];
const MOODS: [&str; 8] = ["happy", "tired", "late", "sorry", "angry", "proud", "hungry", "quiet"];

/// Relative frequencies of the kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kinds {
    /// Weight of stories, in which people meet, move, and give things to each other.
    pub stories: u32,
    /// Weight of reports, with nested clauses.
    pub reports: u32,
    /// Weight of dialogues, in which speakers address each other by name.
    pub dialogues: u32,
    /// Weight of inventories, whose numbers are consistent.
    pub inventories: u32,
    /// Weight of lists, each given twice.
    pub lists: u32,
    /// Weight of listings, with columns separated by tabs. 0 by default.
    #[serde(default)]
    pub listings: u32,
}

impl Kinds {
    fn weights(&self) -> [u32; 6] {
        let Self { stories, reports, dialogues, inventories, lists, listings } = *self;
        [stories, reports, dialogues, inventories, lists, listings]
    }

    /// Whether all weights are zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights() == [0; 6]
    }
}

/// Generates one document of several sentences. The document is empty if all weights are zero.
pub fn document(kinds: &Kinds, rng: &mut impl Rng) -> String {
    let weights = kinds.weights();
    let total: u32 = weights.iter().sum();
    let mut sampled = if total == 0 { return String::new() } else { rng.random_range(0..total) };
    let kind = weights.iter().position(|weight| match sampled.checked_sub(*weight) {
        Some(rest) => {
            sampled = rest;
            false
        }
        None => true,
    });
    match kind {
        Some(0) => story(rng),
        Some(1) => report(rng),
        Some(2) => dialogue(rng),
        Some(3) => inventory(rng),
        Some(4) => list(rng),
        _ => listing(rng),
    }
}

fn one<T: Copy>(of: &[T], rng: &mut impl Rng) -> T {
    of[rng.random_range(0..of.len())]
}

fn people(count: usize, rng: &mut impl Rng) -> Vec<&'static str> {
    NAMES.choose_multiple(rng, count).copied().collect()
}

/// Samples two different people of those present.
fn two(present: &[&'static str], rng: &mut impl Rng) -> [&'static str; 2] {
    let first = rng.random_range(0..present.len());
    let second = (first + rng.random_range(1..present.len())) % present.len();
    [present[first], present[second]]
}

fn thing(rng: &mut impl Rng) -> String {
    let (name, _) = one(&THINGS, rng);
    let described = rng.random_bool(0.3);
    let word = if described { format!("{} {name}", one(&QUALITIES, rng)) } else { name.to_owned() };
    let article = if word.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {word}")
}

/// A sentence that names two people, then one of them again as the giver. The other receives the gift.
fn gift(present: &[&'static str], rng: &mut impl Rng) -> String {
    let [a, b] = two(present, rng);
    let (giver, taker) = if rng.random_bool(0.5) { (a, b) } else { (b, a) };
    let (place, gift) = (one(&LOCATIONS, rng), thing(rng));
    let verb = one(&["gave", "handed", "sold", "showed", "threw"], rng);
    match rng.random_range(0..5) {
        0 => format!("Then, {a} and {b} went to the {place}. {giver} {verb} {gift} to {taker}."),
        1 => format!("When {a} and {b} met at the {place}, {giver} {verb} {gift} to {taker}."),
        2 => format!("After {a} and {b} left the {place}, {giver} {verb} {gift} to {taker}."),
        3 => format!("{a} and {b} were at the {place}, and {giver} {verb} {gift} to {taker}."),
        _ => format!("Then, {a} and {b} had lunch at the {place}. {giver} {verb} {gift} to {taker}."),
    }
}

fn story(rng: &mut impl Rng) -> String {
    let present = people(rng.random_range(2..4), rng);
    let (day, place) = (one(&DAYS, rng), one(&LOCATIONS, rng));
    let mut text = format!("On {day} {} was at the {place}.", one(&present, rng));
    for _ in 0..rng.random_range(2..5) {
        let [a, b] = two(&present, rng);
        let sentence = match rng.random_range(0..8) {
            0..4 => gift(&present, rng),
            4 => format!("{a} was {}, but {b} was {}.", one(&MOODS, rng), one(&MOODS, rng)),
            5 => format!("{a} asked {b} for {}.", thing(rng)),
            6 => format!("{b} walked from the {} to the {} with {a}.", one(&LOCATIONS, rng), one(&LOCATIONS, rng)),
            _ => format!("{a} lost {} and {b} found it.", thing(rng)),
        };
        text = format!("{text} {sentence}");
    }
    text
}

fn report(rng: &mut impl Rng) -> String {
    let present = people(3, rng);
    let sentences: Vec<String> = (0..rng.random_range(2..5))
        .map(|_| {
            let [a, b] = two(&present, rng);
            let (thing, other, place) = (thing(rng), thing(rng), one(&LOCATIONS, rng));
            match rng.random_range(0..4) {
                0 => format!("{a}, who had met {b} at the {place}, wanted {thing}."),
                1 => format!("The {place} that {a} liked, which {b} had built, was {}.", one(&QUALITIES, rng)),
                2 => format!("{a} said that {b}, who owned {thing}, had never seen {other}."),
                _ => format!("Because {a} was {}, {b} took {thing} to the {place}.", one(&MOODS, rng)),
            }
        })
        .collect();
    sentences.join(" ")
}

fn dialogue(rng: &mut impl Rng) -> String {
    let [a, b] = two(&people(2, rng), rng);
    let lines: Vec<String> = (0..rng.random_range(1..3))
        .map(|_| {
            let ((name, _), place) = (one(&THINGS, rng), one(&LOCATIONS, rng));
            match rng.random_range(0..3) {
                0 => format!(
                    "\"Where is the {name}?\" asked {a}.\n\"The {name} is at the {place}, {a},\" said {b}.\n\"Thank you, {b},\" said {a}."
                ),
                1 => format!(
                    "\"Did you go to the {place}, {b}?\" asked {a}.\n\"No, {a}, I was {},\" said {b}.",
                    one(&MOODS, rng)
                ),
                _ => format!("\"I am {},\" said {a}.\n\"Take {}, {a},\" said {b}.", one(&MOODS, rng), thing(rng)),
            }
        })
        .collect();
    lines.join("\n")
}

fn inventory(rng: &mut impl Rng) -> String {
    let place = one(&LOCATIONS, rng);
    let mut things = THINGS;
    things.shuffle(rng);
    let counts: Vec<u32> = (0..3).map(|_| rng.random_range(2..40)).collect();
    let [a, b, c] = [0, 1, 2].map(|i| format!("{} {}", counts[i], things[i].1));
    let mut text = format!("The {place} has {a}, {b} and {c}.");
    for i in 0..2 {
        let sold = rng.random_range(1..counts[i]);
        let (left, name) = (counts[i] - sold, things[i].1);
        text = format!("{text} It had {} {name} and sold {sold}, so {left} are left.", counts[i]);
    }
    text
}

fn list(rng: &mut impl Rng) -> String {
    let mut things = THINGS;
    things.shuffle(rng);
    let chosen: Vec<&str> = things[..rng.random_range(3..6)].iter().map(|(one, _)| *one).collect();
    let writer = one(&NAMES, rng);
    let numbered: Vec<String> = chosen.iter().enumerate().map(|(i, name)| format!("{}. {name}", i + 1)).collect();
    format!("{writer} wrote a list:\n{}\nAgain: {}.", numbered.join("\n"), chosen.join(", "))
}

fn listing(rng: &mut impl Rng) -> String {
    let names = people(rng.random_range(2..5), rng);
    let rows = names.iter().map(|name| {
        let ((_, things), place) = (one(&THINGS, rng), one(&LOCATIONS, rng));
        format!("\n{name}\t{things}\t{}\t{place}", rng.random_range(1..40))
    });
    let rows: String = rows.collect();
    format!("name\tthings\tcount\tplace{rows}")
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const ALL: Kinds = Kinds { stories: 4, reports: 2, dialogues: 2, inventories: 1, lists: 1, listings: 1 };

    #[test]
    fn kinds_occur_in_proportion_to_their_weights() {
        let mut rng = ChaCha12Rng::seed_from_u64(5);
        let lists = (0..1000).filter(|_| document(&ALL, &mut rng).contains("wrote a list")).count();
        assert!((65..115).contains(&lists), "{lists}"); // a weight of 1 in 11
        let only = Kinds { stories: 0, reports: 0, dialogues: 0, inventories: 3, lists: 0, listings: 0 };
        assert!((0..50).all(|_| document(&only, &mut rng).contains(" are left.")));
        assert!(document(&Kinds { inventories: 0, ..only }, &mut rng).is_empty());
    }

    #[test]
    fn documents_are_reproducible_and_every_kind_occurs() {
        let documents = |seed| {
            let mut rng = ChaCha12Rng::seed_from_u64(seed);
            (0..200).map(|_| document(&ALL, &mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(documents(1), documents(1));
        assert_ne!(documents(1), documents(2));
        for part in ["gave", ", who ", "asked", " are left.", "wrote a list", "\t"] {
            assert!(documents(1).iter().any(|text| text.contains(part)), "{part}");
        }
    }

    #[test]
    fn the_receiver_is_the_person_named_once_before() {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        for _ in 0..200 {
            let present = people(3, &mut rng);
            let sentence = gift(&present, &mut rng);
            let taker = sentence.trim_end_matches('.').rsplit(' ').next().unwrap();
            assert_eq!(sentence.matches(taker).count(), 2, "{sentence}");
            assert!(!sentence.contains(" a old") && !sentence.contains(" an b"), "{sentence}");
        }
    }

    #[test]
    fn inventories_are_consistent() {
        let mut rng = ChaCha12Rng::seed_from_u64(4);
        for _ in 0..50 {
            let text = inventory(&mut rng);
            for sentence in text.split(". ").skip(1) {
                let numbers: Vec<u32> = sentence.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
                assert_eq!(numbers[0], numbers[1] + numbers[2], "{sentence}");
            }
        }
    }
}
