//! Named tensors on disk: safetensors files with a content hash, checked before anybody computes with them.
//!
//! A file is whole or it is an error: the header, every shape, every byte (through the hash) and every number
//! (through a NaN check) are looked at, and the message names the file, the tensor and what to do.

mod error;
mod file;

pub use error::Error;
pub use file::{Named, TensorFile, load, save};
