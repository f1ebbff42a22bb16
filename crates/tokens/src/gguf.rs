//! Converts the tokenizer in the metadata of a GGUF file to the equivalent `tokenizer.json`.
//!
//! Keys and token types: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//! The file does not contain the pattern that splits a text into words, only a name for it (`tokenizer.ggml.pre`, set by
//! llama.cpp's conversion script). The patterns here come from the published `tokenizer.json` of each family.

use serde_json::{Value, json};
use weights::Gguf;

use crate::tokenizer::Roles;
use crate::{Error, sentencepiece};

pub(crate) const MODEL: &str = "tokenizer.ggml.model";
pub(crate) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(crate) const SCORES: &str = "tokenizer.ggml.scores";
pub(crate) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const PRE: &str = "tokenizer.ggml.pre";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNK: &str = "tokenizer.ggml.unknown_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";

/// GPT-2's contractions in any case, words with one leading non-letter, and up to three digits.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As [`LLAMA3`], but with single digits.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The splitting of a text into words.
enum Words {
    /// GPT-2's pattern.
    Gpt2,
    /// Single digits, then GPT-2's pattern.
    Digits,
    /// Another pattern.
    Pattern(&'static str),
}

/// The settings that the names in [`PRE`] stand for.
struct Family {
    names: &'static [&'static str],
    words: Words,
    /// Whether characters are composed first (NFC).
    composed: bool,
    /// Whether a word in the vocabulary becomes one token even if no merges lead to it.
    ignore_merges: bool,
    /// Whether texts begin with BOS by default.
    adds_bos: bool,
}

const fn family(names: &'static [&'static str], words: Words) -> Family {
    Family { names, words, composed: false, ignore_merges: false, adds_bos: false }
}

/// The supported families.
///
/// For `default`, llama.cpp also splits off punctuation and groups of three digits first; here it is GPT-2's pattern alone.
const FAMILIES: [Family; 6] = [
    family(&["gpt-2", "default", "phi-2"], Words::Gpt2),
    Family { composed: true, ..family(&["olmo"], Words::Gpt2) },
    family(&["smollm", "starcoder"], Words::Digits),
    Family {
        ignore_merges: true,
        adds_bos: true,
        ..family(&["llama-bpe", "llama3", "llama-v3"], Words::Pattern(LLAMA3))
    },
    family(&["dbrx", "smaug-bpe"], Words::Pattern(LLAMA3)),
    Family { composed: true, ..family(&["qwen2", "deepseek-r1-qwen"], Words::Pattern(QWEN2)) },
];

/// The vocabulary of a file.
pub(crate) struct Vocabulary<'a> {
    pub(crate) tokens: Vec<&'a str>,
    pub(crate) kinds: Vec<Kind>,
}

/// The type of a token, as numbered in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    /// Replaces text that no other token covers.
    Unknown,
    /// A special token that does not come from text, such as BOS.
    Control,
    /// A piece of text that is never split.
    UserDefined,
    Unused,
    /// A single byte.
    Byte,
}

/// The description of the tokenizer as in a `tokenizer.json`, and its special tokens.
pub(crate) fn describe(gguf: &Gguf) -> Result<(Value, Roles), Error> {
    let vocabulary = vocabulary(gguf)?;
    let (json, adds_bos) = match gguf.str(MODEL)? {
        "gpt2" => byte_level(gguf, &vocabulary)?,
        "llama" => (sentencepiece::describe(gguf, &vocabulary, id(gguf, UNK, &vocabulary)?)?, true),
        other => {
            let (path, found, known) = (gguf.path().to_owned(), other.to_owned(), vec!["gpt2", "llama"]);
            return Err(Error::Unknown { path, key: MODEL, found, known });
        }
    };
    let bos = id(gguf, BOS, &vocabulary)?;
    let adds_bos = if gguf.has(ADD_BOS) { gguf.bool(ADD_BOS)? } else { adds_bos && bos.is_some() };
    let (eos, unk) = (id(gguf, EOS, &vocabulary)?, id(gguf, UNK, &vocabulary)?);
    Ok((json, Roles { bos, eos, unk, adds_bos: Some(adds_bos) }))
}

pub(crate) fn malformed(gguf: &Gguf, reason: String) -> Error {
    Error::Malformed { path: gguf.path().to_owned(), reason }
}

fn vocabulary(gguf: &Gguf) -> Result<Vocabulary<'_>, Error> {
    let tokens = gguf.strings(TOKENS)?;
    let types = if gguf.has(TYPES) { gguf.u32s(TYPES)? } else { vec![1; tokens.len()] };
    if types.len() != tokens.len() {
        return Err(malformed(gguf, format!("{} tokens have {} types", tokens.len(), types.len())));
    }
    let kind = |(kind, token): (&u32, &&str)| match kind {
        1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        other => Err(malformed(gguf, format!("token `{token}` has the unknown type {other}"))),
    };
    let kinds = types.iter().zip(&tokens).map(kind).collect::<Result<_, _>>()?;
    let mut seen = std::collections::HashSet::new();
    match tokens.iter().find(|token| !seen.insert(**token)) {
        Some(token) => Err(malformed(gguf, format!("token `{token}` occurs twice"))),
        None => Ok(Vocabulary { tokens, kinds }),
    }
}

/// The id of a special token.
fn id(gguf: &Gguf, key: &str, vocabulary: &Vocabulary<'_>) -> Result<Option<u32>, Error> {
    if !gguf.has(key) {
        return Ok(None);
    }
    let id = gguf.u64(key)?;
    let count = vocabulary.tokens.len();
    match u32::try_from(id) {
        Ok(id) if (id as usize) < count => Ok(Some(id)),
        _ => Err(malformed(gguf, format!("`{key}` is {id}, but there are {count} tokens"))),
    }
}

impl Vocabulary<'_> {
    /// The id of each token.
    pub(crate) fn ids(&self) -> Value {
        self.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect()
    }

    /// The tokens that are matched in a text before it is split.
    pub(crate) fn added(&self) -> Value {
        let added = |(id, (token, kind)): (usize, (&&str, &Kind))| {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            Some(json!({
                "id": id, "content": token, "special": special, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            }))
        };
        self.tokens.iter().zip(&self.kinds).enumerate().filter_map(added).collect()
    }
}

/// The description of byte-level BPE, and whether texts begin with BOS by default.
fn byte_level(gguf: &Gguf, vocabulary: &Vocabulary<'_>) -> Result<(Value, bool), Error> {
    let pre = if gguf.has(PRE) { gguf.str(PRE)? } else { "" };
    let Some(family) = FAMILIES.iter().find(|family| family.names.contains(&pre)) else {
        let known = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        return Err(Error::Unknown { path: gguf.path().to_owned(), key: PRE, found: pre.to_owned(), known });
    };
    // a space separates the parts of a merge; one at the start belongs to the first part
    let split = |merge: &str| {
        let at = merge.char_indices().skip(1).find(|&(_, character)| character == ' ').map(|(at, _)| at);
        at.map(|at| json!([merge[..at], merge[at + 1..]]))
            .ok_or_else(|| malformed(gguf, format!("the merge {merge:?} does not have two parts")))
    };
    let merges = gguf.strings(MERGES)?.into_iter().map(split).collect::<Result<Value, _>>()?;
    let json = json!({
        "version": "1.0",
        "added_tokens": vocabulary.added(),
        "normalizer": family.composed.then(|| json!({ "type": "NFC" })),
        "pre_tokenizer": words(&family.words),
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE",
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": family.ignore_merges,
            "vocab": vocabulary.ids(),
            "merges": merges,
        },
    });
    Ok((json, family.adds_bos))
}

fn words(words: &Words) -> Value {
    let first = match words {
        Words::Gpt2 => None,
        Words::Digits => Some(json!({ "type": "Digits", "individual_digits": true })),
        Words::Pattern(pattern) => {
            Some(json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false }))
        }
    };
    let gpt2 = !matches!(words, Words::Pattern(_));
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": gpt2 });
    json!({ "type": "Sequence", "pretokenizers": first.into_iter().chain([bytes]).collect::<Value>() })
}
