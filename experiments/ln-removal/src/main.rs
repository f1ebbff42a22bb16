//! Transformers without LayerNorm: the experiments of arXiv 2507.02559.

mod corpus;
mod direct;
mod distributions;
mod evaluation;
mod ioi;
mod ioi_prompts;
mod labels;
mod neurons;
mod norms;
mod pretrain;
mod prose;
mod removal;
mod scales;
mod scaling;
mod schedule;
mod subjects;

use std::process::ExitCode;

use experiment::Experiment;

// candle allocates afresh for every tensor: a caching allocator makes a training step 1.3 to 1.5 times as fast
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    experiment::main(
        "ln-removal",
        &[
            Experiment::new("pretrain", pretrain::run),
            Experiment::new("removal", removal::run),
            Experiment::new("evaluation", evaluation::run),
            Experiment::new("direct", direct::run),
            Experiment::new("ioi", ioi::run),
            Experiment::new("norms", norms::run),
            Experiment::new("neurons", neurons::run),
            Experiment::new("distributions", distributions::run),
            // the same on other recipes and families, each a configuration of its own
            Experiment::new("recipes", removal::run),
            Experiment::new("longer", removal::run),
            Experiment::new("pretrain-64", pretrain::run),
            Experiment::new("removal-64", removal::run),
            Experiment::new("pretrain-192", pretrain::run),
            Experiment::new("removal-192", removal::run),
            Experiment::new("scaling", scaling::run),
            Experiment::new("pretrain-rms", pretrain::run),
            Experiment::new("removal-rms", removal::run),
            Experiment::new("pretrain-parallel", pretrain::run),
            Experiment::new("removal-parallel", removal::run),
            Experiment::new("removal-smollm2", removal::run),
            Experiment::new("removal-medium", removal::run),
            Experiment::new("removal-large", removal::run),
            Experiment::new("removal-xl", removal::run),
            Experiment::new("removal-llama", removal::run),
            Experiment::new("evaluation-medium", evaluation::run),
            Experiment::new("evaluation-large", evaluation::run),
            Experiment::new("evaluation-xl", evaluation::run),
        ],
    )
}
