//! Sentencepiece BPE in a GGUF file, which has no merges but a score for each piece.
//!
//! Sentencepiece repeatedly merges the adjacent pieces whose concatenation has the highest score. Every split of a piece into
//! two known pieces is therefore a merge, ordered by the score of the whole. transformers converts such models the same way.
//! The results can differ only where overlapping merges make the same piece, such as `aaa` from `aa` + `a` or `a` + `aa`:
//! sentencepiece prefers the leftmost, but here the longer first part wins.

use std::collections::HashSet;

use serde_json::{Value, json};
use weights::Gguf;

use crate::Error;
use crate::gguf::{Kind, SCORES, SPACE_PREFIX, Vocabulary, malformed};

/// The symbol for a space.
const SPACE: &str = "▁";

/// The description of the tokenizer as in a `tokenizer.json`.
pub(crate) fn describe(gguf: &Gguf, vocabulary: &Vocabulary<'_>, unk: Option<u32>) -> Result<Value, Error> {
    let Vocabulary { tokens, kinds } = vocabulary;
    let scores = gguf.f32s(SCORES)?;
    if scores.len() != tokens.len() {
        return Err(malformed(gguf, format!("{} tokens have {} scores", tokens.len(), scores.len())));
    }
    if let Some(unused) = kinds.iter().position(|kind| *kind == Kind::Unused) {
        return Err(malformed(
            gguf,
            format!("the piece `{}` is marked as unused, which is not supported", tokens[unused]),
        ));
    }
    let unk = unk.map(|id| tokens[id as usize]);
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let all_bytes = bytes.into_iter().all(|byte| tokens.contains(&byte.as_str()));
    if unk.is_none() && !all_bytes {
        return Err(malformed(gguf, "it has neither an unknown token nor a token for every byte".to_owned()));
    }
    let pieces = tokens.iter().copied().zip(scores).zip(kinds).filter(|(_, kind)| **kind == Kind::Normal);
    let merges =
        merges(&pieces.map(|(piece, _)| piece).collect::<Vec<_>>()).map_err(|reason| malformed(gguf, reason))?;
    let prefix = if gguf.has(SPACE_PREFIX) { gguf.bool(SPACE_PREFIX)? } else { true };
    Ok(json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(),
        "normalizer": steps("normalizers", [
            prefix.then(|| json!({ "type": "Prepend", "prepend": SPACE })),
            Some(json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE })),
        ]),
        "decoder": steps("decoders", [
            Some(json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " })),
            Some(json!({ "type": "ByteFallback" })),
            Some(json!({ "type": "Fuse" })),
            prefix.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 })),
        ]),
        "model": {
            "type": "BPE",
            "unk_token": unk,
            "fuse_unk": true,
            "byte_fallback": all_bytes,
            "ignore_merges": false,
            "vocab": vocabulary.ids(),
            "merges": merges,
        },
    }))
}

fn steps<const N: usize>(key: &str, steps: [Option<Value>; N]) -> Value {
    json!({ "type": "Sequence", key: steps.into_iter().flatten().collect::<Value>() })
}

/// All merges, those of the highest score first.
fn merges(pieces: &[(&str, f32)]) -> Result<Value, String> {
    let known: HashSet<&str> = pieces.iter().map(|(piece, _)| *piece).collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for (piece, score) in pieces {
        // in reverse, so that the longest first part comes first
        let splits = piece.char_indices().rev().map(|(at, _)| piece.split_at(at));
        let whole = splits.filter(|(left, right)| known.contains(left) && known.contains(right));
        merges.extend(whole.map(|(left, right)| (*score, left, right)));
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0));
    for pair in merges.windows(2) {
        let [one, two] = [0, 1].map(|i| format!("{}{}", pair[i].1, pair[i].2));
        if pair[0].0 == pair[1].0 && one != two {
            return Err(format!(
                "the pieces `{one}` and `{two}` have the same score, so the order of their merges is unknown"
            ));
        }
    }
    Ok(merges.into_iter().map(|(_, left, right)| json!([left, right])).collect())
}
