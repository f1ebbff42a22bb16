//! `cargo xtask reproduce`: runs experiments and their needs in order and skips results that are up to date.

use anyhow::Result;
use config::{Catalogue, Override, Profile};

use crate::execute::{Device, Options, execute};
use crate::places::Workspace;
use crate::plan::{Plan, Request};

const EXAMPLES: &str = "Examples:
  cargo xtask reproduce                                    all papers, profile cpu
  cargo xtask reproduce --profile smoke                    all papers in seconds
  cargo xtask reproduce icot-mult                          one paper
  cargo xtask reproduce icot-mult/train --dry-run          show whether it would run, and why
  cargo xtask reproduce icot-mult --set params.model.d_model=128 --set seed=2
                                                           a variation; the committed results do not change
  cargo xtask reproduce icot-mult --profile paper --rehearse
                                                           two steps of everything, to test before a long run on a GPU

After Ctrl-C, a signal or a power cut, the same command continues from the last checkpoint.";

/// Run experiments and their needs if they are out of date, draw figures, and print the scoreboard
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Papers or experiments, such as `icot-mult` or `icot-mult/train`; all when none is named
    #[arg(value_name = "PAPER[/EXPERIMENT]")]
    words: Vec<String>,
    #[command(flatten)]
    how: How,
    /// Only list which results are fresh, which experiments would run, and why
    #[arg(long)]
    dry_run: bool,
    /// Use committed results instead of recomputing them on this machine
    #[arg(long)]
    reuse: bool,
    /// Treat code changes as cosmetic: results that differ in nothing else count as up to date
    #[arg(long)]
    accept: bool,
    /// Start nothing new after the first failure
    #[arg(long)]
    fail_fast: bool,
}

/// Options that `reproduce`, `run` and `sweep` share.
#[derive(Clone, Debug, clap::Args)]
pub struct How {
    /// Profile of the configuration: smoke, cpu, overnight or paper
    #[arg(long, default_value = "cpu")]
    pub profile: Profile,
    /// Device: auto (the CPU), cpu or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: Device,
    /// Threads of each run [default: all cores, shared by the jobs]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Override a key of the configuration, such as `params.training.adamw.lr=1e-3`; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<Override>,
    /// Number of runs in parallel
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: u16,
    /// Run even if the results are up to date
    #[arg(long)]
    pub force: bool,
    /// Run only two steps with random weights of the full size, to test the experiment and its memory use
    #[arg(long)]
    pub rehearse: bool,
}

impl How {
    /// The request for some papers and experiments.
    pub fn request(&self, words: &[String]) -> Request {
        Request {
            words: words.to_vec(),
            profile: self.profile,
            rehearse: self.rehearse,
            set: self.set.clone(),
            sweep: None,
        }
    }

    /// The options of the queue, without those that only `reproduce` has.
    pub fn options(&self) -> Options {
        Options {
            device: self.device,
            threads: self.threads.map(usize::from),
            jobs: usize::from(self.jobs),
            force: self.force,
            reuse: false,
            accept: false,
            fail_fast: false,
            dry_run: false,
            run_needs: true,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When a name or a configuration is wrong, or nothing could be built.
pub fn reproduce(workspace: &Workspace, args: &Args) -> Result<u8> {
    let catalogue = Catalogue::scan(&workspace.root)?;
    let plan = Plan::make(workspace, &catalogue, &args.how.request(&args.words))?;
    for id in &plan.without_profile {
        eprintln!("{id} has no profile {}: left out", args.how.profile);
    }
    let options = Options {
        reuse: args.reuse,
        accept: args.accept,
        fail_fast: args.fail_fast,
        dry_run: args.dry_run,
        ..args.how.options()
    };
    execute(workspace, &plan, &options)
}

/// Reproduces everything in one profile, whether or not it is up to date; a step of `cargo xtask ci`.
///
/// # Errors
/// As [`reproduce`].
pub fn everything(workspace: &Workspace, profile: Profile, force: bool) -> Result<u8> {
    let how = How { profile, device: Device::Auto, threads: None, set: Vec::new(), jobs: 1, force, rehearse: false };
    let args = Args { words: Vec::new(), how, dry_run: false, reuse: false, accept: false, fail_fast: false };
    reproduce(workspace, &args)
}
