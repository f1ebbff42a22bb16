//! What can be wrong with a tokenizer, or a text.

use std::path::PathBuf;

/// A tokenizer that cannot be used, or something that it cannot encode or decode.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// The metadata of a GGUF file lacks something.
    #[error(transparent)]
    Weights(#[from] weights::Error),
    /// A description that makes no tokenizer.
    #[error("{}: not a tokenizer that can be used ({reason}); fetch the file anew, or take another", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A folder without a tokenizer.
    #[error(
        "{}: there is no `tokenizer.json`; older repositories have other files, to be converted with: python -c \
         \"from transformers import AutoTokenizer as T; T.from_pretrained('FOLDER').save_pretrained('NEW')\"",
        path.display()
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
    },
    /// A GGUF file whose way of tokenizing is not known.
    #[error(
        "{}: `{key}` is `{found}`, and only {known:?} are known; a `tokenizer.json` of the same model will do instead",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What it could have said.
        known: Vec<&'static str>,
    },
    /// A BOS is wanted, but the tokenizer has none.
    #[error("{}: there is no BOS token to put before a text; encode without one", path.display())]
    NoBos {
        /// The file.
        path: PathBuf,
    },
    /// A character that would be left out silently.
    #[error("{}: no token covers {character:?} at byte {at} of the text: remove or replace it", path.display())]
    Uncovered {
        /// The file.
        path: PathBuf,
        /// The character.
        character: char,
        /// Where it is.
        at: usize,
    },
    /// The tokenizer refused a text or its tokens.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A token that is not in the vocabulary.
    #[error("{}: there is no token {id}: the vocabulary ends at {}", path.display(), d_vocab.saturating_sub(1))]
    UnknownId {
        /// The file.
        path: PathBuf,
        /// The token.
        id: u32,
        /// One more than the largest token.
        d_vocab: usize,
    },
}
