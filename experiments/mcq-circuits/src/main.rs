//! Multiple choice: from the right option to the letter that is printed, the experiments of arXiv 2307.09458.

mod attention;
mod behaviour;
mod codes;
mod comparison;
mod edits;
mod heads;
mod letters;
mod mcq;
mod mutations;
mod nodes;
mod paths;
mod prompts;
mod study;
mod subject;
mod subspaces;
mod train;

use std::process::ExitCode;

use experiment::Experiment;

// candle allocates afresh for every tensor: a caching allocator makes a training step 1.3 to 1.5 times as fast
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    experiment::main(
        "mcq-circuits",
        &[
            Experiment::new("train", train::run),
            Experiment::new("behaviour", behaviour::run),
            Experiment::new("smollm2-behaviour", behaviour::run),
            Experiment::new("nodes", nodes::run),
            Experiment::new("smollm2-nodes", nodes::run),
            Experiment::new("attention", attention::run),
            Experiment::new("smollm2-attention", attention::run),
            Experiment::new("subspaces", subspaces::run),
            Experiment::new("mutations", mutations::run),
            Experiment::new("paths", paths::run),
            Experiment::new("comparison", comparison::run),
        ],
    )
}
