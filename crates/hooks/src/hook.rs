//! Who looks, and at what.

use candle_core::{Result, Tensor};

use crate::Site;

/// Something that reads or replaces activations during a forward pass.
pub trait Hook {
    /// Whether this hook wants to see `site`. A site that is not wanted is not visited, and may not be computed.
    fn wants(&self, site: Site) -> bool;

    /// Sees the tensor at `site` and returns what the model goes on with: the same tensor to read, another to patch.
    ///
    /// # Errors
    /// Whatever goes wrong in the hook stops the forward pass.
    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor>;
}

/// Nobody looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl Hook for NoHook {
    fn wants(&self, _: Site) -> bool {
        false
    }

    fn visit(&mut self, _: Site, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor)
    }
}

/// Token ids, one row a sequence, as the models take them: `[batch, seq]`, `u32`.
pub type Tokens = Tensor;

/// A model that can be looked into.
pub trait HookedModel {
    /// Number of blocks.
    fn n_layers(&self) -> usize;

    /// Number of query heads in each block.
    fn n_heads(&self) -> usize;

    /// Logits `[batch, seq, d_vocab]` of `tokens` `[batch, seq]`, with every wanted site shown to `hook` on the way.
    ///
    /// # Errors
    /// When the tokens do not fit the model or the hook fails.
    fn forward(&self, tokens: &Tokens, hook: &mut dyn Hook) -> Result<Tensor>;
}
