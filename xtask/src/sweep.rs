//! `cargo xtask sweep`: runs one experiment at many points and joins the tables.

use std::str::FromStr;

use anyhow::{Result, bail};
use config::{Catalogue, Ordered, Override, Sweep};
use serde_json::Value;

use crate::execute::execute;
use crate::places::Workspace;
use crate::plan::{Plan, SweepRequest};
use crate::reproduce::How;
use crate::run::one;

const EXAMPLES: &str = "Examples:
  cargo xtask sweep icot-mult/train --grid seed=1,2,3 --grid params.model.d_model=64,128
                                            six runs, one table with the columns seed and d_model
  cargo xtask sweep icot-mult/train --profile smoke --grid params.training.adamw.lr=1e-3,3e-3
                                            two learning rates, in seconds
  cargo xtask sweep icot-mult/train --profile overnight
                                            the points in the `sweep:` section of the file

Finished points are kept. Repeat the command, or add values to it, and only the missing points run.";

/// Run one experiment at every point of a grid and join the tables
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The experiment, such as `icot-mult/train`
    #[arg(value_name = "PAPER/EXPERIMENT")]
    experiment: String,
    /// A key and its values; may be repeated, and all combinations are run [default: the file's `sweep:`]
    #[arg(long, value_name = "KEY=VALUE,VALUE..")]
    grid: Vec<Axis>,
    #[command(flatten)]
    how: How,
    /// Only list which points are fresh, which would run, and why
    #[arg(long)]
    dry_run: bool,
    /// Treat code changes as cosmetic: results that differ in nothing else count as up to date
    #[arg(long)]
    accept: bool,
    /// Start nothing new after the first failure
    #[arg(long)]
    fail_fast: bool,
}

/// One key of a grid and its values.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    key: String,
    values: Vec<Value>,
}

impl FromStr for Axis {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let wanted = || format!("write a key and its values as in `seed=1,2,3`, not `{word}`");
        let (key, values) = word.split_once('=').filter(|(key, _)| !key.trim().is_empty()).ok_or_else(wanted)?;
        let list = format!("[{values}]");
        let values: Vec<Value> =
            config::yaml::from_str(&list, "--grid").map_err(|error| format!("{}: {error}", wanted()))?;
        if values.is_empty() || values.contains(&Value::Null) {
            return Err(format!("a value of `{key}` is empty: {}", wanted()));
        }
        Ok(Self { key: key.trim().to_owned(), values })
    }
}

/// Runs the command.
///
/// # Errors
/// When a name, a key or the configuration is wrong, there is nothing to vary, or nothing could be built.
pub fn sweep(workspace: &Workspace, args: &Args) -> Result<u8> {
    let catalogue = Catalogue::scan(&workspace.root)?;
    let one = one(&catalogue, &args.experiment)?;
    let mut request = args.how.request(&[one]);
    request.sweep = Some(SweepRequest { points: grid(&args.grid, &args.how.set)? });
    let plan = Plan::make(workspace, &catalogue, &request)?;
    let mut options = args.how.options();
    options.dry_run = args.dry_run;
    options.accept = args.accept;
    options.fail_fast = args.fail_fast;
    execute(workspace, &plan, &options)
}

/// The grid of all axes; `None` without axes.
///
/// # Errors
/// When a key is given twice, or `--set` fixes a key that `--grid` varies.
fn grid(axes: &[Axis], set: &[Override]) -> Result<Option<Sweep>> {
    for (index, axis) in axes.iter().enumerate() {
        if axes[..index].iter().any(|before| before.key == axis.key) {
            bail!("--grid {} is given twice: list all its values in one --grid", axis.key);
        }
        if set.iter().any(|fixed| fixed.key == axis.key) {
            bail!("`{}` is given to both --set and --grid: remove one of the two", axis.key);
        }
    }
    let keys = axes.iter().map(|axis| (axis.key.clone(), axis.values.clone())).collect();
    Ok((!axes.is_empty()).then_some(Sweep::Grid(Ordered(keys))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_read_as_yaml_lists() {
        let check = |word: &str| {
            let axis: Axis = word.parse().unwrap();
            format!("{} {}", axis.key, serde_json::to_string(&axis.values).unwrap())
        };
        assert_eq!(check("seed=1,2,3"), "seed [1,2,3]");
        assert_eq!(check("params.method=sft,icot"), r#"params.method ["sft","icot"]"#);
        assert_eq!(check("params.lr=1e-3,0.5"), "params.lr [0.001,0.5]");
        assert_eq!(check("params.widths=[1,2],[3]"), "params.widths [[1,2],[3]]");
        for word in ["seed", "=1", "seed=", "seed=[1"] {
            let error = word.parse::<Axis>().unwrap_err();
            assert!(error.contains("seed=1,2,3"), "{word}: {error}");
        }
    }

    #[test]
    fn a_key_is_given_once() {
        let axes: Vec<Axis> = ["seed=1", "seed=2"].iter().map(|word| word.parse().unwrap()).collect();
        assert!(grid(&axes, &[]).unwrap_err().to_string().contains("twice"));
        assert_eq!(grid(&[], &[]).unwrap(), None);
    }

    #[test]
    fn a_key_is_either_fixed_or_varied() {
        let axes: Vec<Axis> = vec!["seed=1,2".parse().unwrap()];
        let fixed: Override = "seed=3".parse().unwrap();
        let error = grid(&axes, &[fixed]).unwrap_err().to_string();
        assert!(error.contains("`seed`") && error.contains("--set") && error.contains("--grid"), "{error}");
        let other: Override = "params.seed=3".parse().unwrap();
        assert!(grid(&axes, &[other]).unwrap().is_some(), "another key");
    }
}
