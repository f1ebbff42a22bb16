//! From problems to token ids, in two vocabularies of the same structure.
//!
//! | part | digit-level | GPT-2's byte-level BPE |
//! |---|---|---|
//! | operands | `a * b` | `a * b`, each symbol with a leading space |
//! | separator | `%` | a lone space, end-of-text |
//! | working | working | working, a lone space |
//! | marker | `% #` | end-of-text, ` #`, `###` |
//! | answer | c_0 .. c_{2n-1} | the same |
//! | end | `%` | a lone space, end-of-text |
//!
//! Token ids as the models of arXiv 2405.14838 and 2510.00184 see them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Symbol};

/// Which ids stand for the symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vocabulary {
    /// Sixteen ids: the digits, `*`, `%` (separator and end), `#`, `+`, `(`, `)`.
    Digits,
    /// The 50,257 ids of GPT-2.
    Gpt2,
}

/// From which end working is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The first token of the working goes first.
    Left,
    /// The last token of the working goes first.
    Right,
}

/// One training sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Place of the first token that is trained; all from it on are.
    pub first_trained: usize,
    /// Place of the first token behind the working that was taken away.
    pub gap: usize,
    /// Place of c_0; the logits that predict c_k are one place before c_k.
    pub answer_start: usize,
}

const GPT2_DIGITS: [u32; 10] = [657, 352, 362, 513, 604, 642, 718, 767, 807, 860];
const GPT2_SPACE: u32 = 220;
const GPT2_END: u32 = 50_256;

impl Vocabulary {
    /// Number of ids.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::Digits => 16,
            Self::Gpt2 => 50_257,
        }
    }

    /// Id of a digit.
    #[must_use]
    pub fn digit(self, digit: u8) -> u32 {
        match self {
            Self::Digits => u32::from(digit),
            Self::Gpt2 => GPT2_DIGITS[usize::from(digit)],
        }
    }

    /// Id that fills up shorter sequences on the right, where nothing is trained: the end token.
    #[must_use]
    pub fn padding(self) -> u32 {
        match self {
            Self::Digits => 11,
            Self::Gpt2 => GPT2_END,
        }
    }

    fn symbol(self, symbol: Symbol) -> u32 {
        let (digits, gpt2) = match symbol {
            Symbol::Digit(digit) => return self.digit(digit),
            Symbol::Times => (10, 1635),
            Symbol::Plus => (13, 1343),
            Symbol::Open => (14, 357),
            Symbol::Close => (15, 1267),
        };
        match self {
            Self::Digits => digits,
            Self::Gpt2 => gpt2,
        }
    }

    fn separator(self) -> &'static [u32] {
        match self {
            Self::Digits => &[11],
            Self::Gpt2 => &[GPT2_SPACE, GPT2_END],
        }
    }

    fn marker(self) -> &'static [u32] {
        match self {
            Self::Digits => &[11, 12],
            Self::Gpt2 => &[GPT2_END, 1303, 21_017],
        }
    }

    fn working(self, problem: &Problem) -> Vec<u32> {
        let mut ids: Vec<u32> = problem.working().into_iter().map(|symbol| self.symbol(symbol)).collect();
        if self == Self::Gpt2 {
            ids.push(GPT2_SPACE);
        }
        ids
    }

    /// Tokens of working that can be taken away, m.
    #[must_use]
    pub fn working_length(self, n: usize) -> usize {
        Problem::working_length(n) + usize::from(self == Self::Gpt2)
    }

    /// Length of a sequence for n-digit operands with `removed` tokens of working gone.
    #[must_use]
    pub fn sequence_length(self, n: usize, removed: usize) -> usize {
        let working = self.working_length(n).saturating_sub(removed);
        4 * n + 1 + 2 * self.separator().len() + self.marker().len() + working
    }

    /// The ids of a problem with `removed` tokens of its working taken away from one side.
    #[must_use]
    pub fn encode(self, problem: &Problem, removed: usize, side: Side) -> Example {
        let answer: Vec<u32> = problem.answer().into_iter().map(|digit| self.digit(digit)).collect();
        self.encode_answer(problem, removed, side, &answer)
    }

    /// As [`Self::encode`], with the given ids in the answer's place (a counterfactual operand keeps the original answer).
    #[must_use]
    pub fn encode_answer(self, problem: &Problem, removed: usize, side: Side, answer: &[u32]) -> Example {
        let mut tokens: Vec<u32> = problem.operands().into_iter().map(|symbol| self.symbol(symbol)).collect();
        tokens.extend(self.separator());
        let first_trained = tokens.len();
        let working = self.working(problem);
        let removed = removed.min(working.len());
        let gap = match side {
            Side::Left => {
                tokens.extend(&working[removed..]);
                first_trained
            }
            Side::Right => {
                tokens.extend(&working[..working.len() - removed]);
                tokens.len()
            }
        };
        tokens.extend(self.marker());
        let answer_start = tokens.len();
        tokens.extend(answer);
        tokens.extend(self.separator());
        Example { tokens, first_trained, gap, answer_start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBLEM: Problem = Problem { a: 8331, b: 5015, digits: 4 };

    #[test]
    fn the_gpt2_form_is_as_published() {
        let full = Vocabulary::Gpt2.encode(&PROBLEM, 0, Side::Left);
        assert_eq!(full.tokens.len(), 71);
        assert_eq!(Vocabulary::Gpt2.working_length(4), 47);
        let bare = Vocabulary::Gpt2.encode(&PROBLEM, 47, Side::Left);
        assert_eq!(bare.tokens.len(), 24);
        // 1 3 3 8 * 5 1 0 5, space, end, end, #, ###, 5 6 9 9 7 7 1 4, space, end
        let expected = [
            352, 513, 513, 807, 1635, 642, 352, 657, 642, 220, 50256, 50256, 1303, 21017, 642, 718, 860, 860, 767, 767,
            352, 604, 220, 50256,
        ];
        assert_eq!(bare.tokens, expected);
        // c_0 stands at 14, the logits that predict c_k at 13 + k; 13 tokens are trained
        assert_eq!((bare.answer_start, bare.tokens.len() - bare.first_trained), (14, 13));
    }

    #[test]
    fn lengths_are_what_is_said() {
        for vocabulary in [Vocabulary::Digits, Vocabulary::Gpt2] {
            for n in 2..6 {
                let low = 10u64.pow(n as u32 - 1);
                let problem = Problem { a: low, b: low + 1, digits: n };
                for removed in [0, 1, 5, 10_000] {
                    let example = vocabulary.encode(&problem, removed, Side::Left);
                    assert_eq!(example.tokens.len(), vocabulary.sequence_length(n, removed));
                    assert!(example.tokens.iter().all(|id| (*id as usize) < vocabulary.size()));
                }
            }
        }
        assert_eq!(Vocabulary::Digits.sequence_length(3, 24), 4 * 3 + 5);
    }

    #[test]
    fn removal_takes_the_right_side() {
        let whole = Vocabulary::Digits.encode(&PROBLEM, 0, Side::Left).tokens;
        let left = Vocabulary::Digits.encode(&PROBLEM, 3, Side::Left).tokens;
        let right = Vocabulary::Digits.encode(&PROBLEM, 3, Side::Right).tokens;
        assert_eq!(left, [&whole[..10], &whole[13..]].concat());
        assert_eq!(right, [&whole[..53], &whole[56..]].concat());
    }

    #[test]
    fn the_answer_stands_where_it_is_said() {
        let example = Vocabulary::Digits.encode(&PROBLEM, 7, Side::Left);
        let answer: Vec<u32> = PROBLEM.answer().into_iter().map(u32::from).collect();
        assert_eq!(example.tokens[example.answer_start..][..8], answer);
    }
}
