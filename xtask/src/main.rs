//! `cargo xtask`: everything one does with this workspace, in Rust, without another tool.
//!
//! It resolves configurations, decides what is out of date, builds and spawns the papers' binaries, and has `render`
//! draw what they measured.
//! It computes nothing itself: it links `config` and `storage` only, so that it builds in seconds and a crash of an
//! experiment cannot take the queue with it.
//!
//! Reading order: [`places`] (where things lie), [`code`] (hashes of sources), [`binaries`] (build and freeze),
//! [`plan`] (what was asked for), [`state`] (what is up to date), [`runner`] (child processes), [`execute`] (the
//! queue), [`draw`] (pictures and pages), then one module per command.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its user")]

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

/// Rebuild the papers' figures, ask new questions of them, and keep the workspace green.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  cargo xtask reproduce                      everything, small models, on this machine's processor
  cargo xtask reproduce --profile smoke      everything in seconds, to see that it works
  cargo xtask list                           what there is
  cargo xtask status                         what is up to date, and why the rest is not
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
