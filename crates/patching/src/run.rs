//! A finished forward pass that other passes start from.

use candle_core::Tensor;
use capture::{KeyValueCache, Recorder, key_point, run_with_cache};
#[cfg(test)]
use hooks::Start;
use hooks::{End, HookedModel, Layer, NoHook, Past, Point, Site, Tokens};

use crate::{Error, Metric};

/// Tokens, and everything of their forward pass that a patched pass needs.
pub struct Run {
    tokens: Vec<Vec<u32>>,
    seen: Recorder,
    logits: Tensor,
    key: Point,
    /// Of all places but the last, when only that one was looked at.
    before_last: Option<Past>,
}

impl Run {
    /// Runs the model once and keeps the stream before each block, its keys and values, and the given sites.
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

    /// As [`Self::new`], for what changes the last place only: of the places before, nothing but keys and values is kept, and
    /// nothing that is looked at is computed.
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

    /// Logits, `[batch, seq, d_vocab]`; `[batch, 1, d_vocab]` when only the last place was looked at.
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Sequences and tokens of each.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.tokens.len(), self.tokens.first().map_or(0, Vec::len))
    }

    /// What was seen at a site; a single place of it when only the last one was looked at.
    ///
    /// # Errors
    /// When it was not kept.
    pub fn at(&self, site: Site) -> Result<&Tensor, Error> {
        Ok(self.seen.get(site)?)
    }

    /// The metric's numbers for this run, `[batch]`.
    ///
    /// # Errors
    /// When the metric does not fit.
    pub fn measure(&self, metric: &Metric<'_>) -> Result<Vec<f64>, Error> {
        numbers(&metric.of(&last(&self.logits, metric.places())?)?)
    }

    /// Places from the first on at which two runs have the same tokens in every sequence, and so the same activations.
    #[must_use]
    pub fn common(&self, other: &Self) -> usize {
        let same = |(a, b): (&Vec<u32>, &Vec<u32>)| a.iter().zip(b).take_while(|(a, b)| a == b).count();
        self.tokens.iter().zip(&other.tokens).map(same).min().unwrap_or(0)
    }

    /// Keys and values of the first places.
    pub(crate) fn past(&self, model: &dyn HookedModel, seq: usize) -> Result<Past, Error> {
        if let Some(past) = &self.before_last {
            return match past.seq == seq {
                true => Ok(past.clone()),
                false => Err(Error::Request(format!("a run that looked at the last place only has no past of {seq}"))),
            };
        }
        let part = |layer, point| -> Result<Tensor, Error> {
            Ok(self.at(Site::Block(layer, point))?.narrow(1, 0, seq)?.contiguous()?)
        };
        let both = |layer| -> Result<[Tensor; 2], Error> { Ok([part(layer, self.key)?, part(layer, Point::V)?]) };
        let keys_values = (0..model.n_layers()).map(|layer| both(Layer(layer))).collect::<Result<_, Error>>()?;
        Ok(Past { seq, keys_values })
    }

    /// The stream before a block, `[batch, seq, d_model]`.
    pub(crate) fn resid(&self, layer: Layer) -> Result<&Tensor, Error> {
        self.at(Site::Block(layer, Point::ResidPre))
    }

    /// Logits of the last places of a pass that starts from this run's stream and changes nothing.
    #[cfg(test)]
    pub(crate) fn resumed(&self, model: &dyn HookedModel, layer: Layer, from: usize) -> Result<Tensor, Error> {
        let (_, seq) = self.sizes();
        let resid = self.resid(layer)?.narrow(1, from, seq - from)?.contiguous()?;
        let past = self.past(model, from)?;
        Ok(model.forward_between(Start::Suffix(layer, &resid, &past), End::Logits, &mut NoHook)?)
    }
}

/// Logits of the last places.
pub(crate) fn last(logits: &Tensor, places: usize) -> Result<Tensor, Error> {
    let (_, seq, _) = logits.dims3()?;
    if places == 0 || places > seq {
        return Err(Error::Request(format!("a metric of the last {places} of {seq} places")));
    }
    Ok(logits.narrow(1, seq - places, places)?)
}

pub(crate) fn numbers(x: &Tensor) -> Result<Vec<f64>, Error> {
    Ok(x.to_dtype(candle_core::DType::F64)?.to_vec1()?)
}
