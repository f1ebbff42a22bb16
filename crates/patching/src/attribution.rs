//! Attribution patching: the effect of a patch to first order, from one backward pass (arXiv 2310.10348).

use std::collections::BTreeMap;

use candle_core::{Result as CandleResult, Tensor, Var};
use capture::Recorder;
use hooks::{End, Hook, HookedModel, Site, Start, Tokens};

use crate::{Error, Metric};

/// Adds a variable of zeros at some sites, whose gradient is that of the site.
struct Leaves {
    sites: Vec<Site>,
    /// The activation and its variable.
    leaves: BTreeMap<Site, (Tensor, Var)>,
}

impl Hook for Leaves {
    fn wants(&self, site: Site) -> bool {
        self.sites.contains(&site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        let leaf = Var::from_tensor(&tensor.zeros_like()?)?;
        let seen = (&tensor + leaf.as_tensor())?;
        self.leaves.insert(site, (tensor.detach(), leaf));
        Ok(seen)
    }
}

/// Gradient of the metric's sum over the batch with respect to the activations at some sites, shaped as they are.
///
/// A model whose weights are no variables (such as `Decoder::frozen`) is spared the gradients of its weights.
///
/// # Errors
/// When a site is never visited, or no gradient reaches it (as at minus infinity of masked scores alone).
pub fn gradients(
    model: &dyn HookedModel,
    tokens: &Tokens,
    sites: &[Site],
    metric: &Metric<'_>,
) -> Result<BTreeMap<Site, Tensor>, Error> {
    let both = slopes(model, tokens, sites, metric)?;
    Ok(both.into_iter().map(|(site, (_, gradient))| (site, gradient)).collect())
}

/// Activations and gradients.
fn slopes(
    model: &dyn HookedModel,
    tokens: &Tokens,
    sites: &[Site],
    metric: &Metric<'_>,
) -> Result<BTreeMap<Site, (Tensor, Tensor)>, Error> {
    let mut hook = Leaves { sites: sites.to_vec(), leaves: BTreeMap::new() };
    let logits = model.forward_between(Start::Tokens(tokens), End::LastLogits(metric.places()), &mut hook)?;
    let total = metric.of(&logits)?.sum_all()?;
    let store = ops::backward(&total)?;
    let gradient = |site: &Site| {
        let (x, leaf) = hook.leaves.get(site).ok_or(Error::NeverFired { site: *site })?;
        let gradient = store.get(leaf).ok_or_else(|| Error::Request(format!("no gradient reaches {site}")))?;
        Ok((*site, (x.clone(), gradient.detach())))
    };
    sites.iter().map(gradient).collect()
}

/// First-order effect of patching each site's source into the base, entry by entry summed over the last axis:
/// `sum_d d metric / d x_d (x_source - x_base)_d` (arXiv 2310.10348, equation 1).
///
/// For a site of the stream this is `[batch, seq]`, for one of heads `[batch, seq, heads]`.
///
/// # Errors
/// As [`gradients`]; when the source did not keep a site.
pub fn attribution_patching(
    model: &dyn HookedModel,
    base: &Tokens,
    source: &Recorder,
    sites: &[Site],
    metric: &Metric<'_>,
) -> Result<BTreeMap<Site, Tensor>, Error> {
    let effect = |(site, (x, slope)): (Site, (Tensor, Tensor))| {
        let step = (source.get(site)? - x)?.detach();
        Ok((site, (slope * step)?.sum(candle_core::D::Minus1)?))
    };
    slopes(model, base, sites, metric)?.into_iter().map(effect).collect()
}
