//! Reads packed corpora.

use std::path::{Path, PathBuf};

use storage::Map;

use crate::{Error, MANIFEST, Manifest};

/// A folder of chunks that [`crate::pack()`] finished.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The folder.
    pub folder: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
}

impl Corpus {
    /// Opens a folder.
    ///
    /// # Errors
    ///
    /// Fails if the manifest is missing (an unfinished folder) or damaged, or if the file of a split does not have the
    /// size in the manifest.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let corpus = Self { folder: folder.to_owned(), manifest: Manifest::read(&folder.join(MANIFEST))? };
        corpus.manifest.splits.iter().try_for_each(|split| corpus.split(&split.name).map(drop))?;
        Ok(corpus)
    }

    /// Opens the chunks of a split.
    ///
    /// # Errors
    ///
    /// Fails if there is no such split (the message lists the available ones), or if its file is missing or damaged.
    pub fn split(&self, name: &str) -> Result<Packed, Error> {
        Packed::of(&self.manifest, &self.file(name), name)
    }

    /// The path of a split's file.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.bin"))
    }
}

/// Chunks of equal length in a memory-mapped file; unread chunks take no memory.
#[derive(Debug)]
pub struct Packed {
    path: PathBuf,
    map: Map,
    block: usize,
    /// Bytes per token.
    width: usize,
    chunks: usize,
    hash: String,
}

impl Packed {
    /// Opens a split's file; the manifest beside it gives the format.
    ///
    /// The content is not checked, because that takes minutes for a large file; see [`Self::verify`].
    ///
    /// # Errors
    ///
    /// Fails if file or manifest cannot be read, or if the manifest does not list the file with this size.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let manifest = Manifest::read(&path.with_file_name(MANIFEST))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::of(&manifest, path, &name)
    }

    fn of(manifest: &Manifest, path: &Path, name: &str) -> Result<Self, Error> {
        let Some(split) = manifest.splits.iter().find(|split| split.name == name) else {
            let folder = path.parent().unwrap_or(path).to_owned();
            let found = manifest.splits.iter().map(|split| split.name.clone()).collect();
            return Err(Error::NoSplit { folder, name: name.to_owned(), found });
        };
        let (block, width) = (manifest.recipe.block, manifest.token_bytes());
        let map = storage::map(path)?;
        let chunks = usize::try_from(split.chunks).ok();
        let fits =
            |chunks: &usize| chunks.checked_mul(block).and_then(|tokens| tokens.checked_mul(width)) == Some(map.len());
        let Some(chunks) = chunks.filter(fits) else {
            let problem =
                format!("has {} bytes, but its manifest lists {} chunks of {block} tokens", map.len(), split.chunks);
            return Err(Error::damaged(path, problem));
        };
        Ok(Self { path: path.to_owned(), map, block, width, chunks, hash: split.hash.clone() })
    }

    /// The number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks
    }

    /// Whether there are no chunks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// Number of tokens per chunk.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// The tokens of a chunk.
    ///
    /// # Panics
    ///
    /// Panics if `index` is not below [`Self::len`].
    #[must_use]
    pub fn chunk(&self, index: usize) -> Vec<u32> {
        assert!(index < self.chunks, "chunk {index} of {} in {}", self.chunks, self.path.display());
        let bytes = self.block * self.width;
        from_bytes(&self.map[index * bytes..(index + 1) * bytes], self.width)
    }

    /// All chunks, in order.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Vec<u32>> {
        (0..self.chunks).map(|index| self.chunk(index))
    }

    /// Reads the whole file and compares its hash with the manifest.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or its hash differs.
    pub fn verify(&self) -> Result<(), Error> {
        let found = storage::hash_file(&self.path)?;
        if found == self.hash {
            return Ok(());
        }
        Err(Error::damaged(&self.path, format!("has the hash {found}, but its manifest has {}", self.hash)))
    }
}

/// Bytes per token for ids below `d_vocab`.
pub(crate) fn width(d_vocab: usize) -> usize {
    if d_vocab <= 1 << 16 { 2 } else { 4 }
}

/// Tokens as little-endian bytes.
pub(crate) fn to_bytes(ids: &[u32], width: usize) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect()
}

fn from_bytes(bytes: &[u8], width: usize) -> Vec<u32> {
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
    bytes.chunks_exact(width).map(id).collect()
}
