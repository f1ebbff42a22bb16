//! The model of a command, and whether its work fits into memory.

use anyhow::{Result, bail};
use candle_core::Device;
use models::{Config, Decoder, Family, Transform};
use pretrained::Pretrained;
use tokens::Tokenizer;

/// The model and its transforms
#[derive(Debug, clap::Args)]
pub struct Source {
    /// A model folder in the hub's format, a .gguf file, a repository such as openai-community/gpt2 or a revision such
    /// as gpt2@607a30d
    #[arg(long, value_name = "DIR|GGUF|REPO")]
    model: String,
    /// Exact transforms of the weights, applied in this order; none by default
    #[arg(long, value_delimiter = ',', value_enum)]
    transform: Vec<Change>,
    /// Maximum memory in MiB; by default the free memory
    #[arg(long, value_name = "MIB")]
    max_memory: Option<usize>,
}

/// [`Transform`] on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Change {
    /// Fold the gains and biases of norms into the maps after them
    FoldNorms,
    /// Centre every write to the residual stream (LayerNorm models)
    CentreWriting,
    /// Centre the unembedding over the vocabulary
    CentreUnembed,
    /// Fold the biases of values into the bias of the attention output
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

/// An opened model.
pub struct Opened {
    /// The model.
    pub model: Decoder,
    /// The family.
    pub family: Family,
    /// The tokenizer, or the reason why there is none.
    pub tokenizer: Result<Tokenizer, tokens::Error>,
    /// The name on the command line.
    pub name: String,
    /// The transforms that were applied.
    pub transforms: Vec<Transform>,
}

/// The memory of a forward pass beyond the weights, in bytes.
pub fn needed(config: &Config, rows: usize, seq: usize, captured: usize) -> usize {
    // A few of the widest activations at a time, the scores of one block, and the logits.
    let widths = 8 * config.d_model + 4 * config.d_mlp + 2 * config.n_heads * seq + 2 * config.d_vocab;
    4 * (rows * widths + captured)
}

impl Source {
    /// Finds, checks and reads the model.
    ///
    /// # Errors
    ///
    /// Fails if the model is not found, cannot be read, or does not fit into memory.
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

    /// The number of bytes that may be used.
    pub fn memory(&self) -> Option<usize> {
        self.max_memory.map(|mib| mib << 20).or_else(pretrained::free_memory)
    }

    /// Rejects work that does not fit into memory, and names the batch size that fits.
    ///
    /// # Errors
    ///
    /// Fails if the work does not fit.
    pub fn check_memory(&self, what: &str, batch: usize, bytes: impl Fn(usize) -> usize) -> Result<()> {
        let Some(free) = self.memory().filter(|free| bytes(batch) > *free) else { return Ok(()) };
        let fitting = (1..batch).rev().find(|batch| bytes(*batch) <= free);
        let advice = match fitting {
            Some(fitting) => format!("a batch of {fitting} would fit"),
            None => "not even one sequence fits; use shorter sequences or fewer sites".to_owned(),
        };
        bail!(
            "{what} takes about {} MiB, but only {} MiB are free; {advice} (see --max-memory)",
            bytes(batch) >> 20,
            free >> 20
        );
    }
}
