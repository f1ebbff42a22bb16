//! `cargo xtask render`: redraws figures and reports from the tables on disk, without running experiments.

use std::path::PathBuf;

use anyhow::{Result, bail};
use config::{Catalogue, Override, Profile};

use crate::draw::{PAGE, Render, freeze_config};
use crate::output::print_line;
use crate::places::{Variant, Workspace};
use crate::runner;
use crate::state;

const EXAMPLES: &str = "Examples:
  cargo xtask render                              all results of the profile cpu
  cargo xtask render icot-mult --profile smoke    the results of one paper
  cargo xtask render icot-mult/train --partial    the tables of a run in progress
  cargo xtask render icot-mult/train --set params.training.adamw.lr=1e-3
                                                  the results made with the same --set";

/// Redraw figures, reports and the page from the tables on disk
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Papers or experiments; all when none is named
    #[arg(value_name = "PAPER[/EXPERIMENT]")]
    words: Vec<String>,
    /// Profile of the results: smoke, cpu, overnight or paper
    #[arg(long, default_value = "cpu")]
    profile: Profile,
    /// Draw the results that were made with these overrides
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// Draw the results of the rehearsal
    #[arg(long)]
    rehearse: bool,
    /// Draw the existing tables even if the run has not finished
    #[arg(long)]
    partial: bool,
}

/// Runs the command.
///
/// # Errors
/// When a name is unknown, there are no results, or `render` fails.
pub fn render(workspace: &Workspace, args: &Args) -> Result<u8> {
    runner::catch_signals()?;
    let catalogue = Catalogue::scan(&workspace.root)?;
    let ids = catalogue.select(&args.words)?;
    let variant = Variant::new(args.profile, args.rehearse, &args.set);
    let root = variant.root(workspace);
    let render = Render::ready(workspace)?;
    let mut drawn: Vec<String> = Vec::new();
    for id in &ids {
        let folder: PathBuf = variant.folder(workspace, id);
        let manifest = state::manifest(&folder)?;
        if manifest.is_none() && !(args.partial && folder.is_dir()) {
            continue;
        }
        // use the current titles and figures if the results belong to the current configuration
        let current = catalogue.has(id, args.profile).then(|| catalogue.load(id, args.profile, &args.set)).transpose();
        let current = match current {
            Ok(current) => current,
            Err(error) if args.set.is_empty() => return Err(error.into()),
            Err(_) => None,
        };
        let same = |envelope: &config::Envelope| {
            manifest.as_ref().is_none_or(|manifest| manifest.config.identity() == envelope.identity())
        };
        match current.filter(|envelope| same(envelope)) {
            Some(envelope) if manifest.is_some() => {
                render.experiment(&variant, &variant.stem(id), &folder, &envelope)?;
            }
            Some(envelope) => {
                render.folder(&folder, Some(&freeze_config(workspace, &envelope)?), &id.paper, args.partial)?;
            }
            None => {
                eprintln!(
                    "{id}: the configuration has changed since the run; drawing with the configuration of the run"
                );
                render.folder(&folder, None, &id.paper, args.partial)?;
            }
        }
        print_line(format_args!("drawn: {}", workspace.show(&folder)))?;
        drawn.push(id.to_string());
    }
    if drawn.is_empty() {
        bail!(
            "no results to draw in {}: make them with `cargo xtask reproduce --profile {}`",
            workspace.show(&root),
            args.profile
        );
    }
    render.index(&root, true)?;
    render.scoreboard(&root, &drawn)?;
    print_line(format_args!("page: {}", root.join(PAGE).display()))?;
    Ok(0)
}
