//! One decoder-only transformer whose variations are values of its [`Config`], with checkpoints of the hub's families.
//!
//! # Example
//! ```
//! use candle_core::{Device, Tensor};
//! use hooks::{HookedModel, Layer, NoHook};
//! use models::{Config, Decoder, Step};
//! use rand::SeedableRng;
//!
//! let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
//! let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(0);
//! let model = Decoder::fresh(&sizes, &mut rng, &Device::Cpu)?;
//!
//! // inference
//! let tokens = Tensor::new(&[[3u32, 14, 15, 9]], &Device::Cpu)?;
//! assert_eq!(model.forward(&tokens, &mut NoHook)?.dims(), [1, 4, 50]);
//!
//! // a training step: losses of the next tokens, head outputs of block 1, and the gradient of every weight
//! let targets = Tensor::new(&[[14u32, 15, 9, ops::IGNORED]], &Device::Cpu)?;
//! let step = model.losses(&tokens, &targets, &[Layer(1)], Step::default())?;
//! assert_eq!((step.losses.dims(), step.z[0].dims()), (&[3][..], &[1, 4, 2, 4][..]));
//! let gradients = ops::backward(&step.losses.mean_all()?)?;
//! assert!(model.parameters().iter().all(|(_, weight)| gradients.get(weight).is_some()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Main types
//! - [`Decoder`]: the model. Read `model.rs` first: weights, then the forward pass from embedding to logits, with every
//!   site that hooks can visit.
//! - [`Config`] and [`Architecture`]: sizes, and what distinguishes one family from another.
//! - [`Decoder::losses`] with [`Step`] and [`Losses`]: training steps. GPT-2's architecture has a fast pass on the CPU;
//!   a test holds it to the composed pass for losses, head outputs and every gradient.
//! - [`open()`], [`export`] and [`Family`]: checkpoints as on the hub, in safetensors or GGUF; [`save`] and [`load`]:
//!   one file that holds weights and configuration.
//! - [`Transform`]: exact changes of weights, such as folding norms.
//!
//! Weights are named as in TransformerLens (`blocks.0.attn.W_O`) and map inputs from the left, `[d_in, d_out]`. Unlike
//! there, queries, keys and values share one matrix `attn.W_QKV` `[d_model, (n_heads + 2 n_key_value_heads) d_head]`,
//! and heads are not an axis of their own.
//!
//! # What it does not do
//! It does not optimise (see `training`), record (see `capture`), tokenize (see `tokens`) or download (see
//! `pretrained`). Nothing is folded on loading: logits are those of the checkpoint.

mod architecture;
mod checkpoint;
mod config;
mod dropout;
mod error;
mod family;
mod fast;
mod file;
mod hooked;
mod init;
mod layers;
mod losses;
mod model;
mod padding;
mod parameters;
#[cfg(test)]
mod tests;
mod transform;
mod weight_index;

pub use architecture::{
    Architecture, Biases, FixedScales, NormKind, NormPath, NormPlace, Positions, QkNorm, Rotary, Scaling,
};
pub use checkpoint::{describe_checkpoint, export, open, read, read_hub_config};
pub use config::{Activation, Config, Initialisation};
pub use error::Error;
pub use family::{Family, Fields};
pub use file::{load, save};
pub use losses::{Losses, NormScales, Step};
pub use model::Decoder;
pub use padding::forward_left_padded;
pub use transform::Transform;
