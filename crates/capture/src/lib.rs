//! Recording activations: hooks that read chosen sites of a forward pass into memory or to disk, and generation with a
//! cache of keys and values.
//!
//! Everything here works on any [`HookedModel`].
//!
//! # Example
//! ```
//! use candle_core::{Device, Tensor};
//! use capture::{Keep, capture, select};
//! use models::{Config, Decoder};
//! use rand::SeedableRng;
//!
//! let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
//! let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
//! let tokens = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
//!
//! let sites = select(&model, &["blocks.*.hook_resid_post"])?;
//! let last_position = Keep { positions: Some(vec![-1]), heads: None };
//! let seen = capture(&model, &tokens, &sites, &last_position)?;
//! assert_eq!(seen.get(sites[1])?.dims(), [1, 1, 8]); // [batch, positions, d_model]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Main types
//! - [`select`]: sites by patterns such as `blocks.*.attn.hook_z`.
//! - [`Recorder`]: the hook; [`Keep`] limits it to some positions and heads.
//! - [`capture()`]: a forward pass that ends after the last requested site; [`run_with_cache`] also returns the logits.
//! - [`stream()`]: activations of many batches, written to disk in shards.
//! - [`generate`] with [`Choice`]: greedy or sampled continuations; [`KeyValueCache`] keeps what was read.
//!
//! # What it does not do
//! It changes no activation (see `patching`), trains nothing (see `probes`) and loads no model (see `pretrained`).
//! Recorded tensors stay part of the gradient graph, except those on disk.

mod generation;
mod select;
mod stream;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{Result, Tensor};
use hooks::{End, Hook, HookedModel, Layer, Site, Start, Tokens};

pub use generation::{Choice, KeyValueCache, generate, key_point};
pub use select::select;
pub use stream::{Written, stream};

/// A hook that records some sites and changes nothing. Recorded tensors stay part of the gradient graph.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    wanted: Vec<Site>,
    keep: Keep,
    seen: BTreeMap<Site, Tensor>,
}

/// The part of each activation that is recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Positions (the query's for scores and patterns), negative ones counted from the end; `None` for all.
    pub positions: Option<Vec<isize>>,
    /// Heads, at sites that have heads; `None` for all. Sites of keys and values have `n_key_value_heads`.
    pub heads: Option<Vec<usize>>,
}

impl Keep {
    fn of(&self, site: Site, x: &Tensor) -> Result<Tensor> {
        let mut x = if *self == Self::default() { x.clone() } else { x.contiguous()? };
        if let Some(positions) = &self.positions {
            let axis = site.position_axis();
            let size = x.dim(axis)?;
            let index = |position: &isize| {
                let index =
                    if *position < 0 { size.checked_add_signed(*position) } else { usize::try_from(*position).ok() };
                match index.filter(|index| *index < size) {
                    Some(index) => Ok(index as u32),
                    None => candle_core::bail!("{site}: no position {position} in a sequence of {size}"),
                }
            };
            let indices = positions.iter().map(index).collect::<Result<Vec<u32>>>()?;
            x = x.index_select(&Tensor::new(indices, x.device())?, axis)?;
        }
        if let (Some(heads), Some(axis)) = (&self.heads, site.head_axis()) {
            let size = x.dim(axis)?;
            if let Some(head) = heads.iter().find(|head| **head >= size) {
                candle_core::bail!("{site}: no head {head} of {size}");
            }
            let heads: Vec<u32> = heads.iter().map(|head| *head as u32).collect();
            x = x.index_select(&Tensor::new(heads, x.device())?, axis)?;
        }
        Ok(x)
    }
}

/// A recording that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model does not have this site.
    #[error("{site} does not exist in this model of {n_layers} blocks (0 to {})", n_layers - 1)]
    NoSuchSite {
        /// The requested site.
        site: Site,
        /// Number of blocks in the model.
        n_layers: usize,
    },
    /// The forward pass never visited this site.
    #[error("{site} was never visited; pass it to `Recorder::new` and run a forward pass")]
    NotRecorded {
        /// The requested site.
        site: Site,
    },
    /// An invalid pattern.
    #[error("`{text}` is not a pattern of sites: {reason}")]
    NoPattern {
        /// The given pattern.
        text: String,
        /// The reason.
        reason: String,
    },
    /// A pattern that matches no site.
    #[error("`{text}` matches no site of this model{}", suggestion(.nearest))]
    NothingFits {
        /// The given pattern.
        text: String,
        /// The most similar address, if one is similar.
        nearest: Option<String>,
    },
    /// A folder that already has activations.
    #[error("{} already exists; choose another folder or delete it", path.display())]
    Occupied {
        /// The index file.
        path: PathBuf,
    },
    /// A shard could not be written.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The index could not be written.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |address| format!(", did you mean `{address}`?"))
}

impl Recorder {
    /// A recorder of some sites of a model.
    ///
    /// # Errors
    /// When the model lacks one of them.
    pub fn new(model: &dyn HookedModel, sites: &[Site]) -> std::result::Result<Self, Error> {
        let known = model.sites();
        if let Some(site) = sites.iter().find(|site| !known.contains(site)) {
            return Err(Error::NoSuchSite { site: *site, n_layers: model.n_layers() });
        }
        Ok(Self { wanted: sites.to_vec(), ..Self::default() })
    }

    /// The same recorder, limited to a part of each activation.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// The activation at a site in the last forward pass.
    ///
    /// # Errors
    /// When the site was not recorded.
    pub fn get(&self, site: Site) -> std::result::Result<&Tensor, Error> {
        self.seen.get(&site).ok_or(Error::NotRecorded { site })
    }
}

impl Hook for Recorder {
    fn wants(&self, site: Site) -> bool {
        self.wanted.contains(&site)
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        self.seen.insert(site, self.keep.of(site, &tensor)?);
        Ok(tensor)
    }
}

/// Runs the model once and returns its logits and the activations at `sites`.
///
/// # Shapes
/// `tokens` `[batch, seq]`, logits `[batch, seq, d_vocab]`, activations as in [`Site`].
///
/// # Errors
/// When the model lacks a site, or a site was not visited.
pub fn run_with_cache(
    model: &dyn HookedModel,
    tokens: &Tokens,
    sites: &[Site],
) -> std::result::Result<(Tensor, Recorder), Error> {
    let mut recorder = Recorder::new(model, sites)?;
    let logits = model.forward(tokens, &mut recorder)?;
    for site in sites {
        recorder.get(*site)?;
    }
    Ok((logits, recorder))
}

/// The activations at `sites`, from a forward pass that ends after the last of them.
///
/// # Errors
/// As [`run_with_cache`]; when a position or head to keep does not exist.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use capture::{Keep, capture};
/// use hooks::{Layer, Point, Site};
///
/// let tokens = Tensor::new(&[[1u32, 2, 3, 4]], &Device::Cpu)?;
/// let pattern = Site::Block(Layer(0), Point::Pattern);
/// let seen = capture(&model, &tokens, &[pattern], &Keep { positions: None, heads: Some(vec![1]) })?;
/// assert_eq!(seen.get(pattern)?.dims(), [1, 1, 4, 4]); // [batch, heads, q_seq, k_seq]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn capture(
    model: &dyn HookedModel,
    tokens: &Tokens,
    sites: &[Site],
    keep: &Keep,
) -> std::result::Result<Recorder, Error> {
    let mut recorder = Recorder::new(model, sites)?.keeping(keep.clone());
    let last = |site: &Site| match site {
        Site::Embed | Site::PosEmbed => Some(0),
        Site::Block(Layer(layer), _) => Some(layer + 1),
        Site::FinalScale | Site::FinalNormalized | Site::Logits => None,
    };
    let last = sites.iter().map(last).try_fold(0, |most, last| Some(most.max(last?)));
    let end = last.map_or(End::Logits, |layer| End::Resid(Layer(layer)));
    model.forward_between(Start::Tokens(tokens), end, &mut recorder)?;
    for site in sites {
        recorder.get(*site)?;
    }
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use hooks::Point;
    use models::{Config, Decoder};
    use rand::SeedableRng;

    use super::*;

    /// A model that visits one of its two sites.
    struct OneSite;

    impl HookedModel for OneSite {
        fn n_layers(&self) -> usize {
            1
        }

        fn n_heads(&self) -> usize {
            1
        }

        fn sites(&self) -> Vec<Site> {
            vec![Site::Embed, Site::Block(Layer(0), Point::Z)]
        }

        fn unembed(&self, resid: &Tensor) -> Result<Tensor> {
            Ok(resid.clone())
        }

        fn forward_between(&self, start: Start<'_>, _: End, hook: &mut dyn Hook) -> Result<Tensor> {
            let Start::Tokens(tokens) = start else { candle_core::bail!("this model starts from tokens only") };
            let x = tokens.to_dtype(DType::F32)?;
            if hook.wants(Site::Embed) { hook.visit(Site::Embed, x) } else { Ok(x) }
        }
    }

    #[test]
    fn missing_and_unvisited_sites_are_errors() {
        let tokens = Tensor::new(&[[1u32, 2]], &Device::Cpu).unwrap();
        let (_, seen) = run_with_cache(&OneSite, &tokens, &[Site::Embed]).unwrap();
        assert_eq!(seen.get(Site::Embed).unwrap().to_vec2::<f32>().unwrap(), [[1., 2.]]);
        let check = |site: Site, expected: &str| {
            let error = run_with_cache(&OneSite, &tokens, &[site]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Site::Block(Layer(0), Point::Z), "never visited");
        check(Site::Block(Layer(1), Point::Z), "blocks.1.attn.hook_z does not exist");
    }

    fn model() -> Decoder {
        let config = Config {
            n_layers: 3,
            n_heads: 2,
            d_model: 8,
            d_mlp: 12,
            d_vocab: 11,
            n_positions: 9,
            ..Config::gpt2_small()
        };
        Decoder::fresh(&config, &mut rand_chacha::ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap()
    }

    fn tokens() -> Tensor {
        Tensor::new(&[[1u32, 5, 3, 2], [2, 2, 0, 7]], &Device::Cpu).unwrap()
    }

    #[test]
    fn patterns_select_sites() {
        let model = model();
        let names = |patterns: &[&str]| -> Vec<String> {
            select(&model, patterns).unwrap().iter().map(ToString::to_string).collect()
        };
        let posts = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"];
        assert_eq!(names(&["blocks.*.hook_resid_post"]), posts);
        assert_eq!(names(&["blocks.[12].hook_resid_post", "*resid_post"]), posts);
        assert_eq!(names(&["*"]).len(), model.sites().len() - 3);
        assert_eq!(names(&["*.hook_result"]).len(), 3);
        let error = select(&model, &["blocks.*.hook_residpost"]).unwrap_err().to_string();
        assert!(error.contains("hook_resid_post"), "{error}");
        assert!(select(&model, &["blocks.[.hook_z"]).unwrap_err().to_string().contains("not a pattern"));
        assert!(select(&model, &["blocks.7.*"]).is_err());
    }

    #[test]
    fn a_capture_that_ends_early_records_the_same() {
        let model = model();
        let sites = select(&model, &["blocks.[01].hook_resid_post", "hook_embed"]).unwrap();
        let early = capture(&model, &tokens(), &sites, &Keep::default()).unwrap();
        let (_, whole) = run_with_cache(&model, &tokens(), &sites).unwrap();
        for site in sites {
            let flat = |r: &Recorder| r.get(site).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(flat(&early), flat(&whole), "{site}");
        }
    }

    #[test]
    fn only_the_requested_positions_and_heads_are_kept() {
        let model = model();
        let sites = select(&model, &["blocks.1.attn.hook_z", "blocks.1.attn.hook_pattern", "hook_embed"]).unwrap();
        let keep = Keep { positions: Some(vec![-1, 0]), heads: Some(vec![1]) };
        let seen = capture(&model, &tokens(), &sites, &keep).unwrap();
        let (_, whole) = run_with_cache(&model, &tokens(), &sites).unwrap();
        let shapes: Vec<_> = sites.iter().map(|site| seen.get(*site).unwrap().dims().to_vec()).collect();
        assert_eq!(shapes, [vec![2, 2, 8], vec![2, 1, 2, 4], vec![2, 2, 1, 4]]);
        let z = whole.get(sites[2]).unwrap().narrow(1, 3, 1).unwrap().narrow(2, 1, 1).unwrap();
        let flat = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&seen.get(sites[2]).unwrap().narrow(1, 0, 1).unwrap()), flat(&z));
        let check = |keep: Keep, expected: &str| {
            let error = capture(&model, &tokens(), &sites, &keep).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Keep { positions: Some(vec![4]), heads: None }, "no position 4");
        check(Keep { positions: Some(vec![-5]), heads: None }, "no position -5");
        check(Keep { positions: None, heads: Some(vec![2]) }, "no head 2 of 2");
    }

    #[test]
    fn shards_on_disk_equal_recordings_in_memory() {
        let (model, folder) = (model(), tempfile::tempdir().unwrap());
        let sites = select(&model, &["blocks.*.hook_resid_post"]).unwrap();
        let batches = || (0..5u32).map(|shift| (tokens() + f64::from(shift))?.clamp(0u32, 10u32));
        let written = stream(&model, batches(), &sites, &Keep::default(), folder.path(), 1000).unwrap();
        assert_eq!((written.sequences, written.tokens), (10, 40));
        assert!(written.shards.len() > 1 && written.shards.len() < 5);
        let mut found = Vec::new();
        for shard in &written.shards {
            let file = weights::load(shard, &Device::Cpu).unwrap();
            assert_eq!(file.tensors.len(), 4);
            found.extend(file.tensors["blocks.2.hook_resid_post"].flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        let expected: Vec<f32> = batches()
            .flat_map(|batch| {
                let seen = capture(&model, &batch.unwrap(), &sites, &Keep::default()).unwrap();
                seen.get(sites[2]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            })
            .collect();
        assert_eq!(found, expected);
        let again = stream(&model, batches(), &sites, &Keep::default(), folder.path(), 1000).unwrap_err();
        assert!(again.to_string().contains("already exists"));
    }
}
