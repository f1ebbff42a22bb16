//! Sequences of unequal length in one batch.
//!
//! A causal model never looks ahead, so padding behind a sequence changes nothing before it. Batches that are padded in
//! front, as those made for generation, are turned round for the model and back for whoever looks.

use candle_core::{Result, Tensor};
use hooks::{Hook, HookedModel, Site, Tokens};

/// Logits of a batch whose sequences begin behind `pads` tokens of padding; those of padding mean nothing.
///
/// # Shapes
/// `tokens` `[batch, seq]`, one pad for each sequence, output `[batch, seq, d_vocab]`; hooks see tensors padded in front,
/// too.
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
        candle_core::bail!("pads {pads:?} for {batch} sequences of {seq} tokens");
    }
    let forth = rolled(tokens, 1, pads)?;
    let back: Vec<usize> = pads.iter().map(|pad| (seq - pad) % seq).collect();
    let logits = model.forward(&forth, &mut Turned { hook, pads, back: &back })?;
    rolled(&logits, 1, &back)
}

/// Each sequence of the batch, its first places moved behind the last.
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

/// A hook that sees every tensor with the padding in front.
struct Turned<'a> {
    hook: &'a mut dyn Hook,
    pads: &'a [usize],
    back: &'a [usize],
}

impl Hook for Turned<'_> {
    fn wants(&self, site: Site) -> bool {
        self.hook.wants(site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        // scores and patterns have keys behind the queries
        let axes: &[usize] = if site.head_axis() == Some(1) { &[2, 3] } else { &[1] };
        let turn = |x: Tensor, by: &[usize]| axes.iter().try_fold(x, |x, axis| rolled(&x, *axis, by));
        let seen = self.hook.visit(site, turn(tensor, self.back)?)?;
        turn(seen, self.pads)
    }
}
