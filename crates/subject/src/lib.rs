//! The models that experiments look at, and small ones trained for them.
//!
//! Everything between a configuration's words and a model in memory is here once:
//!
//! - [`Shape`]: sizes of a small model, turned into a [`models::Config`];
//! - [`Model`]: one way to name a model (trained by an experiment, a folder, a GGUF file, a repository of the hub), and
//!   to open it;
//! - [`Corpus`]: text from files or from the hub, as packed tokens;
//! - [`LanguageModel`]: next-token training of a [`models::Decoder`], for [`experiment::Run::train`].
//!
//! Whatever is opened from a local path is recorded in the run with its content's hash, so that a result whose model or
//! text has changed since is never taken for current.
//!
//! ```
//! let shape: subject::Shape = serde_json::from_str(r#"{"n_layers": 2, "n_heads": 4, "d_model": 64}"#).unwrap();
//! let config = shape.config(100, 32);
//! assert_eq!((config.d_mlp, config.d_vocab, config.n_positions), (256, 100, 32));
//! ```
//!
//! Nothing here knows a paper: what a small model reads and how it is evaluated comes from the caller.

mod corpus;
mod language;
mod model;
mod shape;

pub use corpus::Corpus;
pub use language::{LanguageModel, LanguageTask, padded};
pub use model::{Model, Opened};
pub use shape::{Shape, ShapeFamily};
