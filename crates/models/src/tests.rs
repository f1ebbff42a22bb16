//! Tests of the decoder, and the small models that they share.

mod fast;
mod losses;
mod model;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};
use hooks::{Hook, Site};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use crate::architecture::{NormKind, QkNorm};
use crate::config::tests::tiny;
use crate::{Activation, Architecture, Config, Decoder, FixedScales, Initialisation, Positions, Rotary, Scaling};

/// Records every site and can replace one.
#[derive(Default)]
struct Probe {
    seen: BTreeMap<String, Tensor>,
    order: Vec<Site>,
    replace: Option<(Site, Tensor)>,
}

impl Hook for Probe {
    fn wants(&self, _: Site) -> bool {
        true
    }

    fn visit(&mut self, site: Site, tensor: Tensor) -> Result<Tensor> {
        self.order.push(site);
        self.seen.insert(site.to_string(), tensor.clone());
        match &self.replace {
            Some((at, other)) if *at == site => Ok(other.clone()),
            _ => Ok(tensor),
        }
    }
}

fn model(config: &Config) -> Decoder {
    Decoder::fresh(config, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap()
}

fn tokens() -> Tensor {
    Tensor::new(&[[1u32, 5, 3, 10], [2, 2, 0, 7]], &Device::Cpu).unwrap()
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

fn gpt2_variants() -> Vec<Config> {
    let erf = Config { activation: Activation::GeluErf, biases: false, tied: false, ..tiny() };
    let fixed = FixedScales {
        ln1_qk: vec![Some(0.7), Some(0.4)],
        ln1_v: vec![None, Some(0.4)],
        ln2: vec![None, Some(0.9)],
        ln_final: Some(1.1),
    };
    let some = Config { architecture: Architecture { fixed, ..tiny().architecture }, ..tiny() };
    vec![tiny(), Config { initialisation: Initialisation::UniformFanIn, ..erf }, some]
}

/// Weights with irregular entries, so that gains, biases and attention all matter.
fn irregular(config: &Config, dtype: DType) -> Decoder {
    let size = 0.4 * (8. / config.d_model as f64).sqrt();
    let weights = config.shapes().into_iter().enumerate().map(|(which, (name, shape))| {
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|i| size * ((i * 7 + which * 13) as f64 * 0.731).sin()).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
    });
    Decoder::new(config, weights.collect(), &Device::Cpu).unwrap()
}

/// Whether the target of a row of [`batch`] counts. With sequences of 7, sequences 2 and 3 have no counted target.
fn counts(row: usize) -> bool {
    !row.is_multiple_of(3) && !(14..28).contains(&row)
}

/// Tokens and targets, of which some do not count.
fn batch(batch: usize, seq: usize) -> (Tensor, Tensor) {
    let tokens: Vec<u32> = (0..batch * seq).map(|i| (i * 5 % 11) as u32).collect();
    let targets = (0..batch * seq).map(|i| if counts(i) { (i * 3 % 11) as u32 } else { ops::IGNORED });
    let tensor = |values: Vec<u32>| Tensor::from_vec(values, (batch, seq), &Device::Cpu).unwrap();
    (tensor(tokens), tensor(targets.collect()))
}

/// Architectures that the fast pass does not support.
fn other_architectures() -> Vec<Config> {
    let rotary = Positions::Rotary(Rotary { rotary_dim: 4, base: 10_000., scaling: Scaling::None, interleaved: false });
    let llama = Architecture {
        n_key_value_heads: Some(1),
        norm: NormKind::Rms,
        positions: rotary.clone(),
        gated: true,
        qk_norm: QkNorm::Head,
        ..Architecture::default()
    };
    let neox = Architecture { positions: rotary, parallel: true, ..Architecture::default() };
    vec![
        Config { activation: Activation::Silu, biases: false, architecture: llama, ..tiny() },
        Config { tied: false, architecture: neox, ..tiny() },
    ]
}

fn bytes(step: Vec<(String, Tensor)>) -> Vec<(String, Vec<u32>)> {
    let bits = |x: Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    step.into_iter().map(|(name, tensor)| (name, bits(tensor))).collect()
}
