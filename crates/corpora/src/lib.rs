//! Published text corpora as fixed-length chunks of tokens for training and evaluation.
//!
//! # Overview
//!
//! - A [`Source`] is a file, a folder or a data set on the hub. [`Source::rows`] iterates over its documents with bounded
//!   memory, from `.txt`, `.jsonl` and `.parquet` files.
//! - [`pack()`] encodes the documents, joins them and cuts them into chunks as a [`Recipe`] specifies. The result is a
//!   folder that is named after a hash of everything that determines its bytes, so an existing folder is reused and an
//!   interrupted one resumes.
//! - A [`Corpus`] is a finished folder. [`Packed`] maps one of its splits into memory and returns chunks.
//! - [`first_rows`] and [`shuffled_chunks`] take small samples in memory, without packing.
//! - [`unseen`] and [`filtered`] find token ids that a training corpus never contains, and remove rows with such ids.
//!
//! # Published corpora
//!
//! The recipes and filters reproduce arXiv 2507.02559 (LayerNorm removal) and its code:
//! - [`Recipe::openwebtext`] is its fine-tuning and validation data; [`Expected::openwebtext`] has the published counts.
//! - [`Recipe::pile`] is its evaluation set of the Pile.
//! - [`unseen`] computes its Table 5, and [`filtered`] its data set Pile-filtered.
//!
//! The held-out documents follow from numpy's generator, which [`numpy`] reproduces. Other shuffles use our own ChaCha
//! stream and differ from those of Python's libraries.
//!
//! # Units
//!
//! Counts are numbers of documents (rows of the source), tokens or chunks. Every chunk of a corpus has
//! [`Recipe::block`] tokens; tokens that do not fill a chunk are dropped.
//!
//! # Example
//!
//! Two documents of three and two words, packed into chunks of three tokens. Token 0 ends each document, and the last
//! token does not fill a chunk.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::ops::ControlFlow;
//!
//! use corpora::{Column, Job, Recipe, Source, pack};
//!
//! let folder = tempfile::tempdir()?;
//! let texts = folder.path().join("texts.jsonl");
//! std::fs::write(&texts, "{\"text\": \"a b c\"}\n{\"text\": \"d e\"}\n")?;
//! let words = ["<|endoftext|>", "a", "b", "c", "d", "e"].map(str::to_owned);
//! let tokenizer = tokens::word_level(&folder.path().join("tokenizer"), &words, "<|endoftext|>")?;
//!
//! let source = Source::Local(texts);
//! let recipe: Recipe = serde_json::from_str(r#"{"block": 3, "end": true}"#)?;
//! let job = Job { source: &source, column: &Column::text(), tokenizer: &tokenizer, recipe: &recipe };
//! let corpus = pack(&folder.path().join("corpora"), &job, None, &mut |_| ControlFlow::Continue(()))?;
//!
//! let chunks: Vec<Vec<u32>> = corpus.split("all")?.chunks().collect();
//! assert_eq!(chunks, [[1, 2, 3], [0, 4, 5]]);
//! assert_eq!(corpus.manifest.documents, 2);
//! # Ok(())
//! # }
//! ```
//!
//! A data set on the hub needs a hub, which fetches its files as they are reached:
//!
//! ```no_run
//! # fn main() -> Result<(), corpora::Error> {
//! use std::{ops::ControlFlow, path::Path};
//!
//! use corpora::{Column, Job, Recipe, Source, pack};
//!
//! let hub = hub::Hub::from_env()?;
//! let source: Source = "hub:Skylion007/openwebtext".parse()?;
//! let tokenizer = tokens::Tokenizer::from_folder(Path::new("gpt2"))?;
//! let job = Job { source: &source, column: &Column::text(), tokenizer: &tokenizer, recipe: &Recipe::openwebtext() };
//! let corpus = pack(Path::new("corpora"), &job, Some(&hub), &mut |_| ControlFlow::Continue(()))?;
//! let first: Vec<u32> = corpus.split("validation")?.chunk(0);
//! # Ok(())
//! # }
//! ```

mod documents;
mod error;
mod expected;
mod manifest;
pub mod numpy;
mod order;
mod pack;
mod packed;
mod parquet;
mod parts;
mod recipe;
mod sample;
mod source;
mod vocabulary;

pub use documents::{Content, Rows, TokenRows};
pub use error::Error;
pub use expected::{Expected, ExpectedSplit};
pub use manifest::{MANIFEST, Manifest, ShardCount, SplitCount};
pub use order::Batches;
pub use pack::{Job, Step, pack};
pub use packed::{Corpus, Packed};
pub use recipe::{Holdout, Recipe};
pub use sample::{first_rows, shuffled_chunks};
pub use source::{Column, Source};
pub use vocabulary::{Counts, Without, filtered, unseen};
