//! Path patching: the effect of heads on the output through given receivers only (arXiv 2211.00593, appendix B).

use std::collections::BTreeMap;

use candle_core::{Result as CandleResult, Tensor};
use hooks::{Hook, HookedModel, Layer, Point, Site, Tokens};

use crate::edit::replace_slice;
use crate::run::{last, numbers};
use crate::{Error, Metric, Run};

/// A head whose output is replaced by the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Block.
    pub layer: Layer,
    /// Head.
    pub head: usize,
}

/// A site that the change may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Queries, keys or values of a later block, or the residual stream after the last block.
    pub site: Site,
    /// The head, at sites that have heads; `None` for all.
    pub head: Option<usize>,
}

/// The metric of the base, one number per sequence, when the senders have the source's outputs but only the receivers
/// see the change. `runs` are the base and the source.
///
/// The first pass records the receivers. In it the senders have the source's outputs and every other head the base's;
/// with `freeze_mlps` every MLP has the base's output too, otherwise MLPs pass the change on. The second pass is the
/// base with the recorded receivers. Both runs must have recorded `attn.hook_z` of all blocks, and `hook_mlp_out` with
/// `freeze_mlps`.
///
/// # Errors
/// When a run did not record a site, a sender does not exist, or a receiver is never visited.
pub fn path_patching(
    model: &dyn HookedModel,
    tokens: &Tokens,
    runs: (&Run, &Run),
    senders: &[Sender],
    receivers: &[Receiver],
    freeze_mlps: bool,
    metric: &Metric<'_>,
) -> Result<Vec<f64>, Error> {
    let (base, source) = runs;
    let mut outputs: BTreeMap<Site, Tensor> = BTreeMap::new();
    for layer in (0..model.n_layers()).map(Layer) {
        let z = Site::Block(layer, Point::Z);
        let mut kept = base.at(z)?.clone();
        for sender in senders.iter().filter(|sender| sender.layer == layer) {
            kept = replace_slice(&kept, source.at(z)?, 2, sender.head)?; // [batch, seq, head, d_head]
        }
        outputs.insert(z, kept);
        if freeze_mlps {
            let mlp = Site::Block(layer, Point::MlpOut);
            outputs.insert(mlp, base.at(mlp)?.clone());
        }
    }
    if let Some(sender) = senders.iter().find(|sender| sender.layer.0 >= model.n_layers()) {
        return Err(Error::Request(format!("the model has no block {} with a sender", sender.layer.0)));
    }
    let mut first = FrozenOutputs { outputs, receivers, seen: BTreeMap::new() };
    model.forward(tokens, &mut first)?;
    let mut second = Received { receivers, seen: first.seen, fired: Vec::new() };
    let logits = model.forward(tokens, &mut second)?;
    if let Some(receiver) = receivers.iter().find(|receiver| !second.fired.contains(&receiver.site)) {
        return Err(Error::NeverFired { site: receiver.site });
    }
    numbers(&metric.of(&last(&logits, metric.positions())?)?)
}

/// Fixes the outputs of heads and MLPs, and records the receivers.
struct FrozenOutputs<'a> {
    outputs: BTreeMap<Site, Tensor>,
    receivers: &'a [Receiver],
    seen: BTreeMap<Site, Tensor>,
}

impl Hook for FrozenOutputs<'_> {
    fn wants(&self, site: Site) -> bool {
        self.outputs.contains_key(&site) || self.receivers.iter().any(|receiver| receiver.site == site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        if self.receivers.iter().any(|receiver| receiver.site == site) {
            self.seen.insert(site, tensor.clone());
        }
        Ok(self.outputs.get(&site).cloned().unwrap_or(tensor))
    }
}

/// Puts the recorded activations into the receivers.
struct Received<'a> {
    receivers: &'a [Receiver],
    seen: BTreeMap<Site, Tensor>,
    fired: Vec<Site>,
}

impl Hook for Received<'_> {
    fn wants(&self, site: Site) -> bool {
        self.receivers.iter().any(|receiver| receiver.site == site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        let Some(seen) = self.seen.get(&site) else { return Ok(tensor) };
        self.fired.push(site);
        let mut tensor = tensor;
        for receiver in self.receivers.iter().filter(|receiver| receiver.site == site) {
            tensor = match (receiver.head, site.head_axis()) {
                (None, _) => seen.clone(),
                (Some(head), Some(axis)) => replace_slice(&tensor, seen, axis, head)?,
                (Some(_), None) => candle_core::bail!("{site} has no heads"),
            };
        }
        Ok(tensor)
    }
}
