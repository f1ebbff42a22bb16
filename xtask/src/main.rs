//! `cargo xtask`: the command line of this workspace.
//!
//! It resolves configurations, finds results that are out of date, builds and runs the papers' binaries, and calls
//! `render` to draw their results.
//! It runs no experiment in its own process and links only `config` and `storage`. So it builds in seconds, and an
//! experiment that crashes does not stop the queue.
//!
//! Reading order: [`places`] (paths), [`code`] (hashes of sources), [`binaries`] (build and freeze),
//! [`plan`] (the requested tasks), [`state`] (what is up to date), [`runner`] (child processes), [`execute`] (the
//! queue), [`draw`] (figures and pages), then one module per command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints messages")]

mod binaries;
mod code;
mod draw;
mod execute;
mod output;
mod page;
mod places;
mod plan;
mod runner;
mod state;

mod ci;
mod clean;
mod list;
mod metrics;
mod new;
mod render;
mod reproduce;
mod run;
mod schema;
mod status;
mod sweep;
mod tools;

#[cfg(test)]
mod flow;
mod follow;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::places::Workspace;
use crate::runner::INTERRUPTED;

/// Rebuild the papers' tables and figures, run variations of their experiments, and check the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  cargo xtask reproduce                      all papers, with small models on the CPU
  cargo xtask reproduce --profile smoke      all papers in seconds, to check that they run
  cargo xtask list                           all experiments
  cargo xtask status                         which results are up to date, and why the others are not
  cargo xtask help reproduce                 all options of one command";

#[derive(Subcommand)]
enum Command {
    Reproduce(reproduce::Args),
    Run(run::Args),
    Sweep(sweep::Args),
    Render(render::Args),
    List(list::Args),
    Status(status::Args),
    Schema(schema::Args),
    New(new::Args),
    Trace(tools::Trace),
    Eval(tools::Eval),
    Generate(tools::Generate),
    Fetch(tools::Fetch),
    Bench(tools::Bench),
    Ci(ci::Args),
    Clean(clean::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = std::env::current_dir()
        .map_err(Into::into)
        .and_then(|folder| Workspace::find(&folder))
        .and_then(|workspace| dispatch(&cli.command, &workspace));
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(_) if runner::interrupted() => {
            eprintln!("\n{}", runner::CONTINUES);
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command, workspace: &Workspace) -> anyhow::Result<u8> {
    match command {
        Command::Reproduce(args) => reproduce::reproduce(workspace, args),
        Command::Run(args) => run::run(workspace, args),
        Command::Sweep(args) => sweep::sweep(workspace, args),
        Command::Render(args) => render::render(workspace, args),
        Command::List(args) => list::list(workspace, args),
        Command::Status(args) => status::status(workspace, args),
        Command::Schema(args) => schema::schema(workspace, args),
        Command::New(args) => new::new(workspace, args),
        Command::Trace(args) => tools::trace(workspace, args),
        Command::Eval(args) => tools::eval(workspace, args),
        Command::Generate(args) => tools::generate(workspace, args),
        Command::Fetch(args) => tools::fetch(workspace, args),
        Command::Bench(args) => tools::bench(workspace, args),
        Command::Ci(args) => ci::ci(workspace, args),
        Command::Clean(args) => clean::clean(workspace, args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_shows_examples() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "`{}` has no examples in its help", sub.get_name());
            assert!(sub.get_about().is_some(), "`{}` has no description", sub.get_name());
        }
    }
}
