//! Which model a command is about, and whether its work fits into memory.

use anyhow::{Result, bail};
use candle_core::Device;
use models::{Config, Decoder, Family, Transform};
use pretrained::Pretrained;
use tokens::Tokenizer;

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
    pub tokenizer: Result<Tokenizer, tokens::Error>,
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
        let Pretrained { model, family, tokenizer, .. } = Pretrained::open(&self.model, &Device::Cpu, self.memory())
            .map_err(|error| match error {
                error @ pretrained::Error::Memory { .. } => anyhow::anyhow!("{error} (see --max-memory)"),
                error => error.into(),
            })?;
        let transforms: Vec<Transform> = self.transform.iter().map(|change| (*change).into()).collect();
        let model = if transforms.is_empty() { model } else { model.transformed(&transforms)? }.frozen();
        Ok(Opened { model, family, tokenizer, name: self.model.clone(), transforms })
    }

    /// Bytes that may be used.
    pub fn memory(&self) -> Option<usize> {
        self.max_memory.map(|mib| mib << 20).or_else(pretrained::free_memory)
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
