//! Sizes of a decoder, its weights' shapes, and its sites.

use candle_core::Tensor;
use hooks::{Point, Site};
use ops::{gelu_erf, gelu_tanh};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::architecture::{Architecture, Biases, FixedScales, NormPlace, Positions, QkNorm, USUAL_EPSILON};

/// Sizes and architecture of a decoder. The default [`Architecture`] is GPT-2's: learned positions, LayerNorm before
/// attention and MLP, serial blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Number of blocks.
    #[schemars(range(min = 1))]
    pub n_layers: usize,
    /// Heads in each block; must divide `d_model`.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Width of the residual stream.
    #[schemars(range(min = 1))]
    pub d_model: usize,
    /// Width of the MLP.
    #[schemars(range(min = 1))]
    pub d_mlp: usize,
    /// Size of the vocabulary.
    #[schemars(range(min = 1))]
    pub d_vocab: usize,
    /// Longest sequence.
    #[schemars(range(min = 1))]
    pub n_positions: usize,
    /// Nonlinearity of the MLP.
    pub activation: Activation,
    /// Whether linear maps and norms add a bias (the unembedding does not), unless the architecture lists them.
    pub biases: bool,
    /// Whether the unembedding is the embedding transposed.
    pub tied: bool,
    /// Epsilon added to the variance in every norm.
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
    /// Dropout probability of embeddings, patterns and block outputs, in training only.
    #[schemars(range(min = 0, max = 0.99))]
    pub dropout: f64,
    /// The distribution of initial weights.
    pub initialisation: Initialisation,
    /// Differences from GPT-2.
    #[serde(default, skip_serializing_if = "Architecture::is_gpt2")]
    #[serde(alias = "form")]
    pub architecture: Architecture,
}

/// Nonlinearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The tanh approximation of GELU, as in GPT-2.
    GeluTanh,
    /// Exact GELU.
    GeluErf,
    /// SiLU, as in the Llama family.
    Silu,
}

impl Activation {
    /// The activation of `[b, t, m]`, differentiable.
    pub(crate) fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::GeluTanh => gelu_tanh(x),
            Self::GeluErf => gelu_erf(x),
            Self::Silu => x.silu(),
        }
    }

    /// The kernel of the fast pass and of fused maps, where there is one.
    pub(crate) fn kernel(self) -> Option<ops::kernel::activation::Activation> {
        match self {
            Self::GeluTanh => Some(ops::kernel::activation::Activation::GeluTanh),
            Self::GeluErf => Some(ops::kernel::activation::Activation::GeluErf),
            Self::Silu => None,
        }
    }
}

/// The distribution of initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initialisation {
    /// GPT-2: N(0, 0.02), output projections N(0, 0.02 / sqrt(2 n_layers)), biases 0.
    Gpt2,
    /// Embeddings N(0, 1), linear maps uniform within 1 / sqrt(fan_in).
    UniformFanIn,
    /// Scaled with the width, as N(mean, standard deviation): embeddings N(0, 0.5), linear maps N(0, 1 /
    /// sqrt(d_model)), output projections smaller by 1 / sqrt(2 n_layers), unembedding N(0, 0.5 / sqrt(d_model)),
    /// biases 0. Small models leave their first plateau thousands of steps earlier than with GPT-2's constant 0.02.
    WidthScaled,
}

impl Config {
    /// GPT-2 small: 12 blocks, 12 heads, d_model 768, 50,257 tokens, 1,024 positions.
    ///
    /// A base for other sizes: `Config { n_layers: 2, d_model: 64, ..Config::gpt2_small() }`.
    #[must_use]
    pub fn gpt2_small() -> Self {
        Self {
            n_layers: 12,
            n_heads: 12,
            d_model: 768,
            d_mlp: 3072,
            d_vocab: 50_257,
            n_positions: 1024,
            activation: Activation::GeluTanh,
            biases: true,
            tied: true,
            norm_eps: 1e-5,
            dropout: 0.,
            initialisation: Initialisation::Gpt2,
            architecture: Architecture::default(),
        }
    }

    /// Width of a head.
    #[must_use]
    pub fn d_head(&self) -> usize {
        self.architecture.d_head.unwrap_or(self.d_model / self.n_heads.max(1))
    }

    /// Number of key and value heads in each block.
    #[must_use]
    pub fn n_key_value_heads(&self) -> usize {
        self.architecture.n_key_value_heads.unwrap_or(self.n_heads)
    }

    /// The maps that add a bias.
    #[must_use]
    pub fn biases(&self) -> Biases {
        self.architecture.biases.unwrap_or(Biases::all(self.biases))
    }

    /// Number of keys that a query of this block attends to, itself included; `None` for all.
    #[must_use]
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.architecture.windows.get(layer).copied().flatten()
    }

    /// Checks what the configuration schema cannot express.
    ///
    /// # Errors
    /// When sizes contradict each other; the message names both.
    pub fn check(&self) -> Result<(), Error> {
        /// Larger than any real size; products of two such sizes fit `usize`.
        const MOST: usize = 1 << 26;
        const MOST_LAYERS: usize = 1 << 14;
        let Self { n_layers, n_heads, d_model, d_mlp, d_vocab, n_positions, .. } = self;
        let wrong = |message: String| Err(Error::Config(message));
        let sizes = [
            ("n_layers", *n_layers, MOST_LAYERS),
            ("n_heads", *n_heads, MOST),
            ("d_model", *d_model, MOST),
            ("d_mlp", *d_mlp, MOST),
            ("d_vocab", *d_vocab, MOST),
            ("n_positions", *n_positions, MOST),
            ("d_head", self.d_head(), MOST),
        ];
        // the message about heads that do not divide d_model comes below
        for (name, size, most) in
            sizes.into_iter().filter(|(name, ..)| *name != "d_head" || self.architecture.d_head.is_some())
        {
            if size == 0 || size > most {
                return wrong(format!("{name} = {size} is not between 1 and {most}"));
            }
        }
        if n_heads.checked_mul(self.d_head()).is_none_or(|width| width > MOST) {
            return wrong(format!("{n_heads} heads of {} are wider than {MOST}", self.d_head()));
        }
        if self.architecture.d_head.is_none() && !d_model.is_multiple_of(*n_heads) {
            return wrong(format!("n_heads = {n_heads} does not divide d_model = {d_model}"));
        }
        let kv_heads = self.n_key_value_heads();
        if kv_heads == 0 || !n_heads.is_multiple_of(kv_heads) {
            return wrong(format!("n_key_value_heads = {kv_heads} does not divide n_heads = {n_heads}"));
        }
        if self.d_head() == 0 {
            return wrong(format!("d_head is 0: d_model = {d_model} is smaller than n_heads = {n_heads}"));
        }
        if let Positions::Rotary(rotary) = &self.architecture.positions {
            rotary.check(self.d_head())?;
        }
        self.architecture.fixed.check(self.n_layers, self.architecture.norm_place)?;
        if self.architecture.parallel && self.architecture.norm_place == NormPlace::After {
            return wrong("parallel blocks need `norm_place: before`".to_owned());
        }
        Ok(())
    }

    /// Turns the large epsilon of a checkpoint without norms into fixed scales.
    pub(crate) fn fix_large_epsilon(&mut self) {
        if let Some(fixed) = FixedScales::of_epsilon(self.norm_eps, self.n_layers, self.architecture.norm_place) {
            self.architecture.fixed = fixed;
            self.norm_eps = USUAL_EPSILON;
        }
    }

    /// Number of trainable parameters.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Every weight's name and shape, in reading order.
    #[must_use]
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Self { d_model: d, d_mlp, d_vocab, n_positions, .. } = *self;
        let (heads, e) = (self.n_heads, self.d_head());
        let (z, qkv) = (heads * e, (heads + 2 * self.n_key_value_heads()) * e);
        let biases = self.biases();
        let mut shapes = vec![("embed.W_E".to_owned(), vec![d_vocab, d])];
        let mut add = |name: String, shape: &[usize], present: bool| {
            if present {
                shapes.push((name, shape.to_vec()));
            }
        };
        add("pos_embed.W_pos".to_owned(), &[n_positions, d], self.architecture.positions == Positions::Learned);
        for layer in 0..self.n_layers {
            let at = |name: &str| format!("blocks.{layer}.{name}");
            add(at("ln1.w"), &[d], true);
            add(at("ln1.b"), &[d], biases.norm);
            add(at("attn.W_QKV"), &[d, qkv], true);
            add(at("attn.b_QKV"), &[qkv], biases.qkv);
            match self.architecture.qk_norm {
                QkNorm::None => {}
                QkNorm::Head => {
                    add(at("attn.q_norm.w"), &[e], true);
                    add(at("attn.k_norm.w"), &[e], true);
                }
                QkNorm::Whole => {
                    add(at("attn.q_norm.w"), &[z], true);
                    add(at("attn.k_norm.w"), &[self.n_key_value_heads() * e], true);
                }
            }
            add(at("attn.W_O"), &[z, d], true);
            add(at("attn.b_O"), &[d], biases.attn_out);
            add(at("ln2.w"), &[d], true);
            add(at("ln2.b"), &[d], biases.norm);
            add(at("mlp.W_gate"), &[d, d_mlp], self.architecture.gated);
            add(at("mlp.b_gate"), &[d_mlp], self.architecture.gated && biases.mlp);
            add(at("mlp.W_in"), &[d, d_mlp], true);
            add(at("mlp.b_in"), &[d_mlp], biases.mlp);
            add(at("mlp.W_out"), &[d_mlp, d], true);
            add(at("mlp.b_out"), &[d], biases.mlp);
        }
        add("ln_final.w".to_owned(), &[d], true);
        add("ln_final.b".to_owned(), &[d], biases.norm);
        add("unembed.W_U".to_owned(), &[d, d_vocab], !self.tied);
        add("unembed.b_U".to_owned(), &[d_vocab], biases.unembed);
        shapes
    }

    /// Every site of a forward pass, in order.
    #[must_use]
    pub fn sites(&self) -> Vec<Site> {
        let rotary = matches!(self.architecture.positions, Positions::Rotary(_));
        let has_point = |point: Point| match point {
            Point::RotQ | Point::RotK => rotary,
            Point::ResidMid => !self.architecture.parallel,
            Point::MlpPreLinear => self.architecture.gated,
            Point::ResidPre
            | Point::Ln1Scale
            | Point::Ln1Normalized
            | Point::Q
            | Point::K
            | Point::V
            | Point::AttnScores
            | Point::Pattern
            | Point::Z
            | Point::Result
            | Point::AttnOut
            | Point::Ln2Scale
            | Point::Ln2Normalized
            | Point::MlpPre
            | Point::MlpPost
            | Point::MlpOut
            | Point::ResidPost => true,
        };
        Site::all(self.n_layers)
            .filter(|site| match site {
                Site::PosEmbed => !rotary,
                Site::Block(_, point) => has_point(*point),
                Site::Embed | Site::FinalScale | Site::FinalNormalized | Site::Logits => true,
            })
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small model of two blocks.
    pub(crate) fn tiny() -> Config {
        Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, n_positions: 7, ..Config::gpt2_small() }
    }

    #[test]
    fn parameters_are_counted() {
        // arXiv 2510.00184's model: 2 layers, d 768, GPT-2's vocabulary, tied: 53.6 million
        let published = Config { n_heads: 4, d_model: 768, d_mlp: 3072, d_vocab: 50_257, n_positions: 1024, ..tiny() };
        assert_eq!(published.n_parameters(), 53_561_088);
        assert!(Config { n_heads: 3, ..tiny() }.check().unwrap_err().to_string().contains("n_heads = 3"));
    }

    #[test]
    fn zero_and_absurd_sizes_are_rejected() {
        let wrong = |config: Config| config.check().unwrap_err().to_string();
        assert!(tiny().check().is_ok());
        for size in [0, 1 << 40, usize::MAX] {
            for (name, config) in [
                ("n_layers", Config { n_layers: size, ..tiny() }),
                ("n_heads", Config { n_heads: size, ..tiny() }),
                ("d_model", Config { d_model: size, ..tiny() }),
                ("d_mlp", Config { d_mlp: size, ..tiny() }),
                ("d_vocab", Config { d_vocab: size, ..tiny() }),
                ("n_positions", Config { n_positions: size, ..tiny() }),
                (
                    "d_head",
                    Config { architecture: Architecture { d_head: Some(size), ..tiny().architecture }, ..tiny() },
                ),
            ] {
                assert!(wrong(config).contains(&format!("{name} = {size}")));
            }
        }
        let wide = Architecture { d_head: Some(1 << 20), ..tiny().architecture };
        assert!(wrong(Config { n_heads: 1 << 20, architecture: wide, ..tiny() }).contains("wider"));
    }
}
