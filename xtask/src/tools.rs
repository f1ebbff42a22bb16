//! `cargo xtask trace`, `eval`, `generate`, `fetch` and `bench`: commands of experiments/workbench, built in release.

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::output::print_line;
use crate::places::Workspace;
use crate::runner::{self, Exit, INTERRUPTED, Messages};

const BENCH: &str = "Examples:
  cargo xtask bench                  which benches there are
  cargo xtask bench train            tokens per second of a training step
  cargo xtask bench capture          activations, patching and attribution beside TransformerLens
  cargo xtask bench mcq              total effect of every head and MLP beside TransformerLens
  cargo xtask bench vsa              hypervectors beside torchhd
  cargo xtask bench hyperprobe       encoders and states beside PyTorch and transformers
  cargo xtask bench removal          training while norms go, and evaluation without them, beside transformers
  cargo xtask bench train --help     its own options";

const TRACE: &str = "Examples:
  cargo xtask trace --model openai-community/gpt2 --prompt 'Hello world' \\
      --sites 'blocks.*.hook_resid_post' --out hello.safetensors
  cargo xtask trace --model SmolLM2.gguf --prompt 'Hello' --sites '*.attn.hook_pattern' --out p.safetensors
  cargo xtask trace --help           all options";

const EVAL: &str = "Examples:
  cargo xtask eval --model openai-community/gpt2 --text book.txt
  cargo xtask eval --model ./checkpoint --text book.txt --seq 512 --out losses.csv
  cargo xtask eval --help            all options";

const GENERATE: &str = "Examples:
  cargo xtask generate --model openai-community/gpt2 --prompt 'The capital of France is' --most 10
  cargo xtask generate --model SmolLM2.gguf --prompt 'Once upon a time' --temperature 0.8
  cargo xtask generate --help        all options";

const FETCH: &str = "Examples:
  cargo xtask fetch openai-community/gpt2            into the cache that Python's huggingface_hub uses, too
  cargo xtask fetch EleutherAI/pythia-70m@step3000   a revision
  cargo xtask fetch --help                           all options";

/// Time what takes the time
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = BENCH, disable_help_flag = true)]
pub struct Bench {
    /// A bench and its own options, passed on as they are
    #[arg(value_name = "BENCH", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Write a model's activations on some prompts to a safetensors file
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = TRACE, disable_help_flag = true)]
pub struct Trace {
    /// Options, passed on as they are
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Cross-entropy of a model on a text
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EVAL, disable_help_flag = true)]
pub struct Eval {
    /// Options, passed on as they are
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Let a model continue a text
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = GENERATE, disable_help_flag = true)]
pub struct Generate {
    /// Options, passed on as they are
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Fetch a model from the hub into the cache
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = FETCH, disable_help_flag = true)]
pub struct Fetch {
    /// Repositories and options, passed on as they are
    #[arg(value_name = "REPO", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs a bench.
///
/// # Errors
/// When the workbench cannot be built or started, or fails.
pub fn bench(workspace: &Workspace, args: &Bench) -> Result<u8> {
    if let [flag] = args.args.as_slice()
        && (flag == "--help" || flag == "-h")
    {
        print_line(format_args!(
            "Measure the speed of the expensive operations\n\nUsage: cargo xtask bench [BENCH] [OPTIONS]\n\n{BENCH}"
        ))?;
        return Ok(0);
    }
    run(workspace, "bench", &args.args)
}

/// Writes activations.
///
/// # Errors
/// As [`bench()`].
pub fn trace(workspace: &Workspace, args: &Trace) -> Result<u8> {
    run(workspace, "trace", &args.args)
}

/// Evaluates a text.
///
/// # Errors
/// As [`bench()`].
pub fn eval(workspace: &Workspace, args: &Eval) -> Result<u8> {
    run(workspace, "eval", &args.args)
}

/// Continues a text.
///
/// # Errors
/// As [`bench()`].
pub fn generate(workspace: &Workspace, args: &Generate) -> Result<u8> {
    run(workspace, "generate", &args.args)
}

/// Fetches a model.
///
/// # Errors
/// As [`bench()`].
pub fn fetch(workspace: &Workspace, args: &Fetch) -> Result<u8> {
    run(workspace, "fetch", &args.args)
}

fn run(workspace: &Workspace, tool: &str, args: &[String]) -> Result<u8> {
    runner::catch_signals()?;
    let name = "workbench".to_owned();
    let binary = binaries::build(workspace, &[&name], false)?;
    let binary = binary.get(&name).context("package `workbench` has no binary")?;
    let mut command = binaries::program(binary);
    // paths on the command line are those of whoever typed it; benches write to the workspace
    if tool == "bench" {
        command.current_dir(&workspace.root);
    }
    command.arg(tool).args(args);
    match runner::run(&mut command, &Messages::Direct)? {
        Exit::Done => Ok(0),
        Exit::Interrupted => Ok(INTERRUPTED),
        Exit::Failed { why, .. } => bail!("{tool} failed: {why}; its message is above"),
    }
}
