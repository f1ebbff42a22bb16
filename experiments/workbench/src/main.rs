//! Tools without a paper: activations and losses of any checkpoint, and the benches behind `cargo xtask bench`.
// this program's answer is what it prints
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

// as in the papers' programs, so that what is timed is what runs
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tools without a paper.
#[derive(Parser)]
#[command(name = "workbench", version)]
enum Arguments {
    Trace(trace::Arguments),
    Eval(eval::Arguments),
    Generate(generate::Arguments),
    /// Fetches models from the hub into the cache, which Python's huggingface_hub shares.
    Fetch {
        /// Repositories such as openai-community/gpt2, or revisions such as EleutherAI/pythia-70m@step3000
        #[arg(required = true, value_name = "REPO")]
        models: Vec<String>,
    },
    /// Times what takes the time.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Tokens per second of a full training step, beside PyTorch's.
    Train(train::Arguments),
    /// Activations, patching and attribution, beside TransformerLens.
    Capture(patch::Arguments),
    /// Total effect of every head and MLP at the last place, beside TransformerLens.
    Mcq(patch::Arguments),
    /// Our side of `capture` and `mcq`.
    #[command(hide = true)]
    CaptureWorker {
        /// The model.
        folder: std::path::PathBuf,
        /// The tokens.
        work: std::path::PathBuf,
    },
    /// Binding, bundling and clean-up of hypervectors, beside torchhd.
    Vsa(hyper::Arguments),
    /// Our side of `vsa`.
    #[command(hide = true)]
    VsaWorker {
        /// The vectors.
        folder: std::path::PathBuf,
    },
    /// Training encoders of hypervectors and reading states, beside PyTorch and transformers.
    Hyperprobe(probe::Arguments),
    /// Our side of `hyperprobe`.
    #[command(hide = true)]
    HyperprobeWorker {
        /// What both sides read.
        folder: std::path::PathBuf,
    },
    /// Training while norms are removed, and evaluation without them, beside transformers on PyTorch.
    Removal(removal::Arguments),
    /// Our side of `removal`.
    #[command(hide = true)]
    RemovalWorker {
        /// What to time, as JSON.
        order: String,
    },
    /// Our side of `train`.
    #[command(hide = true)]
    TrainWorker {
        /// What to time, as JSON.
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
