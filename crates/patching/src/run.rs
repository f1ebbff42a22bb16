//! A recorded forward pass that patched passes start from.

use candle_core::Tensor;
use capture::{KeyValueCache, Recorder, key_point, run_with_cache};
#[cfg(test)]
use hooks::Start;
use hooks::{End, HookedModel, Layer, NoHook, Past, Point, Site, Tokens};

use crate::{Error, Metric};

/// Tokens, and the activations of their forward pass that a patched pass needs.
pub struct Run {
    tokens: Vec<Vec<u32>>,
    seen: Recorder,
    logits: Tensor,
    key: Point,
    /// Keys and values before the last position, when only the last position was recorded.
    before_last: Option<Past>,
}

impl Run {
    /// Runs the model once and records the residual stream before each block, keys and values, and the given sites.
    ///
    /// # Errors
    /// When the model lacks a site or the tokens do not fit it.
    pub fn new(model: &dyn HookedModel, tokens: &Tokens, sites: &[Site]) -> Result<Self, Error> {
        let key = key_point(model);
        let layers = (0..model.n_layers()).map(Layer);
        let mut wanted: Vec<Site> =
            layers.flat_map(|layer| [Point::ResidPre, key, Point::V].map(|point| Site::Block(layer, point))).collect();
        wanted.extend(sites);
        wanted.sort();
        wanted.dedup();
        let (logits, seen) = run_with_cache(model, tokens, &wanted)?;
        Ok(Self { tokens: tokens.to_vec2()?, seen, logits, key, before_last: None })
    }

    /// As [`Self::new`], for patches at the last position only: earlier positions keep their keys and values and
    /// nothing else.
    pub(crate) fn of_last(model: &dyn HookedModel, tokens: &Tokens, sites: &[Site]) -> Result<Self, Error> {
        let (_, seq) = tokens.dims2()?;
        let layers = || (0..model.n_layers()).map(Layer);
        let mut sites = sites.to_vec();
        sites.extend(layers().map(|layer| Site::Block(layer, Point::ResidPre)));
        if seq == 1 {
            return Self::new(model, tokens, &sites);
        }
        let mut cache = KeyValueCache::new();
        let before = tokens.narrow(1, 0, seq - 1)?;
        cache.read(model, &before, End::Resid(Layer(model.n_layers())), &mut NoHook)?;
        let before_last = cache.past().cloned();
        let mut seen = Recorder::new(model, &sites)?;
        let logits = cache.read(model, &tokens.narrow(1, seq - 1, 1)?, End::LastLogits(1), &mut seen)?;
        for site in &sites {
            seen.get(*site)?;
        }
        Ok(Self { tokens: tokens.to_vec2()?, seen, logits, key: key_point(model), before_last })
    }

    /// Logits, `[batch, seq, d_vocab]`; `[batch, 1, d_vocab]` when only the last position was recorded.
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Number of sequences and tokens in each.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.tokens.len(), self.tokens.first().map_or(0, Vec::len))
    }

    /// The activation at a site; at the last position alone when only that was recorded.
    ///
    /// # Errors
    /// When the site was not recorded.
    pub fn at(&self, site: Site) -> Result<&Tensor, Error> {
        Ok(self.seen.get(site)?)
    }

    /// The metric of this run, one number per sequence.
    ///
    /// # Errors
    /// When the metric does not fit.
    pub fn measure(&self, metric: &Metric<'_>) -> Result<Vec<f64>, Error> {
        numbers(&metric.of(&last(&self.logits, metric.positions())?)?)
    }

    /// Length of the prefix in which both runs have the same tokens in every sequence, and so the same activations.
    #[must_use]
    pub fn common(&self, other: &Self) -> usize {
        let same = |(a, b): (&Vec<u32>, &Vec<u32>)| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        self.tokens.iter().zip(&other.tokens).map(same).min().unwrap_or(0)
    }

    /// Keys and values of the first `seq` positions.
    pub(crate) fn past(&self, model: &dyn HookedModel, seq: usize) -> Result<Past, Error> {
        if let Some(past) = &self.before_last {
            return match past.seq == seq {
                true => Ok(past.clone()),
                false => Err(Error::Request(format!(
                    "this run recorded the last position only, so it has no past of {seq} positions; use `Run::new`"
                ))),
            };
        }
        let part = |layer, point| -> Result<Tensor, Error> {
            Ok(self.at(Site::Block(layer, point))?.narrow(1, 0, seq)?.contiguous()?)
        };
        let both = |layer| -> Result<[Tensor; 2], Error> { Ok([part(layer, self.key)?, part(layer, Point::V)?]) };
        let keys_values = (0..model.n_layers()).map(|layer| both(Layer(layer))).collect::<Result<_, Error>>()?;
        Ok(Past { seq, keys_values })
    }

    /// The residual stream before a block, `[batch, seq, d_model]`.
    pub(crate) fn resid(&self, layer: Layer) -> Result<&Tensor, Error> {
        self.at(Site::Block(layer, Point::ResidPre))
    }

    /// Logits from position `from` on, of a pass that starts from this run's residual stream and changes nothing.
    #[cfg(test)]
    pub(crate) fn resumed(&self, model: &dyn HookedModel, layer: Layer, from: usize) -> Result<Tensor, Error> {
        let (_, seq) = self.sizes();
        let resid = self.resid(layer)?.narrow(1, from, seq - from)?.contiguous()?;
        let past = self.past(model, from)?;
        Ok(model.forward_between(Start::Suffix(layer, &resid, &past), End::Logits, &mut NoHook)?)
    }
}

/// Logits at the last `count` positions.
pub(crate) fn last(logits: &Tensor, count: usize) -> Result<Tensor, Error> {
    let (_, seq, _) = logits.dims3()?;
    if count == 0 || count > seq {
        return Err(Error::Request(format!("the metric reads the last {count} positions of a sequence of {seq}")));
    }
    Ok(logits.narrow(1, seq - count, count)?)
}

pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f64>, Error> {
    Ok(x.to_dtype(candle_core::DType::F64)?.to_vec1()?)
}
