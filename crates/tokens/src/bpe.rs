//! Training of byte-level BPE vocabularies (arXiv 1508.07909, in GPT-2's variant).

use std::path::Path;

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{AddedToken, pre_tokenizers::byte_level::ByteLevel};

use crate::{Error, Tokenizer};

/// The token between documents, which also serves as BOS.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Learns a vocabulary of at most `d_vocab` tokens from texts, and writes it into a folder as transformers' files
/// (`tokenizer.json`, `tokenizer_config.json`).
///
/// The vocabulary contains all 256 bytes and [`END_OF_TEXT`], which is both BOS and EOS and is added only on request.
/// Texts are split into words as by GPT-2. The same texts give the same bytes. See the crate's example.
///
/// # Errors
/// When `d_vocab` is less than 257 (256 bytes and the special token), or the files cannot be written.
pub fn train_bpe<S: AsRef<str> + Send>(
    folder: &Path,
    texts: impl Iterator<Item = S> + Send,
    d_vocab: usize,
) -> Result<Tokenizer, Error> {
    let path = folder.join("tokenizer.json");
    let malformed = |reason: String| Error::Malformed { path: path.clone(), reason };
    if d_vocab < 257 {
        return Err(malformed(format!(
            "a vocabulary of {d_vocab} is too small: 256 bytes and {END_OF_TEXT} already need 257"
        )));
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let empty = json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    });
    let mut tokenizer =
        tokenizers::Tokenizer::from_bytes(empty.to_string()).map_err(|error| malformed(error.to_string()))?;
    let trainer = BpeTrainer::builder()
        .vocab_size(d_vocab)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts).map_err(|error| malformed(error.to_string()))?;
    let text = tokenizer.to_string(false).map_err(|error| malformed(error.to_string()))?;
    storage::write_atomic(&path, text.as_bytes())?;
    let roles = json!({
        "add_bos_token": false,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    storage::write_atomic(&folder.join("tokenizer_config.json"), roles.to_string().as_bytes())?;
    Tokenizer::from_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bos;

    fn trained(d_vocab: usize) -> (tempfile::TempDir, Result<Tokenizer, Error>) {
        let folder = tempfile::tempdir().unwrap();
        let texts = ["the cat sat on the mat", "the hat of the cat", "a cat that sat"].iter().cycle().take(30);
        let tokenizer = train_bpe(folder.path(), texts, d_vocab);
        (folder, tokenizer)
    }

    #[test]
    fn frequent_words_become_tokens_and_every_text_is_decoded() {
        let (folder, tokenizer) = trained(280);
        let tokenizer = tokenizer.unwrap();
        assert!(tokenizer.d_vocab() <= 280);
        assert_eq!(tokenizer.encode(" the cat", Bos::Never).unwrap().ids.len(), 2);
        for text in ["the cat sat", "Zürich, 12 °C\n\tend"] {
            let ids = tokenizer.encode(text, Bos::Never).unwrap().ids;
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        let with_bos = tokenizer.encode("the", Bos::Always).unwrap();
        assert_eq!(with_bos.ids[0], tokenizer.id(END_OF_TEXT).unwrap());
        assert!(!tokenizer.encode("the", Bos::Default).unwrap().prepended_bos);
        let again = trained(280).0;
        let bytes = |folder: &Path| std::fs::read(folder.join("tokenizer.json")).unwrap();
        assert_eq!(bytes(folder.path()), bytes(again.path()));
    }

    #[test]
    fn a_vocabulary_too_small_for_all_bytes_is_refused() {
        let (folder, refused) = trained(256);
        assert!(refused.unwrap_err().to_string().contains("257"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
