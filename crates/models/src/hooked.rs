//! The decoder as a [`HookedModel`], and the checks of what callers pass to it.

use std::ops::Range;

use candle_core::{Result, Tensor};
use hooks::{End, Hook, HookedModel, Past, Site, Start, Tokens};

use crate::Decoder;
use crate::dropout::DropoutMasks;

impl HookedModel for Decoder {
    fn n_layers(&self) -> usize {
        self.config.n_layers
    }

    fn n_heads(&self) -> usize {
        self.config.n_heads
    }

    fn sites(&self) -> Vec<Site> {
        self.config.sites()
    }

    fn unembed(&self, resid: &Tensor) -> Result<Tensor> {
        self.logits(resid)
    }

    fn forward_between(&self, start: Start<'_>, end: End, hook: &mut dyn Hook) -> Result<Tensor> {
        if let (Start::Tokens(tokens), End::Logits) = (start, end) {
            let (batch, seq) = self.check_tokens(tokens)?;
            // the fast pass cannot cut an empty batch into shards
            if let Some(fast) = self.fast()
                && batch * seq > 0
                && !self.config.sites().iter().any(|site| hook.wants(*site))
            {
                return self.fast_logits(fast, tokens);
            }
        }
        self.forward_composed(start, end, &mut DropoutMasks::none(), hook)
    }
}

/// Shows `tensor` to the hook if it wants the site, and returns what the model continues with.
pub(crate) fn visit(hook: &mut dyn Hook, site: Site, tensor: Tensor) -> Result<Tensor> {
    if !hook.wants(site) {
        return Ok(tensor);
    }
    let (shape, dtype) = (tensor.shape().clone(), tensor.dtype());
    let seen = hook.visit(site, tensor)?;
    if seen.shape() != &shape || seen.dtype() != dtype {
        candle_core::bail!(
            "the hook at {site} returned {:?} {:?} for {shape:?} {dtype:?}; return the same shape and type",
            seen.shape(),
            seen.dtype()
        );
    }
    Ok(seen)
}

/// Keys or values after those of the past, `[b, t, k, e]`. One past sequence can serve several of the batch.
pub(crate) fn append_to_past(past: &Tensor, x: &Tensor) -> Result<Tensor> {
    let times = x.dim(0)? / past.dim(0)?;
    let past = if times > 1 { past.repeat((times, 1, 1, 1))? } else { past.clone() };
    Tensor::cat(&[&past, x], 1)
}

impl Decoder {
    /// Batch size and length of a batch of tokens.
    pub(crate) fn check_tokens(&self, tokens: &Tokens) -> Result<(usize, usize)> {
        let (batch, seq) = tokens.dims2()?;
        self.check_length(seq)?;
        Ok((batch, seq))
    }

    fn check_length(&self, seq: usize) -> Result<()> {
        let longest = self.config.n_positions;
        if seq > longest {
            candle_core::bail!("a sequence of {seq} tokens does not fit the model's {longest} positions");
        }
        Ok(())
    }

    /// Checks that a residual stream can run through `blocks`, after `past`, to `end`.
    pub(crate) fn check_stream(
        &self,
        blocks: Range<usize>,
        resid: &Tensor,
        past: Option<&Past>,
        end: End,
    ) -> Result<()> {
        let (n_layers, Range { start, end: last }) = (self.config.n_layers, blocks);
        if start > last || last > n_layers {
            candle_core::bail!("cannot run from block {start} to block {last} in a model of {n_layers} blocks");
        }
        let (batch, seq, d) = resid.dims3()?;
        self.check_length(past.map_or(0, |past| past.seq) + seq)?;
        self.check_past(past, batch)?;
        if d != self.config.d_model {
            candle_core::bail!("a residual stream of width {d} does not fit d_model = {}", self.config.d_model);
        }
        match end {
            End::LastLogits(count) if count > seq => {
                candle_core::bail!("logits of the last {count} positions were requested of a sequence of {seq}")
            }
            End::LastLogits(_) | End::Logits | End::Resid(_) => Ok(()),
        }
    }

    fn check_past(&self, past: Option<&Past>, batch: usize) -> Result<()> {
        let Some(past) = past else { return Ok(()) };
        if past.keys_values.len() != self.config.n_layers {
            candle_core::bail!("a past of {} blocks for a model of {}", past.keys_values.len(), self.config.n_layers);
        }
        let (kv, e) = (self.config.n_key_value_heads(), self.config.d_head());
        for tensor in past.keys_values.iter().flatten() {
            let shape = tensor.dims4()?;
            if shape.0 == 0 || !batch.is_multiple_of(shape.0) || (shape.1, shape.2, shape.3) != (past.seq, kv, e) {
                candle_core::bail!(
                    "keys or values of a past have shape {shape:?}, expected [a divisor of {batch}, {}, {kv}, {e}]",
                    past.seq
                );
            }
        }
        Ok(())
    }

    /// Checks learned positions that a caller chose, one for each of `tokens` tokens.
    pub(crate) fn check_positions(&self, positions: &[u32], tokens: usize) -> Result<()> {
        if self.pos_embed.is_none() {
            candle_core::bail!("positions can only be chosen in models with learned positions; this one is rotary");
        }
        if positions.len() != tokens {
            candle_core::bail!("{} positions for {tokens} tokens", positions.len());
        }
        let longest = self.config.n_positions;
        match positions.iter().find(|position| **position as usize >= longest) {
            Some(position) => candle_core::bail!("position {position} is outside the model's {longest} positions"),
            None => Ok(()),
        }
    }
}
