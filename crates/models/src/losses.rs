//! Losses of a training step, by the fast pass or operation by operation.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};
use hooks::{End, Hook, Layer, NoHook, Point, Site, Start, Tokens};

use crate::architecture::NormKind;
use crate::dropout::{DropoutKey, DropoutMasks};
use crate::fast::{FastLosses, FastPass};
use crate::hooked::visit;
use crate::{Config, Decoder};

/// The output of [`Decoder::losses`].
#[derive(Clone, Debug)]
pub struct Losses {
    /// Negative log-probability in nats of each counted target, in the order of the batch, `[targets]`.
    pub losses: Tensor,
    /// Head outputs of each requested block, `[batch, seq, n_heads, d_head]`.
    pub z: Vec<Tensor>,
    /// Scales of the norms' inputs, if requested.
    pub norm_scales: Option<NormScales>,
}

/// Scales of the norms' inputs: `sqrt(var + eps)` of each token for LayerNorm, `sqrt(mean(x^2) + eps)` for RMSNorm. A
/// norm with a fixed scale has them too, although it does not divide by them.
#[derive(Clone, Debug)]
pub struct NormScales {
    /// Mean over all tokens before attention, by block.
    pub ln1: Vec<f64>,
    /// Mean over all tokens before the MLP, by block.
    pub ln2: Vec<f64>,
    /// Scale of each token before the final norm, `[batch, seq]`; gradients flow through it.
    pub ln_final: Tensor,
}

/// Options of a training step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step<'a> {
    /// Key of the step's dropout masks; nothing is dropped without one.
    pub dropout: Option<u64>,
    /// Keep only each block's input for the backward pass and compute the rest again: less memory, more time, the same
    /// bytes. Where the fast pass does not apply, blocks whose heads are requested are kept in full.
    pub recompute: bool,
    /// The learned position of every token, row by row; by default they count from 0 in each row.
    pub positions: Option<&'a [u32]>,
    /// Whether to return the scales of the norms' inputs.
    pub norm_scales: bool,
}

impl Decoder {
    /// Losses of a training step, with head outputs of the blocks in `taps`.
    ///
    /// In f32 and f64 on the CPU, models of GPT-2's architecture use the fast pass, whose bytes do not depend on the
    /// number of threads. All others run operation by operation. Take gradients with [`ops::backward`]; they are those
    /// at the weights' values at that moment.
    ///
    /// # Shapes
    /// `tokens` and `targets` `[batch, seq]` (`u32`); targets equal to [`ops::IGNORED`] do not count.
    ///
    /// # Errors
    /// When tokens, targets or positions do not fit the model, or a block in `taps` does not exist or repeats.
    pub fn losses(&self, tokens: &Tokens, targets: &Tensor, taps: &[Layer], step: Step<'_>) -> Result<Losses> {
        let (batch, seq) = self.check_tokens(tokens)?;
        if batch * seq == 0 {
            candle_core::bail!("a batch of {batch} x {seq} tokens has no losses");
        }
        if let Some(Layer(layer)) = taps.iter().find(|Layer(layer)| *layer >= self.config.n_layers) {
            candle_core::bail!("head outputs of block {layer} requested of a model of {} blocks", self.config.n_layers);
        }
        if let Some((_, Layer(layer))) = taps.iter().enumerate().find(|(i, layer)| taps[..*i].contains(layer)) {
            candle_core::bail!("head outputs of block {layer} requested twice");
        }
        let targets = targets.flatten_all()?.to_vec1::<u32>()?;
        if targets.len() != batch * seq {
            candle_core::bail!("{} targets for {batch} x {seq} tokens", targets.len());
        }
        let v = self.config.d_vocab;
        if let Some(target) = targets.iter().find(|target| **target as usize >= v && **target != ops::IGNORED) {
            candle_core::bail!("target {target} is outside the vocabulary of {v}");
        }
        if let Some(positions) = step.positions {
            self.check_positions(positions, batch * seq)?;
        }
        let p = step.dropout.map_or(0., |_| self.config.dropout);
        let dropout = DropoutKey { p, key: step.dropout.unwrap_or(0) };
        match self.fast() {
            Some(fast) => self.fast_step(fast, tokens, targets, taps, step, dropout),
            None => self.composed_step(tokens, &targets, taps, step, dropout),
        }
    }

    fn fast_step(
        &self,
        fast: &Arc<FastPass>,
        tokens: &Tokens,
        targets: Vec<u32>,
        taps: &[Layer],
        step: Step<'_>,
        dropout: DropoutKey,
    ) -> Result<Losses> {
        let (batch, seq) = tokens.dims2()?;
        let (h, e) = (self.config.n_heads, self.config.d_head());
        let request = FastLosses {
            targets,
            recompute: step.recompute,
            taps: taps.iter().map(|layer| layer.0).collect(),
            norm_scales: step.norm_scales,
        };
        let out = self.fast_losses(fast, tokens, step.positions, dropout, request)?;
        let mean = |scales: &Tensor| scales.detach().to_dtype(DType::F64)?.to_vec1::<f64>();
        let norm_scales = match out.norm_scales {
            Some(scales) => Some(NormScales {
                ln1: mean(&scales.ln1)?,
                ln2: mean(&scales.ln2)?,
                ln_final: scales.ln_final.reshape((batch, seq))?,
            }),
            None => None,
        };
        let z = out.z.into_iter().map(|z| z.reshape((batch, seq, h, e))).collect::<Result<_>>()?;
        Ok(Losses { losses: out.losses, z, norm_scales })
    }

    fn composed_step(
        &self,
        tokens: &Tokens,
        targets: &[u32],
        taps: &[Layer],
        step: Step<'_>,
        dropout: DropoutKey,
    ) -> Result<Losses> {
        let (batch, seq) = tokens.dims2()?;
        let mut sites: Vec<Site> = taps.iter().map(|layer| Site::Block(*layer, Point::Z)).collect();
        if step.norm_scales {
            sites.extend(norm_inputs(&self.config).into_iter().flatten());
        }
        let mut hook = Taps { sites, seen: Vec::new() };
        let mut masks = DropoutMasks::new(dropout);
        let mut resid = self.embed(tokens, step.positions, &mut masks, &mut hook)?;
        let mut first = Layer(0);
        if step.recompute {
            resid = self.recomputed_blocks(resid, &mut masks, &mut hook)?;
            first = Layer(self.config.n_layers);
        }
        let logits = self.forward_composed(Start::Resid(first, &resid), End::Logits, &mut masks, &mut hook)?;
        let counted = (0u32..).zip(targets).filter(|(_, target)| **target != ops::IGNORED);
        let (rows, chosen): (Vec<u32>, Vec<u32>) = counted.map(|(row, target)| (row, *target)).unzip();
        let device = tokens.device();
        let logits =
            logits.reshape((batch * seq, self.config.d_vocab))?.index_select(&Tensor::new(rows, device)?, 0)?;
        let norm_scales = step.norm_scales.then(|| norm_scales(&self.config, &hook)).transpose()?;
        Ok(Losses {
            losses: ops::token_losses(&logits, &Tensor::new(chosen, device)?)?,
            z: hook.head_outputs(taps),
            norm_scales,
        })
    }

    /// The residual stream after all blocks. Each block keeps only its input and runs again in the backward pass,
    /// except blocks whose head outputs are requested.
    fn recomputed_blocks(&self, mut resid: Tensor, masks: &mut DropoutMasks, hook: &mut Taps) -> Result<Tensor> {
        for layer in 0..self.config.n_layers {
            let at = |point| Site::Block(Layer(layer), point);
            let (from, to) = (Layer(layer), End::Resid(Layer(layer + 1)));
            if hook.wants(at(Point::Z)) {
                resid = self.forward_composed(Start::Resid(from, &resid), to, masks, hook)?;
                continue;
            }
            resid = visit(hook, at(Point::ResidPre), resid)?;
            // the stream between attention and MLP is only measured, so it needs no gradient
            let sites = [Point::ResidMid].map(at).into_iter().filter(|site| hook.wants(*site)).collect();
            let mut inside = Taps { sites, seen: Vec::new() };
            let before = *masks;
            let out = self.forward_composed(Start::Resid(from, &resid.detach()), to, masks, &mut inside)?.detach();
            hook.seen.extend(inside.seen.into_iter().map(|(site, x)| (site, x.detach())));
            let name = format!("blocks.{layer}.");
            let weights = self.parameters.iter().filter(|(of, _)| of.starts_with(&name));
            let weights = weights.map(|(_, var)| var.as_tensor().clone()).collect();
            let model = self.clone();
            resid = ops::run_again(&resid, out, weights, move |x| {
                let mut masks = before;
                model.forward_composed(Start::Resid(from, x), to, &mut masks, &mut NoHook)
            })?;
            resid = visit(hook, at(Point::ResidPost), resid)?;
        }
        Ok(resid)
    }
}

/// The streams that norms read: before attention and before the MLP of each block; the last entry is the final norm's.
fn norm_inputs(config: &Config) -> Vec<[Site; 2]> {
    let middle = if config.architecture.parallel { Point::ResidPre } else { Point::ResidMid };
    let block = |layer| [Point::ResidPre, middle].map(|point| Site::Block(Layer(layer), point));
    let last = Site::Block(Layer(config.n_layers - 1), Point::ResidPost);
    (0..config.n_layers).map(block).chain([[last, last]]).collect()
}

fn norm_scales(config: &Config, taps: &Taps) -> Result<NormScales> {
    let scale = |site: &Site| {
        let x = taps.seen.iter().find(|(at, _)| at == site).map(|(_, x)| x);
        let Some(x) = x else { candle_core::bail!("{site} was not visited") };
        let parts = match config.architecture.norm {
            NormKind::Layer => ops::layer_norm_parts(x, config.norm_eps)?,
            NormKind::Rms => ops::rms_norm_parts(x, config.norm_eps)?,
        };
        parts.scale.squeeze(candle_core::D::Minus1)
    };
    let mean = |site: &Site| scale(site)?.detach().to_dtype(DType::F64)?.mean_all()?.to_scalar::<f64>();
    let mut sites = norm_inputs(config);
    let Some([last, _]) = sites.pop() else { candle_core::bail!("a decoder without blocks has no norm scales") };
    Ok(NormScales {
        ln1: sites.iter().map(|[pre, _]| mean(pre)).collect::<Result<_>>()?,
        ln2: sites.iter().map(|[_, mid]| mean(mid)).collect::<Result<_>>()?,
        ln_final: scale(&last)?,
    })
}

/// Records some sites and changes nothing.
struct Taps {
    sites: Vec<Site>,
    seen: Vec<(Site, Tensor)>,
}

impl Taps {
    /// Head outputs of some blocks, in the order of `layers`.
    fn head_outputs(self, layers: &[Layer]) -> Vec<Tensor> {
        let find = |layer: &Layer| {
            self.seen.iter().find(|(site, _)| *site == Site::Block(*layer, Point::Z)).map(|(_, z)| z.clone())
        };
        layers.iter().filter_map(find).collect()
    }
}

impl Hook for Taps {
    fn wants(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        self.seen.push((site, tensor.clone()));
        Ok(tensor)
    }
}
