//! Safetensors headers, of a single file and of shards with an index.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use candle_core::quantized::GgmlDType;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, Metadata};

use crate::Error;
use crate::numbers::Stored;

/// The location and storage type of a tensor.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Index among the opened files.
    pub(crate) file: usize,
    /// The name of the type in the file format.
    pub(crate) type_name: String,
    /// How its numbers are decoded; `None` for integer and unknown types.
    pub(crate) stored: Option<Stored>,
    /// The shape, slowest axis first.
    pub(crate) shape: Vec<usize>,
    /// The range of its bytes in the file.
    pub(crate) bytes: Range<usize>,
}

impl Entry {
    /// Number of elements.
    pub(crate) fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A file that stays mapped as long as its checkpoint is open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) map: storage::Map,
}

impl Opened {
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        Ok(Self { path: path.to_owned(), map: storage::map(path)? })
    }
}

/// Parses and checks a safetensors header; returns its length as well.
pub(crate) fn header(path: &Path, map: &[u8]) -> Result<(usize, Metadata), Error> {
    let malformed =
        |reason: &dyn std::fmt::Display| Error::Malformed { path: path.to_owned(), reason: reason.to_string() };
    if let Some(reason) = overflow(map) {
        return Err(malformed(&reason));
    }
    SafeTensors::read_metadata(map).map_err(|error| malformed(&error))
}

/// A tensor that would make the libraries overflow: safetensors adds offsets and candle multiplies shapes unchecked.
fn overflow(map: &[u8]) -> Option<String> {
    let length = usize::try_from(u64::from_le_bytes(*map.first_chunk()?)).ok()?;
    let header = map.get(8..length.checked_add(8)?)?;
    let tensors = serde_json::from_slice::<Metadata>(header).ok()?;
    tensors.tensors().iter().find_map(|(name, info)| {
        let beyond = info.data_offsets.1 > map.len();
        (beyond || elements(&info.shape).is_none()).then(|| {
            format!("tensor `{name}` of shape {:?} ends at byte {} of the data", info.shape, info.data_offsets.1)
        })
    })
}

/// The number of elements; `None` if it or any stride overflows, even for an empty tensor.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis.max(1)))?;
    Some(shape.iter().product())
}

/// The tensors of one mapped file; `file` is its index in the checkpoint.
pub(crate) fn entries(file: usize, opened: &Opened) -> Result<BTreeMap<String, Entry>, Error> {
    let (length, header) = header(&opened.path, &opened.map)?;
    let entry = |info: &safetensors::tensor::TensorInfo| Entry {
        file,
        type_name: format!("{:?}", info.dtype),
        stored: stored(info.dtype),
        shape: info.shape.clone(),
        bytes: 8 + length + info.data_offsets.0..8 + length + info.data_offsets.1,
    };
    Ok(header.tensors().into_iter().map(|(name, info)| (name, entry(info))).collect())
}

fn stored(dtype: Dtype) -> Option<Stored> {
    match dtype {
        Dtype::F64 => Some(Stored::F64),
        Dtype::F32 => Some(Stored::F32),
        Dtype::F16 => Some(Stored::Blocks(GgmlDType::F16)),
        Dtype::BF16 => Some(Stored::Blocks(GgmlDType::BF16)),
        _ => None,
    }
}

/// Opens every shard that an index names, and checks that index and shards agree.
pub(crate) fn sharded(index: &Path) -> Result<(Vec<Opened>, BTreeMap<String, Entry>), Error> {
    let refuse = |reason: String| Error::Index { path: index.to_owned(), reason };
    let map = weight_map(index)?;
    let folder = index.parent().unwrap_or(Path::new("."));
    let mut files = Vec::new();
    let mut tensors: BTreeMap<String, Entry> = BTreeMap::new();
    let mut shards: Vec<&String> = map.values().collect();
    shards.sort();
    shards.dedup();
    for shard in &shards {
        if !Path::new(shard.as_str()).components().all(|part| matches!(part, Component::Normal(_))) || shard.is_empty()
        {
            return Err(refuse(format!("the shard {shard:?} is not a plain path inside the folder")));
        }
        let path = folder.join(shard);
        if !path.is_file() {
            return Err(refuse(format!("the shard {shard:?} is missing: fetch it too")));
        }
        files.push(Opened::new(&path)?);
        for (name, entry) in entries(files.len() - 1, &files[files.len() - 1])? {
            if let Some(other) = tensors.get(&name) {
                return Err(refuse(format!(
                    "tensor `{name}` is in two shards, {:?} and {shard:?}",
                    shards[other.file]
                )));
            }
            tensors.insert(name, entry);
        }
    }
    match map.iter().find(|(name, shard)| tensors.get(*name).is_none_or(|entry| shards[entry.file] != *shard)) {
        Some((name, shard)) => Err(refuse(format!("tensor `{name}` is not in {shard:?}, where the index places it"))),
        None => Ok((files, tensors)),
    }
}

/// The shard of each tensor.
fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, Error> {
    let refuse = |reason: String| Error::Index { path: index.to_owned(), reason };
    let mut json: serde_json::Value =
        serde_json::from_slice(&storage::read(index)?).map_err(|error| refuse(error.to_string()))?;
    let map = json.get_mut("weight_map").map(serde_json::Value::take).unwrap_or_default();
    let map: BTreeMap<String, String> =
        serde_json::from_value(map).map_err(|error| refuse(format!("`weight_map`: {error}")))?;
    if map.is_empty() {
        return Err(refuse("`weight_map` is missing or empty".to_owned()));
    }
    Ok(map)
}
