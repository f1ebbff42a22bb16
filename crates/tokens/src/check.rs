//! Checks of a `tokenizer.json` for defects that the library ignores or panics on.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

/// A set of bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes(Vec<u8>);

impl Bytes {
    /// The first character of a text that contains one of the bytes, with its offset.
    pub(crate) fn first_in(&self, text: &str) -> Option<(usize, char)> {
        if self.0.is_empty() || !text.bytes().any(|byte| self.0.contains(&byte)) {
            return None;
        }
        let bad = |character: char| character.encode_utf8(&mut [0; 4]).bytes().any(|byte| self.0.contains(&byte));
        text.char_indices().find(|&(_, character)| bad(character))
    }
}

/// Checks the model: ids are unique, merges combine tokens into tokens, and there is no dropout.
pub(crate) fn description(json: &Value) -> Result<(), String> {
    let model = &json["model"];
    if model["dropout"].as_f64().is_some_and(|probability| probability != 0.) {
        return Err("it drops merges at random; set `dropout` to null".to_owned());
    }
    let Some(vocab) = model["vocab"].as_object() else { return Ok(()) };
    let mut taken = HashMap::new();
    for (token, id) in vocab {
        if let Some(other) = taken.insert(id.as_u64(), token) {
            return Err(format!("`{other}` and `{token}` have the same id, {id}"));
        }
    }
    let merges = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    let prefix = model["continuing_subword_prefix"].as_str().unwrap_or_default().len();
    for merge in merges {
        let (left, right) = match merge {
            // the library skips such headings, as in a merges.txt
            Value::String(text) if text.starts_with("#version") => continue,
            Value::String(text) => text.split_once(' ').unwrap_or((text, "")),
            pair => (pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
        };
        let merged = right.get(prefix..).map(|right| format!("{left}{right}"));
        if ![left, right].iter().all(|part| vocab.contains_key(*part))
            || !merged.is_some_and(|merged| vocab.contains_key(&merged))
        {
            return Err(format!("the merge {merge} does not combine two tokens into a token"));
        }
    }
    Ok(())
}

/// Checks that the library gave added tokens the ids of the file: it numbers new ones from the end of the vocabulary.
pub(crate) fn added(json: &Value, id: impl Fn(&str) -> Option<u32>) -> Result<(), String> {
    let tokens = json["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let moved = |token: &&Value| token["content"].as_str().and_then(&id).map(u64::from) != token["id"].as_u64();
    match tokens.iter().find(moved) {
        Some(token) => {
            Err(format!("the library does not give the added token {} the id {}", token["content"], token["id"]))
        }
        None => Ok(()),
    }
}

/// The bytes that a byte-level vocabulary lacks, which the library would drop from a text.
pub(crate) fn absent(json: &Value) -> Bytes {
    let model = &json["model"];
    let (Some(vocab), true) = (model["vocab"].as_object(), model["unk_token"].is_null()) else {
        return Bytes::default();
    };
    if !is_byte_level(&json["pre_tokenizer"]) && !is_byte_level(&json["normalizer"]) {
        return Bytes::default();
    }
    let tokens: HashSet<&str> = vocab.keys().map(String::as_str).collect();
    Bytes((0..=u8::MAX).filter(|&byte| !tokens.contains(stand_in(byte).encode_utf8(&mut [0; 4]) as &str)).collect())
}

fn is_byte_level(step: &Value) -> bool {
    let inner = ["pretokenizers", "normalizers"].iter().filter_map(|key| step[*key].as_array()).flatten();
    step["type"] == "ByteLevel" || inner.into_iter().any(is_byte_level)
}

/// GPT-2's printable character for a byte: the same character if it is printable, else the next unused one from U+0100.
pub(crate) fn stand_in(byte: u8) -> char {
    let other = match byte {
        0..=0x20 => byte,
        0x7f..=0xa0 => byte - 0x7f + 0x21,
        0xad => 0x43,
        _ => return char::from(byte),
    };
    char::from_u32(0x100 + u32::from(other)).unwrap_or(char::REPLACEMENT_CHARACTER)
}
