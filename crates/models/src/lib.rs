//! One decoder-only transformer, written top to bottom, whose variations are values in its [`Config`].
//!
//! Read [`decoder`](Decoder) first: embedding, blocks, unembedding, with every place that can be looked at.
//! Weights carry TransformerLens' names and axes (`blocks.0.attn.W_O`), so that what is read off them needs no
//! translation; [`save`] writes them with the configuration in one safetensors file that [`load`] rebuilds alone.

mod architecture;
mod checkpoint;
mod config;
mod decoder;
mod direct;
mod error;
mod family;
mod file;
mod init;
mod padding;
mod pass;
mod transform;

pub use architecture::{
    Architecture, Biases, FixedScales, NormKind, NormPath, NormPlace, Positions, QkNorm, Rotary, Scaling,
};
pub use checkpoint::{describe_checkpoint, describe_config, export, open, read};
pub use config::{Activation, Config, Initialisation};
pub use decoder::{Decoder, Losses, NormScales, Step};
pub use error::Error;
pub use family::{Family, Fields};
pub use file::{load, save};
pub use padding::forward_left_padded;
pub use transform::Transform;
