//! Closed vocabularies of whole words, for synthetic tasks.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, Tokenizer};

/// Writes a vocabulary of `words` into a folder as transformers' files (`tokenizer.json`, `tokenizer_config.json`).
///
/// The id of a word is its index in the list. A text consists of words separated by single spaces; a line break is a word
/// like any other. `bos` is the BOS token, which is added only on request.
///
/// ```
/// use tokens::Bos;
///
/// let folder = tempfile::tempdir()?;
/// let words = ["<bos>", "1", "+", "2"].map(str::to_owned);
/// let tokenizer = tokens::word_level(folder.path(), &words, "<bos>")?;
/// assert_eq!(tokenizer.encode("1 + 2", Bos::Always)?.ids, [0, 1, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When a word is repeated, empty or contains a space, `bos` is not among the words, or the files cannot be written.
pub fn word_level(folder: &Path, words: &[String], bos: &str) -> Result<Tokenizer, Error> {
    let path = folder.join("tokenizer.json");
    let malformed = |reason: String| Error::Malformed { path: path.clone(), reason };
    let mut vocabulary = Map::new();
    for (id, word) in words.iter().enumerate() {
        if word.is_empty() || word.contains(' ') {
            return Err(malformed(format!("`{word}` is not a word: words must not be empty or contain a space")));
        }
        if vocabulary.insert(word.clone(), Value::from(id)).is_some() {
            return Err(malformed(format!("the word `{word}` occurs twice")));
        }
    }
    if !vocabulary.contains_key(bos) {
        return Err(malformed(format!("the BOS token `{bos}` is not among the {} words", words.len())));
    }
    let description = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": false},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
    });
    storage::write_atomic(&path, description.to_string().as_bytes())?;
    let roles = json!({
        "add_bos_token": false,
        "bos_token": bos,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    storage::write_atomic(&folder.join("tokenizer_config.json"), roles.to_string().as_bytes())?;
    Tokenizer::from_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bos;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn words_are_tokens_with_offsets() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = word_level(folder.path(), &words(&["<bos>", "\n", "(", "A", "w10"]), "<bos>").unwrap();
        let text = "( A \n w10";
        let (encoded, covered) = tokenizer.encode_with_offsets(text, Bos::Always).unwrap();
        assert_eq!((encoded.ids, encoded.prepended_bos), (vec![0, 2, 3, 1, 4], true));
        let parts: Vec<&str> = covered.into_iter().map(|range| &text[range]).collect();
        assert_eq!(parts, ["", "(", "A", "\n", "w10"]);
        assert!(!tokenizer.encode(text, Bos::Default).unwrap().prepended_bos);
        assert!(tokenizer.encode("( B", Bos::Never).is_err());
    }

    #[test]
    fn invalid_vocabularies_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |list: &[&str], bos: &str| word_level(folder.path(), &words(list), bos).unwrap_err().to_string();
        assert!(refused(&["a", "a"], "a").contains("twice"));
        assert!(refused(&["a", "b c"], "a").contains("`b c`"));
        assert!(refused(&["a"], "x").contains("`x`"));
    }
}
