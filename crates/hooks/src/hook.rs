//! Who looks, and at what.

use candle_core::{Result, Tensor};

use crate::{Layer, Site};

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

/// Where a forward pass begins.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// With tokens.
    Tokens(&'a Tokens),
    /// With the residual stream before a block, `[batch, seq, d_model]`; before the block after the last: with the final
    /// norm.
    Resid(Layer, &'a Tensor),
    /// With the residual stream before a block at the last places only, `[batch, last, d_model]`, behind places whose keys
    /// and values are known.
    Suffix(Layer, &'a Tensor, &'a Past),
}

/// Keys and values of the first places of every block, as a forward pass over them left them.
#[derive(Clone, Debug)]
pub struct Past {
    /// How many places.
    pub seq: usize,
    /// For each block, keys as attention reads them (turned, in rotary models) and values,
    /// `[batch, seq, n_key_value_heads, d_head]` each. The batch of what follows may be a multiple of theirs.
    pub keys_values: Vec<[Tensor; 2]>,
}

/// Where a forward pass ends, and so what it gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With logits `[batch, seq, d_vocab]`.
    Logits,
    /// With logits of the last places of a sequence only, `[batch, last, d_vocab]`.
    LastLogits(usize),
    /// With the residual stream before a block `[batch, seq, d_model]`, which no hook has seen there yet.
    Resid(Layer),
}

/// A model that can be looked into.
pub trait HookedModel {
    /// Number of blocks.
    fn n_layers(&self) -> usize;

    /// Number of query heads in each block.
    fn n_heads(&self) -> usize;

    /// Every place it can be looked at, in the order in which a forward pass comes by.
    fn sites(&self) -> Vec<Site>;

    /// Part of a forward pass, with every wanted site on the way shown to `hook`.
    ///
    /// # Errors
    /// When the tokens or the stream do not fit the model, it ends before it begins, or the hook fails.
    fn forward_between(&self, start: Start<'_>, end: End, hook: &mut dyn Hook) -> Result<Tensor>;

    /// Logits `[batch, seq, d_vocab]` of a stream `[batch, seq, d_model]` as it is, without the final norm.
    ///
    /// # Errors
    /// When the stream does not fit the model.
    fn unembed(&self, resid: &Tensor) -> Result<Tensor>;

    /// Logits `[batch, seq, d_vocab]` of `tokens` `[batch, seq]`, with every wanted site shown to `hook` on the way.
    ///
    /// # Errors
    /// When the tokens do not fit the model or the hook fails.
    fn forward(&self, tokens: &Tokens, hook: &mut dyn Hook) -> Result<Tensor> {
        self.forward_between(Start::Tokens(tokens), End::Logits, hook)
    }
}
