//! `eval`: the cross-entropy of a model on a text, per token.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use models::Step;
use tokens::Bos;

use crate::source::{Source, needed};
use crate::trace::Begin;

/// Computes the cross-entropy of a model on a text, in nats per token
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eval --model openai-community/gpt2 --text book.txt
  eval --model SmolLM2.gguf --text book.txt --seq 512 --out losses.csv")]
pub struct Arguments {
    #[command(flatten)]
    source: Source,
    /// The text file, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Number of tokens per window; windows do not overlap, and each starts without context
    #[arg(long, default_value_t = 1024)]
    seq: usize,
    /// Whether to put the beginning-of-text token before each window: tokenizer's default, always or never
    #[arg(long, value_enum, default_value_t = Begin::Default)]
    bos: Begin,
    /// Write the loss of each token to this CSV file, with the columns window, position, token, loss
    #[arg(long, value_name = "FILE.csv")]
    out: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<()> {
    let text = std::fs::read(&arguments.text).with_context(|| format!("reading {}", arguments.text.display()))?;
    let text = String::from_utf8(text)
        .with_context(|| format!("{} is not UTF-8 text; convert it first", arguments.text.display()))?;
    let opened = arguments.source.open()?;
    let config = opened.model.config();
    let tokenizer = opened.tokenizer.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
    let longest = config.n_positions;
    if arguments.seq < 2 || arguments.seq > longest {
        bail!("--seq {}: a window must have 2 to {longest} tokens with {}", arguments.seq, opened.name);
    }
    let ids = tokenizer.encode(&text, Bos::Never)?.ids;
    let begin = match arguments.bos {
        Begin::Never => None,
        Begin::Always => {
            Some(tokenizer.bos().context("this tokenizer has no beginning-of-text token; use --bos never")?)
        }
        Begin::Default => tokenizer.bos().filter(|_| tokenizer.adds_bos()),
    };
    let room = arguments.seq - usize::from(begin.is_some());
    arguments.source.check_memory("evaluating", 1, |batch| {
        needed(config, batch * arguments.seq, arguments.seq, batch * arguments.seq * config.d_vocab)
    })?;
    let first: Vec<u32> = ids.iter().take(16).copied().collect();
    println!("{} tokens, the first: {first:?}", ids.len());
    let words = match begin {
        Some(id) => format!("a beginning-of-text token ({id}) is prepended to each window"),
        None => "no beginning-of-text token is prepended".to_owned(),
    };
    println!("{words}");
    let mut losses = Vec::new();
    let mut table = String::from("window,position,token,loss\n");
    for (window, part) in ids.chunks(room).enumerate() {
        let tokens: Vec<u32> = begin.iter().chain(part).copied().collect();
        if tokens.len() < 2 {
            continue;
        }
        let inputs = Tensor::new(&tokens[..tokens.len() - 1], &Device::Cpu)?.unsqueeze(0)?;
        let targets = Tensor::new(&tokens[1..], &Device::Cpu)?.unsqueeze(0)?;
        let seen = opened.model.losses(&inputs, &targets, &[], Step::default())?.losses.to_vec1::<f32>()?;
        for (position, (token, loss)) in tokens[1..].iter().zip(&seen).enumerate() {
            let _ = writeln!(table, "{window},{},{token},{loss}", position + 1);
        }
        losses.extend(seen.into_iter().map(f64::from));
    }
    if losses.is_empty() {
        bail!("{}: the text has fewer than two tokens, so there is nothing to predict", arguments.text.display());
    }
    report(&mut losses);
    if let Some(out) = &arguments.out {
        storage::write_atomic(out, table.as_bytes())?;
        println!("{}", out.display());
    }
    Ok(())
}

fn report(losses: &mut [f64]) {
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    println!("cross-entropy: {mean:.5} nats per token over {} tokens (perplexity {:.3})", losses.len(), mean.exp());
    losses.sort_by(f64::total_cmp);
    let at = |share: f64| losses[((losses.len() - 1) as f64 * share).round() as usize];
    let shares = [1, 5, 25, 50, 75, 95, 99];
    let texts: Vec<String> = shares.iter().map(|p| format!("{p}%: {:.4}", at(f64::from(*p) / 100.))).collect();
    println!("percentiles: {}", texts.join("  "));
}
