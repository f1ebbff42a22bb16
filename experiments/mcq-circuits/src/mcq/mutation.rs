//! Mutations that change a prompt but not which option is right.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Question, Separators, letters};

/// A change of a prompt; several can be applied in sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mutation {
    /// The same labels in random order; contents stay in place.
    ShuffledLabels,
    /// Distinct letters after D, in random order.
    RandomLetters,
    /// Consecutive letters from a random start after A.
    OrderedLetters,
    /// 1, 2, 3, 4.
    Numbers,
    /// a, b, c, d.
    LowerCase,
    /// $, #, *, @.
    Symbols,
    /// `A. text`
    SeparatorDot,
    /// `A: text`
    SeparatorColon,
    /// `A - text`
    SeparatorDash,
    /// `[A] text`
    SeparatorSquare,
    /// No prelude.
    NoPrelude,
    /// An empty line before the third option.
    BlankLine,
    /// Swaps the order of question and options.
    OtherOrder,
}

/// Labels that are neither letters nor digits.
pub(crate) const SYMBOLS: [&str; 4] = ["$", "#", "*", "@"];

impl Mutation {
    /// Applies the change. If there are more options than labels of a kind, the labels stay as they are.
    pub fn apply(self, question: &mut Question, rng: &mut impl Rng) {
        let count = question.labels.len();
        match self {
            Self::ShuffledLabels => question.labels.shuffle(rng),
            Self::RandomLetters => question.relabel(random(&letters(26)[4..], count, rng)),
            Self::OrderedLetters => {
                let start = rng.random_range(1..=26usize.saturating_sub(count).max(1));
                question.relabel(letters(26).into_iter().skip(start).take(count).collect());
            }
            Self::Numbers => question.relabel((1..=count.min(9)).map(|n| n.to_string()).collect()),
            Self::LowerCase => question.relabel(letters(count).iter().map(|label| label.to_lowercase()).collect()),
            Self::Symbols => question.relabel(SYMBOLS.iter().take(count).map(|s| (*s).to_owned()).collect()),
            Self::SeparatorDot => question.separators = Separators::Dot,
            Self::SeparatorColon => question.separators = Separators::Colon,
            Self::SeparatorDash => question.separators = Separators::Dash,
            Self::SeparatorSquare => question.separators = Separators::Square,
            Self::NoPrelude => question.prelude.clear(),
            Self::BlankLine => question.blank_before = (count > 2).then_some(2),
            Self::OtherOrder => question.order = question.order.swapped(),
        }
    }
}

impl Question {
    fn relabel(&mut self, labels: Vec<String>) {
        if labels.len() == self.labels.len() {
            self.labels = labels;
        }
    }
}

/// `count` distinct entries in random order.
pub(crate) fn random(of: &[String], count: usize, rng: &mut impl Rng) -> Vec<String> {
    let mut chosen: Vec<String> = of.choose_multiple(rng, count).cloned().collect();
    chosen.shuffle(rng);
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::super::{Order, Part, Style};
    use super::*;

    fn question() -> Question {
        Question {
            prelude: "So.".to_owned(),
            question: "Which?".to_owned(),
            options: ["one", "two", "three", "four"].map(str::to_owned).to_vec(),
            labels: letters(4),
            correct: 2,
            separators: Separators::Brackets,
            order: Order::QuestionFirst,
            blank_before: None,
        }
    }

    const ALL: [Mutation; 13] = [
        Mutation::ShuffledLabels,
        Mutation::RandomLetters,
        Mutation::OrderedLetters,
        Mutation::Numbers,
        Mutation::LowerCase,
        Mutation::Symbols,
        Mutation::SeparatorDot,
        Mutation::SeparatorColon,
        Mutation::SeparatorDash,
        Mutation::SeparatorSquare,
        Mutation::NoPrelude,
        Mutation::BlankLine,
        Mutation::OtherOrder,
    ];

    #[test]
    fn contents_and_answer_stay_and_labels_are_distinct() {
        let mut rng = ChaCha12Rng::seed_from_u64(1);
        for mutation in ALL {
            for _ in 0..40 {
                let mut changed = question();
                mutation.apply(&mut changed, &mut rng);
                assert_eq!((&changed.options, changed.correct), (&question().options, 2), "{mutation:?}");
                let mut labels = changed.labels.clone();
                labels.sort();
                labels.dedup();
                assert_eq!(labels.len(), 4, "{mutation:?}");
                let pieces = changed.pieces(Style::Prose);
                for option in 0..4 {
                    assert_eq!(pieces.iter().filter(|piece| piece.part == Part::Label(option)).count(), 1);
                }
            }
        }
    }

    #[test]
    fn labels_match_their_kind() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let mut labels = |mutation: Mutation| {
            let mut changed = question();
            mutation.apply(&mut changed, &mut rng);
            changed.labels.concat()
        };
        for _ in 0..50 {
            assert!(labels(Mutation::RandomLetters).chars().all(|c| ('E'..='Z').contains(&c)));
            let ordered: Vec<u8> = labels(Mutation::OrderedLetters).into_bytes();
            assert!(ordered.windows(2).all(|pair| pair[1] == pair[0] + 1) && ordered[0] > b'A');
        }
        assert_eq!(labels(Mutation::Numbers), "1234");
        assert_eq!(labels(Mutation::Symbols), "$#*@");
        assert_eq!(labels(Mutation::LowerCase), "abcd");
    }

    #[test]
    fn changes_compose() {
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let mut changed = question();
        for mutation in [Mutation::Numbers, Mutation::SeparatorDot, Mutation::NoPrelude, Mutation::OtherOrder] {
            mutation.apply(&mut changed, &mut rng);
        }
        let (written, _) = super::super::text(&changed.pieces(Style::Prose), Style::Prose);
        assert_eq!(written, "1. one\n2. two\n3. three\n4. four\nWhich?\nAnswer: (");
    }
}
