//! The shared words of interpretability: where in a transformer one may look ([`Site`]), and who looks ([`Hook`]).
//!
//! Addresses are the field's own, as TransformerLens prints them: `blocks.3.attn.hook_z`, `blocks.3.hook_resid_mid`,
//! `ln_final.hook_scale`.
//! A model visits its sites in reading order and hands each tensor to the hook; the hook gives back the same tensor,
//! or another one in its place.
//! A site that nobody wants costs nothing.

mod hook;
mod site;

pub use hook::{End, Hook, HookedModel, NoHook, Past, Start, Tokens};
pub use site::{Layer, ParseSiteError, Point, Site};
