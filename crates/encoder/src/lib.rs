//! The encoder of Hyperdimensional Probe (arXiv 2509.25045, section 4): a network from the states of a language model to
//! hypervectors, with its losses and its evaluation.
//!
//! # Example
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use encoder::{Encoder, Loss, Shape, agreement, loss, targets};
//! use rand::SeedableRng;
//! use vsa::{Bipolar, Vector};
//!
//! let mut rng = rand_chacha::ChaCha12Rng::seed_from_u64(1);
//! let shape = Shape { d_in: 16, width: 32, dimension: 128, blocks: 2 };
//! let encoder = Encoder::fresh(shape, &mut rng, &Device::Cpu)?;
//! let states = Tensor::ones((1, 16), candle_core::DType::F32, &Device::Cpu)?;
//! let wanted = Bipolar::random(128, &mut rng);
//! let y = targets(&[&wanted], &Device::Cpu)?;
//! let loss = loss(Loss::Published, &encoder.forward(&states, None)?, &y)?;
//! assert!(loss.to_scalar::<f32>()? > 0.3133, "a perfect encoder has ln(1 + 1/e)");
//! let (cosine, right) = agreement(&encoder.encode(&states)?, &[&wanted])?[0];
//! assert!(cosine < 0.5 && right < 0.75, "the encoder is not trained");
//! # Ok::<(), candle_core::Error>(())
//! ```
//!
//! # Overview
//!
//! [`Encoder`] has the network and its weights, [`loss`] the training objectives ([`Loss`]), and [`targets`] converts
//! hypervectors to tensors. [`agreement`] evaluates outputs, and [`signs`] reads them out as hypervectors.
//! Optimisation, data and files are left to the caller.

use candle_core::{DType, Device, Result, Tensor, Var};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::Parameter;
use vsa::Bipolar;
use weights::Named;

/// Sizes of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of the states.
    pub d_in: usize,
    /// Hidden width of the encoder.
    pub width: usize,
    /// Dimension of the hypervectors.
    pub dimension: usize,
    /// Number of residual blocks.
    pub blocks: usize,
}

impl Shape {
    /// Number of trainable parameters.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        let Self { d_in, width: w, dimension, blocks } = *self;
        w * (d_in + 3) + blocks * (w * w + 3 * w + 1) + 2 * w + w * dimension + dimension
    }
}

/// The training loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// As published: cross-entropy of each component with the tanh output as its logit, plus 0.1 times the squared error.
    /// Its minimum is ln(1 + 1/e) = 0.313, because the logit cannot exceed 1.
    Published,
    /// Cross-entropy of each component with the input of the tanh as its logit.
    Logits,
    /// Squared error of the tanh output.
    Squares,
    /// One minus the cosine of the tanh output.
    Cosine,
}

/// An encoder: linear map, LayerNorm, GELU; then blocks of `LayerNorm(GELU(linear(x))) + s x` with a learned scalar s; then
/// LayerNorm, linear map and tanh.
#[derive(Clone, Debug)]
pub struct Encoder {
    shape: Shape,
    parameters: Vec<(String, Var)>,
}

const EPS: f64 = 1e-5;

impl Encoder {
    /// Random weights as in PyTorch: maps and biases uniform in ±1 / √fan-in, gains 1, skip scalars 0.1.
    ///
    /// # Errors
    /// When the tensors cannot be allocated.
    pub fn fresh(shape: Shape, rng: &mut impl Rng, device: &Device) -> Result<Self> {
        let mut parameters = Vec::new();
        for (name, dims, fan_in) in layout(&shape) {
            let count: usize = dims.iter().product();
            let values: Vec<f32> = match (fan_in, name.rsplit('.').next()) {
                (Some(fan_in), _) => {
                    let most = 1. / (fan_in as f32).sqrt();
                    (0..count).map(|_| rng.random_range(-most..most)).collect()
                }
                (None, Some("gain")) => vec![1.; count],
                (None, Some("skip")) => vec![0.1; count],
                _ => vec![0.; count],
            };
            parameters.push((name, Var::from_tensor(&Tensor::from_vec(values, dims, device)?)?));
        }
        Ok(Self { shape, parameters })
    }

    /// An encoder from the tensors of [`Self::weights`].
    ///
    /// # Errors
    /// When a weight is missing or has another shape.
    pub fn from_weights(shape: Shape, weights: &Named) -> Result<Self> {
        let parameters = layout(&shape).into_iter().map(|(name, dims, _)| {
            let Some(tensor) = weights.get(&name) else {
                candle_core::bail!("the encoder's weights lack `{name}`");
            };
            if tensor.dims() != dims {
                candle_core::bail!("the encoder's weight `{name}` has shape {:?}, expected {dims:?}", tensor.dims());
            }
            Ok((name, Var::from_tensor(tensor)?))
        });
        Ok(Self { shape, parameters: parameters.collect::<Result<_>>()? })
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.shape.n_parameters()
    }

    /// All weights by name.
    #[must_use]
    pub fn weights(&self) -> Named {
        self.parameters.iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// The trainable parameters.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        Parameter::all(&self.parameters)
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        let found = self.parameters.iter().find(|(is, _)| is == name);
        match found {
            Some((_, var)) => Ok(var.as_tensor()),
            None => candle_core::bail!("the encoder has no weight `{name}`"),
        }
    }

    fn linear(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        ops::linear(x, self.get(&format!("{name}.weight"))?, Some(self.get(&format!("{name}.bias"))?))
    }

    fn norm(&self, x: &Tensor, name: &str) -> Result<Tensor> {
        ops::layer_norm(x, self.get(&format!("{name}.gain"))?, Some(self.get(&format!("{name}.shift"))?), EPS)
    }

    /// The inputs of the final tanh, `[batch, dimension]`, for states `[batch, d_in]`. For training, `dropout` is a
    /// probability and the key of the masks.
    ///
    /// # Errors
    /// When the states have another width.
    pub fn forward(&self, x: &Tensor, dropout: Option<(f64, u64)>) -> Result<Tensor> {
        let mut x = ops::gelu_erf(&self.norm(&self.linear(x, "input")?, "input_norm")?)?;
        for block in 0..self.shape.blocks {
            let h = self.norm(
                &ops::gelu_erf(&self.linear(&x, &format!("blocks.{block}.map"))?)?,
                &format!("blocks.{block}.norm"),
            )?;
            x = (h + x.broadcast_mul(self.get(&format!("blocks.{block}.skip"))?)?)?;
            if let Some((p, key)) = dropout {
                x = ops::dropout(&x, p, key.wrapping_add(block as u64))?;
            }
        }
        self.linear(&self.norm(&x, "output_norm")?, "output")
    }

    /// The tanh output, `[batch, dimension]`, without dropout and without gradient.
    ///
    /// # Errors
    /// As for [`Self::forward`].
    pub fn encode(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x, None)?.detach().tanh()
    }
}

/// Every weight: its name, shape, and the fan-in if it is initialised at random.
fn layout(shape: &Shape) -> Vec<(String, Vec<usize>, Option<usize>)> {
    let Shape { d_in, width, dimension, blocks } = *shape;
    let linear = |name: &str, from: usize, to: usize| {
        [(format!("{name}.weight"), vec![from, to], Some(from)), (format!("{name}.bias"), vec![to], Some(from))]
    };
    let norm = |name: &str| [(format!("{name}.gain"), vec![width], None), (format!("{name}.shift"), vec![width], None)];
    let mut all: Vec<_> = linear("input", d_in, width).into_iter().chain(norm("input_norm")).collect();
    for block in 0..blocks {
        all.extend(linear(&format!("blocks.{block}.map"), width, width));
        all.extend(norm(&format!("blocks.{block}.norm")));
        all.push((format!("blocks.{block}.skip"), vec![1], None));
    }
    all.extend(norm("output_norm"));
    all.extend(linear("output", width, dimension));
    all
}

/// The mean loss of outputs of [`Encoder::forward`], `[batch, dimension]`, for targets of ±1 of the same shape.
///
/// # Errors
/// When the shapes differ.
pub fn loss(kind: Loss, pre: &Tensor, targets: &Tensor) -> Result<Tensor> {
    match kind {
        Loss::Published => {
            let o = pre.tanh()?;
            cross_entropy(&o, targets)?.mean_all()? + (squares(&o, targets)?.mean_all()? * 0.1)?
        }
        Loss::Logits => cross_entropy(pre, targets)?.mean_all(),
        Loss::Squares => squares(&pre.tanh()?, targets)?.mean_all(),
        Loss::Cosine => {
            let o = pre.tanh()?;
            let dimension = targets.dim(1)? as f64;
            let norm = ((o.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()? * dimension.sqrt())?;
            (o * targets)?.sum_keepdim(1)?.div(&norm)?.neg()?.mean_all()? + 1.
        }
    }
}

/// Cross-entropy of each component for its logit z: log(1 + e^z) - t z with t = (y + 1) / 2, in a form that cannot overflow.
fn cross_entropy(z: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
    let softplus_rest = (z.abs()?.neg()?.exp()? + 1.)?.log()?;
    let t = ((y + 1.)? * 0.5)?;
    (z.relu()? + softplus_rest)? - (t * z)?
}

fn squares(o: &Tensor, y: &Tensor) -> candle_core::Result<Tensor> {
    (o - y)?.sqr()
}

/// Hypervectors as a tensor of ±1, `[batch, dimension]`.
///
/// # Errors
/// When the tensor cannot be allocated.
pub fn targets(vectors: &[&Bipolar], device: &Device) -> Result<Tensor> {
    let signs: Vec<f32> = vectors.iter().flat_map(|vector| vector.signs()).map(f32::from).collect();
    let dimension = signs.len().checked_div(vectors.len()).unwrap_or(0);
    Tensor::from_vec(signs, (vectors.len(), dimension), device)
}

/// For each output of [`Encoder::encode`], `[batch, dimension]`: its cosine with the target, and the fraction of components
/// with the right sign.
///
/// # Errors
/// When the outputs cannot be read.
pub fn agreement(o: &Tensor, targets: &[&Bipolar]) -> Result<Vec<(f64, f64)>> {
    let rows = o.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let each = |(row, target): (&Vec<f32>, &&Bipolar)| {
        let signs = target.signs();
        let (mut dot, mut square, mut right) = (0f64, 0f64, 0usize);
        for (x, sign) in row.iter().zip(&signs) {
            let x = f64::from(*x);
            dot += x * f64::from(*sign);
            square += x * x;
            // zero counts as -1, as in `signs`
            right += usize::from((x > 0.) == (*sign > 0));
        }
        let norm = (square * signs.len() as f64).sqrt();
        (if norm > 0. { dot / norm } else { 0. }, right as f64 / signs.len() as f64)
    };
    Ok(rows.iter().zip(targets).map(each).collect())
}

/// The signs of outputs, `[batch, dimension]`, as hypervectors; zero counts as -1.
///
/// # Errors
/// When the outputs cannot be read.
pub fn signs(o: &Tensor) -> Result<Vec<Bipolar>> {
    Ok(o.to_dtype(DType::F32)?.to_vec2::<f32>()?.iter().map(|row| Bipolar::from_numbers(row)).collect())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha12Rng;
    use vsa::Vector;

    use super::*;

    #[test]
    fn parameter_counts_match_the_published_ones() {
        let of = |d_in| Shape { d_in, width: 4096, dimension: 4096, blocks: 2 }.n_parameters();
        assert_eq!([1024, 2048, 4096, 5120].map(of), [54_575_106, 58_769_410, 67_158_018, 71_352_322]);
        let shape = Shape { d_in: 12, width: 8, dimension: 32, blocks: 2 };
        let encoder = Encoder::fresh(shape, &mut ChaCha12Rng::seed_from_u64(1), &Device::Cpu).unwrap();
        let counted: usize = encoder.weights().values().map(Tensor::elem_count).sum();
        assert_eq!(counted, shape.n_parameters());
    }

    #[test]
    fn losses_have_their_minima_at_perfect_outputs() {
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let targets = [Bipolar::random(64, &mut rng), Bipolar::random(64, &mut rng)];
        let y = super::targets(&targets.iter().collect::<Vec<_>>(), &Device::Cpu).unwrap();
        let of = |kind, pre: &Tensor| loss(kind, pre, &y).unwrap().to_scalar::<f32>().unwrap();
        let (perfect, nothing) = ((&y * 50.).unwrap(), y.zeros_like().unwrap());
        assert!((of(Loss::Published, &perfect) - 0.313_261_7).abs() < 1e-5);
        assert!((of(Loss::Published, &nothing) - (2f32.ln() + 0.1)).abs() < 1e-5);
        assert!(of(Loss::Logits, &perfect) < 1e-5 && (of(Loss::Logits, &nothing) - 2f32.ln()).abs() < 1e-5);
        assert!(of(Loss::Squares, &perfect) < 1e-6 && of(Loss::Cosine, &perfect).abs() < 1e-5);
        let met = agreement(&perfect.tanh().unwrap(), &targets.iter().collect::<Vec<_>>()).unwrap();
        assert!(met.iter().all(|(cosine, share)| (cosine - 1.).abs() < 1e-6 && *share == 1.));
        assert_eq!(signs(&perfect).unwrap(), targets);
    }

    #[test]
    fn every_weight_has_a_gradient_and_weights_rebuild_the_encoder() {
        let shape = Shape { d_in: 6, width: 8, dimension: 64, blocks: 2 };
        let mut rng = ChaCha12Rng::seed_from_u64(3);
        let encoder = Encoder::fresh(shape, &mut rng, &Device::Cpu).unwrap();
        let x = Tensor::from_vec((0..12).map(|i| (i as f32).sin()).collect(), (2, 6), &Device::Cpu).unwrap();
        let targets = [Bipolar::random(64, &mut rng), Bipolar::random(64, &mut rng)];
        let y = super::targets(&targets.iter().collect::<Vec<_>>(), &Device::Cpu).unwrap();
        for kind in [Loss::Published, Loss::Logits, Loss::Squares, Loss::Cosine] {
            let loss = loss(kind, &encoder.forward(&x, Some((0.2, 9))).unwrap(), &y).unwrap();
            let gradients = ops::backward(&loss).unwrap();
            for (name, var) in &encoder.parameters {
                let gradient = gradients.get(var.as_tensor()).unwrap_or_else(|| panic!("{name}"));
                let most = gradient.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(most.is_finite() && most > 0., "{kind:?} {name}: {most}");
            }
        }
        let again = Encoder::from_weights(shape, &encoder.weights()).unwrap();
        let ours = |encoder: &Encoder| encoder.encode(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(ours(&encoder), ours(&again));
        let other = Shape { width: 9, ..shape };
        assert!(Encoder::from_weights(other, &encoder.weights()).unwrap_err().to_string().contains("input.weight"));
    }
}
