//! The models whose states are read.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use experiment::{Run, distinct};
use models::{Config, Decoder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::Model;
use tokens::{Bos, Tokenizer};

/// A model under the name that tables, figures and stores use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in tables, figures and stores.
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"))]
    pub name: String,
    /// The model: `hyperprobe/language:language` for the small one, a folder as on the hub, a .gguf file, or a repository
    /// such as openai-community/gpt2-medium or its revision.
    pub model: Model,
    /// Whether it has fresh weights instead of its own: a control that was never trained.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untrained: bool,
}

/// Checks every model's configuration before any weights are read, so that an unknown family is reported at once.
pub fn check(run: &Run, sources: &[Source]) -> Result<()> {
    distinct("params.sources", sources.iter().map(|source| source.name.as_str()))?;
    // small models were checked when they were trained
    for source in sources.iter().filter(|source| source.model.trained().is_none()) {
        let config = source.model.config(run).with_context(|| format!("params.sources: {}", source.name))?;
        if config.n_layers < 2 {
            bail!("params.sources: {}: states of at least two blocks are needed", source.name);
        }
    }
    Ok(())
}

/// A model that is ready to be read.
pub struct Subject {
    /// Its name.
    pub name: String,
    /// The model.
    pub model: Decoder,
    /// Its embedding, `[d_vocab, d_model]`.
    pub embedding: Tensor,
    /// Its unembedding, `[d_model, d_vocab]`, where that is not the embedding transposed.
    pub unembedding: Option<Tensor>,
    tokenizer: Tokenizer,
    small: bool,
}

impl Subject {
    /// Opens a model.
    pub fn open(run: &Run, source: &Source) -> Result<Self> {
        let context = || format!("params.sources: {}", source.name);
        let name = source.name.clone();
        let small = source.model.trained().is_some();
        let opened = source.model.open(run).with_context(context)?;
        let (model, tokenizer) = (opened.model, opened.tokenizer.with_context(context)?);
        let model = if source.untrained { untrained(run, model.config())? } else { model };
        let model = model.frozen();
        let mut weights = model.weights();
        let (embedding, unembedding) = (weights.remove("embed.W_E"), weights.remove("unembed.W_U"));
        let embedding = embedding.context("every model has an embedding")?;
        Ok(Self { name, model, embedding, unembedding, tokenizer, small })
    }

    /// A text in tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let bos = if self.small { Bos::Always } else { Bos::Default };
        let text = if self.small { spaced(text) } else { text.to_owned() };
        let ids = self.tokenizer.encode(&text, bos).with_context(|| self.name.clone())?.ids;
        let most = self.model.config().n_positions;
        if ids.is_empty() || ids.len() > most {
            bail!("{}: `{text}` is {} tokens, the model takes 1 to {most}", self.name, ids.len());
        }
        Ok(ids)
    }

    /// Tokens as text.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids).unwrap_or_default()
    }

    /// Tokens that end a line or a text.
    pub fn line_ends(&self) -> Vec<u32> {
        let count = self.tokenizer.d_vocab().min(self.model.config().d_vocab) as u32;
        let ends = (0..count).filter(|id| self.decode(&[*id]).contains('\n'));
        ends.chain(self.tokenizer.eos()).collect()
    }

    /// Every token as people would compare it with a word: without blanks around it, in small letters.
    pub fn plain_tokens(&self) -> Vec<String> {
        let count = self.tokenizer.d_vocab().min(self.model.config().d_vocab) as u32;
        (0..count).map(|id| self.decode(&[id]).trim().to_lowercase()).collect()
    }
}

/// Fresh weights in the same shape.
fn untrained(run: &Run, config: &Config) -> Result<Decoder> {
    Ok(Decoder::fresh(config, &mut run.rng("untrained"), run.device())?)
}

/// A text as the small model reads it: words and marks with one space between them.
pub fn spaced(text: &str) -> String {
    let mut words = Vec::new();
    for line in text.split_inclusive('\n') {
        for word in line.trim_end_matches('\n').split(' ').filter(|word| !word.is_empty()) {
            let bare = word.trim_end_matches(['.', '?', ':']);
            words.extend((!bare.is_empty()).then(|| bare.to_owned()));
            words.extend(word[bare.len()..].chars().map(String::from));
        }
        if line.ends_with('\n') {
            words.push("\n".to_owned());
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_marks_are_separated() {
        assert_eq!(spaced(" France : Paris = Italy :"), "France : Paris = Italy :");
        assert_eq!(
            spaced("It is so.\nQ: Who is he?\nA (\u{2264} 3 words):"),
            "It is so . \n Q : Who is he ? \n A (\u{2264} 3 words) :"
        );
    }
}
