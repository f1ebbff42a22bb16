//! The embedding store: what was read of each document, in shards on disk, made once and used by every later experiment.
//!
//! A shard is a safetensors file of a few thousand documents with one tensor per pooling, `[documents, d_model]`, and says
//! whose states it holds; one that is there already and says the same is not made again. Only one is in memory at a time while
//! they are made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::analogies::Analogy;
use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use experiment::Needed;
use serde::{Deserialize, Serialize};
use weights::Named;

use crate::documents::Set;
use crate::layers::Pooling;

/// What of a set of documents is on disk, for the table of contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    /// Documents.
    pub documents: usize,
    /// Files, in the order of the documents.
    pub shards: Vec<String>,
    /// Hash of the prompts.
    pub prompts: String,
}

/// The table of contents of a model's states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The model, as the configuration names it.
    pub model: String,
    /// Its trainable numbers.
    pub parameters: usize,
    /// Width of a state.
    pub d_model: usize,
    /// Places of the states, the last one behind the final norm.
    pub sites: Vec<String>,
    /// Clusters of k-means over them.
    pub clusters: usize,
    /// Sets of documents.
    pub sets: BTreeMap<String, Shelf>,
}

impl Contents {
    /// Reads a table of contents.
    pub fn read(need: &Needed, source: &str) -> Result<Self> {
        let path = need.output(&contents_file(source)).with_context(|| {
            format!("there are no states of `{source}`; name it under params.sources there and run it again")
        })?;
        let text = storage::read_text(&path)?;
        serde_json::from_str(&text).with_context(|| format!("{} is no table of contents", path.display()))
    }
}

/// Hash of the prompts of some documents.
pub fn hash(set: Set, documents: &[Analogy]) -> String {
    let prompts: Vec<String> = documents.iter().map(|one| set.prompt(one)).collect();
    storage::hash_bytes(prompts.join("\n").as_bytes())
}

/// Where the table of contents of a model lies.
pub fn contents_file(source: &str) -> String {
    format!("stores/{source}.json")
}

/// Where a shard lies; shards are not kept in the repository.
pub fn shard_file(source: &str, set: Set, number: usize) -> String {
    format!("artifacts/{source}/{}-{number:05}.safetensors", set.name())
}

/// Writes a shard, with what the model says next as JSON.
pub fn write(path: &Path, identity: &str, told: &str, tensors: &Named) -> Result<()> {
    let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Ok(weights::save(path, &BTreeMap::from([entry("identity", identity), entry("told", told)]), tensors)?)
}

/// A shard of this identity and what the model says next, if it is there and whole: one that is damaged, cut short or of
/// another configuration is simply made again.
pub fn load(path: &Path, identity: &str) -> Option<(Named, String)> {
    let mut file = weights::load(path, &Device::Cpu).ok()?;
    let told = file.metadata.remove("told")?;
    (file.metadata.get("identity")? == identity).then_some((file.tensors, told))
}

/// One tensor of a set of documents, all shards after each other, f32 on the CPU.
pub fn read(need: &Needed, source: &str, (set, documents): (Set, &[Analogy]), pooling: Pooling) -> Result<Tensor> {
    let contents = Contents::read(need, source)?;
    let shelf = contents.sets.get(set.name()).with_context(|| format!("`{source}` has no states of {}", set.name()))?;
    if shelf.prompts != hash(set, documents) {
        bail!(
            "the states of `{source}` are of other documents than {} says now: run it again",
            need.manifest().config.experiment
        );
    }
    let parts = shelf.shards.iter().map(|file| {
        let path = available(need, file)?;
        let tensors = weights::load(&path, &Device::Cpu)?.tensors;
        let tensor = tensors.get(pooling.name());
        let tensor = tensor.with_context(|| format!("{} has no `{}`", path.display(), pooling.name()))?;
        Ok(tensor.to_dtype(DType::F32)?)
    });
    let parts = parts.collect::<Result<Vec<Tensor>>>()?;
    let all = Tensor::cat(&parts, 0)?;
    if all.dim(0)? != shelf.documents {
        bail!("the store of `{source}` has {} documents instead of {}", all.dim(0)?, shelf.documents);
    }
    Ok(all)
}

/// A file that is not kept in the repository.
pub fn available(need: &Needed, file: &str) -> Result<PathBuf> {
    need.output(file).with_context(|| {
        let of = &need.manifest().config;
        let (paper, experiment) = (&of.paper, &of.experiment);
        format!("`{file}` is not kept in the repository; make it again: cargo xtask reproduce {paper}/{experiment}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_say_whose_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(shard_file("toy", Set::Words, 3));
        assert!(path.ends_with("artifacts/toy/words-00003.safetensors") && load(&path, "a").is_none());
        let tensors =
            Named::from([("last_layer".to_owned(), Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap())]);
        write(&path, "a", "[]", &tensors).unwrap();
        assert!(load(&path, "a").unwrap().1 == "[]" && load(&path, "b").is_none());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&path, "a").is_none(), "a damaged shard is made again");
    }
}
