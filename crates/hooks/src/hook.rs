//! The interface between a model and code that reads or changes its activations.

use candle_core::{Result, Tensor};

use crate::{Layer, Site};

/// Reads or replaces activations during a forward pass.
///
/// # Examples
/// ```
/// use candle_core::{Result, Tensor};
/// use hooks::{Hook, Layer, Point, Site};
///
/// /// Sets the output of one MLP to zero.
/// struct ZeroMlp(Layer);
///
/// impl Hook for ZeroMlp {
///     fn wants(&self, site: Site) -> bool {
///         site == Site::Block(self.0, Point::MlpOut)
///     }
///
///     fn visit(&mut self, _: Site, tensor: Tensor) -> Result<Tensor> {
///         tensor.zeros_like()
///     }
/// }
/// ```
pub trait Hook {
    /// Whether to call [`visit`](Self::visit) for `site`. The model may skip computing a site that no hook wants.
    fn wants(&self, site: Site) -> bool;

    /// Receives the activation at `site` and returns the one that the model continues with: the same tensor to read,
    /// another of the same shape and type to patch.
    ///
    /// # Errors
    /// An error stops the forward pass.
    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor>;
}

/// A hook that wants no site.
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

/// Token ids `[batch, seq]` (`u32`).
pub type Tokens = Tensor;

/// The start of a forward pass.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// Tokens.
    Tokens(&'a Tokens),
    /// The residual stream before a block, `[batch, seq, d_model]`. With `Layer(n_layers)`, the pass starts at the
    /// final norm.
    Resid(Layer, &'a Tensor),
    /// The residual stream before a block at the last positions only, `[batch, last, d_model]`, and the keys and values
    /// of all earlier positions.
    Suffix(Layer, &'a Tensor, &'a Past),
}

/// Keys and values of the first positions, for every block.
#[derive(Clone, Debug)]
pub struct Past {
    /// Number of positions.
    pub seq: usize,
    /// Keys as attention reads them (after rotation in rotary models) and values of each block,
    /// `[batch, seq, n_key_value_heads, d_head]` each. The batch of a pass that continues from here may be a multiple
    /// of this one.
    pub keys_values: Vec<[Tensor; 2]>,
}

/// The end of a forward pass, which decides what it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Logits `[batch, seq, d_vocab]`.
    Logits,
    /// Logits at the last positions only, `[batch, last, d_vocab]`.
    LastLogits(usize),
    /// The residual stream before a block, `[batch, seq, d_model]`; hooks have not visited that block's
    /// `hook_resid_pre`.
    Resid(Layer),
}

/// A model with activations that hooks can read and replace.
///
/// # Examples
/// ```
/// use candle_core::{DType, Device, Result, Tensor};
/// use hooks::{End, Hook, HookedModel, NoHook, Site, Start};
///
/// /// A model without blocks: each token's logit for itself is 1.
/// struct Echo;
///
/// impl HookedModel for Echo {
///     fn n_layers(&self) -> usize {
///         0
///     }
///
///     fn n_heads(&self) -> usize {
///         0
///     }
///
///     fn sites(&self) -> Vec<Site> {
///         vec![Site::Embed]
///     }
///
///     fn unembed(&self, resid: &Tensor) -> Result<Tensor> {
///         Ok(resid.clone())
///     }
///
///     fn forward_between(&self, start: Start<'_>, _: End, hook: &mut dyn Hook) -> Result<Tensor> {
///         let Start::Tokens(tokens) = start else { candle_core::bail!("this model starts from tokens only") };
///         let embed = Tensor::eye(10, DType::F32, &Device::Cpu)?.index_select(&tokens.flatten_all()?, 0)?;
///         let (batch, seq) = tokens.dims2()?;
///         let embed = embed.reshape((batch, seq, 10))?;
///         let embed = if hook.wants(Site::Embed) { hook.visit(Site::Embed, embed)? } else { embed };
///         self.unembed(&embed)
///     }
/// }
///
/// let logits = Echo.forward(&Tensor::new(&[[3u32, 7]], &Device::Cpu)?, &mut NoHook)?;
/// assert_eq!(logits.argmax(2)?.to_vec2::<u32>()?, [[3, 7]]);
/// # Ok::<(), candle_core::Error>(())
/// ```
pub trait HookedModel {
    /// Number of blocks.
    fn n_layers(&self) -> usize;

    /// Number of query heads in each block.
    fn n_heads(&self) -> usize;

    /// Every site that the model has, in the order of a forward pass.
    fn sites(&self) -> Vec<Site>;

    /// Part of a forward pass. `hook` visits every site on the way that it wants.
    ///
    /// # Errors
    /// When the tokens or the stream do not fit the model, `end` comes before `start`, or the hook fails.
    fn forward_between(&self, start: Start<'_>, end: End, hook: &mut dyn Hook) -> Result<Tensor>;

    /// Logits `[batch, seq, d_vocab]` of a residual stream `[batch, seq, d_model]`, without the final norm.
    ///
    /// # Errors
    /// When the residual stream does not fit the model.
    fn unembed(&self, resid: &Tensor) -> Result<Tensor>;

    /// Logits `[batch, seq, d_vocab]` of `tokens` `[batch, seq]`. `hook` visits every site that it wants.
    ///
    /// # Errors
    /// When the tokens do not fit the model or the hook fails.
    fn forward(&self, tokens: &Tokens, hook: &mut dyn Hook) -> Result<Tensor> {
        self.forward_between(Start::Tokens(tokens), End::Logits, hook)
    }
}
