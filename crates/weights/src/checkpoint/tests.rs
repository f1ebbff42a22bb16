//! Single and sharded safetensors files, whole and damaged.

use std::fs;

use super::*;

/// Writes a safetensors file with any header and data.
fn craft(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    fs::write(path, bytes).unwrap();
}

/// A header of tensors with name, type, shape and offsets.
fn header(tensors: &[(&str, &str, &[usize], [usize; 2])]) -> String {
    let fields = tensors.iter().map(|(name, dtype, shape, offsets)| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#)
    });
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

fn le<const N: usize>(numbers: impl IntoIterator<Item = [u8; N]>) -> Vec<u8> {
    numbers.into_iter().flatten().collect()
}

fn floats(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Opens and reads everything.
fn all(path: &Path) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(path)?;
    for name in checkpoint.names() {
        checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
    }
    Ok(())
}

fn message(path: &Path) -> String {
    all(path).unwrap_err().to_string()
}

#[test]
fn all_float_types_are_read_at_any_alignment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut data = vec![7];
    data.extend(le([1.5f64, -2.].map(f64::to_le_bytes)));
    data.extend(le([0.25f32, 3.].map(f32::to_le_bytes)));
    data.extend(le([0x3e00u16, 0xc000].map(u16::to_le_bytes)));
    data.extend(le([0x3fc0u16, 0xc000].map(u16::to_le_bytes)));
    let text = header(&[
        ("byte", "U8", &[1], [0, 1]),
        ("double", "F64", &[2], [1, 17]),
        ("single", "F32", &[2, 1], [17, 25]),
        ("half", "F16", &[2], [25, 29]),
        ("brain", "BF16", &[1, 2], [29, 33]),
        ("none", "F32", &[0, 5], [33, 33]),
    ]);
    for padding in 0..8 {
        craft(&path, &(text.clone() + &" ".repeat(padding)), &data);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["brain", "byte", "double", "half", "none", "single"]);
        assert_eq!(floats(&checkpoint, "double"), [1.5, -2.]);
        assert_eq!(floats(&checkpoint, "single"), [0.25, 3.]);
        assert_eq!(floats(&checkpoint, "half"), [1.5, -2.]);
        assert_eq!(floats(&checkpoint, "brain"), [1.5, -2.]);
        assert_eq!(floats(&checkpoint, "none"), [0f32; 0]);
        let double = checkpoint.tensor("brain", DType::F64, &Device::Cpu).unwrap();
        assert_eq!(double.to_vec2::<f64>().unwrap(), [[1.5, -2.]]);
        assert_eq!(checkpoint.shape("single"), Some(vec![2, 1]));
        assert_eq!(checkpoint.dtype_name("brain"), Some("BF16"));
        assert_eq!(checkpoint.bytes(), 4 * 9);
        assert!(checkpoint.gguf().is_none() && checkpoint.path() == folder.path());
        let error = |name, dtype| checkpoint.tensor(name, dtype, &Device::Cpu).unwrap_err().to_string();
        assert!(error("byte", DType::F32).contains("`byte` has type U8, which cannot be read as f32"));
        assert!(error("single", DType::U32).contains("`single` has type F32, which cannot be read as u32"));
        assert!(error("singles", DType::F32).contains("`singles` is missing (the file has `single`)"));
    }
}

#[test]
fn numbers_that_are_not_finite_are_refused_with_file_and_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let text = header(&[("good", "F32", &[1], [0, 4]), ("bad", "F16", &[1], [4, 6])]);
    craft(&path, &text, &[0, 0, 0, 0, 0, 0xfc]);
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(floats(&checkpoint, "good"), [0.]);
    let error = checkpoint.tensor("bad", DType::F64, &Device::Cpu).unwrap_err();
    assert!(matches!(&error, Error::NotFinite { name, .. } if name == "bad") && error.to_string().contains("w.safe"));
}

#[test]
fn a_file_truncated_at_any_byte_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    craft(&path, &header(&[("a", "F32", &[2], [0, 8]), ("b", "F32", &[1], [8, 12])]), &[0; 12]);
    let whole = fs::read(&path).unwrap();
    all(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(message(&path).contains("w.safetensors"), "cut at {length}");
    }
    fs::write(&path, [whole.as_slice(), &[0]].concat()).unwrap();
    assert!(all(&path).is_err(), "a byte too many");
}

#[test]
fn invalid_headers_are_errors_and_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    craft(&path, &header(&[("a", "F32", &[2], [0, 8])]), &[0; 8]);
    let whole = fs::read(&path).unwrap();
    let honest = whole.len() as u64 - 16;
    for length in [0, 1, honest - 1, honest + 1, honest + 8, 100_000_000, 100_000_001, 1 << 32, u64::MAX / 2]
        .into_iter()
        .chain(u64::MAX - 20..=u64::MAX)
    {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        assert!(all(&path).is_err(), "length {length}");
    }
    // a flipped bit may give an error or another valid file, but never a panic
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
            let _ = all(&path);
        }
    }
}

#[test]
fn offsets_that_overlap_leave_gaps_or_overflow_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let check = |tensors: &[(&str, &str, &[usize], [usize; 2])]| {
        craft(&path, &header(tensors), &[0; 12]);
        assert!(message(&path).contains("w.safetensors"), "{tensors:?}");
    };
    check(&[("a", "F32", &[2], [0, 8]), ("b", "F32", &[2], [4, 12])]);
    check(&[("a", "F32", &[1], [0, 4]), ("b", "F32", &[1], [8, 12])]);
    check(&[("a", "F32", &[3], [4, 16])]);
    check(&[("a", "F32", &[2], [0, 12])]);
    check(&[("a", "F32", &[3], [12, 0])]);
    check(&[("a", "F32", &[usize::MAX, 2], [0, 12])]);
    check(&[("a", "F32", &[3], [0, 12]), ("b", "F32", &[0, 1 << 40, 1 << 40], [12, 12])]);
    check(&[("a", "F9", &[3], [0, 12])]);
    // ends whose sum overflows 64 bits
    let size = usize::MAX / 8;
    let names: Vec<String> = (0..8).map(|i| i.to_string()).collect();
    let shape = [size];
    let tensors: Vec<(&str, &str, &[usize], [usize; 2])> = names
        .iter()
        .enumerate()
        .map(|(i, name)| (name.as_str(), "U8", &shape[..], [i * size, (i + 1) * size]))
        .collect();
    check(&tensors);
}

/// Writes an index, and shards of one-number tensors.
fn shard(folder: &Path, index: &[(&str, &str)], shards: &[(&str, &[&str])]) {
    let map: BTreeMap<_, _> = index.iter().copied().collect();
    let json = serde_json::json!({ "metadata": { "total_size": 8 }, "weight_map": map });
    fs::write(folder.join(INDEX), json.to_string()).unwrap();
    for (file, names) in shards {
        let numbers = names.iter().map(|name| name.len() as f32);
        let tensors: Vec<_> =
            names.iter().enumerate().map(|(i, name)| (*name, "F32", [1].as_slice(), [4 * i, 4 * i + 4])).collect();
        craft(&folder.join(file), &header(&tensors), &le(numbers.map(f32::to_le_bytes)));
    }
}

#[test]
fn shards_are_one_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let index = [("a", "1.safetensors"), ("bb", "1.safetensors"), ("ccc", "2.safetensors")];
    shard(folder.path(), &index, &[("1.safetensors", &["a", "bb"]), ("2.safetensors", &["ccc"])]);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "bb", "ccc"]);
    for name in ["a", "bb", "ccc"] {
        assert_eq!(floats(&checkpoint, name), [name.len() as f32]);
    }
}

#[test]
fn shards_that_do_not_fit_their_index_are_named() {
    let check = |index: &[(&str, &str)], shards: &[(&str, &[&str])], words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        shard(folder.path(), index, shards);
        let error = message(folder.path());
        assert!(words.iter().all(|word| error.contains(word)), "{error} lacks one of {words:?}");
    };
    let one: (&str, &[&str]) = ("1.safetensors", &["a"]);
    let index = [("a", "1.safetensors"), ("b", "2.safetensors")];
    check(&index, &[one], &["index.json", "\"2.safetensors\" is missing"]);
    check(&index, &[one, ("2.safetensors", &["c"])], &["`b` is not in \"2.safetensors\""]);
    check(&index, &[one, ("2.safetensors", &["a", "b"])], &["`a` is in two shards", "\"1.safe", "\"2.safe"]);
    check(&[("a", "2.safetensors")], &[one, ("2.safetensors", &["b"])], &["`a` is not in"]);
    for path in ["../1.safetensors", "/etc/1.safetensors", "x/../../1.safetensors", "", "."] {
        check(&[("a", path)], &[one], &[&format!("{path:?}"), "not a plain path"]);
    }
    check(&[], &[one], &["is missing or empty"]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(INDEX), r#"{"weight_map": {"a": 1}}"#).unwrap();
    assert!(message(folder.path()).contains("`weight_map`"));
    fs::write(folder.path().join(INDEX), "{").unwrap();
    assert!(message(folder.path()).contains(INDEX));
}

#[test]
fn pickles_and_folders_without_weights_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert!(message(path).contains("expected `model.safetensors`") && message(path).contains("is empty"));
    fs::write(path.join("config.json"), "{}").unwrap();
    assert!(message(path).contains("has `config.json`"));
    fs::write(path.join("pytorch_model.bin"), "").unwrap();
    for path in [path, &path.join("pytorch_model.bin"), &path.join("not-there.ckpt")] {
        let error = message(path);
        assert!(
            error.contains("safe_serialization=True") && (error.contains(".bin") || error.contains(".ckpt")),
            "{error}"
        );
    }
    fs::write(path.join("q4.gguf"), "").unwrap();
    assert!(message(path).contains("`q4.gguf`"));
    assert!(message(&path.join("q4.gguf")).contains("q4.gguf: not a complete GGUF file"));
    assert!(message(&path.join("config.json")).contains("neither"));
    assert!(message(&path.join("none.safetensors")).contains("none.safetensors"));
}
