//! The manifest of a folder of chunks.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Column, Error, Recipe};

/// The file name of the manifest in its folder. It is written last, so a folder without it is unfinished.
pub const MANIFEST: &str = "manifest.json";

/// The version of the format; changes when the same texts and recipe would give other bytes.
pub(crate) const FORMAT: u32 = 1;

/// The content of a folder: source, settings and counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    pub format: u32,
    /// Hash of everything that determines the content: format, files or repository, column, tokenizer, recipe.
    pub key: String,
    /// The source as given; a local one may have moved since.
    pub source: String,
    /// The commit of a source on the hub; `None` for local files.
    pub commit: Option<String>,
    /// The column.
    pub column: Column,
    /// Hash of the tokenizer's file (blake3).
    pub tokenizer: String,
    /// One more than the largest token id.
    pub d_vocab: usize,
    /// Bits per token, 16 or 32, in little-endian order.
    pub bits: u32,
    /// The recipe.
    pub recipe: Recipe,
    /// Number of documents of the source that the recipe used, in all splits.
    pub documents: u64,
    /// The files that were read.
    pub shards: Vec<ShardCount>,
    /// The packed splits.
    pub splits: Vec<SplitCount>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardCount {
    /// The name.
    pub name: String,
    /// Number of documents that the recipe used.
    pub documents: u64,
}

/// A split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitCount {
    /// `train`, `validation` or `all`; the chunks are in the file of this name with the extension `.bin`.
    pub name: String,
    /// Number of documents.
    pub documents: u64,
    /// Number of tokens of its documents, including end tokens, before chunks are cut.
    pub tokens: u64,
    /// Number of chunks.
    pub chunks: u64,
    /// Hash of its file (blake3).
    pub hash: String,
}

impl Manifest {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = storage::read_text(path)?;
        let manifest: Self = serde_json::from_str(&text)
            .map_err(|error| Error::damaged(path, format!("is not a manifest of packed tokens ({error})")))?;
        let sound = manifest.recipe.block > 0 && matches!(manifest.bits, 16 | 32);
        if manifest.format != FORMAT || !sound {
            let problem = format!("has format {}, but this program reads format {FORMAT}", manifest.format);
            return Err(Error::damaged(path, problem));
        }
        Ok(manifest)
    }

    pub(crate) fn token_bytes(&self) -> usize {
        self.bits as usize / 8
    }
}
