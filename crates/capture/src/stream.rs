//! Activations of many batches, written to disk in shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use hooks::{HookedModel, Site, Tokens};
use weights::Named;

use crate::{Error, Keep, capture};

/// The files and sizes of a finished stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The shards, in the order of the batches.
    pub shards: Vec<PathBuf>,
    /// Number of sequences.
    pub sequences: usize,
    /// Number of tokens.
    pub tokens: usize,
}

/// Runs the model over batches and writes the activations at `sites` to `folder`, as `activations-00000.safetensors`
/// and so on. Each shard has about `shard_bytes` bytes, and only one is in memory at a time. `index.json` lists the
/// sites and the shards with their numbers of sequences; it is written last, so it exists only when the stream is
/// complete.
///
/// # Errors
/// When the folder already has an index, or a batch or a write fails.
///
/// # Examples
/// ```
/// # use candle_core::{Device, Tensor};
/// # use models::{Config, Decoder};
/// # use rand::SeedableRng;
/// # let sizes = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 32, d_vocab: 50, ..Config::gpt2_small() };
/// # let model = Decoder::fresh(&sizes, &mut rand_chacha::ChaCha12Rng::seed_from_u64(0), &Device::Cpu)?;
/// use capture::{Keep, select, stream};
///
/// let folder = tempfile::tempdir()?;
/// let sites = select(&model, &["blocks.*.hook_mlp_out"])?;
/// let batches = (0..3u32).map(|batch| Tensor::new(&[[batch, 1, 2], [batch, 3, 4]], &Device::Cpu));
/// let written = stream(&model, batches, &sites, &Keep::default(), folder.path(), 1 << 20)?;
/// assert_eq!((written.sequences, written.tokens, written.shards.len()), (6, 18, 1));
///
/// let shard = weights::load(&written.shards[0], &Device::Cpu)?;
/// assert_eq!(shard.tensors["blocks.1.hook_mlp_out"].dims(), [6, 3, 8]); // [sequences, seq, d_model]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    let mut open = OpenShard { folder, bytes: 0, parts: BTreeMap::new(), shards: Vec::new() };
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
    let file = |(path, sequences): &(PathBuf, usize)| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        serde_json::json!({ "file": name, "sequences": sequences })
    };
    let files: Vec<_> = open.shards.iter().map(file).collect();
    let names: Vec<String> = sites.iter().map(ToString::to_string).collect();
    let text = serde_json::json!({ "sites": names, "sequences": sequences, "tokens": tokens, "shards": files });
    storage::write_atomic(&index, format!("{text:#}\n").as_bytes())?;
    Ok(Written { shards: open.shards.into_iter().map(|(path, _)| path).collect(), sequences, tokens })
}

/// The shard that is being filled.
struct OpenShard<'a> {
    folder: &'a Path,
    bytes: usize,
    parts: BTreeMap<String, Vec<Tensor>>,
    shards: Vec<(PathBuf, usize)>,
}

impl OpenShard<'_> {
    fn add(&mut self, name: &str, tensor: Tensor) -> Result<(), Error> {
        let tensor = tensor.contiguous()?;
        self.bytes += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let parts = self.parts.entry(name.to_owned()).or_default();
        if let Some(first) = parts.first()
            && first.dims()[1..] != tensor.dims()[1..]
        {
            // sequences of another length begin another shard
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
