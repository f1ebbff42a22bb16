//! `cargo xtask run`: runs exactly one experiment.

use anyhow::{Result, bail};
use config::Catalogue;

use crate::execute::{Options, execute};
use crate::places::Workspace;
use crate::plan::Plan;
use crate::reproduce::How;

const EXAMPLES: &str = "Examples:
  cargo xtask run icot-mult/train                      only this experiment
  cargo xtask run icot-mult/attribution --force        again, with the results of `train` as they are
  cargo xtask run icot-mult/train --profile smoke --set params.methods=[sft]

The experiments that it needs must be up to date; `cargo xtask reproduce` runs them too.";

/// Run one experiment, and nothing else
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The experiment, such as `icot-mult/train`
    #[arg(value_name = "PAPER/EXPERIMENT")]
    experiment: String,
    #[command(flatten)]
    how: How,
}

/// Runs the command.
///
/// # Errors
/// When the name or the configuration is wrong, something it needs is not up to date, or nothing could be built.
pub fn run(workspace: &Workspace, args: &Args) -> Result<u8> {
    let catalogue = Catalogue::scan(&workspace.root)?;
    let one = one(&catalogue, &args.experiment)?;
    let plan = Plan::make(workspace, &catalogue, &args.how.request(&[one]))?;
    execute(workspace, &plan, &Options { run_needs: false, ..args.how.options() })
}

/// The full name of runs exactly one experiment.
///
/// # Errors
/// When `word` names no experiment or several.
pub fn one(catalogue: &Catalogue, word: &str) -> Result<String> {
    let found = catalogue.select(&[word.to_owned()])?;
    match found.as_slice() {
        [one] => Ok(one.to_string()),
        _ => {
            let names: Vec<String> = found.iter().map(ToString::to_string).collect();
            bail!("`{word}` is not one experiment: choose one of {}", names.join(", "))
        }
    }
}
