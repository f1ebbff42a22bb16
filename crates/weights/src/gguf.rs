//! GGUF files, versions 1 to 3: metadata and tensors after one header.
//!
//! The layout is that of <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//! candle has a reader too, and a test compares the two. Ours exists because candle's divides by an alignment of zero,
//! multiplies shapes without overflow checks and takes 32 bytes of memory per byte of an array. It also refuses a whole
//! file because of one tensor of unknown type, without naming it.
//! candle dequantises the numbers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;

use crate::Error;
use crate::file::nearest;
use crate::numbers::Stored;
use crate::shards::{Entry, elements};

/// Tensor data begins at a multiple of this, unless `general.alignment` gives another number.
const DEFAULT_ALIGNMENT: usize = 32;

/// `GGML_MAX_DIMS` of ggml.
const MAX_AXES: usize = 4;

/// Limit on the elements of all arrays together, above any real vocabulary; a corrupt length must not exhaust memory.
const MAX_ELEMENTS: usize = 1 << 24;

/// Limit on the nesting of arrays; real files do not nest them.
const MAX_DEPTH: usize = 4;

/// The metadata of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    metadata: BTreeMap<String, Value>,
}

/// A metadata value; all integer types are merged.
#[derive(Debug)]
enum Value {
    Integer(i128),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

impl Gguf {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// Whether the file has the key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.metadata.contains_key(key)
    }

    /// The model family, such as `llama`, which is also the prefix of the keys for its sizes.
    ///
    /// # Errors
    /// When the file does not name it.
    pub fn architecture(&self) -> Result<&str, Error> {
        self.str("general.architecture")
    }

    /// A string.
    ///
    /// # Errors
    /// When the key is missing or has another type.
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.get(key, "a string", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A non-negative integer of any stored type.
    ///
    /// # Errors
    /// When the key is missing, negative or has another type.
    pub fn u64(&self, key: &str) -> Result<u64, Error> {
        self.get(key, "a non-negative integer", integer)
    }

    /// A number of any stored type.
    ///
    /// An f32 becomes the shortest decimal that rounds to it: 1e-5 stays 1e-5, as in a `config.json`, instead of
    /// 9.99999974e-6.
    ///
    /// # Errors
    /// When the key is missing or has another type.
    pub fn f64(&self, key: &str) -> Result<f64, Error> {
        self.get(key, "a number", |value| match value {
            Value::Integer(number) => Some(*number as f64),
            Value::F32(number) => number.to_string().parse().ok(),
            Value::F64(number) => Some(*number),
            _ => None,
        })
    }

    /// A boolean.
    ///
    /// # Errors
    /// When the key is missing or has another type.
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.get(key, "true or false", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of strings.
    ///
    /// # Errors
    /// When the key is missing or has another type.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, Error> {
        self.array(key, "an array of strings", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An array of f32.
    ///
    /// # Errors
    /// When the key is missing or has another type.
    pub fn f32s(&self, key: &str) -> Result<Vec<f32>, Error> {
        self.array(key, "an array of f32", |value| match value {
            Value::F32(number) => Some(*number),
            _ => None,
        })
    }

    /// An array of integers of any stored type.
    ///
    /// # Errors
    /// When the key is missing or has another type, or a number is out of range.
    pub fn i32s(&self, key: &str) -> Result<Vec<i32>, Error> {
        self.array(key, "an array of integers", integer)
    }

    /// An array of non-negative integers of any stored type.
    ///
    /// # Errors
    /// When the key is missing or has another type, or a number is negative or out of range.
    pub fn u32s(&self, key: &str) -> Result<Vec<u32>, Error> {
        self.array(key, "an array of non-negative integers", integer)
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        element: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.get(key, wanted, |value| match value {
            Value::Array(elements) => elements.iter().map(element).collect(),
            _ => None,
        })
    }

    fn get<'a, T>(&'a self, key: &str, wanted: &str, take: impl FnOnce(&'a Value) -> Option<T>) -> Result<T, Error> {
        let Some(value) = self.metadata.get(key) else {
            let near =
                nearest(self.metadata.keys(), key).map_or(String::new(), |near| format!(" (the file has `{near}`)"));
            return Err(self.refuse(key, format!("is missing{near}")));
        };
        take(value).ok_or_else(|| self.refuse(key, format!("is {}, expected {wanted}", value.summary())))
    }

    fn refuse(&self, key: &str, reason: String) -> Error {
        Error::Metadata { path: self.path.clone(), key: key.to_owned(), reason }
    }
}

fn integer<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    match value {
        Value::Integer(number) => T::try_from(*number).ok(),
        _ => None,
    }
}

impl Value {
    /// The value for a message; of an array, its length.
    fn summary(&self) -> String {
        match self {
            Self::Integer(number) => number.to_string(),
            Self::F32(number) => number.to_string(),
            Self::F64(number) => number.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => format!("the string {:?}", text.chars().take(40).collect::<String>()),
            Self::Array(elements) => format!("an array of {}", elements.len()),
        }
    }
}

/// Reads a header, and checks that the file holds the data of all tensors.
pub(crate) fn read(path: &Path, map: &[u8]) -> Result<(Gguf, BTreeMap<String, Entry>), Error> {
    let (metadata, tensors) = parse(map).map_err(|reason| Error::Gguf { path: path.to_owned(), reason })?;
    Ok((Gguf { path: path.to_owned(), metadata }, tensors))
}

type Parsed<T> = Result<T, String>;

fn parse(map: &[u8]) -> Parsed<(BTreeMap<String, Value>, BTreeMap<String, Entry>)> {
    let mut reader = Reader { bytes: map, at: 0, short: false, elements: 0 };
    if reader.take(4)? != b"GGUF" {
        return Err("it does not begin with `GGUF`".to_owned());
    }
    let version = reader.u32()?;
    if !(1..=3).contains(&version) {
        return Err(format!("version {version} is not supported, or the file is big-endian"));
    }
    reader.short = version == 1;
    let (n_tensors, n_values) = (reader.length()?, reader.length()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..n_values {
        let key = reader.name()?;
        let kind = reader.u32()?;
        let value = reader.value(kind, 0)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(format!("metadata `{key}` occurs twice"));
        }
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..n_tensors {
        let (name, entry) = reader.tensor()?;
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(format!("tensor `{name}` occurs twice"));
        }
    }
    locate(&mut tensors, reader.at, &metadata, map.len())?;
    Ok((metadata, tensors))
}

/// Converts offsets within the data into offsets within the file, and checks that no two tensors overlap.
fn locate(
    tensors: &mut BTreeMap<String, Entry>,
    header: usize,
    metadata: &BTreeMap<String, Value>,
    length: usize,
) -> Parsed<()> {
    let alignment = metadata.get("general.alignment").map_or(Some(DEFAULT_ALIGNMENT), integer);
    let Some(alignment) = alignment.filter(|alignment: &usize| alignment.is_power_of_two()) else {
        return Err("`general.alignment` is not a power of two".to_owned());
    };
    let data = header.checked_next_multiple_of(alignment).ok_or("`general.alignment` is too large")?;
    for (name, entry) in tensors.iter_mut() {
        let in_file = |offset: usize| data.checked_add(offset).filter(|&offset| offset <= length);
        match (in_file(entry.bytes.start), in_file(entry.bytes.end)) {
            (Some(start), Some(end)) => entry.bytes = start..end,
            _ => return Err(format!("the data of tensor `{name}` extends past the end of the file")),
        }
    }
    let mut ranges: Vec<_> = tensors.iter().map(|(name, entry)| (entry.bytes.start, entry.bytes.end, name)).collect();
    ranges.sort();
    match ranges.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(format!("the data of tensors `{}` and `{}` overlap", pair[0].2, pair[1].2)),
        None => Ok(()),
    }
}

/// A cursor over the bytes of a file.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether lengths have four bytes, as in version 1.
    short: bool,
    /// Number of array elements so far.
    elements: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or_else(|| {
            format!("at byte {} the header needs {count} more bytes, but only {} are left", self.at, rest.len())
        })?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Parsed<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length, count or axis.
    fn length(&mut self) -> Parsed<usize> {
        let length = if self.short { u64::from(self.u32()?) } else { self.u64()? };
        usize::try_from(length)
            .map_err(|_| format!("at byte {} the header has a length beyond the address space", self.at))
    }

    /// A key or the name of a tensor.
    fn name(&mut self) -> Parsed<String> {
        let (at, length) = (self.at, self.length()?);
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| format!("the name at byte {at} is not UTF-8"))
    }

    /// A string; some writers end it with zeros, and some split characters.
    fn text(&mut self) -> Parsed<String> {
        let length = self.length()?;
        let text = String::from_utf8_lossy(self.take(length)?);
        Ok(text.trim_end_matches('\0').to_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Parsed<Value> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("before byte {} there is {other} instead of a boolean", self.at)),
            },
            8 => Value::Text(self.text()?),
            9 if depth < MAX_DEPTH => Value::Array(self.elements(depth)?),
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("before byte {} there is a value of the unknown type {other}", self.at)),
        })
    }

    fn elements(&mut self, depth: usize) -> Parsed<Vec<Value>> {
        let (kind, count) = (self.u32()?, self.length()?);
        self.elements = self.elements.saturating_add(count);
        if self.elements > MAX_ELEMENTS {
            return Err(format!("before byte {} there is an array of {count} elements, which is too long", self.at));
        }
        (0..count).map(|_| self.value(kind, depth + 1)).collect()
    }

    /// The description of a tensor; its byte range is still relative to the beginning of the data.
    fn tensor(&mut self) -> Parsed<(String, Entry)> {
        let name = self.name()?;
        let n_axes = self.u32()? as usize;
        if n_axes > MAX_AXES {
            return Err(format!("tensor `{name}` has {n_axes} axes, but at most {MAX_AXES} are allowed"));
        }
        let mut shape = (0..n_axes).map(|_| self.length()).collect::<Parsed<Vec<usize>>>()?;
        // the fastest axis comes first in the file
        shape.reverse();
        let (type_name, stored) = kind(self.u32()?);
        let start = self.u64()?;
        let size = size(&shape, stored).ok_or_else(|| {
            format!("tensor `{name}` has the shape {shape:?}, which is invalid for the type {type_name}")
        })?;
        let end = usize::try_from(start).ok().and_then(|start| start.checked_add(size));
        let end = end.ok_or_else(|| format!("the data of tensor `{name}` extends past the end of the file"))?;
        Ok((name, Entry { file: 0, type_name, stored, shape, bytes: end - size..end }))
    }
}

/// The number of bytes of a tensor; `None` if its shape is invalid, 0 for types that are not read.
fn size(shape: &[usize], stored: Option<Stored>) -> Option<usize> {
    let count = elements(shape)?;
    let Some((numbers, size)) = stored.map(Stored::block) else { return Some(0) };
    let whole_rows = shape.last().copied().unwrap_or(1).is_multiple_of(numbers);
    (count / numbers).checked_mul(size).filter(|_| whole_rows)
}

/// The name of a type in ggml, and how its numbers are decoded.
fn kind(number: u32) -> (String, Option<Stored>) {
    use GgmlDType::{BF16, F16, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q8K};
    let (name, stored) = match number {
        0 => ("F32", Some(Stored::F32)),
        1 => ("F16", Some(Stored::Blocks(F16))),
        2 => ("Q4_0", Some(Stored::Blocks(Q4_0))),
        3 => ("Q4_1", Some(Stored::Blocks(Q4_1))),
        6 => ("Q5_0", Some(Stored::Blocks(Q5_0))),
        7 => ("Q5_1", Some(Stored::Blocks(Q5_1))),
        8 => ("Q8_0", Some(Stored::Blocks(Q8_0))),
        9 => ("Q8_1", None),
        10 => ("Q2_K", Some(Stored::Blocks(Q2K))),
        11 => ("Q3_K", Some(Stored::Blocks(Q3K))),
        12 => ("Q4_K", Some(Stored::Blocks(Q4K))),
        13 => ("Q5_K", Some(Stored::Blocks(Q5K))),
        14 => ("Q6_K", Some(Stored::Blocks(Q6K))),
        15 => ("Q8_K", Some(Stored::Blocks(Q8K))),
        16 => ("IQ2_XXS", None),
        17 => ("IQ2_XS", None),
        18 => ("IQ3_XXS", None),
        19 => ("IQ1_S", None),
        20 => ("IQ4_NL", None),
        21 => ("IQ3_S", None),
        22 => ("IQ2_S", None),
        23 => ("IQ4_XS", None),
        24 => ("I8", None),
        25 => ("I16", None),
        26 => ("I32", None),
        27 => ("I64", None),
        28 => ("F64", Some(Stored::F64)),
        29 => ("IQ1_M", None),
        30 => ("BF16", Some(Stored::Blocks(BF16))),
        34 => ("TQ1_0", None),
        35 => ("TQ2_0", None),
        39 => ("MXFP4", None),
        other => return (format!("number {other}"), None),
    };
    (name.to_owned(), stored)
}

#[cfg(test)]
mod tests;
