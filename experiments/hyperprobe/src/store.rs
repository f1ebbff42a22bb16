//! The embedding store: the readings of each document, in shards on disk that later experiments share.
//!
//! A shard is a safetensors file of a few thousand documents. It holds one tensor per pooling, `[documents, d_model]`,
//! and the identity of its contents. A shard with a matching identity is reused. Only one shard is in memory while the
//! store is being written.

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

/// The shards of one set of documents, as listed in the table of contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    /// Number of documents.
    pub documents: usize,
    /// The shard files, in the order of the documents.
    pub shards: Vec<String>,
    /// Hash of the prompts.
    pub prompts: String,
}

/// The table of contents of a model's states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The model, as the configuration names it.
    pub model: String,
    /// Number of trainable parameters.
    pub parameters: usize,
    /// The width of a state.
    pub d_model: usize,
    /// The sites of the states; the last one is after the final norm.
    pub sites: Vec<String>,
    /// The number of k-means clusters over the states.
    pub clusters: usize,
    /// The shards of each set of documents, by the name of the set.
    pub sets: BTreeMap<String, Shelf>,
}

impl Contents {
    /// Reads the table of contents of a source.
    pub fn read(need: &Needed, source: &str) -> Result<Self> {
        let path = need.output(&contents_file(source)).with_context(|| {
            format!("no states of `{source}` were stored; add it to params.sources of that experiment and run it again")
        })?;
        let text = storage::read_text(&path)?;
        serde_json::from_str(&text).with_context(|| {
            format!("{} is not a table of contents; run the experiment that writes it again", path.display())
        })
    }
}

/// The hash of the prompts of some documents.
pub fn hash(set: Set, documents: &[Analogy]) -> String {
    let prompts: Vec<String> = documents.iter().map(|one| set.prompt(one)).collect();
    storage::hash_bytes(prompts.join("\n").as_bytes())
}

/// The file of a model's table of contents.
pub fn contents_file(source: &str) -> String {
    format!("stores/{source}.json")
}

/// The file of a shard. Shards are not kept in the repository.
pub fn shard_file(source: &str, set: Set, number: usize) -> String {
    format!("artifacts/{source}/{}-{number:05}.safetensors", set.name())
}

/// Writes a shard, with the next-token evaluations as JSON.
pub fn write(path: &Path, identity: &str, next_tokens: &str, tensors: &Named) -> Result<()> {
    let entry = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Ok(weights::save(path, &BTreeMap::from([entry("identity", identity), entry("next_tokens", next_tokens)]), tensors)?)
}

/// Reads a shard of this identity and its next-token evaluations. Returns `None` if the shard is missing, damaged,
/// truncated or of another identity, so that the caller writes it again.
pub fn load(path: &Path, identity: &str) -> Option<(Named, String)> {
    let mut file = weights::load(path, &Device::Cpu).ok()?;
    let next_tokens = file.metadata.remove("next_tokens")?;
    (file.metadata.get("identity")? == identity).then_some((file.tensors, next_tokens))
}

/// Reads one pooling of a set of documents from all shards, `[documents, d_model]`, as f32 on the CPU.
pub fn read(need: &Needed, source: &str, (set, documents): (Set, &[Analogy]), pooling: Pooling) -> Result<Tensor> {
    let contents = Contents::read(need, source)?;
    let shelf = contents.sets.get(set.name()).with_context(|| {
        format!("the store of `{source}` has no states of the set `{}`; run that experiment again", set.name())
    })?;
    if shelf.prompts != hash(set, documents) {
        bail!(
            "the states of `{source}` belong to other documents than {} now specifies; run it again",
            need.manifest().config.experiment
        );
    }
    let parts = shelf.shards.iter().map(|file| {
        let path = available(need, file)?;
        let tensors = weights::load(&path, &Device::Cpu)?.tensors;
        let tensor = tensors.get(pooling.name());
        let tensor = tensor.with_context(|| {
            format!("{} has no tensor `{}`; run the experiment that writes it again", path.display(), pooling.name())
        })?;
        Ok(tensor.to_dtype(DType::F32)?)
    });
    let parts = parts.collect::<Result<Vec<Tensor>>>()?;
    let all = Tensor::cat(&parts, 0)?;
    if all.dim(0)? != shelf.documents {
        bail!(
            "the store of `{source}` has {} documents, expected {}; run that experiment again",
            all.dim(0)?,
            shelf.documents
        );
    }
    Ok(all)
}

/// The path of a file that is not kept in the repository. Fails with the command that recreates it.
pub fn available(need: &Needed, file: &str) -> Result<PathBuf> {
    need.output(file).with_context(|| {
        let of = &need.manifest().config;
        let (paper, experiment) = (&of.paper, &of.experiment);
        format!("`{file}` is not kept in the repository; recreate it with: cargo xtask reproduce {paper}/{experiment}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_shards_of_the_same_identity_are_reused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(shard_file("small", Set::Words, 3));
        assert!(path.ends_with("artifacts/small/words-00003.safetensors") && load(&path, "a").is_none());
        let tensors =
            Named::from([("last_layer".to_owned(), Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap())]);
        write(&path, "a", "[]", &tensors).unwrap();
        assert!(load(&path, "a").unwrap().1 == "[]" && load(&path, "b").is_none());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(load(&path, "a").is_none(), "a damaged shard is written again");
    }
}
