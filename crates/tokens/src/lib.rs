//! Tokenizers: text to token ids and back, exactly as a model's own tokenizer does it.
//!
//! # Example
//!
//! ```
//! use tokens::{Bos, END_OF_TEXT};
//!
//! let folder = tempfile::tempdir()?;
//! let texts = ["the cat sat on the mat"; 20];
//! let tokenizer = tokens::train_bpe(folder.path(), texts.iter(), 270)?;
//!
//! let encoded = tokenizer.encode("the cat", Bos::Always)?;
//! assert!(encoded.prepended_bos);
//! assert_eq!(encoded.ids[0], tokenizer.id(END_OF_TEXT).unwrap());
//! assert_eq!(tokenizer.decode(&encoded.ids[1..])?, "the cat");
//!
//! // the folder holds the files of transformers, so it can be opened again
//! let again = tokens::Tokenizer::from_folder(folder.path())?;
//! assert_eq!(again.encode("the cat", Bos::Always)?, encoded);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Overview
//!
//! | | |
//! |---|---|
//! | [`Tokenizer`] | reads `tokenizer.json`, a folder as on the hub, or the metadata of a GGUF file; encodes and decodes |
//! | [`train_bpe`] | learns a byte-level BPE vocabulary from texts |
//! | [`word_level`] | writes a closed vocabulary of whole words |
//! | [`of_one_length`] | groups sequences into batches of equal length |
//!
//! # Contract
//!
//! The crate `tokenizers` does the encoding. This one checks what that crate assumes: ids are unique, merges exist, nothing
//! is random, and no character is dropped without an error. BOS is explicit: every call states whether it wants one, and
//! every result states whether one was added. No other special token is ever added.
//!
//! There is no truncation, padding or chat template.

mod batches;
mod bpe;
mod check;
mod error;
mod folder;
mod gguf;
mod sentencepiece;
mod tokenizer;
mod words;

pub use batches::of_one_length;
pub use bpe::{END_OF_TEXT, train_bpe};
pub use error::Error;
pub use tokenizer::{Bos, Encoded, Tokenizer};
pub use words::word_level;
