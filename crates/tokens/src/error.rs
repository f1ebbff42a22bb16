//! Errors of tokenizers, and of texts and ids that they cannot encode or decode.

use std::path::PathBuf;

/// A tokenizer that cannot be used, or a text or token that it cannot encode or decode.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// Missing or invalid metadata of a GGUF file.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// A description that does not define a usable tokenizer.
    #[error("{}: not a usable tokenizer ({reason}); fetch the file again or use another", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// A folder without a tokenizer.
    #[error(
        "{}: no `tokenizer.json`; convert the files of older repositories with: python -c \
         \"from transformers import AutoTokenizer as T; T.from_pretrained('FOLDER').save_pretrained('NEW')\"",
        path.display()
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// A GGUF file with an unsupported kind of tokenizer.
    #[error(
        "{}: `{key}` is `{found}`, but only {known:?} are supported; use a folder with the model's `tokenizer.json` instead",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The supported values.
        known: Vec<&'static str>,
    },
    /// A BOS was requested, but the tokenizer has none.
    #[error("{}: the tokenizer has no BOS token; encode without one", path.display())]
    NoBos {
        /// The file.
        path: PathBuf,
    },
    /// A character that no token covers, which the library would drop silently.
    #[error("{}: no token covers {character:?} at byte {at} of the text: remove or replace it", path.display())]
    Uncovered {
        /// The file.
        path: PathBuf,
        /// The character.
        character: char,
        /// Its byte offset.
        at: usize,
    },
    /// The library could not encode or decode.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Its message.
        reason: String,
    },
    /// A token that is not in the vocabulary.
    #[error("{}: no token has the id {id}: the largest id is {}", path.display(), d_vocab.saturating_sub(1))]
    UnknownId {
        /// The file.
        path: PathBuf,
        /// The token.
        id: u32,
        /// One more than the largest id.
        d_vocab: usize,
    },
}
