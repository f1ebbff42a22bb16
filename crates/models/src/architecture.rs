//! What sets one family of decoders apart from another, as values.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Variations of a decoder. The default is GPT-2's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Architecture {
    /// Key and value heads of each block, each shared by neighbouring query heads (arXiv 2305.13245); without: one for
    /// each query head.
    pub n_key_value_heads: Option<usize>,
    /// Width of a head; without: `d_model / n_heads`.
    pub d_head: Option<usize>,
    /// Which norm.
    pub norm: NormKind,
    /// Where in a block the norms stand.
    pub norm_place: NormPlace,
    /// How a token's place gets in.
    pub positions: Positions,
    /// Attention and MLP read the same stream and write together (arXiv 2204.06745).
    pub parallel: bool,
    /// The MLP's inside is `activation(x W_gate) * (x W_in)` (arXiv 2002.05202).
    pub gated: bool,
    /// RMSNorm of queries and keys.
    pub qk_norm: QkNorm,
    /// Which maps add a bias; without: all or none, as `biases` says.
    pub biases: Option<Biases>,
    /// For each block, how many keys a query sees, itself included (arXiv 2310.06825); nothing, or no entry: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Option<usize>>,
    /// Norms that divide by a fixed number.
    #[serde(skip_serializing_if = "FixedScales::is_empty")]
    pub fixed: FixedScales,
}

impl Architecture {
    /// Whether this is GPT-2's.
    #[must_use]
    pub fn is_gpt2(&self) -> bool {
        *self == Self::default()
    }
}

/// A norm as one of its readers sees it: queries and keys, values, an MLP, or the unembedding.
///
/// Prints as `qk3`, `v3`, `mlp3` and `final`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NormPath {
    /// Norm before attention, as queries and keys of this block see it.
    QueriesKeys(usize),
    /// The same norm, as values of this block see it.
    Values(usize),
    /// Norm before this block's MLP.
    Mlp(usize),
    /// Norm before the unembedding.
    Final,
}

impl NormPath {
    /// All of a decoder's: three for each block, and the last.
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

/// An epsilon from which on variances of activations do not matter beside it.
const LARGE_EPSILON: f64 = 1e9;
/// The epsilon of checkpoints without norms, as the published ones have it: variances are to it as 1 to 1e12.
pub(crate) const EXPORT_EPSILON: f64 = 1e12;
/// What norms that are fixed would have, were they freed.
pub(crate) const USUAL_EPSILON: f64 = 1e-5;

/// Norms that divide by a fixed number in place of their input's own scale (FakeLN, arXiv 2507.02559, section 2): the mean
/// is still taken out by LayerNorms, gain and bias stay, so the norm is an affine map.
///
/// Lists go by block; nothing, or no entry: the norm divides by its input's scale.
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
    /// The same number for every norm of a decoder.
    #[must_use]
    pub fn all(n_layers: usize, scale: f64) -> Self {
        let mut fixed = Self::default();
        NormPath::all(n_layers).for_each(|path| fixed.set(path, Some(scale)));
        fixed
    }

    /// Whether every norm divides by its input's scale.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let lists = [&self.ln1_qk, &self.ln1_v, &self.ln2];
        self.ln_final.is_none() && lists.iter().all(|list| list.iter().all(Option::is_none))
    }

    /// Whether no norm of a decoder of so many blocks divides by its input's scale.
    #[must_use]
    pub fn is_complete(&self, n_layers: usize) -> bool {
        NormPath::all(n_layers).all(|path| self.get(path).is_some())
    }

    /// The number that a norm divides by, if it is fixed.
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

    /// Fixes a norm, or frees it.
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

    /// The norms of a model with this epsilon: where it is so large that no input matters beside it, every norm divides by
    /// its root. Checkpoints without norms are written so, because no other key of the hub says it (arXiv 2507.02559).
    pub(crate) fn of_epsilon(eps: f64, n_layers: usize, place: NormPlace) -> Option<Self> {
        (eps >= LARGE_EPSILON && place == NormPlace::Before).then(|| Self::all(n_layers, eps.sqrt()))
    }

    pub(crate) fn check(&self, n_layers: usize, place: NormPlace) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        if place == NormPlace::After {
            return Err(Error::Config("fixed: only norms before attention and MLP can be fixed".to_owned()));
        }
        let lists = [&self.ln1_qk, &self.ln1_v, &self.ln2];
        if let Some(list) = lists.iter().find(|list| list.len() > n_layers) {
            return Err(Error::Config(format!("fixed: {} norms in a decoder of {n_layers} blocks", list.len())));
        }
        let wrong = NormPath::all(n_layers).find_map(|path| {
            let scale = self.get(path).filter(|scale| !(scale.is_finite() && *scale > 0.))?;
            Some(format!("fixed: the norm {path} cannot divide by {scale}"))
        });
        wrong.map_or(Ok(()), |words| Err(Error::Config(words)))
    }
}

/// Norm of the residual stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// LayerNorm (arXiv 1607.06450), biased variance.
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

/// Where in a block the norms stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    /// On what attention and MLP read.
    #[default]
    Before,
    /// On what attention and MLP write (OLMo 2, arXiv 2501.00656).
    After,
}

/// How a token's place gets in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A vector per place, added to the embedding.
    #[default]
    Learned,
    /// Queries and keys are rotary_dim.
    Rotary(Rotary),
}

/// RMSNorm of queries and keys, before they are rotary_dim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Each head for itself (Qwen 3).
    Head,
    /// All heads of a token together (OLMo 2).
    Whole,
}

/// Which maps add a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// What heads write.
    pub attn_out: bool,
    /// Both maps of the MLP.
    pub mlp: bool,
    /// Norms.
    pub norm: bool,
    /// The unembedding.
    #[serde(default)]
    pub unembed: bool,
}

impl Biases {
    /// All but the unembedding's, or none.
    #[must_use]
    pub fn all(here: bool) -> Self {
        Self { qkv: here, attn_out: here, mlp: here, norm: here, unembed: false }
    }
}

/// Rotary positions (arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// Entries of a head that turn, from the first on; even.
    #[serde(alias = "turned")]
    pub rotary_dim: usize,
    /// Pair `i` turns by `base^(-2i / rotary_dim)` radians a place.
    pub base: f64,
    /// Slower turning, for contexts longer than those of the training.
    #[serde(default)]
    pub scaling: Scaling,
    /// Entry `2i` turns with `2i + 1`, as in the paper, not with `i + rotary_dim / 2`, as in the hub's checkpoints.
    #[serde(default)]
    #[serde(alias = "neighbours")]
    pub interleaved: bool,
}

/// Slower turning, for contexts longer than those of the training.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// None.
    #[default]
    None,
    /// Every pair slower by the same factor (arXiv 2306.15595).
    Linear {
        /// Times slower.
        factor: f64,
    },
    /// Llama 3.1: slow pairs slower, quick pairs as they were, a ramp between.
    Llama3 {
        /// Times slower.
        factor: f64,
        /// Pairs with fewer turns than this within the original context are slowed in full.
        low_freq_factor: f64,
        /// Pairs with more turns than this stay as they were.
        high_freq_factor: f64,
        /// Context of the training.
        original: usize,
    },
    /// YaRN (arXiv 2309.00071): a ramp over the pairs, and queries and keys grown a little.
    Yarn {
        /// Times slower.
        factor: f64,
        /// Context of the training.
        original: usize,
        /// Turns within the original context from which on a pair stays as it was.
        beta_fast: f64,
        /// Turns up to which a pair is slowed in full.
        beta_slow: f64,
        /// Whether the ramp's ends are whole pairs.
        truncate: bool,
        /// Factor on turned queries and keys.
        attention_factor: f64,
    },
}

impl Rotary {
    pub(crate) fn check(&self, d_head: usize) -> Result<(), Error> {
        let rotary_dim = self.rotary_dim;
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) || rotary_dim > d_head {
            return Err(Error::Config(format!(
                "rotary: {rotary_dim} of {d_head} entries of a head cannot turn in pairs"
            )));
        }
        let numbers: &[f64] = match &self.scaling {
            Scaling::None => &[],
            Scaling::Linear { factor } => &[*factor],
            Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                if high_freq_factor <= low_freq_factor {
                    let words = format!(
                        "rotary: high_freq_factor = {high_freq_factor} must exceed low_freq_factor = {low_freq_factor}"
                    );
                    return Err(Error::Config(words));
                }
                &[*factor, *low_freq_factor]
            }
            Scaling::Yarn { factor, beta_fast, beta_slow, attention_factor, .. } => {
                &[*factor, *beta_fast, *beta_slow, *attention_factor]
            }
        };
        match numbers.iter().chain([&self.base]).find(|number| !(number.is_finite() && **number > 0.)) {
            Some(number) => Err(Error::Config(format!("rotary: {number} is no positive number"))),
            None => Ok(()),
        }
    }

    /// Radians that each pair turns from one place to the next, `[rotary_dim / 2]`.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        let plain = (0..self.rotary_dim / 2).map(|i| self.base.powf(-2. * i as f64 / self.rotary_dim as f64));
        match &self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear { factor } => plain.map(|f| f / factor).collect(),
            Scaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original } => {
                let slowed = |f: f64| {
                    let turns = *original as f64 * f / std::f64::consts::TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0., 1.);
                    (1. - kept) * f / factor + kept * f
                };
                plain.map(slowed).collect()
            }
            Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                // the pair that makes so many turns within the original context
                let pair = |turns: f64| {
                    let context = *original as f64 / (turns * std::f64::consts::TAU);
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

    /// Factor on turned queries and keys.
    #[must_use]
    pub fn attention_factor(&self) -> f64 {
        match self.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.,
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
        // 64 places: 10 turns, 1.02 turns, 0.1 turns, 0.01 turns
        assert_eq!(slowed[0], plain[0]);
        assert!(slowed[1] > plain[1] / 8. && slowed[1] < plain[1]);
        assert_eq!(slowed[2], plain[2] / 8.);
        assert_eq!(slowed[3], plain[3] / 8.);
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |rotary: Rotary, word: &str| {
            let error = rotary.check(8).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        };
        check(Rotary { rotary_dim: 3, ..rotary(Scaling::None) }, "3 of 8");
        check(Rotary { rotary_dim: 10, ..rotary(Scaling::None) }, "10 of 8");
        check(rotary(Scaling::Linear { factor: 0. }), "0 is no positive");
        check(Rotary { base: f64::NAN, ..rotary(Scaling::None) }, "NaN");
        let scaling = Scaling::Llama3 { factor: 8., low_freq_factor: 4., high_freq_factor: 4., original: 64 };
        check(rotary(scaling), "must exceed");
    }
}
