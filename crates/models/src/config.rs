//! What distinguishes one decoder from another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Sizes and variations of a decoder of the GPT-2 family: learned positions, LayerNorm before attention and MLP,
/// serial blocks.
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
    /// Width of the MLP's hidden layer.
    #[schemars(range(min = 1))]
    pub d_mlp: usize,
    /// Vocabulary.
    #[schemars(range(min = 1))]
    pub d_vocab: usize,
    /// Longest sequence.
    #[schemars(range(min = 1))]
    pub n_positions: usize,
    /// Nonlinearity of the MLP.
    pub activation: Activation,
    /// Whether linear maps and norms add a bias (the unembedding never does).
    pub biases: bool,
    /// Whether the unembedding is the embedding transposed.
    pub tied: bool,
    /// Added to the variance in every norm.
    #[schemars(range(min = 0))]
    pub norm_eps: f64,
    /// Dropout probability on embeddings, patterns and what blocks add, in training only.
    #[schemars(range(min = 0, max = 0.99))]
    pub dropout: f64,
    /// How fresh weights are drawn.
    pub initialisation: Initialisation,
}

/// Nonlinearity of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// GELU in its tanh approximation, as in GPT-2.
    GeluTanh,
    /// Exact GELU.
    GeluErf,
}

impl Activation {
    pub(crate) fn kernel(self) -> ops::kernel::activation::Activation {
        match self {
            Self::GeluTanh => ops::kernel::activation::Activation::GeluTanh,
            Self::GeluErf => ops::kernel::activation::Activation::GeluErf,
        }
    }
}

/// How fresh weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Initialisation {
    /// GPT-2: N(0, 0.02), output projections N(0, 0.02 / sqrt(2 n_layers)), biases 0.
    Gpt2,
    /// Embeddings N(0, 1), linear maps uniform within 1 / sqrt(fan_in).
    UniformFanIn,
}

impl Config {
    /// Width of a head.
    #[must_use]
    pub fn d_head(&self) -> usize {
        self.d_model / self.n_heads
    }

    /// Checks what a schema cannot say.
    ///
    /// # Errors
    /// When the heads do not divide the width.
    pub fn check(&self) -> Result<(), Error> {
        if self.n_heads == 0 || !self.d_model.is_multiple_of(self.n_heads) {
            let Self { n_heads, d_model, .. } = self;
            return Err(Error::Config(format!("n_heads = {n_heads} does not divide d_model = {d_model}")));
        }
        Ok(())
    }

    /// Number of trainable numbers.
    #[must_use]
    pub fn n_parameters(&self) -> usize {
        self.shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Every weight with its shape, in reading order.
    #[must_use]
    pub fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let Self { d_model: d, d_mlp, d_vocab, n_positions, .. } = *self;
        let mut shapes =
            vec![("embed.W_E".to_owned(), vec![d_vocab, d]), ("pos_embed.W_pos".to_owned(), vec![n_positions, d])];
        let mut add = |name: String, shape: &[usize], bias: bool| {
            if !bias || self.biases {
                shapes.push((name, shape.to_vec()));
            }
        };
        for layer in 0..self.n_layers {
            let at = |name: &str| format!("blocks.{layer}.{name}");
            add(at("ln1.w"), &[d], false);
            add(at("ln1.b"), &[d], true);
            add(at("attn.W_QKV"), &[d, 3 * d], false);
            add(at("attn.b_QKV"), &[3 * d], true);
            add(at("attn.W_O"), &[d, d], false);
            add(at("attn.b_O"), &[d], true);
            add(at("ln2.w"), &[d], false);
            add(at("ln2.b"), &[d], true);
            add(at("mlp.W_in"), &[d, d_mlp], false);
            add(at("mlp.b_in"), &[d_mlp], true);
            add(at("mlp.W_out"), &[d_mlp, d], false);
            add(at("mlp.b_out"), &[d], true);
        }
        add("ln_final.w".to_owned(), &[d], false);
        add("ln_final.b".to_owned(), &[d], true);
        if !self.tied {
            shapes.push(("unembed.W_U".to_owned(), vec![d, d_vocab]));
        }
        shapes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two layers of everything, as small as possible.
    pub(crate) fn tiny() -> Config {
        Config {
            n_layers: 2,
            n_heads: 2,
            d_model: 8,
            d_mlp: 16,
            d_vocab: 11,
            n_positions: 7,
            activation: Activation::GeluTanh,
            biases: true,
            tied: true,
            norm_eps: 1e-5,
            dropout: 0.,
            initialisation: Initialisation::Gpt2,
        }
    }

    #[test]
    fn parameters_are_counted() {
        // arXiv 2510.00184's model: 2 layers, d 768, GPT-2's vocabulary, tied: 53.6 million
        let published = Config { n_heads: 4, d_model: 768, d_mlp: 3072, d_vocab: 50_257, n_positions: 1024, ..tiny() };
        assert_eq!(published.n_parameters(), 53_561_088);
        assert!(Config { n_heads: 3, ..tiny() }.check().unwrap_err().to_string().contains("n_heads = 3"));
    }
}
