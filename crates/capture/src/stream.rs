//! Activations of many tokens, to disk in shards as they come.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use hooks::{HookedModel, Site, Tokens};
use weights::Named;

use crate::{Error, Keep, capture};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The files, in the order of the batches.
    pub shards: Vec<PathBuf>,
    /// Sequences in all.
    pub sequences: usize,
    /// Tokens in all.
    pub tokens: usize,
}

/// Runs the model over batches and writes what it sees to `folder` as `activations-00000.safetensors` and so on, each of
/// about `shard_bytes`; only one shard is in memory at a time. `index.json`, written last, lists the shards with their
/// sequences and the sites.
///
/// # Errors
/// When the folder has shards already, a batch fails, or writing does; an index is only there when all is.
pub fn stream(
    model: &dyn HookedModel,
    batches: impl Iterator<Item = candle_core::Result<Tokens>>,
    sites: &[Site],
    keep: &Keep,
    folder: &Path,
    shard_bytes: usize,
) -> Result<Written, Error> {
    let index = folder.join("index.json");
    if index.exists() {
        return Err(Error::Occupied { path: index });
    }
    let mut open = Open { folder, bytes: 0, parts: BTreeMap::new(), shards: Vec::new() };
    let (mut sequences, mut tokens) = (0, 0);
    for batch in batches {
        let batch = batch?;
        let (count, seq) = batch.dims2()?;
        let seen = capture(model, &batch, sites, keep)?;
        open.add("tokens", batch)?;
        for site in sites {
            open.add(&site.to_string(), seen.get(*site)?.detach())?;
        }
        (sequences, tokens) = (sequences + count, tokens + count * seq);
        if open.bytes >= shard_bytes {
            open.close()?;
        }
    }
    open.close()?;
    let files: Vec<_> = open
        .shards
        .iter()
        .map(|(path, sequences)| serde_json::json!({ "file": path.file_name().map(|n| n.to_string_lossy()), "sequences": sequences }))
        .collect();
    let names: Vec<String> = sites.iter().map(ToString::to_string).collect();
    let text = serde_json::json!({ "sites": names, "sequences": sequences, "tokens": tokens, "shards": files });
    storage::write_atomic(&index, format!("{text:#}\n").as_bytes())?;
    Ok(Written { shards: open.shards.into_iter().map(|(path, _)| path).collect(), sequences, tokens })
}

/// The shard that is being filled.
struct Open<'a> {
    folder: &'a Path,
    bytes: usize,
    parts: BTreeMap<String, Vec<Tensor>>,
    shards: Vec<(PathBuf, usize)>,
}

impl Open<'_> {
    fn add(&mut self, name: &str, tensor: Tensor) -> Result<(), Error> {
        let tensor = tensor.contiguous()?;
        self.bytes += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let parts = self.parts.entry(name.to_owned()).or_default();
        if let Some(first) = parts.first()
            && first.dims()[1..] != tensor.dims()[1..]
        {
            // another length of sequence begins another shard
            let (name, tensor) = (name.to_owned(), tensor);
            self.close()?;
            return self.add(&name, tensor);
        }
        parts.push(tensor);
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        if self.parts.is_empty() {
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts);
        let whole = |(name, parts): (String, Vec<Tensor>)| Ok((name, Tensor::cat(&parts, 0)?));
        let named = parts.into_iter().map(whole).collect::<Result<Named, Error>>()?;
        let sequences = named.get("tokens").map_or(Ok(0), |tokens| tokens.dim(0))?;
        let path = self.folder.join(format!("activations-{:05}.safetensors", self.shards.len()));
        weights::save(&path, &BTreeMap::new(), &named)?;
        self.shards.push((path, sequences));
        self.bytes = 0;
        Ok(())
    }
}
