//! `cargo xtask render`: draws again from the tables on disk; nothing is measured.

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
  cargo xtask render icot-mult --profile smoke    one paper's
  cargo xtask render icot-mult/train --partial    what a run under way has written so far
  cargo xtask render icot-mult/train --set params.training.adamw.lr=1e-3
                                                  the results made with the same --set";

/// Draw pictures, reports and the page again from the tables on disk
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Papers or experiments; all when none is named
    #[arg(value_name = "PAPER[/EXPERIMENT]")]
    words: Vec<String>,
    /// Whose results
    #[arg(long, default_value = "cpu")]
    profile: Profile,
    /// Whose results: those made with these overrides
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<Override>,
    /// Whose results: those of the rehearsal
    #[arg(long)]
    rehearse: bool,
    /// Draw what is there even if the run has not ended
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
        // today's titles and figures, where the measurements are those of today's configuration
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
                eprintln!("{id}: its configuration has changed since it ran; drawn as it was then");
                render.folder(&folder, None, &id.paper, args.partial)?;
            }
        }
        print_line(format_args!("drawn: {}", workspace.show(&folder)))?;
        drawn.push(id.to_string());
    }
    if drawn.is_empty() {
        bail!(
            "there are no results below {} to draw: `cargo xtask reproduce --profile {}` makes them",
            workspace.show(&root),
            args.profile
        );
    }
    render.index(&root, true)?;
    render.scoreboard(&root, &drawn)?;
    print_line(format_args!("page: {}", root.join(PAGE).display()))?;
    Ok(0)
}
