//! Small tokenizers against the outputs of reference programs.

use std::fs;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value as Written};
use serde_json::{Value, json};

use super::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&storage::read(&data(name)).unwrap()).unwrap()
}

/// Texts and their ids by a reference program.
fn golden(cases: &Value) -> Vec<(String, Vec<u32>)> {
    serde_json::from_value(cases.clone()).unwrap()
}

fn check_golden(tokenizer: &Tokenizer, cases: &Value) {
    let cases = golden(cases);
    assert!(cases.len() >= 5);
    for (text, ids) in cases {
        let encoded = tokenizer.encode(&text, Bos::Never).unwrap();
        assert_eq!(encoded, Encoded { ids, prepended_bos: false }, "{text:?}");
        assert_eq!(tokenizer.decode(&encoded.ids).unwrap(), text);
    }
}

type Metadata = Vec<(&'static str, Written)>;

/// A tokenizer from a GGUF file with metadata only.
fn from_gguf(metadata: &[(&str, Written)]) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let metadata: Vec<(&str, &Written)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    gguf_file::write(&mut fs::File::create(&path).unwrap(), &metadata, &[]).unwrap();
    Tokenizer::from_gguf(weights::Checkpoint::open(&path).unwrap().gguf().unwrap())
}

fn text(text: impl Into<String>) -> Written {
    Written::String(text.into())
}

fn texts(value: &[Value]) -> Written {
    Written::Array(value.iter().map(|item| text(item.as_str().unwrap())).collect())
}

/// The small vocabulary as GGUF metadata.
fn byte_level(pre: &str) -> Metadata {
    let small = read("small.json");
    let vocab = small["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<(&String, u64)> = vocab.iter().map(|(token, id)| (token, id.as_u64().unwrap())).collect();
    tokens.sort_by_key(|(_, id)| *id);
    let merges = small["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| json!(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())));
    let kind = |token: &str| Written::I32(if token.starts_with("<|") { 3 } else { 1 });
    vec![
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text(pre)),
        ("tokenizer.ggml.tokens", Written::Array(tokens.iter().map(|(token, _)| text(*token)).collect())),
        ("tokenizer.ggml.token_type", Written::Array(tokens.iter().map(|(token, _)| kind(token)).collect())),
        ("tokenizer.ggml.merges", texts(&merges.collect::<Vec<_>>())),
        ("tokenizer.ggml.bos_token_id", Written::U32(0)),
        ("tokenizer.ggml.eos_token_id", Written::U32(1)),
    ]
}

/// The small sentencepiece model as GGUF metadata.
fn pieces() -> Metadata {
    let model = &read("golden.json")["sentencepiece"];
    let numbers = |key: &str| model[key].as_array().unwrap().clone();
    let scores = numbers("scores").iter().map(|score| Written::F32(score.as_f64().unwrap() as f32)).collect();
    let types = numbers("types").iter().map(|kind| Written::I32(kind.as_i64().unwrap() as i32)).collect();
    vec![
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", texts(model["tokens"].as_array().unwrap())),
        ("tokenizer.ggml.scores", Written::Array(scores)),
        ("tokenizer.ggml.token_type", Written::Array(types)),
        ("tokenizer.ggml.unknown_token_id", Written::U32(0)),
        ("tokenizer.ggml.bos_token_id", Written::U32(1)),
        ("tokenizer.ggml.eos_token_id", Written::U32(2)),
    ]
}

#[test]
fn the_small_tokenizer_encodes_as_the_reference_does() {
    let tokenizer = Tokenizer::from_file(&data("small.json")).unwrap();
    check_golden(&tokenizer, &read("golden.json")["smollm"]);
    assert_eq!(tokenizer.d_vocab(), 400);
    assert_eq!(tokenizer.encode("12", Bos::Default).unwrap().ids, [18, 19], "every digit alone");
    let network = tokenizer.id("Ġnetwork").or(tokenizer.id("Ġnumber")).unwrap();
    assert!(tokenizer.token(network).unwrap().starts_with("Ġn"));
    assert_eq!((tokenizer.id("no such token"), tokenizer.token(400)), (None, None));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.unk(), tokenizer.adds_bos()), (None, None, None, false));
}

#[test]
fn every_pre_tokenizer_of_gguf_encodes_as_the_reference_does() {
    let golden = read("golden.json");
    for name in ["gpt-2", "smollm", "llama-bpe", "dbrx", "qwen2"] {
        let tokenizer = from_gguf(&byte_level(name)).unwrap();
        check_golden(&tokenizer, &golden[name]);
        assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.d_vocab()), (Some(0), Some(1), 400));
        assert_eq!(tokenizer.adds_bos(), name == "llama-bpe");
    }
    let aliases = [("default", "gpt-2"), ("starcoder", "smollm"), ("olmo", "gpt-2"), ("llama3", "llama-bpe")];
    for (name, same) in aliases {
        check_golden(&from_gguf(&byte_level(name)).unwrap(), &golden[same]);
    }
}

#[test]
fn pieces_with_scores_encode_as_sentencepiece_does() {
    let golden = &read("golden.json")["sentencepiece"]["golden"];
    let tokenizer = from_gguf(&pieces()).unwrap();
    check_golden(&tokenizer, golden);
    assert_eq!(tokenizer.unk(), Some(0));
    let (text, ids) = &super::tests::golden(golden)[0];
    let encoded = tokenizer.encode(text, Bos::Default).unwrap();
    assert!(encoded.prepended_bos && encoded.ids[0] == 1 && encoded.ids[1..] == *ids);
    let mut bare = pieces();
    bare.push(("tokenizer.ggml.add_space_prefix", Written::Bool(false)));
    let bare = from_gguf(&bare).unwrap();
    let ids = bare.encode("network", Bos::Never).unwrap().ids;
    assert!(!bare.token(ids[0]).unwrap().starts_with('▁') && bare.decode(&ids).unwrap() == "network");
}

#[test]
fn bos_is_added_once_and_only_if_requested() {
    let check = |add: Option<bool>, text: &str, bos: Bos, starts: &[u32], prepended: bool| {
        let mut metadata = byte_level("smollm");
        metadata.extend(add.map(|add| ("tokenizer.ggml.add_bos_token", Written::Bool(add))));
        let encoded = from_gguf(&metadata).unwrap().encode(text, bos).unwrap();
        assert_eq!((encoded.ids.as_slice(), encoded.prepended_bos), (starts, prepended), "{add:?} {text:?} {bos:?}");
    };
    check(None, "12", Bos::Default, &[18, 19], false);
    check(Some(false), "12", Bos::Default, &[18, 19], false);
    check(Some(true), "12", Bos::Default, &[0, 18, 19], true);
    check(Some(true), "12", Bos::Never, &[18, 19], false);
    check(Some(false), "12", Bos::Always, &[0, 18, 19], true);
    check(Some(true), "", Bos::Default, &[0], true);
    check(Some(true), "<|start|>12", Bos::Always, &[0, 18, 19], false);
    check(Some(true), "1<|start|>", Bos::Always, &[0, 18, 0], true);
    let error = Tokenizer::from_file(&data("small.json")).unwrap().encode("12", Bos::Always).unwrap_err().to_string();
    assert!(error.contains("small.json") && error.contains("no BOS"), "{error}");
}

/// A folder with a changed small tokenizer and further files.
fn folder(change: impl FnOnce(&mut Value), beside: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut json = read("small.json");
    change(&mut json);
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    for (name, json) in beside {
        fs::write(folder.path().join(name), json.to_string()).unwrap();
    }
    folder
}

/// Adds a post-processor that puts the first special token before a text and the second one after it.
fn template(json: &mut Value) {
    let special = |id: u32, token: &str| json!({ "id": token, "ids": [id], "tokens": [token] });
    let mark = |token: &str| json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    json["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [mark("<|start|>"), text, mark("<|end|>")],
        "pair": [mark("<|start|>"), text, mark("<|end|>")],
        "special_tokens": { "<|start|>": special(0, "<|start|>"), "<|end|>": special(1, "<|end|>") },
    });
}

#[test]
fn the_files_of_a_folder_define_special_tokens() {
    let open = |folder: tempfile::TempDir| Tokenizer::from_folder(folder.path()).unwrap();
    let default = |tokenizer: &Tokenizer| tokenizer.encode("12", Bos::Default).unwrap().ids;

    let tokenizer = open(folder(template, &[]));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), default(&tokenizer)), (Some(0), None, vec![0, 18, 19]));
    assert_eq!(tokenizer.encode("12", Bos::Never).unwrap().ids, [18, 19]);
    assert_eq!(tokenizer.encode("12", Bos::Always).unwrap().ids, [0, 18, 19], "not twice");

    let config = json!({ "bos_token": { "content": "<|start|>" }, "eos_token": "<|end|>", "add_bos_token": false });
    let tokenizer = open(folder(template, &[("tokenizer_config.json", config.clone())]));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), default(&tokenizer)), (Some(0), Some(1), vec![18, 19]));

    let map = json!({ "bos_token": "<|end|>", "unk_token": "<|end|>" });
    let both = [("tokenizer_config.json", config), ("special_tokens_map.json", map.clone())];
    let tokenizer = open(folder(|_| (), &both));
    assert_eq!((tokenizer.bos(), tokenizer.unk(), tokenizer.adds_bos()), (Some(0), Some(1), false));

    let config = json!({ "bos_token": null, "eos_token": null, "add_bos_token": true });
    let both = [("tokenizer_config.json", config.clone()), ("special_tokens_map.json", map)];
    assert_eq!(default(&open(folder(|_| (), &both))), [1, 18, 19]);

    let error = |folder: tempfile::TempDir| Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
    assert!(error(folder(|_| (), &[("tokenizer_config.json", config)])).contains("adds a BOS token but names none"));
    let config = json!({ "bos_token": "<s>" });
    let message = error(folder(|_| (), &[("tokenizer_config.json", config)]));
    assert!(message.contains("tokenizer_config.json") && message.contains("`bos_token` is `<s>`"), "{message}");
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty).contains("no `tokenizer.json`"));
}

#[test]
fn oddities_of_published_files_do_not_change_texts() {
    let folder = folder(
        |json| {
            json["truncation"] =
                json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
            json["padding"] = json!({
                "strategy": { "Fixed": 50 }, "direction": "Right", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "<|start|>",
            });
        },
        &[],
    );
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("12345", Bos::Default).unwrap().ids, [18, 19, 20, 21, 22]);
}

#[test]
fn uncovered_characters_and_unknown_ids_are_errors() {
    let folder = folder(
        |json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            // GPT-2's character for byte 4
            let id = vocab.remove("Ą").unwrap();
            vocab.insert("(nothing)".to_owned(), id);
        },
        &[],
    );
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let error = tokenizer.encode("é12\u{4}3", Bos::Never).unwrap_err().to_string();
    assert!(error.contains("'\\u{4}' at byte 4"), "{error}");
    assert!(tokenizer.encode("é123", Bos::Never).is_ok());

    let tokenizer = Tokenizer::from_file(&data("small.json")).unwrap();
    let error = tokenizer.decode(&[18, 400]).unwrap_err().to_string();
    assert!(error.contains("small.json: no token has the id 400: the largest id is 399"), "{error}");
    assert!(tokenizer.decode(&[u32::MAX]).is_err());
    let emoji = tokenizer.encode("🙂", Bos::Never).unwrap().ids;
    assert_eq!(tokenizer.decode(&emoji[..1]).unwrap(), "\u{fffd}");
}

#[test]
fn a_damaged_description_is_an_error_that_names_the_file() {
    let check = |change: &dyn Fn(&mut Value), word: &str| {
        let folder = folder(change, &[]);
        let error = Tokenizer::from_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("tokenizer.json") && error.contains(word), "{error} lacks {word}");
    };
    check(&|json| json["model"]["merges"][3] = json!(["Ġt", "nonsense"]), "nonsense");
    check(&|json| json["model"]["merges"][3] = json!("Ġ Ġ Ġ"), "merge");
    // long parts, for which the library would write past the end of its buffer
    check(&|json| json["model"]["merges"][3] = json!(["Ġinformation", "Ġmultiply"]), "merge");
    check(&|json| json["model"]["vocab"]["a"] = json!(70), "same id");
    check(&|json| json["model"]["vocab"]["a"] = json!(u32::MAX), "ids up to 4294967295");
    check(&|json| json["model"]["dropout"] = json!(0.1), "at random");
    check(&|json| json["model"] = json!(null), "");
    check(&|json| json["added_tokens"][1]["content"] = json!("<|new|>"), "the id 1");
    check(&|json| *json = json!([]), "");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    assert!(Tokenizer::from_file(&path).unwrap_err().to_string().contains("tokenizer.json"));
}

#[test]
fn altered_bytes_never_panic() {
    let mut json = read("small.json");
    let keep = ["<|start|>", "<|end|>", "a", "b", "c", "ab", "abc"];
    json["model"]["vocab"] = keep.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    json["model"]["merges"] = json!([["a", "b"], ["ab", "c"]]);
    json["model"]["continuing_subword_prefix"] = json!("");
    let whole = json.to_string().into_bytes();
    let path = Path::new("tokenizer.json");
    let read = |bytes: &[u8]| Tokenizer::from_json(path, bytes);
    let tokenizer = read(&whole).unwrap();
    assert_eq!(tokenizer.encode("abcb", Bos::Never).unwrap().ids, [6, 3]);
    for at in 0..whole.len() {
        for change in [1, 4, 0x20] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            if let Ok(tokenizer) = read(&bytes) {
                let _ = tokenizer.encode("abcb", Bos::Never).map(|encoded| tokenizer.decode(&encoded.ids));
            }
        }
        assert!(read(&whole[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn inconsistent_gguf_descriptions_are_errors() {
    let check = |mut metadata: Metadata, key: &'static str, value: Option<Written>, words: &[&str]| {
        metadata.retain(|(other, _)| *other != key);
        metadata.extend(value.map(|value| (key, value)));
        let error = from_gguf(&metadata).unwrap_err().to_string();
        assert!(error.contains("m.gguf") && words.iter().all(|word| error.contains(word)), "{error} lacks {words:?}");
    };
    let bpe = || byte_level("smollm");
    check(bpe(), "tokenizer.ggml.model", Some(text("bert")), &["`bert`", "gpt2", "llama"]);
    check(bpe(), "tokenizer.ggml.model", None, &["tokenizer.ggml.model", "missing"]);
    check(bpe(), "tokenizer.ggml.pre", Some(text("tekken")), &["`tekken`", "smollm", "qwen2", "gpt-2"]);
    check(bpe(), "tokenizer.ggml.pre", None, &["``", "smollm"]);
    check(bpe(), "tokenizer.ggml.merges", None, &["tokenizer.ggml.merges", "missing"]);
    check(bpe(), "tokenizer.ggml.merges", Some(Written::Array(vec![text("ab")])), &["\"ab\" does not have two parts"]);
    check(bpe(), "tokenizer.ggml.merges", Some(Written::Array(vec![text("a ()")])), &["does not combine"]);
    check(
        bpe(),
        "tokenizer.ggml.token_type",
        Some(Written::Array(vec![Written::I32(1)])),
        &["400 tokens have 1 types"],
    );
    check(
        bpe(),
        "tokenizer.ggml.token_type",
        Some(Written::Array(vec![Written::I32(9); 400])),
        &["has the unknown type 9"],
    );
    check(
        bpe(),
        "tokenizer.ggml.bos_token_id",
        Some(Written::U32(400)),
        &["bos_token_id` is 400, but there are 400 tokens"],
    );
    check(bpe(), "tokenizer.ggml.tokens", Some(Written::Array(vec![text("a"); 400])), &["`a` occurs twice"]);
    check(pieces(), "tokenizer.ggml.scores", None, &["tokenizer.ggml.scores", "missing"]);
    check(
        pieces(),
        "tokenizer.ggml.scores",
        Some(Written::Array(vec![Written::F32(0.)])),
        &["420 tokens have 1 scores"],
    );
    check(
        pieces(),
        "tokenizer.ggml.scores",
        Some(Written::Array(vec![Written::F32(0.); 420])),
        &["have the same score"],
    );
    check(
        pieces(),
        "tokenizer.ggml.token_type",
        Some(Written::Array(vec![Written::I32(5); 420])),
        &["marked as unused"],
    );
    let mut no_bos = bpe();
    no_bos.retain(|(key, _)| !key.contains("bos"));
    check(no_bos, "tokenizer.ggml.add_bos_token", Some(Written::Bool(true)), &["names none"]);
}
