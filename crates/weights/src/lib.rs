//! Named tensors on disk: our own safetensors files with a content hash, and checkpoints that others wrote.
//!
//! A file of ours is whole or it is an error: the header, every shape, every byte (through the hash) and every number
//! (through a NaN check) are looked at, and the message names the file, the tensor and what to do.
//! A foreign checkpoint ([`Checkpoint`]: safetensors, sharded or not, and GGUF) has no hash; its structure is checked
//! when it is opened, its numbers when they are read.

mod checkpoint;
mod error;
mod export;
mod file;
mod gguf;
mod numbers;
mod shards;

pub use checkpoint::Checkpoint;
pub use error::Error;
pub use export::export;
pub use file::{Named, TensorFile, load, save};
pub use gguf::Gguf;

/// The file of a folder as on the hub that says what the model is.
const CONFIG: &str = "config.json";

/// The file of a folder as on the hub that has the weights, where they are not in shards.
const WEIGHTS: &str = "model.safetensors";
