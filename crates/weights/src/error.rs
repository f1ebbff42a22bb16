//! Errors of weight files.

use std::path::PathBuf;

/// A weight file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Not a safetensors file, or truncated.
    #[error("{}: not a complete safetensors file ({reason}); fetch or make it again", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The message of the parser.
        reason: String,
    },
    /// The content does not match the hash in the file.
    #[error("{}: the content does not match the hash in the file, so it was altered after it was written; fetch or make it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Not a readable GGUF file, or truncated.
    #[error("{}: not a complete GGUF file ({reason}); fetch it again", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The defect.
        reason: String,
    },
    /// A metadata value of a GGUF file that is missing or has another type.
    #[error("{}: metadata `{key}` {reason}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The defect.
        reason: String,
    },
    /// Index and shards of a checkpoint disagree.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The disagreement.
        reason: String,
    },
    /// Pickled weights, which can run code when they are read.
    #[error(
        "{}: pickled weights are refused, because reading a pickle can run any code; if you trust them, convert them to \
         safetensors, for example with: python -c \"from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained('FOLDER').save_pretrained('NEW', safe_serialization=True)\"",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A file of an unknown format.
    #[error("{}: neither a `.safetensors` nor a `.gguf` file: give one of these, or a folder with `model.safetensors`", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// A folder without weights.
    #[error(
        "{}: no weights: expected `model.safetensors` or `model.safetensors.index.json`, but the folder {found}; to use \
         another `.safetensors` or `.gguf` file, give its path",
        path.display()
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// A summary of its content.
        found: String,
    },
    /// A folder with files that are not from an export.
    #[error("{}: not overwritten, because the folder {found}: export to a new or empty folder", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// A summary of its content.
        found: String,
    },
    /// A tensor whose type cannot be converted to the requested one.
    #[error("{}: tensor `{name}` has type {found}, which cannot be read as {wanted}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type in the file.
        found: String,
        /// The requested type.
        wanted: &'static str,
    },
    /// A missing tensor.
    #[error("{}: tensor `{name}` is missing{}", path.display(), .nearest.as_ref().map_or(String::new(), |near| format!(" (the file has `{near}`)")))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The most similar name in the file.
        nearest: Option<String>,
    },
    /// Tensors that were not expected.
    #[error("{}: unexpected tensors {names:?}: check that the file belongs to this architecture and number of layers", path.display())]
    Extra {
        /// The file.
        path: PathBuf,
        /// The tensors.
        names: Vec<String>,
    },
    /// A tensor of the wrong shape.
    #[error("{}: tensor `{name}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape that the model needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor with NaN or infinity.
    #[error("{}: tensor `{name}` has NaN or infinite values", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}
