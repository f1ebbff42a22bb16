//! Activation patching in sweeps, with many patches in one batch.

use candle_core::{Result as CandleResult, Tensor};
use hooks::{End, Hook, HookedModel, Layer, Past, Point, Site, Start};

use crate::edit::replace_slice;
use crate::run::numbers;
use crate::{Error, Metric, Run};

/// Rows of activations that one pass of a sweep aims at, enough for efficient products.
const ROWS: usize = 512;

/// One patch: the source's activation in place of the base's, at one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The block.
    pub layer: Layer,
    /// The site in the block.
    pub point: Point,
    /// The position (the query's for scores and patterns); `None` for all.
    pub position: Option<usize>,
    /// The head, at points that have heads; `None` for all.
    pub head: Option<usize>,
}

impl Patch {
    /// The site.
    #[must_use]
    pub fn site(&self) -> Site {
        Site::Block(self.layer, self.point)
    }

    /// The base's `x` with this patch of `source`; both begin at position `from`.
    fn apply(&self, x: &Tensor, source: &Tensor, from: usize) -> CandleResult<Tensor> {
        let site = self.site();
        let patched = match self.position {
            Some(position) => &replace_slice(x, source, site.position_axis(), position - from)?,
            None => source,
        };
        match (self.head, site.head_axis()) {
            (None, _) => Ok(patched.clone()),
            (Some(head), Some(axis)) => replace_slice(x, patched, axis, head),
            (Some(_), None) => candle_core::bail!("{site} has no heads"),
        }
    }
}

/// The metric after each patch, and of the unpatched runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Effects {
    /// The metric after each patch, `[patches][batch]`.
    pub patched: Vec<Vec<f64>>,
    /// The metric of the base, `[batch]`.
    pub base: Vec<f64>,
    /// The metric of the source, `[batch]`.
    pub source: Vec<f64>,
}

impl Effects {
    /// The share of the difference between base and source that each patch recovers, averaged over the batch:
    /// `(patched - base) / (source - base)`. Sequences on which the two runs agree are left out.
    #[must_use]
    pub fn recovered(&self) -> Vec<f64> {
        let differ: Vec<usize> = (0..self.base.len()).filter(|i| self.source[*i] != self.base[*i]).collect();
        let share = |patched: &[f64], i: usize| (patched[i] - self.base[i]) / (self.source[i] - self.base[i]);
        let mean = |patched: &Vec<f64>| differ.iter().map(|i| share(patched, *i)).sum::<f64>() / differ.len() as f64;
        self.patched.iter().map(mean).collect()
    }
}

/// Patches of one point at every layer and position, layer by layer: `[n_layers * seq]`.
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

/// Patches of one point at every layer, head and position: `[n_layers * heads * seq]`.
#[must_use]
pub fn each_head_and_position(n_layers: usize, point: Point, heads: usize, seq: usize) -> Vec<Patch> {
    let by_head = each_head(n_layers, point, heads).into_iter();
    by_head.flat_map(|patch| (0..seq).map(move |p| Patch { position: Some(p), ..patch })).collect()
}

/// The metric of the base after each patch by itself (arXiv 2309.16042).
///
/// Both runs must have recorded the patched sites. `source` must have as many sequences and tokens as `base`.
///
/// # Errors
/// When a patched site, head or position does not exist or was not recorded, or the runs differ in size.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use hooks::{Layer, Point, Site};
/// use patching::{Metric, Run, activation_patching, each_position};
///
/// let clean = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
/// let corrupted = Tensor::new(&[[1u32, 9, 3, 4]], &Device::Cpu)?;
/// let sites = [0, 1].map(|layer| Site::Block(Layer(layer), Point::ResidPre));
/// let (source, base) = (Run::new(&model, &clean, &sites)?, Run::new(&model, &corrupted, &sites)?);
///
/// // denoising: each position of the clean run's residual stream, at each layer, patched into the corrupted run
/// let patches = each_position(2, Point::ResidPre, 4);
/// let metric = Metric::logit_difference(&[7], &[8]);
/// let recovered = activation_patching(&model, &base, &source, &patches, &metric)?.recovered();
/// assert_eq!(recovered[0], 0.); // layer 0, position 0: the runs agree there
/// assert!((recovered[1] - 1.).abs() < 1e-2); // layer 0, position 1: the only difference between the prompts
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn activation_patching(
    model: &dyn HookedModel,
    base: &Run,
    source: &Run,
    patches: &[Patch],
    metric: &Metric<'_>,
) -> Result<Effects, Error> {
    if base.sizes() != source.sizes() {
        let message = format!(
            "the source has (sequences, tokens) = {:?} and the base {:?}; both runs must have the same",
            source.sizes(),
            base.sizes()
        );
        return Err(Error::Request(message));
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
    let indices = [(patch.head, site.head_axis(), "head"), (patch.position, Some(site.position_axis()), "position")];
    for (index, axis, name) in indices {
        let size = axis.map_or(Ok(0), |axis| x.dim(axis))?;
        if index.is_some_and(|index| index >= size) {
            return Err(Error::Request(format!("{site}: no {name} {} of {size}", index.unwrap_or(0))));
        }
    }
    Ok(())
}

struct Sweep<'a> {
    model: &'a dyn HookedModel,
    base: &'a Run,
    source: &'a Run,
    metric: &'a Metric<'a>,
    /// Length of the prefix in which both runs are the same.
    common: usize,
}

impl Sweep<'_> {
    /// The first position that a patch can change; `None` when it cannot change any.
    fn first(&self, patch: &Patch) -> Option<usize> {
        let (_, seq) = self.base.sizes();
        match patch.position {
            // before the first difference both runs are the same
            Some(position) => (position >= self.common).then_some(position),
            None => (self.common < seq).then_some(self.common),
        }
    }

    /// Patches that share one pass: first position, block, indices.
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
            // the pass must compute the positions that the metric reads
            let first = first.min(seq - self.metric.positions());
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

    /// The metric of each patch, all in one pass from position `from` on.
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
        let end = End::LastLogits(self.metric.positions());
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
