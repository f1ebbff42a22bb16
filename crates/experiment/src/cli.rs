//! The command line that every paper's program has.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use config::{Code, Envelope};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::progress::{self, Mode, Progress};
use crate::run::Setting;
use crate::{Interrupted, Run, device};

/// What an experiment does, its parameters already checked.
type Body = dyn Fn(&Run) -> Result<()> + Sync;

/// An experiment: its name, the schema of its parameters, and what it does.
pub struct Experiment {
    name: &'static str,
    schema: fn() -> serde_json::Value,
    run: Box<Body>,
}

impl Experiment {
    /// An experiment whose parameters are checked before it starts.
    #[must_use]
    pub fn new<P>(name: &'static str, run: fn(&Run, P) -> Result<()>) -> Self
    where
        P: DeserializeOwned + JsonSchema + 'static,
    {
        let checked = move |context: &Run| run(context, config::params::<P>(context.config())?);
        Self { name, schema: config::schema::<P>, run: Box::new(checked) }
    }
}

/// Runs the experiments of a paper. `cargo xtask` calls this program; its results are files, its messages on stderr.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one experiment from a resolved configuration.
    Run(RunArguments),
    /// Prints the JSON Schema of an experiment's configuration file.
    Schema {
        /// Its name.
        experiment: String,
    },
    /// Lists the experiments, one a line.
    List,
}

#[derive(clap::Args)]
struct RunArguments {
    /// Its name.
    experiment: String,
    /// Resolved configuration.
    #[arg(long)]
    config: PathBuf,
    /// Folder for the results.
    #[arg(long)]
    out: PathBuf,
    /// Folder for checkpoints.
    #[arg(long)]
    work: PathBuf,
    /// Results of a needed experiment, as `paper/experiment=folder`.
    #[arg(long = "need", value_parser = need)]
    needs: Vec<(String, PathBuf)>,
    /// auto, cpu or cuda:N.
    #[arg(long, default_value = "auto")]
    device: String,
    /// Two steps of everything on random data: does it run, and how much does it take?
    #[arg(long)]
    rehearse: bool,
    /// Forget earlier checkpoints.
    #[arg(long)]
    fresh: bool,
    /// How progress is shown.
    #[arg(long, value_enum, default_value = "auto")]
    progress: Mode,
    /// Hash of the sources, for the manifest.
    #[arg(long, default_value = "")]
    code_hash: String,
    /// Git commit, for the manifest.
    #[arg(long)]
    git_commit: Option<String>,
    /// Whether the tree differed from that commit, for the manifest.
    #[arg(long)]
    git_dirty: Option<bool>,
}

fn need(text: &str) -> Result<(String, PathBuf), String> {
    let (name, folder) = text.split_once('=').ok_or("expected paper/experiment=folder")?;
    Ok((name.to_owned(), PathBuf::from(folder)))
}

/// The `main` of a paper's program.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted with everything saved.
#[must_use]
pub fn main(paper: &'static str, experiments: &[Experiment]) -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Run(run) => return run_to_exit_code(paper, experiments, run),
        Command::Schema { experiment } => find(experiments, &experiment).and_then(|experiment| {
            let schema = serde_json::to_string_pretty(&(experiment.schema)())?;
            Ok(writeln!(std::io::stdout(), "{schema}")?)
        }),
        Command::List => experiments
            .iter()
            .try_for_each(|experiment| writeln!(std::io::stdout(), "{}", experiment.name))
            .map_err(anyhow::Error::from),
    };
    exit_code(result, 2)
}

fn find<'a>(experiments: &'a [Experiment], name: &str) -> Result<&'a Experiment> {
    experiments.iter().find(|experiment| experiment.name == name).ok_or_else(|| {
        let names: Vec<&str> = experiments.iter().map(|experiment| experiment.name).collect();
        let near = config::nearest(name, names.iter().copied());
        let near = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
        anyhow!("no experiment `{name}`{near} (known: {})", names.join(", "))
    })
}

fn run_to_exit_code(paper: &str, experiments: &[Experiment], arguments: RunArguments) -> ExitCode {
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(crate::machine::threads()).build_global() {
        tracing::warn!("threads: {error}");
    }
    match prepare(paper, experiments, arguments) {
        Err(error) => exit_code(Err(error), 2),
        Ok((experiment, setting)) => exit_code(carry_out(experiment, setting), 1),
    }
}

/// Everything that can be wrong before the first number is computed.
fn prepare<'a>(
    paper: &str,
    experiments: &'a [Experiment],
    arguments: RunArguments,
) -> Result<(&'a Experiment, Setting)> {
    let experiment = find(experiments, &arguments.experiment)?;
    let schema = (experiment.schema)();
    let config: Envelope = config::load_file(&arguments.config, Some(&schema), &[])?;
    if config.paper != paper || config.experiment != experiment.name {
        let Envelope { paper: other, experiment: name, .. } = &config;
        let path = arguments.config.display();
        return Err(anyhow!("{path} configures {other}/{name}, not {paper}/{}", experiment.name));
    }
    let progress = Progress::new(arguments.progress);
    listen(&progress, &arguments)?;
    let setting = Setting {
        device: device::pick(&arguments.device)?,
        config,
        rehearsal: arguments.rehearse,
        folder: arguments.out,
        work: arguments.work,
        needs: arguments.needs.into_iter().collect::<BTreeMap<_, _>>(),
        code: Code {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: arguments.git_commit,
            dirty: arguments.git_dirty,
            hash: arguments.code_hash,
        },
        progress,
        fresh: arguments.fresh,
    };
    Ok((experiment, setting))
}

/// Signals, messages on the terminal, and the log file in the artefacts.
fn listen(progress: &Progress, arguments: &RunArguments) -> Result<()> {
    progress::listen_for_signals().context("cannot listen for signals")?;
    let log = arguments.out.join("artifacts/log.jsonl");
    std::fs::create_dir_all(arguments.out.join("artifacts"))
        .with_context(|| format!("cannot create {}", arguments.out.join("artifacts").display()))?;
    let file = std::fs::File::options().create(true).append(true).open(&log);
    let file = file.with_context(|| format!("cannot write {}", log.display()))?;
    let level = || EnvFilter::try_from_env("RETRACE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = tracing_subscriber::fmt::layer()
        .without_time()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(progress.clone());
    tracing_subscriber::registry()
        .with(terminal.with_filter(level()))
        .with(tracing_subscriber::fmt::layer().json().with_writer(file).with_filter(level()))
        .try_init()
        .context("cannot set up messages")
}

fn carry_out(experiment: &Experiment, setting: Setting) -> Result<()> {
    let run = Run::open(setting)?;
    let result = (experiment.run)(&run);
    match &result {
        Ok(()) => run.finish(),
        Err(_) => {
            run.interrupted();
            result
        }
    }
}

fn exit_code(result: Result<()>, failed: u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let interrupted = error.is::<Interrupted>();
            let head = if interrupted { "" } else { "error: " };
            let _ = writeln!(std::io::stderr(), "{head}{error:#}");
            ExitCode::from(if interrupted { 130 } else { failed })
        }
    }
}
