//! Differences between families of decoders, as values.

use std::ops::Range;

use ops::{Pairs, Rotation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Variations of a decoder. The default is GPT-2.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Architecture {
    /// Key and value heads of each block, each shared by adjacent query heads (arXiv 2305.13245); by default one per
    /// query head.
    pub n_key_value_heads: Option<usize>,
    /// Width of a head; by default `d_model / n_heads`.
    pub d_head: Option<usize>,
    /// The kind of norm.
    pub norm: NormKind,
    /// Whether norms come before or after attention and MLP.
    pub norm_place: NormPlace,
    /// The encoding of positions.
    pub positions: Positions,
    /// Whether attention and MLP read the same residual stream and write together (arXiv 2204.06745).
    pub parallel: bool,
    /// Whether the MLP computes `activation(x W_gate) * (x W_in)` (arXiv 2002.05202).
    pub gated: bool,
    /// The RMSNorm of queries and keys, if any.
    pub qk_norm: QkNorm,
    /// The maps that add a bias; by default all or none, by `biases` of the model.
    pub biases: Option<Biases>,
    /// For each block, how many keys a query attends to, itself included (arXiv 2310.06825). Blocks without an entry
    /// attend to all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Option<usize>>,
    /// Norms that divide by a fixed scale.
    #[serde(skip_serializing_if = "FixedScales::is_empty")]
    pub fixed: FixedScales,
}

impl Architecture {
    /// Whether this is GPT-2's architecture.
    #[must_use]
    pub fn is_gpt2(&self) -> bool {
        *self == Self::default()
    }
}

/// A norm together with what reads it: queries and keys, values, an MLP, or the unembedding.
///
/// Prints as `qk3`, `v3`, `mlp3` and `final`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NormPath {
    /// The norm before attention, as queries and keys of this block read it.
    QueriesKeys(usize),
    /// The same norm, as values of this block read it.
    Values(usize),
    /// The norm before this block's MLP.
    Mlp(usize),
    /// The norm before the unembedding.
    Final,
}

impl NormPath {
    /// All paths of a decoder: three for each block, and the final norm.
    pub fn all(n_layers: usize) -> impl Iterator<Item = Self> {
        let blocks = (0..n_layers).flat_map(|layer| [Self::QueriesKeys(layer), Self::Values(layer), Self::Mlp(layer)]);
        blocks.chain([Self::Final])
    }
}

impl std::fmt::Display for NormPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::QueriesKeys(layer) => write!(f, "qk{layer}"),
            Self::Values(layer) => write!(f, "v{layer}"),
            Self::Mlp(layer) => write!(f, "mlp{layer}"),
            Self::Final => write!(f, "final"),
        }
    }
}

/// From this epsilon on, the variance of activations is negligible beside it.
const LARGE_EPSILON: f64 = 1e9;
/// The epsilon of exported checkpoints without norms, equal to that of the published ones.
pub(crate) const EXPORT_EPSILON: f64 = 1e12;
/// The epsilon of a model with fixed norms, for norms that are freed later.
pub(crate) const USUAL_EPSILON: f64 = 1e-5;

/// Norms that divide by a fixed scale instead of their input's own (FakeLN, arXiv 2507.02559, section 2). A LayerNorm
/// still subtracts the mean, and gain and bias stay, so the norm is an affine map.
///
/// Lists are indexed by block. A norm without an entry divides by its input's own scale.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FixedScales {
    /// Norms before attention, for queries and keys.
    pub ln1_qk: Vec<Option<f64>>,
    /// Norms before attention, for values.
    pub ln1_v: Vec<Option<f64>>,
    /// Norms before MLPs.
    pub ln2: Vec<Option<f64>>,
    /// The final norm.
    pub ln_final: Option<f64>,
}

impl FixedScales {
    /// The same scale for every norm of a decoder.
    #[must_use]
    pub fn all(n_layers: usize, scale: f64) -> Self {
        let mut fixed = Self::default();
        NormPath::all(n_layers).for_each(|path| fixed.set(path, Some(scale)));
        fixed
    }

    /// Whether no norm is fixed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let lists = [&self.ln1_qk, &self.ln1_v, &self.ln2];
        self.ln_final.is_none() && lists.iter().all(|list| list.iter().all(Option::is_none))
    }

    /// Whether every norm of a decoder with `n_layers` blocks is fixed.
    #[must_use]
    pub fn is_complete(&self, n_layers: usize) -> bool {
        NormPath::all(n_layers).all(|path| self.get(path).is_some())
    }

    /// The fixed scale of a norm, if it has one.
    #[must_use]
    pub fn get(&self, path: NormPath) -> Option<f64> {
        let of = |list: &[Option<f64>], layer: usize| list.get(layer).copied().flatten();
        match path {
            NormPath::QueriesKeys(layer) => of(&self.ln1_qk, layer),
            NormPath::Values(layer) => of(&self.ln1_v, layer),
            NormPath::Mlp(layer) => of(&self.ln2, layer),
            NormPath::Final => self.ln_final,
        }
    }

    /// Fixes the scale of a norm, or frees it with `None`.
    pub fn set(&mut self, path: NormPath, scale: Option<f64>) {
        let (list, layer) = match path {
            NormPath::QueriesKeys(layer) => (&mut self.ln1_qk, layer),
            NormPath::Values(layer) => (&mut self.ln1_v, layer),
            NormPath::Mlp(layer) => (&mut self.ln2, layer),
            NormPath::Final => {
                self.ln_final = scale;
                return;
            }
        };
        if list.len() <= layer {
            list.resize(layer + 1, None);
        }
        list[layer] = scale;
    }

    /// The fixed scales of a checkpoint without norms. Such checkpoints have an epsilon so large that every norm
    /// divides by its root, because the hub's formats have no other way to express it (arXiv 2507.02559).
    pub(crate) fn of_epsilon(eps: f64, n_layers: usize, norm_place: NormPlace) -> Option<Self> {
        (eps >= LARGE_EPSILON && norm_place == NormPlace::Before).then(|| Self::all(n_layers, eps.sqrt()))
    }

    pub(crate) fn check(&self, n_layers: usize, norm_place: NormPlace) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        if norm_place == NormPlace::After {
            return Err(Error::Config("fixed: only norms before attention and MLP can have fixed scales".to_owned()));
        }
        let lists = [&self.ln1_qk, &self.ln1_v, &self.ln2];
        if let Some(list) = lists.iter().find(|list| list.len() > n_layers) {
            return Err(Error::Config(format!(
                "fixed: {} norms listed for a decoder of {n_layers} blocks",
                list.len()
            )));
        }
        let wrong = NormPath::all(n_layers).find_map(|path| {
            let scale = self.get(path).filter(|scale| !(scale.is_finite() && *scale > 0.))?;
            Some(format!("fixed: the norm {path} cannot divide by {scale}"))
        });
        wrong.map_or(Ok(()), |message| Err(Error::Config(message)))
    }
}

/// The kind of norm of the residual stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// LayerNorm (arXiv 1607.06450) with the biased variance.
    #[default]
    Layer,
    /// RMSNorm (arXiv 1910.07467).
    Rms,
}

impl NormKind {
    pub(crate) fn kernel(self) -> ops::kernel::norm::Kind {
        match self {
            Self::Layer => ops::kernel::norm::Kind::Layer,
            Self::Rms => ops::kernel::norm::Kind::Rms,
        }
    }
}

/// The position of norms in a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// On the input of attention and MLP.
    #[default]
    Before,
    /// On the output of attention and MLP (OLMo 2, arXiv 2501.00656).
    After,
}

/// The encoding of positions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A learned vector per position, added to the embedding.
    #[default]
    Learned,
    /// Rotated queries and keys.
    Rotary(Rotary),
}

/// The RMSNorm of queries and keys, before their rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// No norm.
    #[default]
    None,
    /// One norm per head (Qwen 3).
    Head,
    /// One norm over all heads of a token (OLMo 2).
    Whole,
}

/// The maps that add a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The output map of attention.
    pub attn_out: bool,
    /// All maps of the MLP.
    pub mlp: bool,
    /// Norms.
    pub norm: bool,
    /// The unembedding.
    #[serde(default)]
    pub unembed: bool,
}

impl Biases {
    /// All biases but the unembedding's, or none.
    #[must_use]
    pub fn all(present: bool) -> Self {
        Self { qkv: present, attn_out: present, mlp: present, norm: present, unembed: false }
    }
}

/// Rotary position embedding (arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// Number of rotated entries of a head, from the first on; even.
    #[serde(alias = "turned")]
    pub rotary_dim: usize,
    /// Pair `i` rotates by `base^(-2i / rotary_dim)` radians per position.
    pub base: f64,
    /// Slower rotation, for contexts longer than in training.
    #[serde(default)]
    pub scaling: Scaling,
    /// Whether entry `2i` forms a pair with `2i + 1`, as in the paper. Checkpoints of the hub pair entry `i` with
    /// `i + rotary_dim / 2`.
    #[serde(default)]
    #[serde(alias = "neighbours")]
    pub interleaved: bool,
}

/// Slower rotation, for contexts longer than in training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// No scaling.
    #[default]
    None,
    /// Every pair slower by the same factor (arXiv 2306.15595).
    Linear {
        /// Factor of the slowdown.
        factor: f64,
    },
    /// Llama 3.1: slow pairs are slowed, fast pairs are not, with a ramp between them.
    Llama3 {
        /// Factor of the slowdown.
        factor: f64,
        /// Pairs with fewer rotations than this within the original context are slowed in full.
        low_freq_factor: f64,
        /// Pairs with more rotations than this are not slowed.
        high_freq_factor: f64,
        /// Context length in training.
        original: usize,
    },
    /// YaRN (arXiv 2309.00071): a ramp over the pairs, and a factor on queries and keys.
    Yarn {
        /// Factor of the slowdown.
        factor: f64,
        /// Context length in training.
        original: usize,
        /// Pairs with more rotations than this within the original context are not slowed.
        beta_fast: f64,
        /// Pairs with fewer rotations than this are slowed in full.
        beta_slow: f64,
        /// Whether the ends of the ramp are rounded to whole pairs.
        truncate: bool,
        /// Factor on rotated queries and keys.
        attention_factor: f64,
    },
}

impl Positions {
    /// The rotation at some positions, where positions are rotary.
    pub(crate) fn rotation(&self, positions: Range<usize>) -> Option<Rotation> {
        match self {
            Self::Learned => None,
            Self::Rotary(rotary) => {
                let pairs = if rotary.interleaved { Pairs::Interleaved } else { Pairs::Halves };
                Some(Rotation::new(pairs, &rotary.frequencies(), positions).scaled(rotary.attention_factor()))
            }
        }
    }
}

impl Rotary {
    pub(crate) fn check(&self, d_head: usize) -> Result<(), Error> {
        let rotary_dim = self.rotary_dim;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > d_head {
            return Err(Error::Config(format!(
                "rotary: rotary_dim = {rotary_dim} must be even, positive and at most d_head = {d_head}"
            )));
        }
        let numbers: &[f64] = match &self.scaling {
            Scaling::None => &[],
            Scaling::Linear { factor } => &[*factor],
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                if high_freq_factor <= low_freq_factor {
                    let message = format!(
                        "rotary: high_freq_factor = {high_freq_factor} must exceed low_freq_factor = {low_freq_factor}"
                    );
                    return Err(Error::Config(message));
                }
                &[*factor, *low_freq_factor]
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => {
                &[*factor, *beta_fast, *beta_slow, *attention_factor]
            }
        };
        match numbers.iter().chain([&self.base]).find(|number| !(number.is_finite() && **number > 0.)) {
            Some(number) => Err(Error::Config(format!("rotary: {number} is not a positive number"))),
            None => Ok(()),
        }
    }

    /// Radians that each pair rotates from one position to the next, `[rotary_dim / 2]`.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        let plain = (0..self.rotary_dim / 2).map(|i| self.base.powf(-2. * i as f64 / self.rotary_dim as f64));
        match &self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            Scaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original } => {
                let slowed = |f: f64| {
                    let rotations = *original as f64 * f / std::f64::consts::TAU;
                    let kept = ((rotations - low) / (high - low)).clamp(0., 1.);
                    (1. - kept) * f / factor + kept * f
                };
                plain.map(slowed).collect()
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                // the index of the pair that makes this many rotations within the original context
                let pair = |rotations: f64| {
                    let context = *original as f64 / (rotations * std::f64::consts::TAU);
                    self.rotary_dim as f64 * context.ln() / (2. * self.base.ln())
                };
                let (mut low, mut high) = (pair(*beta_fast), pair(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.), high.min(self.rotary_dim as f64 - 1.));
                let width = if high == low { 0.001 } else { high - low };
                let slowed = |(i, f): (usize, f64)| {
                    let kept = 1. - ((i as f64 - low) / width).clamp(0., 1.);
                    (1. - kept) * f / factor + kept * f
                };
                plain.enumerate().map(slowed).collect()
            }
        }
    }

    /// Factor on rotated queries and keys.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            Scaling::None | Scaling::Linear { .. } | Scaling::Llama3 { .. } => 1.,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotary(scaling: Scaling) -> Rotary {
        Rotary { rotary_dim: 8, base: 10_000., scaling, interleaved: false }
    }

    #[test]
    fn plain_and_linear() {
        let plain = rotary(Scaling::None).frequencies();
        for (i, f) in plain.iter().enumerate() {
            assert!((f - 0.1f64.powi(i as i32)).abs() < 1e-15);
        }
        let half = rotary(Scaling::Linear { factor: 2. }).frequencies();
        assert!(plain.iter().zip(half).all(|(a, b)| (a / 2. - b).abs() < 1e-15));
    }

    #[test]
    fn llama3_slows_only_slow_pairs() {
        let scaling = Scaling::Llama3 { factor: 8., low_freq_factor: 1., high_freq_factor: 4., original: 64 };
        let (plain, slowed) = (rotary(Scaling::None).frequencies(), rotary(scaling).frequencies());
        // over 64 positions: 10, 1.02, 0.1 and 0.01 rotations
        assert_eq!(slowed[0], plain[0]);
        assert!(slowed[1] > plain[1] / 8. && slowed[1] < plain[1]);
        assert_eq!(slowed[2], plain[2] / 8.);
        assert_eq!(slowed[3], plain[3] / 8.);
    }

    #[test]
    fn invalid_rotary_settings_are_rejected() {
        let check = |rotary: Rotary, expected: &str| {
            let error = rotary.check(8).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Rotary { rotary_dim: 3, ..rotary(Scaling::None) }, "rotary_dim = 3");
        check(Rotary { rotary_dim: 10, ..rotary(Scaling::None) }, "rotary_dim = 10");
        check(rotary(Scaling::Linear { factor: 0. }), "0 is not a positive");
        check(Rotary { base: f64::NAN, ..rotary(Scaling::None) }, "NaN");
        let scaling = Scaling::Llama3 { factor: 8., low_freq_factor: 4., high_freq_factor: 4., original: 64 };
        check(rotary(scaling), "must exceed");
    }
}
