//! `cargo xtask bench`: timings by the workbench, built in release.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binaries;
use crate::places::Workspace;
use crate::runner::{self, Exit, INTERRUPTED, Messages};

const EXAMPLES: &str = "Examples:
  cargo xtask bench                  which benches there are
  cargo xtask bench train            tokens per second of a training step
  cargo xtask bench train --help     its own options";

/// Time what takes the time, with experiments/workbench
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES, disable_help_flag = true)]
pub struct Args {
    /// A bench and its own options, passed on as they are
    #[arg(value_name = "BENCH", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When the workbench cannot be built or started.
pub fn bench(workspace: &Workspace, args: &Args) -> Result<u8> {
    if let [flag] = args.args.as_slice()
        && (flag == "--help" || flag == "-h")
    {
        println!(
            "Time what takes the time, with experiments/workbench\n\nUsage: cargo xtask bench [BENCH] [OPTIONS]\n\n{EXAMPLES}"
        );
        return Ok(0);
    }
    runner::catch_signals()?;
    let name = "workbench".to_owned();
    let binary = binaries::build(workspace, &[&name], false)?;
    let binary = binary.get(&name).context("package `workbench` has no binary")?;
    let mut command = Command::new(binary);
    command.current_dir(&workspace.root).arg("bench").args(&args.args);
    match runner::run(&mut command, &Messages::Direct)? {
        Exit::Done => Ok(0),
        Exit::Interrupted => Ok(INTERRUPTED),
        Exit::Failed { why, .. } => bail!("the bench failed: {why}; its message is above"),
    }
}
