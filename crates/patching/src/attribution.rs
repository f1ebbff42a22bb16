//! Attribution patching: the first-order effect of a patch, from one backward pass (arXiv 2310.10348).

use std::collections::BTreeMap;

use candle_core::{Result as CandleResult, Tensor, Var};
use capture::Recorder;
use hooks::{End, Hook, HookedModel, Site, Start, Tokens};

use crate::{Error, Metric};

/// Adds a variable of zeros at each site, whose gradient is the gradient of the activation there.
struct Leaves {
    sites: Vec<Site>,
    /// Activation and added variable.
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

/// Gradient of the metric, summed over the batch, with respect to the activations at some sites. Shapes are those of
/// the activations.
///
/// Pass a model with frozen weights (such as `Decoder::frozen`) to skip the gradients of weights.
///
/// # Errors
/// When a site is never visited, or no gradient reaches it.
pub fn gradients(
    model: &dyn HookedModel,
    tokens: &Tokens,
    sites: &[Site],
    metric: &Metric<'_>,
) -> Result<BTreeMap<Site, Tensor>, Error> {
    let pairs = activations_and_gradients(model, tokens, sites, metric)?;
    Ok(pairs.into_iter().map(|(site, (_, gradient))| (site, gradient)).collect())
}

fn activations_and_gradients(
    model: &dyn HookedModel,
    tokens: &Tokens,
    sites: &[Site],
    metric: &Metric<'_>,
) -> Result<BTreeMap<Site, (Tensor, Tensor)>, Error> {
    let mut hook = Leaves { sites: sites.to_vec(), leaves: BTreeMap::new() };
    let logits = model.forward_between(Start::Tokens(tokens), End::LastLogits(metric.positions()), &mut hook)?;
    let total = metric.of(&logits)?.sum_all()?;
    let store = ops::backward(&total)?;
    let gradient = |site: &Site| {
        let (x, leaf) = hook.leaves.get(site).ok_or(Error::NeverFired { site: *site })?;
        let gradient = store.get(leaf).ok_or_else(|| Error::Request(format!("no gradient reaches {site}")))?;
        Ok((*site, (x.clone(), gradient.detach())))
    };
    sites.iter().map(gradient).collect()
}

/// First-order effect of patching the source's activation into the base at each site:
/// `sum_d d metric / d x_d (x_source - x_base)_d`, summed over the last axis (arXiv 2310.10348, equation 1).
///
/// # Shapes
/// `[batch, seq]` for a site of the residual stream, `[batch, seq, n_heads]` for a site with heads.
///
/// # Errors
/// As [`gradients`]; when the source did not record a site.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use hooks::{Layer, Point, Site};
/// use patching::{Metric, attribution_patching};
///
/// let base = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
/// let source = Tensor::new(&[[1u32, 2, 9, 4]], &Device::Cpu)?;
/// let site = Site::Block(Layer(0), Point::ResidPost);
/// let (_, recorded) = capture::run_with_cache(&model, &source, &[site])?;
/// let metric = Metric::logit_difference(&[7], &[8]);
/// let effects = attribution_patching(&model.frozen(), &base, &recorded, &[site], &metric)?;
/// let effects = effects[&site].to_vec2::<f32>()?; // [batch, seq]
/// assert!(effects[0][0].abs() < 1e-6); // the two runs do not differ at position 0
/// assert!(effects[0][2] != 0.);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn attribution_patching(
    model: &dyn HookedModel,
    base: &Tokens,
    source: &Recorder,
    sites: &[Site],
    metric: &Metric<'_>,
) -> Result<BTreeMap<Site, Tensor>, Error> {
    let effect = |(site, (x, gradient)): (Site, (Tensor, Tensor))| {
        let difference = (source.get(site)? - x)?.detach();
        Ok((site, (gradient * difference)?.sum(candle_core::D::Minus1)?))
    };
    activations_and_gradients(model, base, sites, metric)?.into_iter().map(effect).collect()
}
