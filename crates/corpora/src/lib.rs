//! Published texts as tokens: from where they lie to chunks of one length that training and evaluation read.
//!
//! A [`Source`] is a file, a folder or a data set on the hub; its [`Rows`] come one by one, with bounded memory.
//! [`pack()`] turns rows into chunks as a [`Recipe`] says and keeps them in a folder, from which [`Packed`] maps them.
//! [`Recipe::openwebtext`] and [`Recipe::pile`] are those of arXiv 2507.02559 (LayerNorm removal), as its code has
//! them; [`Expected`] are the counts that the first must give. [`unseen`] and [`filtered`] are its Table 5 and what it
//! calls Pile-filtered.
//!
//! Counts are of documents (rows), tokens and chunks; nothing here has another unit.
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
//! let validation = corpus.split("validation")?;
//! let first: Vec<u32> = validation.chunk(0);
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
