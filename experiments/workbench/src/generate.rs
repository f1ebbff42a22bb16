//! `generate`: continues texts with a model.

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use capture::{Choice, generate};
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use crate::source::{Source, needed};
use crate::trace::Begin;

/// Continues texts with the most likely tokens, or with tokens sampled at a temperature
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  generate --model openai-community/gpt2 --prompt 'The capital of France is' --most 10
  generate --model SmolLM2.gguf --prompt 'Once upon a time' --temperature 0.8 --seed 3 --stop '\\n'")]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// A text to continue; repeat the option for more texts
    #[arg(long, value_name = "TEXT", required = true)]
    prompt: Vec<String>,
    /// Maximum number of new tokens
    #[arg(long, default_value_t = 50)]
    most: usize,
    /// Sample tokens from the logits divided by this temperature; by default the most likely token is chosen
    #[arg(long)]
    temperature: Option<f64>,
    /// Seed of the sampling
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A text that ends the generation; it must be a single token, and
    /// means a line break. The end-of-text token always ends it
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Whether to put the beginning-of-text token first: tokenizer's default, always or never
    #[arg(long, value_enum, default_value_t = Begin::Default)]
    bos: Begin,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let opened = arguments.source.open()?;
    let config = opened.model.config();
    let tokenizer = opened.tokenizer.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
    let mut stop: Vec<u32> = tokenizer.eos().into_iter().collect();
    for text in &arguments.stop {
        match tokenizer.encode(&text.replace("\\n", "\n"), tokens::Bos::Never)?.ids.as_slice() {
            [id] => stop.push(*id),
            ids => {
                bail!("--stop {text:?} is {} tokens of this tokenizer ({ids:?}); it must be a single token", ids.len())
            }
        }
    }
    let choice = Choice { most: arguments.most, stop, temperature: arguments.temperature };
    for (number, prompt) in arguments.prompt.iter().enumerate() {
        let ids = tokenizer.encode(prompt, arguments.bos.into())?.ids;
        let (seq, longest) = (ids.len() + choice.most, config.n_positions);
        if ids.is_empty() {
            bail!("prompt {} has no tokens; give a longer text or --bos always", number + 1);
        }
        if seq > longest {
            bail!(
                "{} tokens and {} new ones exceed the {longest} positions of {}",
                ids.len(),
                choice.most,
                opened.name
            );
        }
        let kept = 2 * config.n_layers * config.n_key_value_heads() * config.d_head() * seq;
        arguments.source.check_memory("generating", 1, |batch| batch * needed(config, seq, seq, kept))?;
        let mut rng = ChaCha12Rng::seed_from_u64(arguments.seed);
        rng.set_stream(number as u64);
        let prompts = Tensor::new(ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?;
        for new in generate(&opened.model, &prompts, &choice, &mut rng)? {
            println!("{}", tokenizer.decode(&[ids.as_slice(), &new].concat())?);
        }
    }
    Ok(())
}
