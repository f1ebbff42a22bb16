//! The models that are analysed, and the text that they read.

use crate::prose::Kinds;
use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use experiment::{Run, Seed};
use models::{Decoder, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subject::{Corpus, Model};
use tokens::Tokenizer;

use crate::corpus::{Documents, first_tokens};
use crate::pretrain;

/// Tokens of the training text that decide which tokens the small model has seen.
const SEEN: usize = 1_000_000;

/// A model under the name that tables and figures use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its name in tables and figures; `vanilla-2` is the second seed of `vanilla`.
    #[schemars(regex(pattern = "^[a-z0-9_-]+$"))]
    pub name: String,
    /// The model: `ln-removal/removal:ln_free` for one that a needed experiment trained, a folder as on the hub, a .gguf
    /// file, or a repository such as openai-community/gpt2 or its revision openai-community/gpt2@607a30d.
    pub model: Model,
}

impl Source {
    /// Its name without the seed, and the seed.
    pub fn seed(&self) -> (&str, Seed) {
        Seed::parse(&self.name)
    }

    /// Records a metric of this seed under the model's name.
    pub fn metric(&self, run: &Run, what: &str, value: impl Into<Option<f64>>, unit: &str) {
        let (name, seed) = self.seed();
        seed.metric(run, &format!("{name}.{what}"), value, unit);
    }

    /// Its tokenizer.
    pub fn tokenizer(&self, run: &Run) -> Result<Tokenizer> {
        self.model.tokenizer(run).with_context(|| format!("params.models: {}", self.name))
    }

    /// The model as it is, with weights that take no gradient.
    pub fn open(&self, run: &Run) -> Result<Decoder> {
        Ok(self.model.open(run).with_context(|| format!("params.models: {}", self.name))?.model.frozen())
    }

    /// The same model with nothing between the stream and what reads it but the norms' statistics: gains and biases
    /// folded, writers centred, the unembedding centred (arXiv 2507.02559, appendix; the same log-probabilities).
    pub fn open_folded(&self, run: &Run) -> Result<Decoder> {
        folded(&self.open(run)?)
    }
}

/// See [`Source::open_folded`].
pub fn folded(model: &Decoder) -> Result<Decoder> {
    let mut transforms = vec![Transform::FoldNorms];
    if model.config().architecture.norm == models::NormKind::Layer {
        transforms.push(Transform::CentreWriting);
    }
    transforms.push(Transform::CentreUnembed);
    Ok(model.transformed(&transforms)?.frozen())
}

/// Checks that all models have one vocabulary, and gives it.
pub fn shared_tokenizer(run: &Run, models: &[Source]) -> Result<Tokenizer> {
    experiment::distinct("params.models", models.iter().map(|source| source.name.as_str()))?;
    let (first, others) = models.split_first().context("params.models: none")?;
    let tokenizer = first.tokenizer(run)?;
    let probe = "On Monday, Mary gave a ring to John; 3 are left.\n\tA table";
    let ids = |tokenizer: &Tokenizer| tokenizer.encode(probe, tokens::Bos::Never).map(|encoded| encoded.ids);
    for source in others {
        let other = source.tokenizer(run)?;
        if other.d_vocab() != tokenizer.d_vocab() || ids(&other)? != ids(&tokenizer)? {
            bail!(
                "params.models: {} and {} have different vocabularies and cannot read the same tokens",
                first.name,
                source.name
            );
        }
    }
    Ok(tokenizer)
}

/// A text to read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Text {
    /// Documents of these kinds, drawn from the toy's seed; what models are judged by, none of them was trained on.
    Generated(Kinds),
    /// The same, but only those all of whose tokens occur in the first million tokens that the toy was trained on.
    GeneratedSeen(Kinds),
    /// A corpus of the hub or of files, tokenised and packed into sequences, kept for the next time.
    Corpus(Box<Corpus>),
}

impl Text {
    /// The first `count` tokens to train on.
    pub fn training(&self, run: &Run, tokenizer: &Tokenizer, count: usize) -> Result<Vec<u32>> {
        match self {
            Self::Generated(kinds) | Self::GeneratedSeen(kinds) => {
                first_tokens(documents(run, *kinds)?.training(tokenizer)?, count)
            }
            Self::Corpus(corpus) => {
                let packed = corpus.training(run, tokenizer)?;
                let chunks = packed.chunks().map(Ok);
                first_tokens(chunks, count.min(packed.len() * packed.block()))
            }
        }
    }

    /// `count` sequences of `length` tokens that nobody trains on, one behind the other in the text.
    pub fn sequences(&self, run: &Run, tokenizer: &Tokenizer, count: usize, length: usize) -> Result<Vec<Vec<u32>>> {
        let needed = count * length;
        let tokens = match self {
            Self::Generated(kinds) => first_tokens(documents(run, *kinds)?.held_out(tokenizer)?, needed)?,
            Self::GeneratedSeen(kinds) => {
                let toy = toy(run).context("text of tokens that the toy has seen needs the toy's pretraining")?;
                let trained: pretrain::Params = run.need(toy)?.params()?;
                let seen = first_tokens(documents(run, trained.documents)?.training(tokenizer)?, SEEN)?;
                let seen: std::collections::BTreeSet<u32> = seen.into_iter().collect();
                let rows = documents(run, *kinds)?.held_out(tokenizer)?;
                let known = rows
                    .take(100 * needed)
                    .filter(|row| row.as_ref().map_or(true, |row| row.iter().all(|id| seen.contains(id))));
                first_tokens(known, needed)?
            }
            Self::Corpus(corpus) => {
                let packed = corpus.held_out(run, tokenizer)?;
                if length > packed.block() {
                    bail!("sequences of {length} tokens from a corpus packed to {}: set recipe.block", packed.block());
                }
                // the first tokens of each packed sequence, as the published code takes them
                let rows = packed.chunks().take(count).map(|chunk| Ok(chunk[..length].to_vec()));
                first_tokens(rows, count.min(packed.len()) * length)?
            }
        };
        Ok(tokens.chunks_exact(length).map(<[u32]>::to_vec).collect())
    }
}

/// The needed experiment that made the toy, from which vocabulary and documents are.
fn toy(run: &Run) -> Option<&String> {
    run.config().body.needs.iter().find(|need| need.contains("/pretrain"))
}

/// Documents from the stream that the toy's were drawn from, where the toy is needed; from one of their own elsewhere.
fn documents(run: &Run, kinds: Kinds) -> Result<Documents> {
    let stream = match toy(run) {
        Some(need) => run.need(need)?.rng("documents"),
        None => run.rng("documents"),
    };
    Ok(Documents { kinds, stream })
}

/// Rows of tokens as a batch, `[rows, length]`.
pub fn batch(run: &Run, rows: &[Vec<u32>]) -> Result<Tensor> {
    let length = rows.first().map_or(0, Vec::len);
    Ok(Tensor::from_vec(rows.concat(), (rows.len(), length), run.device())?)
}
