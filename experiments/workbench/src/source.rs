//! A model by what people call it: a folder, a GGUF file, or a repository of the hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use hub::{Hub, Repo};
use models::{Config, Decoder, Family, Transform};
use tokens::Tokenizer;
use weights::Checkpoint;

/// Which model, and how it is changed.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// A folder as on the hub, a .gguf file, or a repository such as openai-community/gpt2 or its revision gpt2@607a30d
    #[arg(long, value_name = "DIR|GGUF|REPO")]
    model: String,
    /// Exact changes of the weights, made in this order; none by default
    #[arg(long, value_delimiter = ',', value_enum)]
    transform: Vec<Change>,
    /// MiB of memory that may be used; by default, what is free
    #[arg(long, value_name = "MIB")]
    max_memory: Option<usize>,
}

/// [`Transform`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Change {
    /// Gains and biases of norms go into the maps that read them
    FoldNorms,
    /// What writes to the stream writes no mean (LayerNorm models)
    CentreWriting,
    /// The unembedding has no mean over the vocabulary
    CentreUnembed,
    /// Biases of values go into the bias of what heads write
    FoldValueBiases,
}

impl From<Change> for Transform {
    fn from(change: Change) -> Self {
        match change {
            Change::FoldNorms => Self::FoldNorms,
            Change::CentreWriting => Self::CentreWriting,
            Change::CentreUnembed => Self::CentreUnembed,
            Change::FoldValueBiases => Self::FoldValueBiases,
        }
    }
}

/// A model that is ready.
pub struct Opened {
    /// The model.
    pub model: Decoder,
    /// Its family.
    pub family: Family,
    /// Its tokenizer, or why there is none.
    pub tokenizer: Result<Tokenizer>,
    /// What it was called.
    pub name: String,
    /// Changes that were made.
    pub transforms: Vec<Transform>,
}

/// What a pass needs beyond the weights, in bytes.
pub fn needed(config: &Config, rows: usize, seq: usize, captured: usize) -> usize {
    // a few of the widest activations at a time, scores of one block, logits
    let widths = 8 * config.d_model + 4 * config.d_mlp + 2 * config.n_heads * seq + 2 * config.d_vocab;
    4 * (rows * widths + captured)
}

impl Source {
    /// Finds, checks and reads it.
    ///
    /// # Errors
    /// When it is nowhere, cannot be read, or does not fit into memory.
    pub fn open(&self) -> Result<Opened> {
        let path = locate(&self.model)?;
        let weights = usize::try_from(Checkpoint::open(&path)?.bytes()).unwrap_or(usize::MAX);
        if let Some(free) = self.memory()
            && weights > free
        {
            let (needed, free) = (weights >> 20, free >> 20);
            bail!("{}: the weights take {needed} MiB as f32, and {free} MiB are free (see --max-memory)", self.model);
        }
        let (model, family) = models::open(&path, DType::F32, &Device::Cpu)?;
        let transforms: Vec<Transform> = self.transform.iter().map(|change| (*change).into()).collect();
        let model = if transforms.is_empty() { model } else { model.transformed(&transforms)? }.frozen();
        let tokenizer = tokenizer(&path);
        Ok(Opened { model, family, tokenizer, name: self.model.clone(), transforms })
    }

    /// Bytes that may be used.
    pub fn memory(&self) -> Option<usize> {
        self.max_memory.map(|mib| mib << 20).or_else(available)
    }

    /// Refuses what would not fit, and says how many sequences would.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn check_memory(&self, what: &str, batch: usize, bytes: impl Fn(usize) -> usize) -> Result<()> {
        let Some(free) = self.memory().filter(|free| bytes(batch) > *free) else { return Ok(()) };
        let fitting = (1..batch).rev().find(|batch| bytes(*batch) <= free);
        let advice = match fitting {
            Some(fitting) => format!("a batch of {fitting} would fit"),
            None => "not even one sequence fits: take shorter ones or fewer sites".to_owned(),
        };
        bail!(
            "{what} takes about {} MiB, and {} MiB are free; {advice} (see --max-memory)",
            bytes(batch) >> 20,
            free >> 20
        );
    }
}

/// Free memory as Linux tells it.
fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok().map(|kib| kib << 10)
}

fn tokenizer(path: &Path) -> Result<Tokenizer> {
    let checkpoint = Checkpoint::open(path)?;
    if let Some(gguf) = checkpoint.gguf() {
        return Ok(Tokenizer::from_gguf(gguf)?);
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
    Ok(Tokenizer::from_folder(folder)?)
}

/// The path of what is there, or of what is fetched.
///
/// # Errors
/// When it is neither a path nor a repository.
pub fn locate(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let looks_like_path = name.starts_with(['.', '/', '~']) || name.ends_with(".gguf") || name.matches('/').count() > 1;
    if looks_like_path {
        bail!("{name}: no such file or folder");
    }
    fetch(name)
}

/// Fetches the files of a model and gives their folder.
///
/// # Errors
/// When the hub does not have it, or it has no safetensors.
pub fn fetch(name: &str) -> Result<PathBuf> {
    let (id, revision) = name.split_once('@').unwrap_or((name, "main"));
    let repo = Repo::model(id, revision);
    let hub = Hub::from_env()?.watched(|progress| {
        if progress.total == Some(progress.done) {
            eprintln!("{}: {} bytes", progress.file, progress.done);
        }
    });
    let config = hub
        .file(&repo, "config.json", None)
        .with_context(|| format!("`{name}` is no folder and no .gguf file here, so it was looked for on the hub"))?;
    let index = "model.safetensors.index.json";
    if hub.exists(&repo, index)? {
        let file = hub.file(&repo, index, None)?;
        let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let value: serde_json::Value = serde_json::from_slice(&text).with_context(|| format!("{}", file.display()))?;
        let map = value["weight_map"].as_object().with_context(|| format!("{}: no `weight_map`", file.display()))?;
        let mut shards: Vec<&str> = map.values().filter_map(serde_json::Value::as_str).collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            hub.file(&repo, shard, None)?;
        }
    } else {
        hub.file(&repo, "model.safetensors", None)
            .with_context(|| format!("{repo} has no safetensors; pickled weights are refused: convert them first"))?;
    }
    for extra in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        if hub.exists(&repo, extra)? {
            hub.file(&repo, extra, None)?;
        }
    }
    config.parent().map(Path::to_owned).context("a file of the cache has a folder")
}
