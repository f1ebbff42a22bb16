//! Multiplication of two n-digit numbers with a chain of thought, least significant digit first.
//!
//! The task and its format come from arXiv 2405.14838 (stepwise internalisation) and are used by arXiv 2510.00184.
//! [`Problem`] does the arithmetic, [`Vocabulary`] maps symbols to token ids, and [`Split`] separates training problems
//! from held-out problems.

mod arithmetic;
mod split;
mod tokens;

pub use arithmetic::{Problem, Symbol};
pub use split::Split;
pub use tokens::{Example, Side, Vocabulary};
