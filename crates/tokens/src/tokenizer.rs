//! [`Tokenizer`]: reading, encoding and decoding.

use std::ops::Range;
use std::path::{Path, PathBuf};

use weights::Gguf;

use crate::check::{self, Bytes};
use crate::{Error, folder, gguf};

/// A tokenizer with its special tokens. See the crate's example.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    /// Whether each id is a token.
    known: Vec<bool>,
    /// Bytes that no token covers.
    absent: Bytes,
    roles: Roles,
    adds_bos: bool,
}

/// The special tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Roles {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) unk: Option<u32>,
    /// Whether texts begin with BOS, if the files specify it.
    pub(crate) adds_bos: Option<bool>,
}

/// Whether to begin a text with the BOS token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bos {
    /// As the files of the model specify.
    Default,
    /// With BOS.
    Always,
    /// Without BOS.
    Never,
}

/// An encoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The token ids.
    pub ids: Vec<u32>,
    /// Whether the first token is a BOS that was added, as opposed to one written in the text.
    pub prepended_bos: bool,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// Its post-processor defines the BOS token, if any. The EOS and unknown tokens remain undefined.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged, or encoding would be random.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        Self::from_json(path, &storage::read(path)?)
    }

    /// Reads a folder as on the hub: `tokenizer.json`, and the special tokens from `tokenizer_config.json` and
    /// `special_tokens_map.json` if they exist.
    ///
    /// # Errors
    /// As for [`Self::from_file`], and when there is no `tokenizer.json`, or the other files are damaged or name tokens
    /// that it lacks.
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        let path = folder.join("tokenizer.json");
        if !path.is_file() {
            return Err(Error::Nothing { path: folder.to_owned() });
        }
        let tokenizer = Self::from_file(&path)?;
        let roles = folder::roles(folder, |token| tokenizer.id(token))?;
        tokenizer.with(roles)
    }

    /// Builds the tokenizer in the metadata of a GGUF file.
    ///
    /// # Errors
    /// When the metadata is incomplete or inconsistent, or its kind of tokenizer is not supported; the message lists the
    /// supported ones.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let (json, roles) = gguf::describe(gguf)?;
        Self::from_json(gguf.path(), json.to_string().as_bytes())?.with(roles)
    }

    fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let malformed = |reason: String| Error::Malformed { path: path.to_owned(), reason };
        let json = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
        check::description(&json).map_err(malformed)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| malformed(error.to_string()))?;
        check::added(&json, |token| inner.token_to_id(token)).map_err(malformed)?;
        // some published files would truncate or pad every text
        inner.with_truncation(None).map_err(|error| malformed(error.to_string()))?.with_padding(None);
        let ids: Vec<usize> = inner.get_vocab(true).into_values().map(|id| id as usize).collect();
        let d_vocab = ids.iter().max().map_or(0, |last| last + 1);
        if d_vocab > ids.len().saturating_mul(2).saturating_add(1 << 16) {
            return Err(malformed(format!("it has {} tokens, but ids up to {}", ids.len(), d_vocab - 1)));
        }
        let mut known = vec![false; d_vocab];
        ids.into_iter().for_each(|id| known[id] = true);
        let bos = leading(&inner);
        let roles = Roles { bos, ..Roles::default() };
        Ok(Self { path: path.to_owned(), inner, known, absent: check::absent(&json), roles, adds_bos: bos.is_some() })
    }

    /// Adds the special tokens from the files beside the description.
    fn with(self, roles: Roles) -> Result<Self, Error> {
        let template = self.roles.bos;
        let bos = roles.bos.or(template);
        let adds_bos = roles.adds_bos.unwrap_or(bos.is_some() && bos == template);
        if adds_bos && bos.is_none() {
            return Err(Error::Malformed { path: self.path, reason: "it adds a BOS token but names none".to_owned() });
        }
        Ok(Self { roles: Roles { bos, ..roles }, adds_bos, ..self })
    }

    /// Encodes a text.
    ///
    /// Special tokens that are written out in the text become tokens. A text that already begins with BOS gets no second
    /// one. No other token (such as EOS) is ever added.
    ///
    /// # Errors
    /// When a BOS is requested but the tokenizer has none, or no token covers a character.
    pub fn encode(&self, text: &str, bos: Bos) -> Result<Encoded, Error> {
        if let Some((at, character)) = self.absent.first_in(text) {
            return Err(Error::Uncovered { path: self.path.clone(), character, at });
        }
        let encoding = self.inner.encode_fast(text, false).map_err(|error| self.refused(&*error))?;
        let ids = encoding.get_ids();
        let wanted = match bos {
            Bos::Default => self.adds_bos,
            Bos::Always => true,
            Bos::Never => false,
        };
        if !wanted {
            return Ok(Encoded { ids: ids.to_vec(), prepended_bos: false });
        }
        let bos = self.roles.bos.ok_or_else(|| Error::NoBos { path: self.path.clone() })?;
        let prepended_bos = ids.first() != Some(&bos);
        let ids = prepended_bos.then_some(bos).into_iter().chain(ids.iter().copied()).collect();
        Ok(Encoded { ids, prepended_bos })
    }

    /// Encodes a text, and returns the range of bytes that each token covers as well; an added BOS covers none.
    ///
    /// # Errors
    /// As for [`Self::encode`].
    pub fn encode_with_offsets(&self, text: &str, bos: Bos) -> Result<(Encoded, Vec<Range<usize>>), Error> {
        let encoded = self.encode(text, bos)?;
        let encoding = self.inner.encode(text, false).map_err(|error| self.refused(&*error))?;
        let covered = encoding.get_offsets().iter().map(|(from, to)| *from..*to);
        let before = encoded.prepended_bos.then_some(0..0);
        let covered = before.into_iter().chain(covered).collect();
        Ok((encoded, covered))
    }

    /// Decodes tokens to text, including special tokens. Incomplete characters become U+FFFD.
    ///
    /// # Errors
    /// When an id is not a token.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        if let Some(&id) = ids.iter().find(|&&id| !self.is_token(id)) {
            return Err(Error::UnknownId { path: self.path.clone(), id, d_vocab: self.d_vocab() });
        }
        self.inner.decode(ids, false).map_err(|error| self.refused(&*error))
    }

    /// A token as it is written in the vocabulary (`Ġthe`, `▁the`), not as text.
    #[must_use]
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The id of a token, given as it is written in the vocabulary.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the largest id; the embedding of a model may have more rows.
    #[must_use]
    pub fn d_vocab(&self) -> usize {
        self.known.len()
    }

    /// The token at the beginning of texts.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token at the end of texts.
    #[must_use]
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// The token for text that no other token covers.
    #[must_use]
    pub fn unk(&self) -> Option<u32> {
        self.roles.unk
    }

    /// Whether [`Bos::Default`] adds a BOS.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The file that it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn is_token(&self, id: u32) -> bool {
        self.known.get(id as usize).copied().unwrap_or(false)
    }

    fn refused(&self, reason: &dyn std::fmt::Display) -> Error {
        Error::Refused { path: self.path.clone(), reason: reason.to_string() }
    }
}

/// The token that the post-processor puts before a text.
fn leading(inner: &tokenizers::Tokenizer) -> Option<u32> {
    let encode = |special| Some(inner.encode_fast("a", special).ok()?.get_ids().to_vec());
    let (text, processed) = (encode(false)?, encode(true)?);
    let start = processed.windows(text.len().max(1)).position(|part| part == text)?;
    processed[..start].first().copied()
}

#[cfg(test)]
mod tests;
