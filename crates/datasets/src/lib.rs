//! Data that is made on the spot from a seed: the same seed gives the same bytes, on any machine. And, where a paper needs
//! them, published data sets in the files they come in.

pub mod analogies;
pub mod facts;
pub mod ioi;
pub mod mcq;
pub mod multiplication;
pub mod prose;
mod streams;

pub use streams::at;
