//! Multiplication of two n-digit numbers with written working, least significant digit first.
//!
//! Task and format: arXiv 2405.14838 (stepwise internalisation), used by arXiv 2510.00184.
//! [`Problem`] knows the arithmetic (working, running sums), [`Vocabulary`] the tokens, [`Split`] which problems are
//! for training and which are held out.

mod arithmetic;
mod split;
mod tokens;

pub use arithmetic::{Problem, Symbol};
pub use split::Split;
pub use tokens::{Example, Side, Vocabulary};
