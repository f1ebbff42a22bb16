//! Named tensors on disk: safetensors files with a content hash, and readers for checkpoints of other programs.
//!
//! # Example
//!
//! [`save`] writes a file with a hash of its content, [`load`] checks all of it. [`Checkpoint`] opens any safetensors or
//! GGUF file and reads single tensors:
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use weights::{Checkpoint, Named};
//!
//! let folder = tempfile::tempdir()?;
//! let path = folder.path().join("model.safetensors");
//! let tensors: Named = [("w".to_owned(), Tensor::new(&[[1f32, 2.], [3., 4.]], &Device::Cpu)?)].into();
//! weights::save(&path, &[("kind".to_owned(), "example".to_owned())].into(), &tensors)?;
//!
//! let file = weights::load(&path, &Device::Cpu)?;
//! assert_eq!(file.metadata["kind"], "example");
//! let exact = file.into_exactly(&[("w".to_owned(), vec![2, 2])])?;
//! assert_eq!(exact["w"].to_vec2::<f32>()?, [[1., 2.], [3., 4.]]);
//!
//! let checkpoint = Checkpoint::open(folder.path())?;
//! assert_eq!(checkpoint.shape("w"), Some(vec![2, 2]));
//! assert_eq!(checkpoint.tensor("w", DType::F64, &Device::Cpu)?.dtype(), DType::F64);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Overview
//!
//! | | |
//! |---|---|
//! | [`save`], [`load`], [`TensorFile`] | safetensors files with metadata and a content hash; equal tensors give equal bytes |
//! | [`Checkpoint`] | weights of other programs: a file, a folder as on the hub (sharded or not), or GGUF |
//! | [`Gguf`] | the typed metadata of a GGUF file |
//! | [`export`] | a folder that transformers can load |
//!
//! # Contract
//!
//! [`load`] accepts a file as a whole or not at all: it checks the header, every shape, every byte (by the hash, if there is
//! one) and that every number is finite. A [`Checkpoint`] has no hash: its structure is checked when it is opened, its
//! numbers when they are read. Damaged and hostile headers give errors, never panics; each names the file, the tensor and
//! what to do.
//!
//! Pickled weights are refused, because reading a pickle can run code. The names and meaning of tensors are left to the
//! crate `models`.

mod checkpoint;
mod error;
mod export;
mod file;
mod gguf;
mod numbers;
mod shards;

pub use checkpoint::Checkpoint;
pub use error::Error;
pub use export::export;
pub use file::{Named, TensorFile, load, save};
pub use gguf::Gguf;

/// The model's configuration in a folder as on the hub.
const CONFIG: &str = "config.json";

/// The weights in a folder as on the hub, unless they are sharded.
const WEIGHTS: &str = "model.safetensors";
