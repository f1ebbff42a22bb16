//! Reading what was packed.

use std::path::{Path, PathBuf};

use storage::Map;

use crate::{Error, MANIFEST, Manifest};

/// A folder of chunks that [`crate::pack()`] has finished.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The folder.
    pub folder: PathBuf,
    /// What it says about itself.
    pub manifest: Manifest,
}

impl Corpus {
    /// Opens a folder.
    ///
    /// # Errors
    /// When its manifest is not there (it was not finished) or damaged, or a split's file has another size than it
    /// says.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let corpus = Self { folder: folder.to_owned(), manifest: Manifest::read(&folder.join(MANIFEST))? };
        corpus.manifest.splits.iter().try_for_each(|split| corpus.split(&split.name).map(drop))?;
        Ok(corpus)
    }

    /// The chunks of a split.
    ///
    /// # Errors
    /// When there is no such split; the message lists those that are. When its file is missing or damaged.
    pub fn split(&self, name: &str) -> Result<Packed, Error> {
        Packed::of(&self.manifest, &self.file(name), name)
    }

    /// The file of a split.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.bin"))
    }
}

/// Chunks of one length in a file that is mapped into memory: what is not read takes none.
#[derive(Debug)]
pub struct Packed {
    path: PathBuf,
    map: Map,
    block: usize,
    /// Bytes a token.
    width: usize,
    chunks: usize,
    hash: String,
}

impl Packed {
    /// Opens a split's file; the manifest beside it says how it is to be read.
    ///
    /// The content is not looked at, which would take minutes for a large file: see [`Self::verify`].
    ///
    /// # Errors
    /// When file or manifest cannot be read, or the file is not one of the manifest's or has another size.
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
                format!("has {} bytes, and its manifest says {} chunks of {block} tokens", map.len(), split.chunks);
            return Err(Error::damaged(path, problem));
        };
        Ok(Self { path: path.to_owned(), map, block, width, chunks, hash: split.hash.clone() })
    }

    /// How many chunks there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// Tokens a chunk.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// The tokens of a chunk.
    ///
    /// # Panics
    /// When `index` is not below [`Self::len`].
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

    /// Reads the whole file and compares it with the hash in the manifest.
    ///
    /// # Errors
    /// When it cannot be read, or is another.
    pub fn verify(&self) -> Result<(), Error> {
        let found = storage::hash_file(&self.path)?;
        if found == self.hash {
            return Ok(());
        }
        Err(Error::damaged(&self.path, format!("has the hash {found}, and its manifest says {}", self.hash)))
    }
}

/// Bytes of a token where ids stay below `d_vocab`.
pub(crate) fn width(d_vocab: usize) -> usize {
    if d_vocab <= 1 << 16 { 2 } else { 4 }
}

/// Tokens as bytes, lower ones first.
pub(crate) fn to_bytes(ids: &[u32], width: usize) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(width)).collect()
}

fn from_bytes(bytes: &[u8], width: usize) -> Vec<u32> {
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, &byte| id << 8 | u32::from(byte));
    bytes.chunks_exact(width).map(id).collect()
}
