//! Data that is made on the spot from a seed: the same seed gives the same bytes, on any machine.

pub mod ioi;
pub mod multiplication;
pub mod prose;
mod streams;

pub use streams::at;
