//! Sizes of a small model.

use models::{Activation, Architecture, Biases, Config, Family, Initialisation, NormKind, Positions, Rotary, Scaling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Sizes and variations of a small model. The vocabulary and the number of positions follow from what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Number of blocks.
    #[schemars(range(min = 1))]
    pub n_layers: usize,
    /// Heads in each block; must divide `d_model`.
    #[schemars(range(min = 1))]
    pub n_heads: usize,
    /// Width of the residual stream.
    #[schemars(range(min = 1))]
    pub d_model: usize,
    /// Width of the MLP's hidden layer. Default: `4 d_model`; `8 d_model / 3` for `llama`, whose MLP is gated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub d_mlp: Option<usize>,
    /// The family whose architecture it has. Default: `gpt2`.
    #[serde(default)]
    pub family: ShapeFamily,
    /// Nonlinearity of the MLP. Default: the family's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// Whether linear maps and norms add a bias. Default: the family's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub biases: Option<bool>,
    /// Whether the unembedding is the embedding transposed. Default: the family's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tied: Option<bool>,
    /// Added to the variance in every norm. Default: 1e-5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
    /// Dropout probability in training. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 0.99))]
    pub dropout: f64,
    /// How fresh weights are sampled. Default: `gpt2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initialisation: Option<Initialisation>,
}

/// The families that a small model can be shaped after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ShapeFamily {
    /// LayerNorm, learned positions, GELU.
    #[default]
    Gpt2,
    /// RMSNorm, rotary positions, gated MLPs, no biases.
    Llama,
    /// LayerNorm, rotary positions over a quarter of each head, attention and MLP in parallel.
    GptNeox,
}

impl ShapeFamily {
    /// The family of the hub that a checkpoint of this shape is written as.
    #[must_use]
    pub fn hub(self) -> Family {
        match self {
            Self::Gpt2 => Family::Gpt2,
            Self::Llama => Family::Llama,
            Self::GptNeox => Family::GptNeox,
        }
    }
}

impl Shape {
    /// The decoder's full configuration.
    #[must_use]
    pub fn config(&self, d_vocab: usize, n_positions: usize) -> Config {
        let Self { n_layers, n_heads, d_model, dropout, .. } = *self;
        let family = self.of_family();
        Config {
            n_layers,
            n_heads,
            d_model,
            d_mlp: self.d_mlp.unwrap_or(family.d_mlp),
            d_vocab,
            n_positions,
            activation: self.activation.unwrap_or(family.activation),
            biases: self.biases.unwrap_or(family.biases),
            tied: self.tied.unwrap_or(family.tied),
            norm_eps: self.norm_eps.unwrap_or(family.norm_eps),
            dropout,
            initialisation: self.initialisation.unwrap_or(family.initialisation),
            architecture: family.architecture,
        }
    }

    /// The family's own choices at these sizes.
    fn of_family(&self) -> Config {
        let gpt2 = Config { d_mlp: 4 * self.d_model, ..Config::gpt2_small() };
        let d_head = self.d_model / self.n_heads.max(1);
        let rotary = |fraction: usize| {
            let rotary_dim = (d_head / fraction).next_multiple_of(2);
            Positions::Rotary(Rotary { rotary_dim, base: 10_000., scaling: Scaling::None, interleaved: false })
        };
        match self.family {
            ShapeFamily::Gpt2 => gpt2,
            ShapeFamily::Llama => Config {
                // as many weights as an MLP four times as wide without a gate
                d_mlp: (8 * self.d_model / 3).next_multiple_of(8),
                activation: Activation::Silu,
                biases: false,
                architecture: Architecture {
                    n_key_value_heads: Some(self.n_heads),
                    norm: NormKind::Rms,
                    positions: rotary(1),
                    gated: true,
                    biases: Some(Biases::all(false)),
                    ..Architecture::default()
                },
                ..gpt2
            },
            ShapeFamily::GptNeox => Config {
                activation: Activation::GeluErf,
                tied: false,
                architecture: Architecture { positions: rotary(4), parallel: true, ..Architecture::default() },
                ..gpt2
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Shape {
        serde_json::from_str(&format!("{{\"n_layers\": 2, \"n_heads\": 2, \"d_model\": 48{text}}}")).unwrap()
    }

    #[test]
    fn every_family_has_a_valid_configuration() {
        for family in ["gpt2", "llama", "gpt_neox"] {
            let config = shape(&format!(", \"family\": \"{family}\"")).config(300, 32);
            config.check().unwrap();
            assert_eq!((config.d_vocab, config.n_positions), (300, 32));
        }
        assert_eq!(shape(", \"family\": \"llama\"").config(9, 9).d_mlp, 128);
    }

    #[test]
    fn keys_override_the_family() {
        let config = shape(", \"d_mlp\": 7, \"tied\": false, \"activation\": \"gelu_erf\"").config(9, 9);
        assert_eq!((config.d_mlp, config.tied, config.activation), (7, false, Activation::GeluErf));
        assert!(serde_json::from_str::<Shape>("{\"n_layers\": 2, \"n_head\": 2, \"d_model\": 48}").is_err());
    }
}
