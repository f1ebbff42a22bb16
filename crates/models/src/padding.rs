//! Sequences of unequal length in one batch.
//!
//! In a causal model, padding after a sequence does not affect the sequence. Left-padded batches, as used in
//! generation, are therefore rolled so that the padding comes last, and hooks receive activations rolled back.

use candle_core::{Result, Tensor};
use hooks::{Hook, HookedModel, Site, Tokens};

/// Logits of a left-padded batch, with `pads[i]` padding tokens before sequence `i`. Logits of padding are meaningless.
///
/// # Shapes
/// `tokens` `[batch, seq]`, `pads` `[batch]`, output `[batch, seq, d_vocab]`. Hooks see left-padded activations too.
///
/// # Errors
/// When the pads do not fit the batch, or as [`HookedModel::forward`].
pub fn forward_left_padded(
    model: &dyn HookedModel,
    tokens: &Tokens,
    pads: &[usize],
    hook: &mut dyn Hook,
) -> Result<Tensor> {
    let (batch, seq) = tokens.dims2()?;
    if pads.len() != batch || pads.iter().any(|pad| *pad >= seq) {
        candle_core::bail!(
            "pads {pads:?} do not fit {batch} sequences of {seq} tokens; give one smaller number per sequence"
        );
    }
    let forth = rolled(tokens, 1, pads)?;
    let back: Vec<usize> = pads.iter().map(|pad| (seq - pad) % seq).collect();
    let logits = model.forward(&forth, &mut Rolled { hook, pads, back: &back })?;
    rolled(&logits, 1, &back)
}

/// Rolls each sequence of the batch: its first `by` entries move to the end.
fn rolled(x: &Tensor, axis: usize, by: &[usize]) -> Result<Tensor> {
    let roll = |(row, by): (usize, &usize)| {
        let row = x.narrow(0, row, 1)?;
        let size = row.dim(axis)?;
        if *by == 0 {
            Ok(row)
        } else {
            Tensor::cat(&[row.narrow(axis, *by, size - by)?, row.narrow(axis, 0, *by)?], axis)
        }
    };
    let rows: Vec<Tensor> = by.iter().enumerate().map(roll).collect::<Result<_>>()?;
    Tensor::cat(&rows, 0)
}

/// Shows every activation to another hook with the padding first.
struct Rolled<'a> {
    hook: &'a mut dyn Hook,
    pads: &'a [usize],
    back: &'a [usize],
}

impl Hook for Rolled<'_> {
    fn wants(&self, site: Site) -> bool {
        self.hook.wants(site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        // scores and patterns have an axis of queries and one of keys
        let axes: &[usize] = if site.head_axis() == Some(1) { &[2, 3] } else { &[1] };
        let roll = |x: Tensor, by: &[usize]| axes.iter().try_fold(x, |x, axis| rolled(&x, *axis, by));
        let seen = self.hook.visit(site, roll(tensor, self.back)?)?;
        roll(seen, self.pads)
    }
}
