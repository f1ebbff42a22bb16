//! The families of the hub: each one's `config.json` and weight names, put in our terms.
//!
//! A family is a file below this one: a function from its configuration to a [`Config`], and a list of [`Rule`]s that
//! say which of its tensors make up which of ours. The same rules read a checkpoint and write one.

mod fields;
mod gguf;
mod gpt2;
mod gpt_neox;
mod llama;
mod rule;

use serde_json::Value;

pub use self::fields::Fields;
pub(crate) use self::gguf::{config as gguf_config, name as gguf_name, unpermuted};
pub(crate) use self::rule::{Rule, Turn};
use crate::{Config, Error};

/// A family of decoders on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// GPT-2.
    Gpt2,
    /// GPT-NeoX and Pythia.
    GptNeox,
    /// Llama 2 and 3, SmolLM2.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// OLMo 2.
    Olmo2,
    /// Phi-3 and Phi-4.
    Phi3,
}

impl Family {
    /// All of them, with the `model_type` and the architecture that `config.json` gives them.
    pub const ALL: [(Self, &'static str, &'static str); 8] = [
        (Self::Gpt2, "gpt2", "GPT2LMHeadModel"),
        (Self::GptNeox, "gpt_neox", "GPTNeoXForCausalLM"),
        (Self::Llama, "llama", "LlamaForCausalLM"),
        (Self::Mistral, "mistral", "MistralForCausalLM"),
        (Self::Qwen2, "qwen2", "Qwen2ForCausalLM"),
        (Self::Qwen3, "qwen3", "Qwen3ForCausalLM"),
        (Self::Olmo2, "olmo2", "Olmo2ForCausalLM"),
        (Self::Phi3, "phi3", "Phi3ForCausalLM"),
    ];

    /// The `model_type` of the hub.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        Self::ALL.iter().find(|(family, ..)| *family == self).map_or("", |(_, name, _)| name)
    }

    /// The family of a `config.json`.
    ///
    /// # Errors
    /// When it is none of ours; the message lists those.
    pub fn of(config: &Fields<'_>) -> Result<Self, Error> {
        let model_type = config.opt_str("model_type")?;
        let architecture = config.first_str("architectures")?;
        let found = Self::ALL.iter().find(|(_, name, class)| match (model_type, architecture) {
            (Some(model_type), _) => model_type == *name,
            (None, Some(architecture)) => architecture == *class,
            (None, None) => false,
        });
        found.map(|(family, ..)| *family).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|(_, name, _)| *name).collect();
            let given = model_type.or(architecture).unwrap_or("nothing");
            let known = known.join(", ");
            config.wrong("model_type", &format!("`{given}` is no architecture that Retrace knows; it knows {known}"))
        })
    }

    /// Sizes and variations that a `config.json` states.
    ///
    /// # Errors
    /// When a size is missing, of the wrong kind, or contradicts another; when a variation is not supported.
    pub fn config(self, fields: &Fields<'_>) -> Result<Config, Error> {
        let mut config = match self {
            Self::Gpt2 => gpt2::config(fields),
            Self::GptNeox => gpt_neox::config(fields),
            _ => llama::config(self, fields),
        }?;
        config.check().map_err(|error| fields.wrong("", &error.to_string()))?;
        config.fix_large_epsilon();
        Ok(config)
    }

    /// How its tensors make up ours.
    pub(crate) fn rules(self, config: &Config) -> Vec<Rule> {
        match self {
            Self::Gpt2 => gpt2::rules(config),
            Self::GptNeox => gpt_neox::rules(config),
            _ => llama::rules(self, config),
        }
    }

    /// A `config.json` that transformers reads, for a model of this family.
    ///
    /// # Errors
    /// When the model's form is not this family's.
    pub fn describe(self, config: &Config) -> Result<Value, Error> {
        match self {
            Self::Gpt2 => gpt2::describe(config),
            Self::GptNeox => gpt_neox::describe(config),
            _ => llama::describe(self, config),
        }
    }

    /// Tensors of a checkpoint that say nothing: masks and angles that older versions saved, the head of a tied model.
    pub(crate) fn is_ballast(self, name: &str, config: &Config) -> bool {
        let buffers = [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".inv_freq"];
        buffers.iter().any(|buffer| name.ends_with(buffer))
            || (config.tied && matches!(name, "lm_head.weight" | "embed_out.weight" | "output.weight"))
            || matches!(name, "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight")
    }
}

/// A model of another family than its form says.
pub(crate) fn foreign_form(family: Family, what: &str) -> Error {
    Error::Config(format!("the {} family has no way to say: {what}", family.model_type()))
}
