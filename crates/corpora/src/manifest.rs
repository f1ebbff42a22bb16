//! What a folder of chunks says about itself.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Column, Error, Recipe};

/// The name of the manifest in its folder. It is written last: a folder without one is not finished.
pub const MANIFEST: &str = "manifest.json";

/// Changes when the same texts and recipe would give other bytes.
pub(crate) const FORMAT: u32 = 1;

/// What was packed, from what, and how much of it there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// Hash of all that decides the content: format, files or repository, column, tokenizer, recipe.
    pub key: String,
    /// The source as it was given; a local one may lie elsewhere by now.
    pub source: String,
    /// The commit of a source on the hub.
    pub commit: Option<String>,
    /// The column.
    pub column: Column,
    /// Hash of the tokenizer's file (blake3).
    pub tokenizer: String,
    /// One more than the largest token id.
    pub d_vocab: usize,
    /// Bits a token takes, 16 or 32; lower bytes come first.
    pub bits: u32,
    /// The recipe.
    pub recipe: Recipe,
    /// Documents of the source that the recipe looked at, in all splits.
    pub documents: u64,
    /// The files that were read.
    pub shards: Vec<ShardCount>,
    /// What was packed.
    pub splits: Vec<SplitCount>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardCount {
    /// Its name.
    pub name: String,
    /// Its documents, as far as the recipe looked at them.
    pub documents: u64,
}

/// A split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitCount {
    /// `train`, `validation` or `all`; its chunks are in the file of this name that ends in `.bin`.
    pub name: String,
    /// Its documents.
    pub documents: u64,
    /// Tokens of its documents, ends included, before they were cut.
    pub tokens: u64,
    /// Its chunks.
    pub chunks: u64,
    /// Hash of its file (blake3).
    pub hash: String,
}

impl Manifest {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = storage::read_text(path)?;
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|error| Error::damaged(path, format!("is no manifest of packed tokens ({error})")))?;
        let sound = manifest.recipe.block > 0 && matches!(manifest.bits, 16 | 32);
        if manifest.format != FORMAT || !sound {
            let problem = format!("has format {}, and this program reads {FORMAT}", manifest.format);
            return Err(Error::damaged(path, problem));
        }
        Ok(manifest)
    }

    pub(crate) fn token_bytes(&self) -> usize {
        self.bits as usize / 8
    }
}
