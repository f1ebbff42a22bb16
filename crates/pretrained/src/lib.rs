//! A model by what people call it: a folder as on the hub, a GGUF file, or a repository of the hub.
//!
//! [`Pretrained::open`] finds it, fetches it if need be, checks that it fits into memory, and reads weights and
//! tokenizer.

mod error;
mod find;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use models::{Config, Decoder, Family};
use tokens::Tokenizer;
use weights::Checkpoint;

pub use error::Error;
pub use find::{fetch, locate};

/// A model that is ready.
pub struct Pretrained {
    /// The model, f32, with the checkpoint's own weights.
    pub model: Decoder,
    /// Its family.
    pub family: Family,
    /// Its tokenizer, or why there is none.
    pub tokenizer: Result<Tokenizer, tokens::Error>,
    /// Where it lies.
    pub path: PathBuf,
}

impl Pretrained {
    /// Finds and reads the model called `name`, using at most `memory` bytes (see [`free_memory`]) for its weights.
    ///
    /// # Errors
    /// When it is nowhere, cannot be read, or does not fit.
    pub fn open(name: &str, device: &Device, memory: Option<usize>) -> Result<Self, Error> {
        let path = locate(name)?;
        let checkpoint = Checkpoint::open(&path)?;
        let weights = usize::try_from(checkpoint.bytes()).unwrap_or(usize::MAX);
        if let Some(free) = memory.filter(|free| weights > *free) {
            return Err(Error::Memory { name: name.to_owned(), needed: weights >> 20, free: free >> 20 });
        }
        let (model, family) = models::read(&checkpoint, DType::F32, device)?;
        Ok(Self { model, family, tokenizer: tokenizer_of(&checkpoint), path })
    }
}

/// Family and sizes of the model called `name`; of a repository, only its `config.json` is fetched.
///
/// # Errors
/// When it is nowhere, or of a family that is not known; the message lists those that are.
pub fn describe(name: &str) -> Result<(Family, Config), Error> {
    let path = if find::is_here(name)? { PathBuf::from(name) } else { find::fetch_config(name)? };
    let described = match path.is_dir() {
        true => models::read_hub_config(&path.join("config.json")),
        false if path.ends_with("config.json") => models::read_hub_config(&path),
        false => models::describe_checkpoint(&path),
    };
    Ok(described?)
}

/// The tokenizer of the model called `name`, without its weights.
///
/// # Errors
/// When the model is nowhere or unreadable; the inner error when it has no tokenizer.
pub fn tokenizer(name: &str) -> Result<Result<Tokenizer, tokens::Error>, Error> {
    Ok(tokenizer_of(&Checkpoint::open(&locate(name)?)?))
}

fn tokenizer_of(checkpoint: &Checkpoint) -> Result<Tokenizer, tokens::Error> {
    match checkpoint.gguf() {
        Some(gguf) => Tokenizer::from_gguf(gguf),
        None => {
            let path = checkpoint.path();
            Tokenizer::from_folder(if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) })
        }
    }
}

/// Bytes of memory that are free, as Linux tells it; elsewhere nothing is known.
#[must_use]
pub fn free_memory() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests;
