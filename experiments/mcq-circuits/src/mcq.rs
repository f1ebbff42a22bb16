//! Multiple-choice questions (arXiv 2307.09458): synthetic questions for small models, plain English questions with the
//! answer in the prompt, MMLU, and mutations that change a prompt but not its answer.
//!
//! A [`Question`] is structured. [`Question::pieces`] writes it as text pieces with the [`Part`] of each, so that
//! tokens of labels and contents can be distinguished.

mod colours;
mod mmlu;
mod mutation;
mod toy;

pub use colours::colours;
pub use mmlu::{Row, SUBJECTS};
pub use mutation::Mutation;
#[cfg(test)]
pub use toy::{Regime, Task};
pub use toy::{Toy, World};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A question with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The text before everything else; may be empty.
    pub prelude: String,
    /// Facts and the question itself.
    pub question: String,
    /// The text of each option.
    pub options: Vec<String>,
    /// The label of each option, in list order.
    pub labels: Vec<String>,
    /// The index of the right option in the list.
    pub correct: usize,
    /// The separators around a label.
    pub separators: Separators,
    /// Whether the question or the options come first.
    pub order: Order,
    /// The option after an empty line, if any.
    pub blank_before: Option<usize>,
}

/// The separators around a label in the list of options. The last line always ends with an opening bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Separators {
    /// `(A) text`
    Brackets,
    /// `A) text`, for tokenizers that merge an opening bracket with the letter after it.
    Closing,
    /// `A. text`
    Dot,
    /// `A: text`
    Colon,
    /// `A - text`
    Dash,
    /// `[A] text`
    Square,
}

/// Whether the question or the options come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The question comes first, as usual.
    QuestionFirst,
    /// The options come first, so no label can depend on whether its option is right.
    OptionsFirst,
}

impl Order {
    /// The other order.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::QuestionFirst => Self::OptionsFirst,
            Self::OptionsFirst => Self::QuestionFirst,
        }
    }
}

/// How pieces are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One space between any two words; line breaks count as words.
    Words,
    /// Natural prose.
    Prose,
}

/// The part of a prompt that a token belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The beginning-of-sequence token.
    Bos,
    /// The prelude.
    Prelude,
    /// Facts and the question, up to their line's end.
    Question,
    /// Brackets around labels, and empty lines.
    Punctuation,
    /// The label of an option.
    Label(usize),
    /// The text of an option.
    Content(usize),
    /// The end of an option's line.
    End(usize),
    /// The last line, up to the opening bracket.
    Final,
}

/// Text that belongs to one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The part.
    pub part: Part,
    /// The text, including the spaces that belong to it in prose.
    pub text: String,
}

impl Question {
    /// The prompt in pieces, up to the position before the label of the answer.
    #[must_use]
    pub fn pieces(&self, style: Style) -> Vec<Piece> {
        let mut pieces = Pieces { style, list: Vec::new() };
        if !self.prelude.is_empty() {
            pieces.add(Part::Prelude, &self.prelude);
            if style == Style::Prose {
                pieces.add(Part::Prelude, "\n");
            }
        }
        if self.order == Order::QuestionFirst {
            self.ask(&mut pieces);
        }
        for (option, (label, content)) in self.labels.iter().zip(&self.options).enumerate() {
            if self.blank_before == Some(option) {
                pieces.add(Part::Punctuation, "\n");
            }
            let (before, after) = self.separators.around();
            pieces.add(Part::Punctuation, before);
            pieces.add(Part::Label(option), label);
            pieces.add(Part::Punctuation, after);
            match style {
                Style::Words => pieces.add(Part::Content(option), content),
                Style::Prose => pieces.add(Part::Content(option), &format!(" {content}")),
            }
            pieces.add(Part::End(option), "\n");
        }
        if self.order == Order::OptionsFirst {
            self.ask(&mut pieces);
        }
        match style {
            Style::Words => ["Answer", ":", "("].iter().for_each(|word| pieces.add(Part::Final, word)),
            Style::Prose => pieces.add(Part::Final, "Answer: ("),
        }
        pieces.list
    }

    fn ask(&self, pieces: &mut Pieces) {
        pieces.add(Part::Question, &self.question);
        pieces.add(Part::Question, "\n");
    }

    /// The options in another order, where `order[i]` is the old index of the new option i. Labels stay in place.
    #[must_use]
    pub fn reordered(&self, order: &[usize]) -> Self {
        let options = order.iter().map(|from| self.options[*from].clone()).collect();
        let correct = order.iter().position(|from| *from == self.correct).unwrap_or(self.correct);
        Self { options, correct, ..self.clone() }
    }
}

struct Pieces {
    style: Style,
    list: Vec<Piece>,
}

impl Pieces {
    fn add(&mut self, part: Part, text: &str) {
        let text = if self.style == Style::Words { text.trim_matches(' ') } else { text };
        if !text.is_empty() {
            self.list.push(Piece { part, text: text.to_owned() });
        }
    }
}

impl Separators {
    fn around(self) -> (&'static str, &'static str) {
        match self {
            Self::Brackets => ("(", ")"),
            Self::Closing => ("", ")"),
            Self::Dot => ("", "."),
            Self::Colon => ("", ":"),
            Self::Dash => ("", " -"),
            Self::Square => ("[", "]"),
        }
    }
}

/// The first `count` capital letters.
#[must_use]
pub fn letters(count: usize) -> Vec<String> {
    ('A'..='Z').take(count).map(String::from).collect()
}

/// Joins a prompt's pieces into one text, with the byte range of each part.
#[must_use]
pub fn text(pieces: &[Piece], style: Style) -> (String, Vec<(Part, std::ops::Range<usize>)>) {
    let mut text = String::new();
    let mut parts = Vec::new();
    for piece in pieces {
        if style == Style::Words && !text.is_empty() {
            text.push(' ');
        }
        let from = text.len();
        text.push_str(&piece.text);
        parts.push((piece.part, from..text.len()));
    }
    (text, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(order: Order) -> Question {
        Question {
            prelude: String::new(),
            question: "which is w17 ?".to_owned(),
            options: ["w3", "w17", "w20", "w9"].map(str::to_owned).to_vec(),
            labels: letters(4),
            correct: 1,
            separators: Separators::Brackets,
            order,
            blank_before: None,
        }
    }

    #[test]
    fn small_model_prompts_are_written_as_specified() {
        let written = |order| text(&question(order).pieces(Style::Words), Style::Words).0;
        let question_first = "which is w17 ? \n ( A ) w3 \n ( B ) w17 \n ( C ) w20 \n ( D ) w9 \n Answer : (";
        assert_eq!(written(Order::QuestionFirst), question_first);
        let options_first = "( A ) w3 \n ( B ) w17 \n ( C ) w20 \n ( D ) w9 \n which is w17 ? \n Answer : (";
        assert_eq!(written(Order::OptionsFirst), options_first);
    }

    #[test]
    fn prose_is_natural_text_covered_by_parts() {
        let prelude = "An AI answers.".to_owned();
        let question = Question { prelude, question: "What is red?".to_owned(), ..question(Order::QuestionFirst) };
        let (written, parts) = text(&question.pieces(Style::Prose), Style::Prose);
        let expected = "An AI answers.\nWhat is red?\n(A) w3\n(B) w17\n(C) w20\n(D) w9\nAnswer: (";
        assert_eq!(written, expected);
        let of = |part: Part| -> Vec<&str> {
            parts.iter().filter(|(is, _)| *is == part).map(|(_, range)| &written[range.clone()]).collect()
        };
        assert_eq!(of(Part::Label(2)), ["C"]);
        assert_eq!(of(Part::Content(1)), [" w17"]);
        assert_eq!(of(Part::End(3)), ["\n"]);
        assert_eq!(parts.last().unwrap().1.end, written.len());
        let dashed = Question { separators: Separators::Dash, blank_before: Some(2), ..question };
        let written = text(&dashed.pieces(Style::Prose), Style::Prose).0;
        assert!(written.contains("B - w17\n\nC - w20\n"), "{written}");
    }

    #[test]
    fn reordering_keeps_the_right_answer() {
        let moved = question(Order::QuestionFirst).reordered(&[1, 3, 0, 2]);
        assert_eq!((moved.options[moved.correct].as_str(), moved.correct), ("w17", 0));
        assert_eq!(moved.labels, letters(4));
    }
}
