//! Recipes: how documents become chunks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::order::Batches;

/// How documents become chunks. With the documents and the tokenizer, the recipe determines every byte.
///
/// The rows are taken in the order of the source, limited to `rows`, reordered by `holdout` or `shuffle`, joined, and
/// cut into chunks of `block` tokens. Chunks cross document boundaries, and no token is put before a chunk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Number of tokens per chunk.
    pub block: usize,
    /// Whether the token `<|endoftext|>` follows every document.
    pub end: bool,
    /// Number of rows to use, from the first; all by default. Later files are not fetched.
    pub rows: Option<u64>,
    /// A split into `train` and `validation`; by default there is one split, `all`.
    pub holdout: Option<Holdout>,
    /// A seed that shuffles the rows with our own ChaCha stream, which differs from Python's libraries; no shuffle by
    /// default.
    pub shuffle: Option<u64>,
    /// Batches of documents. Tokens at the end of a batch that do not fill a chunk are dropped; by default only those
    /// at the end of the split are.
    pub batches: Option<Batches>,
    /// The only split to pack and encode; all splits by default.
    pub only: Option<String>,
    /// Number of documents per split, from its first; all by default. The chunks are the first chunks of the whole
    /// split, except for the last batch, which drops more tokens.
    pub documents: Option<u64>,
    /// Number of chunks per split, from its first; all by default. Fewer chunks are an error.
    pub chunks: Option<u64>,
}

/// Held-out rows, as chosen by `train_test_split` of the Python library `datasets`; see [`crate::numpy`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Holdout {
    /// The share of held-out rows, between 0 and 1.
    pub test_size: f64,
    /// The seed of numpy's generator.
    pub seed: u64,
}

pub(crate) const TRAIN: &str = "train";
pub(crate) const VALIDATION: &str = "validation";
pub(crate) const ALL: &str = "all";

impl Recipe {
    /// OpenWebText as used for fine-tuning and evaluation in arXiv 2507.02559: 0.05 % of the documents held out with
    /// seed 2357, an end token after each document, and chunks of 1,024 tokens. Chunks are cut from batches of at most
    /// 512 documents, and the remainder of each batch is dropped.
    ///
    /// The paper's code uses 32 workers, each with a contiguous range of documents, and batches do not cross the
    /// ranges. The documents are in the order of `Skylion007/openwebtext` on the hub. [`crate::Expected`] checks
    /// whether the held-out documents are the published ones.
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

    /// The Pile as used for evaluation in arXiv 2507.02559, from rows that are already tokens: the first 10,000 rows
    /// shuffled, joined and cut into 10,000 chunks of 1,024 tokens (10.24 M tokens).
    ///
    /// The paper also shuffles with seed 42, but with Python's library. Our order differs, and so do the chunks.
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

    /// The splits, in order.
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
            return refuse(format!("`{key}` is 0, but must be at least 1"));
        }
        if self.holdout.is_some() && self.shuffle.is_some() {
            return refuse("`holdout` already shuffles; remove `shuffle`".to_owned());
        }
        if let Some(Holdout { test_size, .. }) = self.holdout
            && !(test_size > 0.0 && test_size < 1.0)
        {
            return refuse(format!("`holdout.test_size` is {test_size}, but must be between 0 and 1"));
        }
        if self.splits().is_empty() {
            let only = self.only.as_deref().unwrap_or_default();
            let known = Self { only: None, ..self.clone() }.splits().join(", ");
            return refuse(format!("`only` is `{only}`, but the splits are {known}"));
        }
        Ok(())
    }
}
