//! `cargo xtask trace`, `eval`, `generate`, `fetch` and `bench`: commands of experiments/workbench, built in release.

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::output::print_line;
use crate::places::Workspace;
use crate::runner::{self, Exit, INTERRUPTED, Messages};

const BENCH: &str = "Examples:
  cargo xtask bench                  list the benchmarks
  cargo xtask bench train            tokens per second of a training step
  cargo xtask bench capture          activations, patching and attribution, compared with TransformerLens
  cargo xtask bench mcq              total effect of every head and MLP, compared with TransformerLens
  cargo xtask bench vsa              hypervectors, compared with torchhd
  cargo xtask bench hyperprobe       encoders and states, compared with PyTorch and transformers
  cargo xtask bench removal          training and evaluation with norms removed, compared with transformers
  cargo xtask bench train --help     options of this benchmark";

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
  cargo xtask fetch openai-community/gpt2            into the cache shared with Python's huggingface_hub
  cargo xtask fetch EleutherAI/pythia-70m@step3000   a revision
  cargo xtask fetch --help                           all options";

/// Measure the speed of the expensive operations
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = BENCH, disable_help_flag = true)]
pub struct Bench {
    /// A benchmark and its options
    #[arg(value_name = "BENCH", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Write a model's activations on given prompts to a safetensors file
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = TRACE, disable_help_flag = true)]
pub struct Trace {
    /// Options of the command; see --help
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Compute the cross-entropy of a model on a text
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EVAL, disable_help_flag = true)]
pub struct Eval {
    /// Options of the command; see --help
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Continue a text with a model
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = GENERATE, disable_help_flag = true)]
pub struct Generate {
    /// Options of the command; see --help
    #[arg(value_name = "OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Fetch a model from the hub into the cache
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = FETCH, disable_help_flag = true)]
pub struct Fetch {
    /// Repositories and options; see --help
    #[arg(value_name = "REPO", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs a benchmark.
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
    // paths on the command line are relative to the current folder; benchmarks write to the workspace
    if tool == "bench" {
        command.current_dir(&workspace.root);
    }
    command.arg(tool).args(args);
    match runner::run(&mut command, &Messages::Direct)? {
        Exit::Done => Ok(0),
        Exit::Interrupted => Ok(INTERRUPTED),
        Exit::Failed { why, .. } => bail!("{tool} failed: {why}; see its message above"),
    }
}
