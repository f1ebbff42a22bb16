//! Text to tokens and back, as the model's own tokenizer does it.
//!
//! The work is done by the `tokenizers` crate; this one finds its description (`tokenizer.json`, a folder as on the
//! hub, or the metadata of a GGUF file), checks what the crate takes on trust, and is explicit about BOS: every call
//! says whether it wants one, every answer whether there is one.

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
