//! The multiplication task: operands, chain of thought, answer, and the running column sums that determine the answer.

use std::fmt::{self, Write};

/// Two operands of exactly `digits` digits each; the leading digit is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// First operand.
    pub a: u64,
    /// Second operand.
    pub b: u64,
    /// Number of digits of each operand, n.
    pub digits: usize,
}

/// A symbol in an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symbol {
    /// 0 to 9.
    Digit(u8),
    /// `*`
    Times,
    /// `+`
    Plus,
    /// `(`
    Open,
    /// `)`
    Close,
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digit(digit) => write!(f, "{digit}"),
            Self::Times => f.write_char('*'),
            Self::Plus => f.write_char('+'),
            Self::Open => f.write_char('('),
            Self::Close => f.write_char(')'),
        }
    }
}

/// The lowest `width` digits of `number`, least significant first.
fn lsd_first(number: u64, width: usize) -> impl Iterator<Item = Symbol> {
    digits_of(number, width).map(Symbol::Digit)
}

fn digits_of(number: u64, width: usize) -> impl Iterator<Item = u8> {
    (0..width as u32).map(move |exponent| (number / 10u64.pow(exponent) % 10) as u8)
}

impl Problem {
    /// Digits of the first operand, least significant first.
    #[must_use]
    pub fn a_digits(&self) -> Vec<u8> {
        digits_of(self.a, self.digits).collect()
    }

    /// Digits of the second operand, least significant first.
    #[must_use]
    pub fn b_digits(&self) -> Vec<u8> {
        digits_of(self.b, self.digits).collect()
    }

    /// The 2n digits c_k of the product, least significant first, with a leading zero if it has only 2n - 1.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        digits_of(self.a * self.b, 2 * self.digits).collect()
    }

    /// The symbols of `a * b`, 2n + 1 in total.
    #[must_use]
    pub fn operands(&self) -> Vec<Symbol> {
        lsd_first(self.a, self.digits).chain([Symbol::Times]).chain(lsd_first(self.b, self.digits)).collect()
    }

    /// The chain of thought: shifted partial products `P_j = a b_j 10^j` with n + 1 + j digits, joined by `+`. Each but
    /// the first and the last is followed by the running total in brackets, with as many digits.
    #[must_use]
    pub fn chain_of_thought(&self) -> Vec<Symbol> {
        let n = self.digits;
        let mut symbols = Vec::with_capacity(Self::cot_length(n));
        let mut total = 0;
        for (j, b_j) in self.b_digits().into_iter().enumerate() {
            let term = self.a * u64::from(b_j) * 10u64.pow(j as u32);
            total += term;
            if j > 0 {
                symbols.push(Symbol::Plus);
            }
            symbols.extend(lsd_first(term, n + 1 + j));
            if j > 0 && j < n - 1 {
                symbols.push(Symbol::Open);
                symbols.extend(lsd_first(total, n + 1 + j));
                symbols.push(Symbol::Close);
            }
        }
        symbols
    }

    /// Number of symbols in the chain of thought for n-digit operands: 8, 24, 46, 74 for n = 2, 3, 4, 5.
    #[must_use]
    pub fn cot_length(n: usize) -> usize {
        let terms: usize = (0..n).map(|j| n + 1 + j).sum();
        let totals: usize = (1..n.saturating_sub(1)).map(|j| n + 3 + j).sum();
        terms + n.saturating_sub(1) + totals
    }

    /// Running column sums `c_hat_k = sum_{i+j=k} a_i b_j + floor(c_hat_{k-1} / 10)`, k = 0..2n (arXiv 2510.00184,
    /// section 3).
    ///
    /// `c_hat_k mod 10` is the answer digit `c_k`.
    #[must_use]
    pub fn running_sums(&self) -> Vec<u32> {
        let (a, b) = (self.a_digits(), self.b_digits());
        let mut carry = 0;
        (0..2 * self.digits)
            .map(|k| {
                let pairs = (0..self.digits).filter(|i| *i <= k && k - i < self.digits);
                let column: u32 = pairs.map(|i| u32::from(a[i]) * u32::from(b[k - i])).sum();
                let sum = column + carry;
                carry = sum / 10;
                sum
            })
            .collect()
    }

    /// The whole example as a line of text: `a * b||chain of thought #### answer`.
    #[must_use]
    pub fn line(&self) -> String {
        let spaced = |symbols: Vec<Symbol>| symbols.iter().map(Symbol::to_string).collect::<Vec<_>>().join(" ");
        let answer = self.answer().into_iter().map(Symbol::Digit).collect();
        format!("{}||{} #### {}", spaced(self.operands()), spaced(self.chain_of_thought()), spaced(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(a: u64, b: u64, digits: usize) -> Problem {
        Problem { a, b, digits }
    }

    #[test]
    fn lines_match_the_published_examples() {
        let check = |a, b, line: &str| assert_eq!(problem(a, b, 4).line(), line);
        check(
            2365,
            4347,
            "5 6 3 2 * 7 4 3 4||5 5 5 6 1 + 0 0 6 4 9 0 ( 5 5 1 1 1 1 ) + 0 0 5 9 0 7 0 ( 5 5 6 0 2 8 0 ) + 0 0 0 0 6 4 9 0 #### 5 5 6 0 8 2 0 1",
        );
        check(
            3719,
            3349,
            "9 1 7 3 * 9 4 3 3||1 7 4 3 3 + 0 6 7 8 4 1 ( 1 3 2 2 8 1 ) + 0 0 7 5 1 1 1 ( 1 3 9 7 9 2 1 ) + 0 0 0 7 5 1 1 1 #### 1 3 9 4 5 4 2 1",
        );
        check(
            8331,
            5015,
            "1 3 3 8 * 5 1 0 5||5 5 6 1 4 + 0 1 3 3 8 0 ( 5 6 9 4 2 1 ) + 0 0 0 0 0 0 0 ( 5 6 9 4 2 1 0 ) + 0 0 0 5 5 6 1 4 #### 5 6 9 9 7 7 1 4",
        );
    }

    #[test]
    fn two_digits_have_no_running_total() {
        assert_eq!(problem(12, 34, 2).line(), "2 1 * 4 3||8 4 0 + 0 6 3 0 #### 8 0 4 0");
    }

    #[test]
    fn chain_of_thought_lengths_match_the_published_ones() {
        let published = [8, 24, 46, 74, 108, 148, 194, 246, 304, 368];
        for (n, length) in (2..).zip(published) {
            assert_eq!(Problem::cot_length(n), length, "n = {n}");
            if n <= 9 {
                let largest = 10u64.pow(n as u32) - 1;
                assert_eq!(problem(largest, largest, n).chain_of_thought().len(), length);
            }
        }
    }

    #[test]
    fn running_sums_match_the_published_examples() {
        let check = |a, b, sums: [u32; 8]| assert_eq!(problem(a, b, 4).running_sums(), sums);
        check(8331, 5015, [5, 16, 19, 49, 27, 17, 41, 4]);
        check(3719, 3349, [81, 53, 99, 94, 45, 34, 12, 1]);
        check(2365, 4347, [35, 65, 66, 70, 48, 22, 10, 1]);
        check(9999, 9999, [81, 170, 260, 350, 278, 189, 99, 9]);
    }

    #[test]
    fn running_sums_give_the_answer() {
        for (a, b, n) in [(99, 10, 2), (123, 987, 3), (54_321, 99_999, 5)] {
            let problem = problem(a, b, n);
            let from_sums: Vec<u8> = problem.running_sums().iter().map(|sum| (sum % 10) as u8).collect();
            assert_eq!(from_sums, problem.answer());
        }
    }
}
