//! What becomes of documents.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::order::Batches;

/// How documents become chunks: everything but the documents and the tokenizer that decides the bytes.
///
/// The rows are taken in the source's order, cut at `rows`, put in another order by `holdout` or `shuffle`, joined, and
/// cut into chunks of `block` tokens. Chunks cross the borders of documents, and nothing is put before a chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Tokens a chunk.
    pub block: usize,
    /// Whether the token `<|endoftext|>` stands behind every document.
    pub end: bool,
    /// How many rows of the source are looked at, from its first; all if absent. Later files are not even fetched.
    pub rows: Option<u64>,
    /// A split into `train` and `validation`; without, there is one split, `all`.
    pub holdout: Option<Holdout>,
    /// A seed that puts the rows in another order: a ChaCha stream of our own, not what Python's libraries draw.
    pub shuffle: Option<u64>,
    /// Batches of documents whose last tokens, fewer than a chunk, are lost; without, only the last of all are.
    pub batches: Option<Batches>,
    /// Only this split is packed, and only its documents are encoded.
    pub only: Option<String>,
    /// How many documents of a split are packed, from its first; all if absent. Whatever the number, the chunks are the
    /// first of those of the whole split, but for the last batch, which loses more.
    pub documents: Option<u64>,
    /// How many chunks of a split are kept, from its first; all if absent. Fewer are an error.
    pub chunks: Option<u64>,
}

/// Rows put aside, as `train_test_split` of the Python library `datasets` puts them, see [`crate::numpy`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// The share of rows put aside, between 0 and 1.
    pub test_size: f64,
    /// The seed of numpy's generator.
    pub seed: u64,
}

pub(crate) const TRAIN: &str = "train";
pub(crate) const VALIDATION: &str = "validation";
pub(crate) const ALL: &str = "all";

impl Recipe {
    /// OpenWebText as arXiv 2507.02559 fine-tunes and evaluates on it: 0.05 % of the documents put aside with seed
    /// 2357, an end behind each document, chunks of 1,024 tokens cut from batches of at most 512 documents, the last
    /// tokens of each lost.
    ///
    /// The paper's code lets 32 workers pack a stretch of documents each, and batches do not cross their borders.
    /// The order of the documents is that of `Skylion007/openwebtext` on the hub; [`crate::Expected`] tells whether the
    /// documents put aside are the published ones.
    #[must_use]
    pub fn openwebtext() -> Self {
        Self {
            block: 1024,
            end: true,
            rows: None,
            holdout: Some(Holdout { test_size: 0.0005, seed: 2357 }),
            shuffle: None,
            batches: Some(Batches { documents: 512, workers: 32 }),
            only: None,
            documents: None,
            chunks: None,
        }
    }

    /// The Pile as arXiv 2507.02559 evaluates on it, of rows that are tokens already: the first 10,000 rows shuffled,
    /// joined, and cut into 10,000 chunks of 1,024 tokens (10.24 M tokens).
    ///
    /// The paper shuffles with seed 42 too, but by Python's library: our order is another, and so are the chunks.
    #[must_use]
    pub fn pile() -> Self {
        Self {
            block: 1024,
            end: false,
            rows: Some(10_000),
            holdout: None,
            shuffle: Some(42),
            batches: None,
            only: None,
            documents: None,
            chunks: Some(10_000),
        }
    }

    /// The splits that it gives, in order.
    pub(crate) fn splits(&self) -> Vec<&'static str> {
        let all: &[&'static str] = if self.holdout.is_some() { &[TRAIN, VALIDATION] } else { &[ALL] };
        all.iter().copied().filter(|name| self.only.as_ref().is_none_or(|only| only == name)).collect()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |problem: String| Err(Error::Recipe { problem });
        let zero = [
            ("block", self.block == 0),
            ("rows", self.rows == Some(0)),
            ("documents", self.documents == Some(0)),
            ("chunks", self.chunks == Some(0)),
            ("batches.documents", self.batches.is_some_and(|batches| batches.documents == 0)),
            ("batches.workers", self.batches.is_some_and(|batches| batches.workers == 0)),
        ];
        if let Some((key, _)) = zero.iter().find(|(_, is_zero)| *is_zero) {
            return refuse(format!("`{key}` is 0, and must be at least 1"));
        }
        if self.holdout.is_some() && self.shuffle.is_some() {
            return refuse("`holdout` shuffles already: leave `shuffle` out".to_owned());
        }
        if let Some(Holdout { test_size, .. }) = self.holdout
            && !(test_size > 0.0 && test_size < 1.0)
        {
            return refuse(format!("`holdout.test_size` is {test_size}, and must be between 0 and 1"));
        }
        if self.splits().is_empty() {
            let only = self.only.as_deref().unwrap_or_default();
            let known = Self { only: None, ..self.clone() }.splits().join(", ");
            return refuse(format!("`only` is `{only}`, and the splits are {known}"));
        }
        Ok(())
    }
}
