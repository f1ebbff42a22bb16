//! Activation patching, many patches at a time.

use candle_core::{Result as CandleResult, Tensor};
use hooks::{End, Hook, HookedModel, Layer, Past, Point, Site, Start};

use crate::edit::put;
use crate::run::numbers;
use crate::{Error, Metric, Run};

/// Rows of activations that one pass of a sweep aims at: enough for fast products.
const ROWS: usize = 512;

/// One patch: what the source has at a place, put into the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Block.
    pub layer: Layer,
    /// Place in the block.
    pub point: Point,
    /// Place in the sequence (of scores and patterns, the query's); without: all.
    pub position: Option<usize>,
    /// Head, for points that have them; without: all.
    pub head: Option<usize>,
}

impl Patch {
    /// Where it is.
    #[must_use]
    pub fn site(&self) -> Site {
        Site::Block(self.layer, self.point)
    }

    /// `x` of the base with this patch of `source`, both from place `from` of the sequence on.
    fn apply(&self, x: &Tensor, source: &Tensor, from: usize) -> CandleResult<Tensor> {
        let site = self.site();
        let placed = match self.position {
            Some(position) => &put(x, source, site.position_axis(), position - from)?,
            None => source,
        };
        match (self.head, site.head_axis()) {
            (None, _) => Ok(placed.clone()),
            (Some(head), Some(axis)) => put(x, placed, axis, head),
            (Some(_), None) => candle_core::bail!("{site} has no heads"),
        }
    }
}

/// The metric after each patch, and of the two runs themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    /// `[patches][batch]`.
    pub patched: Vec<Vec<f64>>,
    /// Of the base, `[batch]`.
    pub base: Vec<f64>,
    /// Of the source, `[batch]`.
    pub source: Vec<f64>,
}

impl Effects {
    /// For each patch, the mean over the batch of how much of the way from base to source it goes:
    /// `(patched - base) / (source - base)`. Sequences whose runs do not differ count for nothing.
    #[must_use]
    pub fn recovered(&self) -> Vec<f64> {
        let differ: Vec<usize> = (0..self.base.len()).filter(|i| self.source[*i] != self.base[*i]).collect();
        let share = |patched: &[f64], i: usize| (patched[i] - self.base[i]) / (self.source[i] - self.base[i]);
        let mean = |patched: &Vec<f64>| differ.iter().map(|i| share(patched, *i)).sum::<f64>() / differ.len() as f64;
        self.patched.iter().map(mean).collect()
    }
}

/// Patches of one point at every layer and place, layer by layer: `[n_layers * seq]`.
#[must_use]
pub fn each_position(n_layers: usize, point: Point, seq: usize) -> Vec<Patch> {
    let layers = (0..n_layers).map(Layer);
    layers.flat_map(|layer| (0..seq).map(move |p| Patch { layer, point, position: Some(p), head: None })).collect()
}

/// Patches of one point at every layer and head, layer by layer: `[n_layers * heads]`.
#[must_use]
pub fn each_head(n_layers: usize, point: Point, heads: usize) -> Vec<Patch> {
    let layers = (0..n_layers).map(Layer);
    layers.flat_map(|layer| (0..heads).map(move |h| Patch { layer, point, position: None, head: Some(h) })).collect()
}

/// Patches of one point at every layer, head and place: `[n_layers * heads * seq]`.
#[must_use]
pub fn each_head_and_position(n_layers: usize, point: Point, heads: usize, seq: usize) -> Vec<Patch> {
    let by_head = each_head(n_layers, point, heads).into_iter();
    by_head.flat_map(|patch| (0..seq).map(move |p| Patch { position: Some(p), ..patch })).collect()
}

/// The metric of the base after each patch by itself.
///
/// The runs must have kept the patched sites; `source` may have other tokens than `base`, but as many.
///
/// # Errors
/// When a patch's place does not exist, a run did not keep it, or the runs do not fit each other.
pub fn activation_patching(
    model: &dyn HookedModel,
    base: &Run,
    source: &Run,
    patches: &[Patch],
    metric: &Metric<'_>,
) -> Result<Effects, Error> {
    if base.sizes() != source.sizes() {
        let words = format!("a source of {:?} sequences and tokens for a base of {:?}", source.sizes(), base.sizes());
        return Err(Error::Request(words));
    }
    for patch in patches {
        check(base, patch)?;
    }
    let (before, after) = (base.measure(metric)?, source.measure(metric)?);
    let sweep = Sweep { model, base, source, metric, common: base.common(source) };
    let mut patched = vec![before.clone(); patches.len()];
    for (from, layer, group) in sweep.groups(patches) {
        let picked: Vec<Patch> = group.iter().map(|index| patches[*index]).collect();
        for (index, numbers) in group.into_iter().zip(sweep.pass(from, layer, &picked)?) {
            patched[index] = numbers;
        }
    }
    Ok(Effects { patched, base: before, source: after })
}

fn check(base: &Run, patch: &Patch) -> Result<(), Error> {
    let site = patch.site();
    let x = base.at(site)?;
    let places = [(patch.head, site.head_axis(), "head"), (patch.position, Some(site.position_axis()), "position")];
    for (index, axis, what) in places {
        let size = axis.map_or(Ok(0), |axis| x.dim(axis))?;
        if index.is_some_and(|index| index >= size) {
            return Err(Error::Request(format!("{site}: no {what} {} of {size}", index.unwrap_or(0))));
        }
    }
    Ok(())
}

struct Sweep<'a> {
    model: &'a dyn HookedModel,
    base: &'a Run,
    source: &'a Run,
    metric: &'a Metric<'a>,
    /// Places from the first on at which both runs are the same.
    common: usize,
}

impl Sweep<'_> {
    /// First place that a patch can change; nothing when it changes nothing.
    fn first(&self, patch: &Patch) -> Option<usize> {
        let (_, seq) = self.base.sizes();
        match patch.position {
            // what lies before the first difference is the same in both runs
            Some(position) => (position >= self.common).then_some(position),
            None => (self.common < seq).then_some(self.common),
        }
    }

    /// Patches that go through the model together: first place, block, indices.
    fn groups(&self, patches: &[Patch]) -> Vec<(usize, Layer, Vec<usize>)> {
        let (batch, seq) = self.base.sizes();
        let mut order: Vec<(Layer, usize, usize)> = patches
            .iter()
            .enumerate()
            .filter_map(|(index, patch)| Some((patch.layer, self.first(patch)?, index)))
            .collect();
        order.sort();
        let mut groups: Vec<(usize, Layer, Vec<usize>)> = Vec::new();
        for (layer, first, index) in order {
            // the metric's places must be among those that are computed
            let first = first.min(seq - self.metric.places());
            match groups.last_mut() {
                Some((from, same, group))
                    if *same == layer
                        && (group.len() + 1) * batch * (seq - *from) <= ROWS.max(batch * (seq - *from)) =>
                {
                    group.push(index);
                }
                _ => groups.push((first, layer, vec![index])),
            }
        }
        groups
    }

    /// The metric of each patch, all in one pass from `from` on.
    fn pass(&self, from: usize, layer: Layer, patches: &[Patch]) -> Result<Vec<Vec<f64>>, Error> {
        let (batch, seq) = self.base.sizes();
        let tail = |x: &Tensor, axis| x.narrow(axis, from, seq - from);
        let resid = tail(self.base.resid(layer)?, 1)?;
        let resid = resid.repeat((patches.len(), 1, 1))?.contiguous()?; // [patches * batch, seq - from, d_model]
        let sources = patches
            .iter()
            .map(|patch| Ok(tail(self.source.at(patch.site())?, patch.site().position_axis())?))
            .collect::<Result<Vec<_>, Error>>()?;
        let mut hook = Stacked { patches, sources, batch, from, fired: vec![false; patches.len()] };
        let end = End::LastLogits(self.metric.places());
        let past: Past;
        let start = if from == 0 {
            Start::Resid(layer, &resid)
        } else {
            past = self.base.past(self.model, from)?;
            Start::Suffix(layer, &resid, &past)
        };
        let logits = self.model.forward_between(start, end, &mut hook)?;
        if let Some(index) = hook.fired.iter().position(|fired| !fired) {
            return Err(Error::NeverFired { site: patches[index].site() });
        }
        let part = |i: usize| numbers(&self.metric.of(&logits.narrow(0, i * batch, batch)?.contiguous()?)?);
        (0..patches.len()).map(part).collect()
    }
}

/// Each patch in its own rows of the batch.
struct Stacked<'a> {
    patches: &'a [Patch],
    sources: Vec<Tensor>,
    batch: usize,
    from: usize,
    fired: Vec<bool>,
}

impl Hook for Stacked<'_> {
    fn wants(&self, site: Site) -> bool {
        self.patches.iter().any(|patch| patch.site() == site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> CandleResult<Tensor> {
        let mut parts = Vec::new();
        for (index, patch) in self.patches.iter().enumerate() {
            let part = tensor.narrow(0, index * self.batch, self.batch)?;
            if patch.site() == site {
                self.fired[index] = true;
                parts.push(patch.apply(&part, &self.sources[index], self.from)?);
            } else {
                parts.push(part);
            }
        }
        Tensor::cat(&parts, 0)
    }
}
