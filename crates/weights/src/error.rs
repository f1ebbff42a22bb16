//! What can be wrong with a weight file.

use std::path::PathBuf;

/// A weight file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// candle refused a tensor.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
    /// Not a safetensors file, or cut short.
    #[error("{}: not a whole safetensors file ({reason}); delete it, and run the same command again to make or fetch it anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The content is not what was written.
    #[error("{}: the content does not match its hash: the file was damaged after it was written; delete it, and run the same command again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Not a GGUF file that can be read, or cut short.
    #[error("{}: not a whole GGUF file ({reason}); fetch it anew", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A GGUF file's metadata lacks what was asked for.
    #[error("{}: metadata `{key}` {reason}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Index and shards of a checkpoint disagree.
    #[error("{}: {reason}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// Where they disagree.
        reason: String,
    },
    /// A pickle, which can run code when it is read.
    #[error(
        "{}: pickled weights are refused, because reading a pickle can run any code; convert them to safetensors where \
         you trust them, such as with: python -c \"from transformers import AutoModelForCausalLM as M; \
         M.from_pretrained('FOLDER').save_pretrained('NEW', safe_serialization=True)\"",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A file of no known format.
    #[error("{}: neither `.safetensors` nor `.gguf`: give a file with that ending, or a folder with `model.safetensors`", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
    },
    /// A folder without weights.
    #[error(
        "{}: no weights: looked for `model.safetensors` and `model.safetensors.index.json`, but the folder {found}; \
         give the path of a `.safetensors` or `.gguf` file to use that one",
        path.display()
    )]
    Nothing {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A folder that an export would overwrite.
    #[error("{}: not overwritten, because the folder {found}: name a new folder, or empty this one", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A tensor of a type that cannot be read as what was asked for.
    #[error("{}: tensor `{name}` has the type {found}, which cannot be read as {wanted}", path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type in the file.
        found: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A tensor is not there.
    #[error("{}: tensor `{name}` is missing{}", path.display(), .nearest.as_ref().map_or(String::new(), |near| format!(" (the file has `{near}`)")))]
    Missing {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The name most like it in the file.
        nearest: Option<String>,
    },
    /// Tensors that nobody asked for.
    #[error("{}: unexpected tensors {names:?}: the file belongs to another architecture", path.display())]
    Extra {
        /// The file.
        path: PathBuf,
        /// The tensors.
        names: Vec<String>,
    },
    /// A tensor has another shape.
    #[error("{}: tensor `{name}` has shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What the model needs.
        expected: Vec<usize>,
        /// What the file has.
        found: Vec<usize>,
    },
    /// A tensor holds NaN or infinity.
    #[error("{}: tensor `{name}` holds numbers that are not finite", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
}
