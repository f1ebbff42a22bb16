//! The tokens of one file of a source, kept until all files are encoded.
//!
//! A part holds the tokens of the wanted documents, followed by one end offset per row (64 bits, little-endian);
//! unwanted rows are empty. A note is written beside the part after it is complete and identifies it, so that an
//! interrupted packing can resume.

use std::io::{self, Write};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use storage::Map;

use crate::Error;
use crate::documents::{Batch, Encoder, Reader};
use crate::packed::to_bytes;

/// The note that identifies a part.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    shard: String,
    rows: usize,
    tokens: u64,
    hash: String,
}

/// A part that was checked against its note.
#[derive(Debug)]
pub(crate) struct Part {
    map: Map,
    width: usize,
    rows: usize,
    tokens: u64,
}

/// The settings that determine a part.
pub(crate) struct Making<'a> {
    /// The name of the source's file.
    pub shard: &'a str,
    /// Which rows are wanted, among those that the recipe uses.
    pub wanted: &'a [bool],
    pub encoder: &'a Encoder<'a>,
    /// Bytes per token.
    pub width: usize,
}

/// An error while a file is written: of the file, or of its content.
pub(crate) enum Trouble {
    Write(io::Error),
    Content(Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Content(error)
    }
}

/// Writes a file atomically and returns the closure's value.
pub(crate) fn write_with<T: Default>(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Trouble>,
) -> Result<T, Error> {
    let mut outcome = Ok(T::default());
    let written = storage::write_atomic_with(path, |file| match fill(file) {
        Ok(value) => {
            outcome = Ok(value);
            Ok(())
        }
        Err(Trouble::Write(error)) => Err(error),
        Err(Trouble::Content(error)) => {
            outcome = Err(error);
            Err(io::Error::other("nothing to write"))
        }
    });
    // An error in the content is the reason why nothing was written.
    let value = outcome?;
    written?;
    Ok(value)
}

impl Making<'_> {
    /// The existing part, if it is complete and matches.
    pub fn find(&self, path: &Path) -> Option<Part> {
        let note: Note = serde_json::from_slice(&storage::read(&note_path(path)).ok()?).ok()?;
        let is_this = note.shard == self.shard && note.rows == self.wanted.len();
        (is_this && storage::hash_file(path).ok()? == note.hash).then(|| self.open(path, note.tokens).ok())?
    }

    /// Reads the source's file and writes the part.
    pub fn make(&self, path: &Path, mut reader: Reader, file: &Path) -> Result<Part, Error> {
        let tokens = write_with(path, |out| self.fill(out, &mut reader, file))?;
        let note =
            Note { shard: self.shard.to_owned(), rows: self.wanted.len(), tokens, hash: storage::hash_file(path)? };
        let note_path = note_path(path);
        let text = serde_json::to_vec(&note).map_err(|error| Error::damaged(&note_path, error.to_string()))?;
        storage::write_atomic(&note_path, &text)?;
        self.open(path, tokens)
    }

    fn fill(&self, out: &mut dyn Write, reader: &mut Reader, file: &Path) -> Result<u64, Trouble> {
        let rows = self.wanted.len();
        let is_wanted = |row: usize| self.wanted.get(row).copied().unwrap_or(false);
        let (mut ends, mut tokens, mut found) = (Vec::with_capacity(rows), 0_u64, 0);
        while let Some(Batch { first, contents }) = reader.next(&|mut rows| rows.any(is_wanted))? {
            let documents: Vec<_> =
                contents.into_iter().enumerate().map(|(at, content)| (first + at, content)).collect();
            let encoded: Vec<(usize, u64, Vec<u8>)> = documents
                .into_par_iter()
                .filter(|(row, _)| is_wanted(*row))
                .map(|(row, content)| {
                    let ids = self.encoder.encode(content, file, row)?;
                    Ok((row, ids.len() as u64, to_bytes(&ids, self.width)))
                })
                .collect::<Result<_, Error>>()?;
            for (row, length, bytes) in encoded {
                ends.resize(row, tokens);
                tokens += length;
                ends.push(tokens);
                found += 1;
                out.write_all(&bytes)?;
            }
        }
        let wanted = self.wanted.iter().filter(|wanted| **wanted).count();
        if found != wanted {
            let reason = format!("read {found} of {wanted} rows");
            return Err(Error::Read { path: file.to_owned(), reason }.into());
        }
        ends.resize(rows, tokens);
        for end in ends {
            out.write_all(&end.to_le_bytes())?;
        }
        Ok(tokens)
    }

    fn open(&self, path: &Path, tokens: u64) -> Result<Part, Error> {
        let rows = self.wanted.len();
        let map = storage::map(path)?;
        let size = tokens.checked_mul(self.width as u64).and_then(|size| size.checked_add(rows as u64 * 8));
        if size != Some(map.len() as u64) {
            return Err(Error::damaged(path, format!("has {} bytes, expected {size:?}", map.len())));
        }
        Ok(Part { map, width: self.width, rows, tokens })
    }
}

fn note_path(path: &Path) -> std::path::PathBuf {
    path.with_extension("json")
}

impl Part {
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The tokens of a row, as bytes; `None` if the offsets are invalid.
    pub fn document(&self, row: usize) -> Option<&[u8]> {
        let from = if row == 0 { 0 } else { self.end(row - 1)? };
        self.map.get(from..self.end(row)?)
    }

    /// The offset after a row's last byte.
    fn end(&self, row: usize) -> Option<usize> {
        let at = usize::try_from(self.tokens).ok()? * self.width + row * 8;
        let bytes = self.map.get(at..at + 8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()?.checked_mul(self.width)
    }
}
