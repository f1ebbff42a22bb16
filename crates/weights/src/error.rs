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
    /// A pickle, which can run code when it is read.
    #[error("{}: pickled weights are refused; convert the file to safetensors first", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
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
