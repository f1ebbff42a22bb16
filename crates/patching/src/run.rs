//! A finished forward pass that other passes start from.

use candle_core::Tensor;
use capture::{Recorder, run_with_cache};
#[cfg(test)]
use hooks::{End, NoHook, Start};
use hooks::{HookedModel, Layer, Past, Point, Site, Tokens};

use crate::{Error, Metric};

/// Tokens, and everything of their forward pass that a patched pass needs.
pub struct Run {
    tokens: Vec<Vec<u32>>,
    seen: Recorder,
    logits: Tensor,
    key: Point,
}

impl Run {
    /// Runs the model once and keeps the stream before each block, its keys and values, and the given sites.
    ///
    /// # Errors
    /// When the model lacks a site or the tokens do not fit it.
    pub fn new(model: &dyn HookedModel, tokens: &Tokens, sites: &[Site]) -> Result<Self, Error> {
        let known = model.sites();
        let key = if known.contains(&Site::Block(Layer(0), Point::RotK)) { Point::RotK } else { Point::K };
        let layers = (0..model.n_layers()).map(Layer);
        let mut wanted: Vec<Site> =
            layers.flat_map(|layer| [Point::ResidPre, key, Point::V].map(|point| Site::Block(layer, point))).collect();
        wanted.extend(sites);
        wanted.sort();
        wanted.dedup();
        let (logits, seen) = run_with_cache(model, tokens, &wanted)?;
        Ok(Self { tokens: tokens.to_vec2()?, seen, logits, key })
    }

    /// Logits, `[batch, seq, d_vocab]`.
    #[must_use]
    pub fn logits(&self) -> &Tensor {
        &self.logits
    }

    /// Sequences and tokens of each.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.tokens.len(), self.tokens.first().map_or(0, Vec::len))
    }

    /// What was seen at a site.
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
