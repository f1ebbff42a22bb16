//! Safetensors files with a content hash.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::{Error, shards};

/// Tensors by name.
pub type Named = BTreeMap<String, Tensor>;

/// Metadata key of the hash over all tensors.
const HASH: &str = "blake3";

/// The checked content of a file.
#[derive(Debug)]
pub struct TensorFile {
    /// The file.
    pub path: PathBuf,
    /// Metadata, without the hash.
    pub metadata: BTreeMap<String, String>,
    /// The tensors.
    pub tensors: Named,
}

/// Writes tensors and metadata atomically, with a hash of the content. Half types are widened to F32.
///
/// # Errors
/// When a tensor cannot be converted, or writing fails.
pub fn save(path: &Path, metadata: &BTreeMap<String, String>, tensors: &Named) -> Result<(), Error> {
    let buffers = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor.dims().to_vec(), bytes(tensor)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let views = buffers
        .iter()
        .map(|(name, shape, (dtype, bytes))| {
            Ok((*name, TensorView::new(*dtype, shape.clone(), bytes).map_err(|e| malformed(path, &e))?))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    let mut header: HashMap<String, String> = metadata.clone().into_iter().collect();
    header.insert(HASH.to_owned(), hash(&views));
    let file = safetensors::serialize(views, Some(header)).map_err(|e| malformed(path, &e))?;
    storage::write_atomic(path, &sorted_header(file))?;
    Ok(())
}

/// Reads a whole file onto `device` after checking its structure, its hash (if it has one) and that all numbers are finite.
///
/// # Errors
/// When the file is missing, truncated, altered or a pickle, or holds NaN or infinity.
pub fn load(path: &Path, device: &Device) -> Result<TensorFile, Error> {
    if is_pickle(path) {
        return Err(Error::Pickle { path: path.to_owned() });
    }
    let map = storage::map(path)?;
    let (_, header) = shards::header(path, &map)?;
    let file = SafeTensors::deserialize(&map).map_err(|e| malformed(path, &e))?;
    let mut metadata: BTreeMap<String, String> = header.metadata().clone().unwrap_or_default().into_iter().collect();
    let mut views = file.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    if metadata.remove(HASH).is_some_and(|expected| expected != hash(&views)) {
        return Err(Error::Damaged { path: path.to_owned() });
    }
    let tensors = views
        .iter()
        .map(|(name, view)| Ok((name.clone(), tensor(path, name, view, device)?)))
        .collect::<Result<Named, Error>>()?;
    Ok(TensorFile { path: path.to_owned(), metadata, tensors })
}

impl TensorFile {
    /// The tensors, if their names and shapes are exactly the expected ones.
    ///
    /// # Errors
    /// When a tensor is missing, unexpected or has another shape; the error names it.
    pub fn into_exactly(mut self, expected: &[(String, Vec<usize>)]) -> Result<Named, Error> {
        let mut out = Named::new();
        for (name, shape) in expected {
            let Some(tensor) = self.tensors.remove(name) else {
                let nearest = nearest(self.tensors.keys(), name);
                return Err(Error::Missing { path: self.path, name: name.clone(), nearest });
            };
            if tensor.dims() != shape {
                let (found, expected) = (tensor.dims().to_vec(), shape.clone());
                return Err(Error::Shape { path: self.path, name: name.clone(), expected, found });
            }
            out.insert(name.clone(), tensor);
        }
        if self.tensors.is_empty() {
            Ok(out)
        } else {
            Err(Error::Extra { path: self.path, names: self.tensors.into_keys().collect() })
        }
    }
}

/// Whether the file name has an extension of pickled weights.
pub(crate) fn is_pickle(path: &Path) -> bool {
    matches!(path.extension().and_then(|e| e.to_str()), Some("bin" | "pt" | "pth" | "ckpt" | "pkl"))
}

/// The name most similar to a missing one.
pub(crate) fn nearest<'a>(names: impl Iterator<Item = &'a String>, missing: &str) -> Option<String> {
    storage::nearest(missing, names.map(String::as_str))
}

fn malformed(path: &Path, reason: &dyn std::fmt::Display) -> Error {
    Error::Malformed { path: path.to_owned(), reason: reason.to_string() }
}

/// Hash over names, types, shapes and bytes, sorted by name.
fn hash<N: AsRef<str>>(views: &[(N, TensorView<'_>)]) -> String {
    let mut text = String::new();
    for (name, view) in views {
        let content = storage::hash_bytes(view.data());
        text += &format!("{} {:?} {:?} {content}\n", name.as_ref(), view.dtype(), view.shape());
    }
    storage::hash_bytes(text.as_bytes())
}

/// Sorts the header: safetensors writes metadata in the random order of a hash map, but equal content must give equal bytes.
fn sorted_header(file: Vec<u8>) -> Vec<u8> {
    let Some(length) = file.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes) as usize) else {
        return file;
    };
    let Some(header) = file.get(8..8 + length) else { return file };
    match serde_json::from_slice::<BTreeMap<String, serde_json::Value>>(header) {
        Ok(map) => {
            let sorted: BTreeMap<_, _> = map
                .into_iter()
                .map(|(key, value)| match value {
                    serde_json::Value::Object(fields) if key == "__metadata__" => {
                        let fields: BTreeMap<_, _> = fields.into_iter().collect();
                        (key, serde_json::json!(fields))
                    }
                    other => (key, other),
                })
                .collect();
            let mut header = serde_json::to_vec(&sorted).unwrap_or_else(|_| header.to_vec());
            header.resize(header.len().next_multiple_of(8), b' ');
            let mut out = (header.len() as u64).to_le_bytes().to_vec();
            out.extend(header);
            out.extend(&file[8 + length..]);
            out
        }
        Err(_) => file,
    }
}

fn bytes(tensor: &Tensor) -> Result<(Dtype, Vec<u8>), Error> {
    let flat = tensor.flatten_all()?;
    Ok(match tensor.dtype() {
        DType::F32 => (Dtype::F32, flat.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        DType::F64 => (Dtype::F64, flat.to_vec1::<f64>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        DType::U32 => (Dtype::U32, flat.to_vec1::<u32>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        DType::I64 => (Dtype::I64, flat.to_vec1::<i64>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
        DType::U8 => (Dtype::U8, flat.to_vec1::<u8>()?),
        // half types widen exactly
        _ => (Dtype::F32, flat.to_dtype(DType::F32)?.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect()),
    })
}

fn tensor(path: &Path, name: &str, view: &TensorView<'_>, device: &Device) -> Result<Tensor, Error> {
    let dtype = match view.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::U8 => DType::U8,
        other => {
            return Err(malformed(path, &format!("tensor `{name}` has the unsupported type {other:?}")));
        }
    };
    let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), device)?;
    if dtype.is_float() && tensor.elem_count() > 0 {
        // the sum of magnitudes is finite exactly when all values are, except for f64 values near their limit
        let sum = tensor.to_dtype(DType::F64)?.abs()?.sum_all()?.to_scalar::<f64>()?;
        if !sum.is_finite() {
            return Err(Error::NotFinite { path: path.to_owned(), name: name.to_owned() });
        }
    }
    Ok(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (BTreeMap<String, String>, Named) {
        let cpu = &Device::Cpu;
        let tensors = [
            ("w".to_owned(), Tensor::new(&[[1f32, 2.], [3., 4.]], cpu).unwrap()),
            ("n".to_owned(), Tensor::new(&[7u32], cpu).unwrap()),
        ];
        let metadata = ["z", "y", "x", "kind"].map(|key| (key.to_owned(), "sample".to_owned()));
        (metadata.into(), tensors.into())
    }

    #[test]
    fn files_are_read_back_and_equal_tensors_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (metadata, tensors) = sample();
        let (one, two) = (folder.path().join("1.safetensors"), folder.path().join("2.safetensors"));
        save(&one, &metadata, &tensors).unwrap();
        save(&two, &metadata, &tensors).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let file = load(&one, &Device::Cpu).unwrap();
        assert_eq!(file.metadata, metadata);
        assert_eq!(file.tensors["w"].to_vec2::<f32>().unwrap(), [[1., 2.], [3., 4.]]);
        let expected = [("w".to_owned(), vec![2, 2]), ("n".to_owned(), vec![1])];
        file.into_exactly(&expected).unwrap();
    }

    #[test]
    fn a_file_truncated_or_altered_at_any_byte_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (metadata, tensors) = sample();
        let path = folder.path().join("w.safetensors");
        save(&path, &metadata, &tensors).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(load(&path, &Device::Cpu).is_err(), "cut at {length}");
        }
        let header = u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
        for at in 8 + header..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = load(&path, &Device::Cpu).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "flipped at {at}: {error}");
        }
    }

    #[test]
    fn errors_name_the_tensor() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.safetensors");
        let check = |expected: &[(&str, &[usize])], parts: &[&str]| {
            let (metadata, tensors) = sample();
            save(&path, &metadata, &tensors).unwrap();
            let expected: Vec<_> = expected.iter().map(|(n, s)| ((*n).to_owned(), s.to_vec())).collect();
            let error = load(&path, &Device::Cpu).unwrap().into_exactly(&expected).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "{error}");
            }
        };
        check(&[("w", &[2, 2]), ("nn", &[1])], &["`nn` is missing"]);
        check(&[("w", &[4]), ("n", &[1])], &["`w`", "[2, 2]", "expected [4]"]);
        check(&[("w", &[2, 2])], &["unexpected", "\"n\""]);
        let nan = [("w".to_owned(), Tensor::new(&[f32::NAN], &Device::Cpu).unwrap())].into();
        save(&path, &BTreeMap::new(), &nan).unwrap();
        assert!(load(&path, &Device::Cpu).unwrap_err().to_string().contains("NaN"));
        let pickle = folder.path().join("w.bin");
        assert!(load(&pickle, &Device::Cpu).unwrap_err().to_string().contains("pickle"));
    }
}
