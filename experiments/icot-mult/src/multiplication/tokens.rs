//! Encodes problems as token ids, in two vocabularies with the same sequence structure.
//!
//! | part | digit-level | GPT-2's byte-level BPE |
//! |---|---|---|
//! | operands | `a * b` | `a * b`, each symbol with a leading space |
//! | separator | `%` | a lone space, end-of-text |
//! | chain of thought | chain of thought | chain of thought, a lone space |
//! | marker | `% #` | end-of-text, ` #`, `###` |
//! | answer | c_0 .. c_{2n-1} | the same |
//! | end | `%` | a lone space, end-of-text |
//!
//! The token ids are those of arXiv 2405.14838 and 2510.00184.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Problem, Symbol};

/// The mapping from symbols to token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vocabulary {
    /// Sixteen ids: the digits, `*`, `%` (separator and end), `#`, `+`, `(`, `)`.
    Digits,
    /// The 50,257 ids of GPT-2.
    Gpt2,
}

/// The end from which chain-of-thought tokens are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The first token of the chain of thought is removed first.
    Left,
    /// The last token of the chain of thought is removed first.
    Right,
}

/// One training sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Index of the first token with a loss. All tokens from here on have one.
    pub first_trained: usize,
    /// Index of the first token after the removed part of the chain of thought.
    pub gap: usize,
    /// Index of c_0. The logits that predict c_k are one position before c_k.
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

    /// Id of the padding on the right of shorter sequences, which has no loss: the end token.
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

    fn chain_of_thought(self, problem: &Problem) -> Vec<u32> {
        let mut ids: Vec<u32> = problem.chain_of_thought().into_iter().map(|symbol| self.symbol(symbol)).collect();
        if self == Self::Gpt2 {
            ids.push(GPT2_SPACE);
        }
        ids
    }

    /// Number of chain-of-thought tokens that can be removed, m.
    #[must_use]
    pub fn working_length(self, n: usize) -> usize {
        Problem::cot_length(n) + usize::from(self == Self::Gpt2)
    }

    /// Length of a sequence for n-digit operands from which `removed` chain-of-thought tokens are removed.
    #[must_use]
    pub fn sequence_length(self, n: usize, removed: usize) -> usize {
        let cot_tokens = self.working_length(n).saturating_sub(removed);
        4 * n + 1 + 2 * self.separator().len() + self.marker().len() + cot_tokens
    }

    /// Encodes a problem from which `removed` chain-of-thought tokens are removed on one side.
    #[must_use]
    pub fn encode(self, problem: &Problem, removed: usize, side: Side) -> Example {
        let answer: Vec<u32> = problem.answer().into_iter().map(|digit| self.digit(digit)).collect();
        self.encode_answer(problem, removed, side, &answer)
    }

    /// As [`Self::encode`], but with the given answer ids. A counterfactual operand can keep the original answer this
    /// way.
    #[must_use]
    pub fn encode_answer(self, problem: &Problem, removed: usize, side: Side, answer: &[u32]) -> Example {
        let mut tokens: Vec<u32> = problem.operands().into_iter().map(|symbol| self.symbol(symbol)).collect();
        tokens.extend(self.separator());
        let first_trained = tokens.len();
        let cot = self.chain_of_thought(problem);
        let removed = removed.min(cot.len());
        let gap = match side {
            Side::Left => {
                tokens.extend(&cot[removed..]);
                first_trained
            }
            Side::Right => {
                tokens.extend(&cot[..cot.len() - removed]);
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
    fn the_gpt2_encoding_matches_the_published_one() {
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
        // c_0 is at index 14, so the logits at 13 + k predict c_k; 13 tokens have a loss
        assert_eq!((bare.answer_start, bare.tokens.len() - bare.first_trained), (14, 13));
    }

    #[test]
    fn encoded_lengths_match_the_formula() {
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
    fn removal_is_on_the_requested_side() {
        let whole = Vocabulary::Digits.encode(&PROBLEM, 0, Side::Left).tokens;
        let left = Vocabulary::Digits.encode(&PROBLEM, 3, Side::Left).tokens;
        let right = Vocabulary::Digits.encode(&PROBLEM, 3, Side::Right).tokens;
        assert_eq!(left, [&whole[..10], &whole[13..]].concat());
        assert_eq!(right, [&whole[..53], &whole[56..]].concat());
    }

    #[test]
    fn the_answer_begins_at_answer_start() {
        let example = Vocabulary::Digits.encode(&PROBLEM, 7, Side::Left);
        let answer: Vec<u32> = PROBLEM.answer().into_iter().map(u32::from).collect();
        assert_eq!(example.tokens[example.answer_start..][..8], answer);
    }
}
