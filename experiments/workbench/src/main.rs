//! Tools that do not belong to a paper: activations, losses and generation for any checkpoint, and the benchmarks
//! behind `cargo xtask bench`.
// This program prints its results.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod eval;
mod generate;
mod hyper;
mod patch;
mod peer;
mod probe;
mod removal;
mod source;
mod trace;
mod train;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

// The same allocator as in the papers' programs, so that benchmarks measure what those run.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tools for any checkpoint, and benchmarks against other programs.
#[derive(Parser)]
#[command(name = "workbench", version)]
enum Arguments {
    Trace(trace::Arguments),
    Eval(eval::Arguments),
    Generate(generate::Arguments),
    /// Fetches models from the hub into the cache, which Python's huggingface_hub shares
    Fetch {
        /// Repositories such as openai-community/gpt2, or revisions such as EleutherAI/pythia-70m@step3000
        #[arg(required = true, value_name = "REPO")]
        models: Vec<String>,
    },
    /// Runs a benchmark against another program and writes its table
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Tokens per second of a full training step, compared with PyTorch
    Train(train::Arguments),
    /// Activations, patching and attribution, compared with TransformerLens
    Capture(patch::Arguments),
    /// Total effect of every head and MLP at the last position, compared with TransformerLens
    Mcq(patch::Arguments),
    /// Worker process of `capture` and `mcq`
    #[command(hide = true)]
    CaptureWorker {
        /// Folder of the model
        folder: std::path::PathBuf,
        /// JSON file with the tokens
        work: std::path::PathBuf,
    },
    /// Binding, bundling and clean-up of hypervectors, compared with torchhd
    Vsa(hyper::Arguments),
    /// Worker process of `vsa`
    #[command(hide = true)]
    VsaWorker {
        /// Folder of the vectors
        folder: std::path::PathBuf,
    },
    /// Training encoders of hypervectors and reading states, compared with PyTorch and transformers
    Hyperprobe(probe::Arguments),
    /// Worker process of `hyperprobe`
    #[command(hide = true)]
    HyperprobeWorker {
        /// Folder of the shared input
        folder: std::path::PathBuf,
    },
    /// Training while norms are removed, and evaluation without them, compared with transformers on PyTorch
    Removal(removal::Arguments),
    /// Worker process of `removal`
    #[command(hide = true)]
    RemovalWorker {
        /// Settings of the case, as JSON
        order: String,
    },
    /// Worker process of `train`
    #[command(hide = true)]
    TrainWorker {
        /// Settings of the case, as JSON
        order: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false).init();
    match arguments {
        Arguments::Trace(arguments) => trace::run(&arguments),
        Arguments::Eval(arguments) => eval::run(&arguments),
        Arguments::Generate(arguments) => generate::run(&arguments),
        Arguments::Fetch { models } => {
            for model in models {
                println!("{}", pretrained::fetch(&model)?.display());
            }
            Ok(())
        }
        Arguments::Bench(Bench::Capture(arguments)) => patch::bench(&arguments),
        Arguments::Bench(Bench::Mcq(arguments)) => patch::bench_circuits(&arguments),
        Arguments::Bench(Bench::CaptureWorker { folder, work }) => patch::serve(&folder, &work),
        Arguments::Bench(Bench::Vsa(arguments)) => hyper::bench(&arguments),
        Arguments::Bench(Bench::VsaWorker { folder }) => hyper::serve(&folder),
        Arguments::Bench(Bench::Hyperprobe(arguments)) => probe::bench(&arguments),
        Arguments::Bench(Bench::HyperprobeWorker { folder }) => probe::serve(&folder),
        Arguments::Bench(Bench::Removal(arguments)) => removal::bench(&arguments),
        Arguments::Bench(Bench::RemovalWorker { order }) => removal::work(&order),
        Arguments::Bench(Bench::Train(arguments)) => train::bench(&arguments),
        Arguments::Bench(Bench::TrainWorker { order }) => train::work(&order),
    }
}
