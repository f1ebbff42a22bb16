//! Path patching: the effect of some heads on the output through some receivers alone (arXiv 2211.00593, appendix B).

use std::collections::BTreeMap;

use candle_core::{Result as CandleResult, Tensor};
use hooks::{Hook, HookedModel, Layer, Point, Site, Tokens};

use crate::edit::put;
use crate::run::{last, numbers};
use crate::{Error, Metric, Run};

/// A head whose output comes from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Block.
    pub layer: Layer,
    /// Head.
    pub head: usize,
}

/// A place that sees the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// The place: queries, keys or values of a later block, or the stream after the last.
    pub site: Site,
    /// Head, for places that have them; without: all.
    pub head: Option<usize>,
}

/// The metric of the base `[batch]` when the senders' outputs are those of the source, but only the receivers see it.
///
/// First pass: every other head keeps the base's output (and every MLP, with `freeze_mlps`; otherwise MLPs pass the change
/// on), the senders have the source's, and what reaches the receivers is recorded. Second pass: the base with that.
/// The runs must have kept `attn.hook_z` of all blocks, and `hook_mlp_out` with `freeze_mlps`.
///
/// # Errors
/// When a run lacks a site, or a place is never visited.
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
            kept = put(&kept, source.at(z)?, 2, sender.head)?; // [batch, seq, head, d_head]
        }
        outputs.insert(z, kept);
        if freeze_mlps {
            let mlp = Site::Block(layer, Point::MlpOut);
            outputs.insert(mlp, base.at(mlp)?.clone());
        }
    }
    if let Some(sender) = senders.iter().find(|sender| sender.layer.0 >= model.n_layers()) {
        return Err(Error::Request(format!("no block {} to send from", sender.layer.0)));
    }
    let mut first = Frozen { outputs, receivers, seen: BTreeMap::new() };
    model.forward(tokens, &mut first)?;
    let mut second = Received { receivers, seen: first.seen, fired: Vec::new() };
    let logits = model.forward(tokens, &mut second)?;
    if let Some(receiver) = receivers.iter().find(|receiver| !second.fired.contains(&receiver.site)) {
        return Err(Error::NeverFired { site: receiver.site });
    }
    numbers(&metric.of(&last(&logits, metric.places())?)?)
}

/// Heads and MLPs as they were, and a record of what reaches the receivers.
struct Frozen<'a> {
    outputs: BTreeMap<Site, Tensor>,
    receivers: &'a [Receiver],
    seen: BTreeMap<Site, Tensor>,
}

impl Hook for Frozen<'_> {
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

/// What reached the receivers, put there.
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
                (Some(head), Some(axis)) => put(&tensor, seen, axis, head)?,
                (Some(_), None) => candle_core::bail!("{site} has no heads"),
            };
        }
        Ok(tensor)
    }
}
