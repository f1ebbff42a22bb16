//! Families of models on the hub: their `config.json` and weight names, mapped to ours.
//!
//! Each format is a file: functions between its configuration and [`Config`], and a list of [`Rule`]s that map its
//! tensors to ours. The same rules read and write checkpoints.

mod fields;
mod gguf;
mod gpt2;
mod gpt_neox;
mod llama;
mod rule;

use serde_json::Value;

pub use self::fields::Fields;
pub(crate) use self::gguf::{config as gguf_config, name as gguf_name, unpermuted};
use self::llama::Variant;
pub(crate) use self::rule::{Layout, Rule};
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
    /// All families, with the `model_type` and class name in their `config.json`.
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

    /// The `model_type` in `config.json`.
    #[must_use]
    pub fn model_type(self) -> &'static str {
        Self::ALL.iter().find(|(family, ..)| *family == self).map_or("", |(_, name, _)| name)
    }

    /// The family of a `config.json`.
    ///
    /// # Errors
    /// When the family is unknown; the message lists the known ones.
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
            let given = model_type
                .or(architecture)
                .map_or("no family is given".to_owned(), |name| format!("unknown family `{name}`"));
            config.wrong("model_type", &format!("{given}; known are {}", known.join(", ")))
        })
    }

    /// The configuration that a `config.json` states.
    ///
    /// # Errors
    /// When a size is missing, of the wrong type, or contradicts another; when a setting is not supported.
    pub fn config(self, fields: &Fields<'_>) -> Result<Config, Error> {
        let mut config = match self.format() {
            Format::Gpt2 => gpt2::config(fields),
            Format::GptNeox => gpt_neox::config(fields),
            Format::Llama(variant) => llama::config(variant, fields),
        }?;
        config.check().map_err(|error| fields.wrong("", &error.to_string()))?;
        config.fix_large_epsilon();
        Ok(config)
    }

    /// How this family's tensors map to ours.
    pub(crate) fn rules(self, config: &Config) -> Vec<Rule> {
        match self.format() {
            Format::Gpt2 => gpt2::rules(config),
            Format::GptNeox => gpt_neox::rules(config),
            Format::Llama(variant) => llama::rules(variant, config),
        }
    }

    /// A `config.json` that transformers reads, for a model of this family.
    ///
    /// # Errors
    /// When this family cannot express the architecture.
    pub fn to_hub_config(self, config: &Config) -> Result<Value, Error> {
        match self.format() {
            Format::Gpt2 => gpt2::to_hub_config(config),
            Format::GptNeox => gpt_neox::to_hub_config(config),
            Format::Llama(_) => llama::to_hub_config(self, config),
        }
    }

    fn format(self) -> Format {
        match self {
            Self::Gpt2 => Format::Gpt2,
            Self::GptNeox => Format::GptNeox,
            Self::Llama => Format::Llama(Variant::Llama),
            Self::Mistral => Format::Llama(Variant::Mistral),
            Self::Qwen2 => Format::Llama(Variant::Qwen2),
            Self::Qwen3 => Format::Llama(Variant::Qwen3),
            Self::Olmo2 => Format::Llama(Variant::Olmo2),
            Self::Phi3 => Format::Llama(Variant::Phi3),
        }
    }

    /// Whether a tensor carries no information: masks and angles that older versions saved, the head of a tied model.
    pub(crate) fn is_ignored(self, name: &str, config: &Config) -> bool {
        let buffers = [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".inv_freq"];
        buffers.iter().any(|buffer| name.ends_with(buffer))
            || (config.tied && matches!(name, "lm_head.weight" | "embed_out.weight" | "output.weight"))
            || matches!(name, "rope_freqs.weight" | "rope_factors_long.weight" | "rope_factors_short.weight")
    }
}

/// A checkpoint format, shared by similar families.
enum Format {
    Gpt2,
    GptNeox,
    Llama(Variant),
}

/// A family's format cannot express a model.
pub(crate) fn not_expressible(family: Family, feature: &str) -> Error {
    Error::Config(format!("the {} family cannot express {feature}; export as another family", family.model_type()))
}
