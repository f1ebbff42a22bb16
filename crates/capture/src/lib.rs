//! Hooks that record: chosen activations of a forward pass, in memory under the sites they were seen at, or streamed to
//! disk.

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

/// Records the wanted sites and changes nothing. Tensors stay part of the gradient graph.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    wanted: Vec<Site>,
    keep: Keep,
    seen: BTreeMap<Site, Tensor>,
}

/// Which part of each activation is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Places of the sequence (of scores and patterns, the query's); negative ones count from the end; without: all.
    pub positions: Option<Vec<isize>>,
    /// Heads, of sites that have them; without: all. Keys and values have as many as there are key heads.
    pub heads: Option<Vec<usize>>,
}

impl Keep {
    fn of(&self, site: Site, x: &Tensor) -> Result<Tensor> {
        let mut x = if *self == Self::default() { x.clone() } else { x.contiguous()? };
        if let Some(positions) = &self.positions {
            let axis = site.position_axis();
            let size = x.dim(axis)?;
            let place = |position: &isize| {
                let place =
                    if *position < 0 { size.checked_add_signed(*position) } else { usize::try_from(*position).ok() };
                match place.filter(|place| *place < size) {
                    Some(place) => Ok(place as u32),
                    None => candle_core::bail!("{site}: no position {position} in a sequence of {size}"),
                }
            };
            let places = positions.iter().map(place).collect::<Result<Vec<u32>>>()?;
            x = x.index_select(&Tensor::new(places, x.device())?, axis)?;
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

/// A recording that lacks something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model has no such place.
    #[error("{site} does not exist in this model of {n_layers} blocks (0 to {})", n_layers - 1)]
    NoSuchSite {
        /// What was asked for.
        site: Site,
        /// Blocks of the model.
        n_layers: usize,
    },
    /// The forward pass never came by.
    #[error("{site} was never visited: was it asked for, and did a forward pass run?")]
    NotRecorded {
        /// What was asked for.
        site: Site,
    },
    /// A text that is no pattern.
    #[error("`{text}` is no pattern of hook points: {reason}")]
    NoPattern {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern without a site.
    #[error("`{text}` fits no hook point of this model; the nearest are {}", .nearest.join(", "))]
    NothingFits {
        /// What was given.
        text: String,
        /// Addresses most like it.
        nearest: Vec<String>,
    },
    /// A folder that has activations already.
    #[error("{} is there already; choose another folder, or delete it", path.display())]
    Occupied {
        /// The index.
        path: PathBuf,
    },
    /// A shard cannot be written.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// The index cannot be written.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Recorder {
    /// A recorder of some sites of a model.
    ///
    /// # Errors
    /// When the model does not have one of them.
    pub fn new(model: &dyn HookedModel, sites: &[Site]) -> std::result::Result<Self, Error> {
        let known = model.sites();
        if let Some(site) = sites.iter().find(|site| !known.contains(site)) {
            return Err(Error::NoSuchSite { site: *site, n_layers: model.n_layers() });
        }
        Ok(Self { wanted: sites.to_vec(), ..Self::default() })
    }

    /// The same recorder, keeping a part of each activation only.
    #[must_use]
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// What was seen at a site in the last forward pass.
    ///
    /// # Errors
    /// When nothing was.
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

/// Runs a model once and gives its logits and the activations at `sites`.
///
/// # Shapes
/// `tokens` `[batch, seq]`, logits `[batch, seq, d_vocab]`, activations as [`Site`] says.
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

/// The activations at `sites`, of a pass that ends after the last of them.
///
/// # Errors
/// As [`run_with_cache`]; when a place or head to keep does not exist.
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

    /// A model that visits one site only.
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
            let Start::Tokens(tokens) = start else { candle_core::bail!("tokens only") };
            let x = tokens.to_dtype(DType::F32)?;
            if hook.wants(Site::Embed) { hook.visit(Site::Embed, x) } else { Ok(x) }
        }
    }

    #[test]
    fn only_what_exists_and_fires_is_recorded() {
        let tokens = Tensor::new(&[[1u32, 2]], &Device::Cpu).unwrap();
        let (_, seen) = run_with_cache(&OneSite, &tokens, &[Site::Embed]).unwrap();
        assert_eq!(seen.get(Site::Embed).unwrap().to_vec2::<f32>().unwrap(), [[1., 2.]]);
        let check = |site: Site, words: &str| {
            let error = run_with_cache(&OneSite, &tokens, &[site]).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
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
    fn patterns_choose_sites() {
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
        assert!(select(&model, &["blocks.[.hook_z"]).unwrap_err().to_string().contains("no pattern"));
        assert!(select(&model, &["blocks.7.*"]).is_err());
    }

    #[test]
    fn a_capture_ends_early_and_sees_the_same() {
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
    fn only_the_wanted_places_and_heads_are_kept() {
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
        let refuse = |keep: Keep, words: &str| {
            let error = capture(&model, &tokens(), &sites, &keep).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        refuse(Keep { positions: Some(vec![4]), heads: None }, "no position 4");
        refuse(Keep { positions: Some(vec![-5]), heads: None }, "no position -5");
        refuse(Keep { positions: None, heads: Some(vec![2]) }, "no head 2 of 2");
    }

    #[test]
    fn shards_on_disk_hold_what_memory_would() {
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
        assert!(again.to_string().contains("there already"));
    }
}
