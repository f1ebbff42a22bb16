//! `cargo xtask list`: lists the experiments and their profiles.

use anyhow::Result;
use config::{Catalogue, Profile};

use crate::output::print_line;
use crate::places::Workspace;

const EXAMPLES: &str = "Examples:
  cargo xtask list                 all papers
  cargo xtask list icot-mult       one paper";

/// List experiments, their profiles, and the tables and figures of the papers that they rebuild
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Papers or experiments; all when none is named
    #[arg(value_name = "PAPER[/EXPERIMENT]")]
    words: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When a name is unknown, or after the list when a configuration has mistakes.
pub fn list(workspace: &Workspace, args: &Args) -> Result<u8> {
    let catalogue = Catalogue::scan(&workspace.root)?;
    let mut mistakes = Vec::new();
    for id in catalogue.select(&args.words)? {
        let profiles: Vec<String> = catalogue.profiles(&id).iter().map(ToString::to_string).collect();
        print_line(format_args!("{id}  [{}]", profiles.join(", ")))?;
        let profile = if catalogue.has(&id, Profile::Cpu) {
            Some(Profile::Cpu)
        } else {
            catalogue.profiles(&id).first().copied()
        };
        let Some(profile) = profile else { continue };
        match catalogue.load(&id, profile, &[]) {
            Ok(envelope) => {
                print_line(format_args!("    {}", envelope.body.title))?;
                for artefact in &envelope.body.artefacts {
                    print_line(format_args!("    {:8} {}", artefact.id, artefact.title))?;
                }
                if !envelope.body.needs.is_empty() {
                    print_line(format_args!("    needs    {}", envelope.body.needs.join(", ")))?;
                }
            }
            Err(error) => mistakes.push(error.to_string()),
        }
    }
    if mistakes.is_empty() {
        return Ok(0);
    }
    eprintln!("\n{}", mistakes.join("\n\n"));
    Ok(1)
}
