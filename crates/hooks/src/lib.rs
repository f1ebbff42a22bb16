//! The vocabulary of interpretability: addresses of activations in a transformer ([`Site`]), code that reads or
//! replaces them ([`Hook`]), and models that let it ([`HookedModel`]).
//!
//! Addresses print and parse as in TransformerLens: `blocks.3.attn.hook_z`, `blocks.3.hook_resid_mid`,
//! `ln_final.hook_scale`. A model visits its sites in reading order. At each site that the hook wants, the hook
//! receives the activation and returns the tensor that the model continues with. A site that no hook wants costs
//! nothing.
//!
//! # Example
//! ```
//! use candle_core::{Result, Tensor};
//! use hooks::{Hook, Layer, Point, Site};
//!
//! /// Records the attention patterns of one block.
//! struct Patterns {
//!     layer: Layer,
//!     seen: Vec<Tensor>, // [batch, n_heads, q_seq, k_seq] each
//! }
//!
//! impl Hook for Patterns {
//!     fn wants(&self, site: Site) -> bool {
//!         site == Site::Block(self.layer, Point::Pattern)
//!     }
//!
//!     fn visit(&mut self, _: Site, tensor: Tensor) -> Result<Tensor> {
//!         self.seen.push(tensor.clone());
//!         Ok(tensor)
//!     }
//! }
//!
//! let hook = Patterns { layer: Layer(3), seen: Vec::new() };
//! let site: Site = "blocks.3.attn.hook_pattern".parse()?;
//! assert!(hook.wants(site));
//! assert_eq!(site.head_axis(), Some(1));
//! # Ok::<(), hooks::ParseSiteError>(())
//! ```
//!
//! # Main types
//! - [`Site`], [`Layer`] and [`Point`]: addresses, with the shape of each activation.
//! - [`Hook`]: what reads or replaces activations; [`NoHook`] does neither.
//! - [`HookedModel`]: whole forward passes and parts of them, from a [`Start`] to an [`End`], with keys and values of
//!   earlier positions in [`Past`].
//!
//! # What it does not do
//! It has no model (see `models`) and no hooks beyond [`NoHook`]: `capture` has those that record, `patching` those
//! that write.

mod hook;
mod site;

pub use hook::{End, Hook, HookedModel, NoHook, Past, Start, Tokens};
pub use site::{Layer, ParseSiteError, Point, Site};
