//! Initial weights from a seeded stream.
//!
//! Weights are sampled one after another in reading order, on the CPU, so they depend on the seed alone.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, distr::Uniform};
use rand_distr::Normal;
use weights::Named;

use crate::{Config, Error, Initialisation};

/// Samples every weight of `config` as f32 on the CPU.
pub(crate) fn fresh(config: &Config, rng: &mut impl Rng) -> Result<Named, Error> {
    config
        .shapes()
        .into_iter()
        .map(|(name, shape)| {
            let values = values(config, &name, &shape, rng)?;
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(DType::F32)?;
            Ok((name, tensor))
        })
        .collect()
}

fn values(config: &Config, name: &str, shape: &[usize], rng: &mut impl Rng) -> Result<Vec<f32>, Error> {
    let count = shape.iter().product();
    let last = name.rsplit('.').next().unwrap_or(name);
    let is_norm = name.contains("ln") || name.contains("_norm.");
    let by_width = 1. / (config.d_model as f64).sqrt();
    let residual = 1. / (2. * config.n_layers as f64).sqrt();
    Ok(match (config.initialisation, last) {
        (_, "w") if is_norm => vec![1.; count],
        (_, "b") if is_norm => vec![0.; count],
        (Initialisation::Gpt2 | Initialisation::WidthScaled, _) if shape.len() == 1 => vec![0.; count],
        (Initialisation::Gpt2, "W_O" | "W_out") => normal(0.02 * residual, count, rng)?,
        (Initialisation::Gpt2, _) => normal(0.02, count, rng)?,
        (Initialisation::WidthScaled, "W_E" | "W_pos") => normal(0.5, count, rng)?,
        (Initialisation::WidthScaled, "W_O" | "W_out") => normal(by_width * residual, count, rng)?,
        (Initialisation::WidthScaled, "W_U") => normal(0.5 * by_width, count, rng)?,
        (Initialisation::WidthScaled, _) => normal(by_width, count, rng)?,
        (Initialisation::UniformFanIn, "W_E" | "W_pos") => normal(1., count, rng)?,
        (Initialisation::UniformFanIn, _) => uniform(1. / (fan_in(config, last, shape) as f64).sqrt(), count, rng)?,
    })
}

/// Input width of the map that a weight or bias belongs to.
fn fan_in(config: &Config, last: &str, shape: &[usize]) -> usize {
    match (shape.len(), last) {
        (1, "b_out") => config.d_mlp,
        (1, _) => config.d_model,
        _ => shape[0],
    }
}

fn normal(std: f64, count: usize, rng: &mut impl Rng) -> Result<Vec<f32>, Error> {
    let normal = Normal::new(0., std).map_err(|e| Error::Config(format!("initialisation: {e}")))?;
    Ok((0..count).map(|_| rng.sample(normal) as f32).collect())
}

fn uniform(bound: f64, count: usize, rng: &mut impl Rng) -> Result<Vec<f32>, Error> {
    let uniform = Uniform::new_inclusive(-bound, bound).map_err(|e| Error::Config(format!("initialisation: {e}")))?;
    Ok((0..count).map(|_| rng.sample(uniform) as f32).collect())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;

    use super::*;
    use crate::config::tests::tiny;

    fn root_mean_square(named: &Named, name: &str) -> f64 {
        let values = named[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
    }

    #[test]
    fn the_same_seed_gives_the_same_weights() {
        let sample = |seed| {
            fresh(&tiny(), &mut ChaCha12Rng::seed_from_u64(seed)).unwrap()["blocks.1.mlp.W_in"]
                .to_vec2::<f32>()
                .unwrap()
        };
        assert_eq!(sample(1), sample(1));
        assert_ne!(sample(1), sample(2));
    }

    #[test]
    fn standard_deviations_match_the_documentation() {
        let mut config = Config { d_model: 64, n_heads: 4, d_mlp: 256, ..tiny() };
        let gpt2 = fresh(&config, &mut ChaCha12Rng::seed_from_u64(1)).unwrap();
        let close = |value: f64, expected: f64| assert!((value / expected - 1.).abs() < 0.05, "{value} {expected}");
        close(root_mean_square(&gpt2, "blocks.0.attn.W_QKV"), 0.02);
        close(root_mean_square(&gpt2, "blocks.1.mlp.W_out"), 0.01);
        assert_eq!(root_mean_square(&gpt2, "blocks.0.attn.b_QKV"), 0.);
        assert_eq!(root_mean_square(&gpt2, "ln_final.w"), 1.);
        config.initialisation = Initialisation::UniformFanIn;
        let uniform = fresh(&config, &mut ChaCha12Rng::seed_from_u64(1)).unwrap();
        close(root_mean_square(&uniform, "embed.W_E"), 1.);
        close(root_mean_square(&uniform, "blocks.0.mlp.W_out"), 1. / 256f64.sqrt() / 3f64.sqrt());
        (config.initialisation, config.tied) = (Initialisation::WidthScaled, false);
        let scaled = fresh(&config, &mut ChaCha12Rng::seed_from_u64(1)).unwrap();
        close(root_mean_square(&scaled, "embed.W_E"), 0.5);
        close(root_mean_square(&scaled, "blocks.1.attn.W_QKV"), 1. / 8.);
        close(root_mean_square(&scaled, "blocks.1.mlp.W_out"), 1. / 16.);
        assert!((root_mean_square(&scaled, "unembed.W_U") * 16. - 1.).abs() < 0.1);
        assert_eq!(root_mean_square(&scaled, "blocks.0.mlp.b_in"), 0.);
    }
}
