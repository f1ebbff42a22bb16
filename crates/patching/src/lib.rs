//! Interventions on a model: hooks that write, and the experiments built from them.
//!
//! The crate covers activation patching, ablation, steering, path patching, attribution patching, direct effects and
//! the logit lens. It works on any [`HookedModel`](hooks::HookedModel). Terms are those of arXiv 2309.16042: a *base*
//! run is changed at some sites to what a *source* run has there. Denoising patches a clean source into a corrupted
//! base; noising does the reverse.
//!
//! # Example
//! Which layer and position of the residual stream carries the difference between two prompts?
//! ```
//! use candle_core::{Device, Tensor};
//! use hooks::{Layer, Point, Site};
//! use models::{Config, Decoder};
//! use patching::{Metric, Run, activation_patching, each_position};
//! use rand::SeedableRng;
//!
//! let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
//! let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
//!
//! let sites = [0, 1].map(|layer| Site::Block(Layer(layer), Point::ResidPre));
//! let clean = Run::new(&model, &Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?, &sites)?;
//! let corrupted = Run::new(&model, &Tensor::new(&[[1u32, 9, 3, 4]], &Device::Cpu)?, &sites)?;
//!
//! let patches = each_position(2, Point::ResidPre, 4); // layer by layer
//! let metric = Metric::logit_difference(&[7], &[8]);
//! let effects = activation_patching(&model, &corrupted, &clean, &patches, &metric)?;
//! let recovered = effects.recovered(); // 0 has no effect, 1 restores the clean run
//! assert!((recovered[1] - 1.).abs() < 1e-2); // layer 0, position 1 is where the prompts differ
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Main types
//! - [`Run`]: a recorded forward pass that patches start from; [`Patch`], [`Effects`] and [`activation_patching`] sweep
//!   over patches of it.
//! - [`Metric`]: one number per sequence from the logits, such as [`Metric::logit_difference`].
//! - [`Edit`] and [`run_with_edits`]: ablation, resampling and steering in a single forward pass.
//! - [`Node`], [`Writes`], [`patch_nodes`], [`patch_queries`], [`direct_effects`]: heads and MLPs at the last position
//!   as nodes of a circuit.
//! - [`path_patching`] with [`Sender`] and [`Receiver`]: effects through chosen paths only.
//! - [`attribution_patching`] and [`gradients`]: all first-order effects from one backward pass.
//! - [`direct_logit_attribution`] and [`logit_lens`]: readings of the residual stream.
//!
//! # Cost of a sweep
//! A patch at one block and position changes neither earlier blocks nor earlier positions. So a sweep starts each patch
//! at its block's residual stream, after the keys and values of the positions that it cannot change, with several
//! patches in one batch. The numbers are those of one full forward pass per patch.
//!
//! # What it does not do
//! It does not know weights or architectures, load models, choose prompts or write files. It does not search for
//! circuits: which patches to run, and what to conclude, is up to the experiment.

mod attribution;
mod direct;
mod edit;
mod error;
mod metric;
mod nodes;
mod path;
mod run;
mod sweep;
#[cfg(test)]
mod tests;

pub use attribution::{attribution_patching, gradients};
pub use direct::{direct_logit_attribution, logit_lens};
pub use edit::{Edit, Edits, run_with_edits};
pub use error::Error;
pub use metric::Metric;
pub use nodes::{
    DirectEffects, Node, Writes, direct_effects, patch_nodes, patch_queries, patch_whole_queries, run_nodes,
};
pub use path::{Receiver, Sender, path_patching};
pub use run::Run;
pub use sweep::{Effects, Patch, activation_patching, each_head, each_head_and_position, each_position};
