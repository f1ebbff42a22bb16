//! Checkpoints of other programs, opened lazily: headers are checked at once, numbers are read on demand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::file::{is_pickle, nearest};
use crate::gguf::{self, Gguf};
use crate::numbers::{self, Refused};
use crate::shards::{self, Entry, Opened};
use crate::{Error, WEIGHTS};

/// The file that assigns tensors to shards.
const INDEX: &str = "model.safetensors.index.json";

/// Weights of another program: a folder as on the hub, a safetensors file, or a GGUF file.
///
/// The files stay mapped as long as this value lives, and must not change meanwhile. See the crate's example.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Opened>,
    tensors: BTreeMap<String, Entry>,
    gguf: Option<Gguf>,
}

impl Checkpoint {
    /// Opens a folder with `model.safetensors` (or shards with `model.safetensors.index.json`), a `.safetensors` file or a
    /// `.gguf` file, and checks its structure. No number is read yet.
    ///
    /// If a folder has both, `model.safetensors` is used, as in transformers.
    ///
    /// # Errors
    /// When there are no weights (the message lists the content of the folder), when they are pickled, truncated or
    /// malformed, or when index and shards disagree.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            return Self::open_folder(path);
        }
        if is_pickle(path) {
            return Err(Error::Pickle { path: path.to_owned() });
        }
        let opened = Opened::new(path)?;
        match path.extension().and_then(|extension| extension.to_str()).map(str::to_lowercase).as_deref() {
            Some("safetensors") => {
                let tensors = shards::entries(0, &opened)?;
                Ok(Self { path: path.to_owned(), files: vec![opened], tensors, gguf: None })
            }
            Some("gguf") => {
                let (gguf, tensors) = gguf::read(path, &opened.map)?;
                Ok(Self { path: path.to_owned(), files: vec![opened], tensors, gguf: Some(gguf) })
            }
            _ => Err(Error::Unknown { path: path.to_owned() }),
        }
    }

    fn open_folder(folder: &Path) -> Result<Self, Error> {
        let whole = folder.join(WEIGHTS);
        if whole.is_file() {
            return Ok(Self { path: folder.to_owned(), ..Self::open(&whole)? });
        }
        let index = folder.join(INDEX);
        if index.is_file() {
            let (files, tensors) = shards::sharded(&index)?;
            return Ok(Self { path: folder.to_owned(), files, tensors, gguf: None });
        }
        let found = list(folder)?;
        let weights = |name: &&String| name.ends_with(".safetensors") || name.ends_with(".gguf");
        match found.iter().find(|name| is_pickle(Path::new(name))) {
            Some(pickle) if !found.iter().any(|name| weights(&name)) => {
                Err(Error::Pickle { path: folder.join(pickle) })
            }
            _ => Err(Error::Nothing { path: folder.to_owned(), found: summary(&found) }),
        }
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor, slowest axis first: the weight of a GGUF file is `[out, in]`, as in transformers.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|entry| entry.shape.clone())
    }

    /// The type of a tensor as the file format names it, such as `F32`, `BF16` or `Q4_1`.
    #[must_use]
    pub fn dtype_name(&self, name: &str) -> Option<&str> {
        self.tensors.get(name).map(|entry| entry.type_name.as_str())
    }

    /// The size of all tensors in bytes when read as f32.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = |entry: &Entry| (entry.count() as u64).saturating_mul(4);
        self.tensors.values().map(bytes).fold(0, u64::saturating_add)
    }

    /// The metadata of a GGUF file; `None` for safetensors, whose configuration is a separate file.
    #[must_use]
    pub fn gguf(&self) -> Option<&Gguf> {
        self.gguf.as_ref()
    }

    /// Reads a tensor onto `device` as F32 or F64. Half types are widened, quantised types dequantised, and F64 is rounded
    /// if F32 is requested.
    ///
    /// # Errors
    /// When the tensor is missing, its type is not a readable float type, `dtype` is neither F32 nor F64, or a number is
    /// not finite. The error names the file and the tensor.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor, Error> {
        let Some(entry) = self.tensors.get(name) else {
            let nearest = nearest(self.tensors.keys(), name);
            return Err(Error::Missing { path: self.path.clone(), name: name.to_owned(), nearest });
        };
        let Opened { path, map } = &self.files[entry.file];
        let (Some(stored), DType::F32 | DType::F64) = (entry.stored, dtype) else {
            let (path, name, wanted) = (path.clone(), name.to_owned(), dtype.as_str());
            return Err(Error::Type { path, name, found: entry.type_name.clone(), wanted });
        };
        let (bytes, count, shape) = (&map[entry.bytes.clone()], entry.count(), entry.shape.as_slice());
        let tensor = if dtype == DType::F64 {
            numbers::f64s(stored, bytes, count).map(|numbers| Tensor::from_vec(numbers, shape, device))
        } else {
            numbers::f32s(stored, bytes, count).map(|numbers| Tensor::from_vec(numbers, shape, device))
        };
        match tensor {
            Ok(tensor) => Ok(tensor?),
            Err(Refused::NotFinite) => Err(Error::NotFinite { path: path.clone(), name: name.to_owned() }),
            Err(Refused::Candle(error)) => Err(error.into()),
        }
    }
}

/// The names of the entries of a folder, sorted.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>, Error> {
    let failed = |cause| storage::Error::Io { action: "list", path: folder.to_owned(), cause };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The first names, as the end of a sentence about a folder.
pub(crate) fn summary(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "is empty".to_owned(),
        n if n > SHOWN => format!("has {shown} and {} more", n - SHOWN),
        _ => format!("has {shown}"),
    }
}

#[cfg(test)]
mod tests;
