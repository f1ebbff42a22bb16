//! Direct logit attribution of attention heads against their direct effect (arXiv 2507.02559, section 5.1 and figure
//! 5).
//!
//! Let r be the final residual stream at one position, c the output of a head there, u the unembedding of the target
//! and N the final norm. In logits:
//!
//! ```text
//! DE  = N(r)·u - N(r - c)·u            the norm's statistics are recomputed without the head
//! DLA = (c - mean c) / std(r) · u      the statistics of r are kept
//! NMAE of a head = 100 · mean |DLA - DE| / mean |DE|, over sequences; pooled: over sequences and heads together
//! ```
//!
//! Without norms N is affine, so the two are equal. There are two targets. `last_input` is the last input token, read
//! at its own position, as in the published code. `next_token` is the same token, read at the position before it.
//!
//! Tables: `heads` (one head), `summary` (one model).

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use capture::{Keep, capture};
use experiment::Run;
use hooks::{Layer, Point, Site};
use models::{Decoder, NormKind, NormPath};
use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tables::{Builder, Schema, row};

use crate::distributions::statistics::interval;
use crate::evaluation::{for_each_batch, shared_sequences};
use crate::subjects::{Source, Text};

/// Parameters of `direct`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// The checkpoints to measure.
    #[schemars(length(min = 1))]
    pub models: Vec<Source>,
    /// The text that all checkpoints read.
    pub text: Text,
    /// Number of sequences.
    #[schemars(range(min = 2))]
    pub sequences: usize,
    /// Number of tokens in a sequence.
    #[schemars(range(min = 3))]
    pub length: usize,
    /// Number of sequences in a batch.
    #[schemars(range(min = 1))]
    pub batch: usize,
    /// Number of bootstrap resamples of heads and sequences.
    #[schemars(range(min = 10))]
    pub resamples: usize,
}

/// The two targets, and the position where the logit is read, counted from the end.
const TARGETS: [(&str, usize); 2] = [("last_input", 1), ("next_token", 2)];

/// Description of the column `target`.
const TARGET: &str = "last_input: the last input token, at its own position; next_token: the same token, at the \
                      position before it";

/// Effects of one model on one target, `[sequence][layer * n_heads + head]`, in logits.
struct Effects {
    /// Direct effects, DE.
    direct: Vec<Vec<f64>>,
    /// Errors of the attribution, DLA - DE.
    errors: Vec<Vec<f64>>,
}

impl Effects {
    fn nmae(&self, head: usize) -> f64 {
        let sum = |of: &[Vec<f64>]| of.iter().map(|row| row[head].abs()).sum::<f64>();
        100. * sum(&self.errors) / sum(&self.direct)
    }

    fn pooled(&self) -> f64 {
        let sum = |of: &[Vec<f64>]| of.iter().flatten().map(|x| x.abs()).sum::<f64>();
        100. * sum(&self.errors) / sum(&self.direct)
    }

    /// 95 % bootstrap interval of the pooled NMAE over sequences and heads.
    fn confidence_interval(&self, resamples: usize, rng: &mut impl Rng) -> [f64; 2] {
        let (rows, heads) = (self.direct.len(), self.direct.first().map_or(0, Vec::len));
        let values = (0..resamples)
            .map(|_| {
                let chosen: Vec<usize> = (0..heads).map(|_| rng.random_range(0..heads)).collect();
                let (mut error, mut direct) = (0., 0.);
                for _ in 0..rows {
                    let row = rng.random_range(0..rows);
                    for head in &chosen {
                        error += self.errors[row][*head].abs();
                        direct += self.direct[row][*head].abs();
                    }
                }
                100. * error / direct
            })
            .collect();
        interval(values)
    }
}

/// Measures all models and records the tables.
pub fn run(run: &Run, params: Params) -> Result<()> {
    let sequences = shared_sequences(run, &params.models, &params.text, params.sequences, params.length)?;
    let mut heads = Builder::new(
        Schema::new(
            "heads",
            "the error of direct logit attribution (DLA) of one attention head against its direct effect (DE)",
        )
        .text("model", "checkpoint")
        .text("target", TARGET)
        .int("layer", "block index, from 0")
        .int("head", "head index in the block, from 0")
        .float("nmae", "mean |DLA - DE| divided by mean |DE|, over sequences", "%")
        .float("direct_effect", "mean |DE| over sequences", "logits")
        .float("median_error", "median |DLA - DE| over sequences", "logits"),
    );
    let mut summary = Builder::new(
        Schema::new("summary", "the error of direct logit attribution (DLA) against direct effects (DE) of one model")
            .text("model", "checkpoint")
            .text("target", TARGET)
            .float("pooled", "sum of |DLA - DE| divided by sum of |DE|, over heads and sequences", "%")
            .float("ci_lower", "lower end of the 95 % bootstrap interval of pooled, over heads and sequences", "%")
            .float("ci_upper", "upper end of the 95 % bootstrap interval of pooled, over heads and sequences", "%")
            .float("mean_of_heads", "NMAE averaged over heads", "%")
            .float("largest", "largest NMAE of any head", "%"),
    );
    let mut rng = run.rng("bootstrap");
    for source in &params.models {
        let model = source.open_folded(run)?;
        let n_heads = model.config().n_heads;
        let both = effects(run, &model, &sequences, params.batch, &source.name)?;
        for ((target, _), effects) in TARGETS.iter().zip(both) {
            let all: Vec<f64> = (0..model.config().n_layers * n_heads).map(|head| effects.nmae(head)).collect();
            for (head, nmae) in all.iter().enumerate() {
                let column = |of: &[Vec<f64>]| of.iter().map(|row| row[head].abs()).collect::<Vec<f64>>();
                let direct = probes::mean(&column(&effects.direct));
                let median = probes::median(&column(&effects.errors));
                heads.push(row![&*source.name, *target, head / n_heads, head % n_heads, *nmae, direct, median])?;
            }
            let (pooled, mean) = (effects.pooled(), probes::mean(&all));
            let [lower, upper] = effects.confidence_interval(params.resamples, &mut rng);
            let largest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            summary.push(row![&*source.name, *target, pooled, lower, upper, mean, largest])?;
            source.metric(run, &format!("{target}.pooled_nmae"), pooled, "%");
            source.metric(run, &format!("{target}.mean_nmae"), mean, "%");
        }
    }
    run.record(heads.finish()?);
    run.record(summary.finish()?);
    Ok(())
}

/// Direct effects and attribution errors of all heads on both targets.
fn effects(run: &Run, model: &Decoder, sequences: &[Vec<u32>], batch: usize, name: &str) -> Result<[Effects; 2]> {
    let config = model.config();
    let (layers, heads, d) = (config.n_layers, config.n_heads, config.d_model);
    let last = Site::Block(Layer(layers - 1), Point::ResidPost);
    let sites: Vec<Site> = (0..layers).map(|layer| Site::Block(Layer(layer), Point::Z)).chain([last]).collect();
    let keep = Keep { positions: Some(TARGETS.map(|(_, from_end)| -(from_end as isize)).to_vec()), heads: None };
    let weights = model.weights();
    let weight = |name: &str| weights.get(name).cloned().with_context(|| format!("the model has no weight `{name}`"));
    let unembed = weight("unembed.W_U")?;
    let outputs = (0..layers)
        .map(|layer| {
            let w = weight(&format!("blocks.{layer}.attn.W_O"))?;
            Ok(w.reshape((heads, config.d_head(), d))?)
        })
        .collect::<Result<Vec<Tensor>>>()?;
    let norm = FinalNorm {
        kind: config.architecture.norm,
        fixed: config.architecture.fixed.get(NormPath::Final),
        eps: config.norm_eps,
    };
    let mut out = [(); 2].map(|()| Effects { direct: Vec::new(), errors: Vec::new() });
    for_each_batch(run, name, sequences, batch, |rows, tokens| {
        let activations = capture(model, &tokens, &sites, &keep)?;
        let targets: Vec<u32> = rows.iter().filter_map(|row| row.last().copied()).collect();
        let targets = Tensor::new(targets, run.device())?;
        let directions = to_rows(&unembed.index_select(&targets, 1)?.t()?)?; // [rows, d]
        let streams = activations.get(last)?; // [rows, 2, d]
        // the output of each head, [rows, 2, heads, d], by layer
        let written = (0..layers)
            .map(|layer| {
                let z = activations.get(sites[layer])?; // [rows, 2, heads, e]
                let z = z.transpose(1, 2)?.transpose(0, 1)?.contiguous()?; // [heads, rows, 2, e]
                let shape = (heads, rows.len() * 2, config.d_head());
                let each = z.reshape(shape)?.matmul(&outputs[layer])?; // [heads, rows * 2, d]
                to_rows(&each.transpose(0, 1)?.contiguous()?.reshape((rows.len() * 2 * heads, d))?)
            })
            .collect::<Result<Vec<_>>>()?;
        for (target, effects) in out.iter_mut().enumerate() {
            let streams = to_rows(&streams.narrow(1, target, 1)?.squeeze(1)?)?;
            for (i, (stream, direction)) in streams.iter().zip(&directions).enumerate() {
                let mut direct = Vec::with_capacity(layers * heads);
                let mut errors = Vec::with_capacity(layers * heads);
                for written in &written {
                    for head in 0..heads {
                        let c = &written[(i * 2 + target) * heads + head];
                        let [effect, attribution] = norm.effects(stream, c, direction);
                        direct.push(effect);
                        errors.push(attribution - effect);
                    }
                }
                effects.direct.push(direct);
                effects.errors.push(errors);
            }
        }
        Ok(())
    })?;
    Ok(out)
}

fn to_rows(x: &Tensor) -> Result<Vec<Vec<f64>>> {
    Ok(x.to_dtype(DType::F64)?.to_device(&Device::Cpu)?.to_vec2()?)
}

/// The final norm, without gain and bias.
#[derive(Clone, Copy)]
struct FinalNorm {
    kind: NormKind,
    fixed: Option<f64>,
    eps: f64,
}

impl FinalNorm {
    fn mean(self, x: &[f64]) -> f64 {
        match self.kind {
            NormKind::Layer => probes::mean(x),
            NormKind::Rms => 0.,
        }
    }

    fn scale(self, x: &[f64]) -> f64 {
        let mean = self.mean(x);
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
        self.fixed.unwrap_or((variance + self.eps).sqrt())
    }

    /// `N(x)·u` with a given scale in place of x's own.
    fn projection(self, x: &[f64], scale: f64, u: &[f64]) -> f64 {
        let mean = self.mean(x);
        x.iter().zip(u).map(|(x, u)| (x - mean) * u).sum::<f64>() / scale
    }

    /// Direct effect and direct logit attribution of a component's output c in the stream r.
    fn effects(self, r: &[f64], c: &[f64], u: &[f64]) -> [f64; 2] {
        let without: Vec<f64> = r.iter().zip(c).map(|(r, c)| r - c).collect();
        let scale = self.scale(r);
        let effect = self.projection(r, scale, u) - self.projection(&without, self.scale(&without), u);
        [effect, self.projection(c, scale, u)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_norm_attribution_equals_the_direct_effect() {
        let (r, c, u) = ([1., 4., -2., 0.5], [0.3, -1., 2., 0.1], [0.2, 0.5, -0.7, 1.]);
        for kind in [NormKind::Layer, NormKind::Rms] {
            let [effect, attribution] = FinalNorm { kind, fixed: Some(1.7), eps: 1e-5 }.effects(&r, &c, &u);
            assert!((effect - attribution).abs() < 1e-12);
            let [effect, attribution] = FinalNorm { kind, fixed: None, eps: 1e-5 }.effects(&r, &c, &u);
            assert!((effect - attribution).abs() > 1e-2);
        }
        // by hand: r = (2, 0), c = (1, 0): N(r) = (1, -1) / 1, N(r - c) = (0.5, -0.5) / 0.5
        let norm = FinalNorm { kind: NormKind::Layer, fixed: None, eps: 0. };
        let [effect, attribution] = norm.effects(&[2., 0.], &[1., 0.], &[1., 0.]);
        assert!(effect.abs() < 1e-12 && (attribution - 0.5).abs() < 1e-12);
    }

    #[test]
    fn nmae_is_by_head_or_pooled() {
        let effects = Effects { direct: vec![vec![1., 10.], vec![-1., 10.]], errors: vec![vec![1., 0.], vec![0., 1.]] };
        assert_eq!((effects.nmae(0), effects.nmae(1)), (50., 5.));
        assert!((effects.pooled() - 100. * 2. / 22.).abs() < 1e-12);
    }
}
