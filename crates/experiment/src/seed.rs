//! Repetitions of one training or analysis that differ in nothing but their random numbers.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha12Rng;

use crate::Run;

/// A repetition, counted from 1: it owns its label, its random streams and the point that its metrics belong to.
///
/// The first repetition has no number in labels (`vanilla`), the second has (`vanilla-2`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seed(usize);

/// How a repetition's number enters the names of its random streams.
///
/// A stream's name decides its numbers, so each experiment keeps the naming that its published tables were made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamNames {
    /// `init`, `init 2`, `init 3`. New experiments use this one.
    Usual,
    /// `init 1`, `init 2`.
    Numbered,
    /// `init 0`, `init 1`.
    FromZero,
    /// `init.1`, `init.2`.
    Dotted,
}

impl Seed {
    /// The first repetition.
    pub const FIRST: Self = Self(1);

    /// The repetition with this number, from 1; 0 counts as 1.
    #[must_use]
    pub fn new(number: usize) -> Self {
        Self(number.max(1))
    }

    /// The first `count` repetitions, in order.
    pub fn first(count: usize) -> impl Iterator<Item = Self> + Clone {
        (1..=count).map(Self)
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }

    /// `name` for the first repetition, `name-2` for the second.
    #[must_use]
    pub fn label(self, name: &str) -> String {
        match self.0 {
            1 => name.to_owned(),
            number => format!("{name}-{number}"),
        }
    }

    /// Takes a label apart; one without a number is the first repetition's.
    #[must_use]
    pub fn parse(label: &str) -> (&str, Self) {
        let numbered = label.rsplit_once('-').and_then(|(name, number)| Some((name, number.parse().ok()?)));
        numbered.filter(|(_, number)| *number > 1).map_or((label, Self::FIRST), |(name, number)| (name, Self(number)))
    }

    /// The name of this repetition's random stream `name`.
    #[must_use]
    pub fn stream_name(self, name: &str, names: StreamNames) -> String {
        match (names, self.0) {
            (StreamNames::Usual, 1) => name.to_owned(),
            (StreamNames::Usual | StreamNames::Numbered, number) => format!("{name} {number}"),
            (StreamNames::FromZero, number) => format!("{name} {}", number - 1),
            (StreamNames::Dotted, number) => format!("{name}.{number}"),
        }
    }

    /// This repetition's random stream `name`, split from the run's one seed.
    #[must_use]
    pub fn rng(self, run: &Run, name: &str, names: StreamNames) -> ChaCha12Rng {
        run.rng(&self.stream_name(name, names))
    }

    /// Records a metric of this repetition. A claim takes its number from all of them: the worst, unless it says `over:`.
    pub fn metric(self, run: &Run, name: &str, value: impl Into<Option<f64>>, unit: &str) {
        run.metric_of_seed(self, name, value, unit);
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Seed {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;
    use crate::streams::stream;

    #[test]
    fn labels_name_all_but_the_first() {
        assert_eq!(Seed::first(3).map(|seed| seed.label("toy")).collect::<Vec<_>>(), ["toy", "toy-2", "toy-3"]);
        assert_eq!(Seed::parse("ln_free-3"), ("ln_free", Seed(3)));
        for plain in ["vanilla", "gpt-neox", "x-1", "x-0", "x-"] {
            assert_eq!(Seed::parse(plain), (plain, Seed::FIRST));
        }
    }

    /// Committed tables were made from these streams, so neither names nor numbers may ever move.
    #[test]
    fn stream_names_and_their_numbers_are_pinned() {
        let named = |names| [1, 2].map(|number| Seed(number).stream_name("init", names));
        assert_eq!(named(StreamNames::Usual), ["init", "init 2"]);
        assert_eq!(named(StreamNames::Numbered), ["init 1", "init 2"]);
        assert_eq!(named(StreamNames::FromZero), ["init 0", "init 1"]);
        assert_eq!(named(StreamNames::Dotted), ["init.1", "init.2"]);
        let first = |name: &str| stream(1, name).next_u64();
        let pinned = ["init", "init 2", "init 0", "init.1"].map(first);
        let expected = [8426430481177442449, 7319445628893955472, 12860109786776359590, 14917255781729302204];
        assert_eq!(pinned, expected);
    }
}
