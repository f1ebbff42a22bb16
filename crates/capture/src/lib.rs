//! Hooks that record: chosen activations of a forward pass, kept in memory under the sites they were seen at.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use hooks::{Hook, HookedModel, Site, Tokens};

/// Records the wanted sites and changes nothing. Tensors stay part of the gradient graph.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    wanted: Vec<Site>,
    seen: BTreeMap<Site, Tensor>,
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
        Ok(Self { wanted: sites.to_vec(), seen: BTreeMap::new() })
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
        self.seen.insert(site, tensor.clone());
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use hooks::{End, Layer, Point, Start};

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
}
