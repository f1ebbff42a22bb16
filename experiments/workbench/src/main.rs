//! Tools without a paper: today the benches behind `cargo xtask bench`.
// this program's answer is what it prints
#![allow(clippy::print_stdout)]

mod peer;
mod train;

use anyhow::Result;
use clap::{Parser, Subcommand};

// as in the papers' programs, so that what is timed is what runs
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tools without a paper.
#[derive(Parser)]
#[command(name = "workbench", version)]
enum Arguments {
    /// Times what takes the time.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Tokens per second of a full training step, beside PyTorch's.
    Train(train::Arguments),
    /// Our side of `train`.
    #[command(hide = true)]
    TrainWorker {
        /// What to time, as JSON.
        order: String,
    },
}

fn main() -> Result<()> {
    match Arguments::parse() {
        Arguments::Bench(Bench::Train(arguments)) => train::bench(&arguments),
        Arguments::Bench(Bench::TrainWorker { order }) => train::work(&order),
    }
}
