//! `render`: draws run folders, joins sweeps, writes the page over all results, and prints the scoreboard.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints for its user")]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use config::Envelope;
use reporting::{Options, PointFolder};

/// Draws and reports what the experiments measured.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:
  render experiment --folder results/icot-mult/train
  render index --root results
  render scoreboard --root results --only icot-mult"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Draw the figures of one run folder and write its report.md.
    Experiment {
        /// The run folder.
        #[arg(long)]
        folder: PathBuf,
        /// Resolved configuration whose titles, claims, published numbers and figures replace those of the run.
        #[arg(long)]
        config: Option<PathBuf>,
        /// Folder of the configuration file, where overlays and published tables are looked for.
        #[arg(long)]
        configs_dir: Option<PathBuf>,
        /// Leave out figures whose rows are missing; accept a run that is still going.
        #[arg(long)]
        partial: bool,
        /// Write a PNG file beside every SVG file.
        #[arg(long)]
        png: bool,
    },
    /// Write index.html and index.json over every finished run below a folder.
    Index {
        /// The results folder.
        #[arg(long)]
        root: PathBuf,
    },
    /// Join the points of a sweep into one run folder.
    Join {
        /// Resolved configuration of the sweep.
        #[arg(long)]
        config: PathBuf,
        /// The folder to write.
        #[arg(long)]
        out: PathBuf,
        /// A finished point; repeat for each.
        #[arg(long = "point", value_name = "ID=FOLDER", value_parser = point, required = true)]
        points: Vec<PointFolder>,
        /// Hash of the sources, for the manifest.
        #[arg(long)]
        code_hash: Option<String>,
    },
    /// Print the claims of all runs below a folder.
    Scoreboard {
        /// The results folder.
        #[arg(long)]
        root: PathBuf,
        /// Only this paper or paper/experiment; may be repeated.
        #[arg(long, value_name = "PAPER[/EXPERIMENT]")]
        only: Vec<String>,
    },
}

fn point(text: &str) -> Result<PointFolder, String> {
    match text.split_once('=') {
        Some((id, folder)) if !id.is_empty() && !folder.is_empty() => {
            Ok(PointFolder { id: id.into(), folder: folder.into() })
        }
        _ => Err("expected ID=FOLDER".into()),
    }
}

fn load(path: &Path) -> Result<Envelope> {
    Ok(config::load_file(path, None, &[])?)
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Experiment { folder, config, configs_dir, partial, png } => {
            let config = config.as_deref().map(load).transpose()?;
            if !folder.is_dir() {
                bail!("there is no folder {}", folder.display());
            }
            let options = Options { config, configs: configs_dir, partial, png };
            for line in reporting::experiment(&folder, &options)? {
                eprintln!("{line}");
            }
        }
        Command::Index { root } => {
            let runs = reporting::index(&root)?;
            eprintln!("{} runs in {}", runs, root.join("index.html").display());
        }
        Command::Join { config, out, points, code_hash } => {
            reporting::join(&load(&config)?, &out, &points, code_hash.as_deref())?;
        }
        Command::Scoreboard { root, only } => {
            let text = reporting::scoreboard(&root, &only).context("cannot print the scoreboard")?;
            print!("{text}");
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
