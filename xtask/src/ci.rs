//! `cargo xtask ci`: everything that must hold before a change is merged; the same here and on a build machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use config::Profile;

use crate::execute::show;
use crate::places::Workspace;
use crate::runner::{self, Exit, INTERRUPTED, Messages};
use crate::{new, page, reproduce, schema};

const EXAMPLES: &str = "Examples:
  cargo xtask ci                 all steps, cheap ones first
  cargo xtask ci fmt clippy      only these
  cargo xtask ci --skip page     all but this
  cargo xtask ci --fail-fast     stop at the first that fails

Steps: fmt, tracked, clippy, test, new, schema, smoke, docs, page, deny.";

/// Check everything: formatting, lints, tests, schemas, a smoke run, documentation, the page, licences
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Steps by name; all when none is named
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// A step to leave out; may be given several times
    #[arg(long, value_name = "STEP")]
    skip: Vec<String>,
    /// Stop at the first step that fails
    #[arg(long)]
    fail_fast: bool,
}

/// How a step ended.
enum Verdict {
    Passed,
    Failed(String),
    /// Something it needs is not installed.
    Skipped(String),
}

/// A step: its name, what it checks, and how.
struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Workspace) -> Result<Verdict>,
}

/// All steps, cheap ones first.
const STEPS: [Step; 10] = [
    Step { name: "fmt", about: "sources are formatted", run: fmt },
    Step { name: "tracked", about: "the repository stays light", run: tracked },
    Step { name: "clippy", about: "no lint fires", run: clippy },
    Step { name: "test", about: "all tests, golden tables included", run: test },
    Step { name: "new", about: "what `cargo xtask new` lays compiles", run: new_paper },
    Step { name: "schema", about: "schemas of the configurations are up to date", run: check_schema },
    Step { name: "smoke", about: "every experiment runs in the profile smoke", run: smoke },
    Step { name: "docs", about: "documentation builds without warnings", run: docs },
    Step { name: "page", about: "the page looks right in Chromium", run: check_page },
    Step { name: "deny", about: "licences and sources of dependencies", run: deny },
];

/// Runs the command.
///
/// # Errors
/// When a step's name is unknown.
pub fn ci(workspace: &Workspace, args: &Args) -> Result<u8> {
    runner::catch_signals()?;
    let steps = select(&args.steps, &args.skip)?;
    let mut summary = Vec::new();
    let mut failed = false;
    for step in steps {
        println!("\n== {}: {}", step.name, step.about);
        let start = Instant::now();
        let verdict = (step.run)(workspace).unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
        if runner::interrupted() {
            return Ok(INTERRUPTED);
        }
        let (word, why) = match &verdict {
            Verdict::Passed => ("passed", String::new()),
            Verdict::Failed(why) => ("FAILED", format!("  {why}")),
            Verdict::Skipped(why) => ("SKIPPED", format!("  {why}")),
        };
        summary.push(format!("{:8} {word:8} {:>8}{why}", step.name, show(start.elapsed())));
        if let Verdict::Failed(_) = verdict {
            failed = true;
            if args.fail_fast {
                break;
            }
        }
    }
    println!("\n{}", summary.join("\n"));
    Ok(u8::from(failed))
}

/// The steps that were asked for, in their own order.
fn select(wanted: &[String], skipped: &[String]) -> Result<Vec<&'static Step>> {
    let known = || STEPS.iter().map(|step| step.name);
    for word in wanted.iter().chain(skipped) {
        if !known().any(|name| name == word) {
            let hint = config::nearest(word, known()).map(|name| format!(", did you mean `{name}`?"));
            bail!(
                "no step `{word}`{} There are {}",
                hint.unwrap_or_else(|| ".".to_owned()),
                known().collect::<Vec<_>>().join(", ")
            );
        }
    }
    let is_in = |list: &[String], step: &Step| list.iter().any(|word| word == step.name);
    Ok(STEPS.iter().filter(|step| (wanted.is_empty() || is_in(wanted, step)) && !is_in(skipped, step)).collect())
}

/// Runs cargo; the messages go to the terminal.
fn cargo(workspace: &Workspace, args: &[&str], rustdoc_flags: Option<&str>) -> Result<Verdict> {
    let mut command = workspace.cargo_command();
    command.args(args);
    if let Some(flags) = rustdoc_flags {
        command.env("RUSTDOCFLAGS", flags);
    }
    match runner::run(&mut command, &Messages::Direct)? {
        Exit::Done => Ok(Verdict::Passed),
        Exit::Interrupted => Ok(Verdict::Failed("interrupted".to_owned())),
        Exit::Failed { .. } => Ok(Verdict::Failed(format!("`cargo {}`; its message is above", args.join(" ")))),
    }
}

/// Whether `cargo <name>` is installed.
fn installed(workspace: &Workspace, name: &str) -> bool {
    let mut command = workspace.cargo_command();
    command.args([name, "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn fmt(workspace: &Workspace) -> Result<Verdict> {
    cargo(workspace, &["fmt", "--all", "--check"], None)
}

/// Most bytes of tracked results.
const RESULTS_BYTES: u64 = 25 << 20;

/// Most bytes of one tracked model.
const MODEL_BYTES: u64 = 1 << 20;

/// Pages, PNG twins of figures and large models are made by commands, so none is tracked; `results/` stays small.
fn tracked(workspace: &Workspace) -> Result<Verdict> {
    let mut command = Command::new("git");
    command.current_dir(&workspace.root).args(["ls-files", "-z", "results"]);
    let Ok(output) = command.output() else {
        return Ok(Verdict::Skipped("git is not installed".to_owned()));
    };
    if !output.status.success() {
        return Ok(Verdict::Skipped("this folder is not a git checkout".to_owned()));
    }
    let mut problems = Vec::new();
    let mut total = 0;
    for file in String::from_utf8_lossy(&output.stdout).split('\0').filter(|file| !file.is_empty()) {
        let bytes = std::fs::metadata(workspace.root.join(file)).map_or(0, |metadata| metadata.len());
        total += bytes;
        match file.rsplit('.').next() {
            Some("html" | "png") => problems.push(format!("{file} is rendered by a command: untrack it")),
            Some("safetensors") if bytes > MODEL_BYTES => {
                problems.push(format!("{file} has {} KiB; a tracked model has at most 1 MiB", bytes >> 10));
            }
            _ => {}
        }
    }
    if total > RESULTS_BYTES {
        problems.push(format!("results/ has {total} tracked bytes, and at most {RESULTS_BYTES} are allowed"));
    }
    if problems.is_empty() {
        return Ok(Verdict::Passed);
    }
    eprintln!("{}", problems.join("\n"));
    Ok(Verdict::Failed(format!("{} problems, see above", problems.len())))
}

fn clippy(workspace: &Workspace) -> Result<Verdict> {
    cargo(workspace, &["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"], None)
}

fn test(workspace: &Workspace) -> Result<Verdict> {
    if !installed(workspace, "nextest") {
        return cargo(workspace, &["test", "--release", "--workspace"], None);
    }
    match cargo(workspace, &["nextest", "run", "--release", "--workspace", "--no-fail-fast"], None)? {
        // nextest does not run the examples in the documentation
        Verdict::Passed => cargo(workspace, &["test", "--release", "--workspace", "--doc"], None),
        other => Ok(other),
    }
}

fn new_paper(workspace: &Workspace) -> Result<Verdict> {
    let root = new::lay_aside(workspace)?;
    let aside = Workspace { root, cargo: workspace.cargo.clone() };
    // the same target folder, so that only the new package itself is compiled
    let target = target_folder(workspace)?;
    let target = target.to_str().context("the target folder's name is not UTF-8")?;
    let packages = ["-p", "new-paper", "-p", "beside"];
    cargo(
        &aside,
        &[&["check", "--release", "--all-targets", "--offline", "--target-dir", target][..], &packages].concat(),
        None,
    )
}

/// Where cargo builds.
fn target_folder(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = workspace.cargo_command();
    command.current_dir(&workspace.root).args(["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&runner::ask(&mut command)?).context("cargo metadata")?;
    let folder = metadata.get("target_directory").and_then(serde_json::Value::as_str);
    Ok(folder.context("cargo metadata names no target folder")?.into())
}

fn check_schema(workspace: &Workspace) -> Result<Verdict> {
    let code = schema::write_or_check(workspace, true)?;
    Ok(if code == 0 { Verdict::Passed } else { Verdict::Failed("see above".to_owned()) })
}

fn smoke(workspace: &Workspace) -> Result<Verdict> {
    let code = reproduce::everything(workspace, Profile::Smoke, true)?;
    Ok(if code == 0 { Verdict::Passed } else { Verdict::Failed("see above".to_owned()) })
}

fn docs(workspace: &Workspace) -> Result<Verdict> {
    cargo(workspace, &["doc", "--release", "--workspace", "--no-deps"], Some("-D warnings"))
}

fn check_page(workspace: &Workspace) -> Result<Verdict> {
    let mut roots = vec![workspace.local().join("smoke")];
    if workspace.results().join(crate::draw::PAGE).is_file() {
        roots.push(workspace.results());
    }
    match page::check(workspace, &roots).context("checking the page")? {
        page::Outcome::Good => Ok(Verdict::Passed),
        page::Outcome::Bad(problems) => {
            eprintln!("{}", problems.join("\n"));
            Ok(Verdict::Failed(format!("{} problems, see above", problems.len())))
        }
        page::Outcome::NoBrowser if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            Ok(Verdict::Failed(page::NO_BROWSER.to_owned()))
        }
        page::Outcome::NoBrowser => Ok(Verdict::Skipped(page::NO_BROWSER.to_owned())),
    }
}

fn deny(workspace: &Workspace) -> Result<Verdict> {
    if !installed(workspace, "deny") {
        return Ok(Verdict::Skipped("cargo-deny is not installed: `cargo install --locked cargo-deny`".to_owned()));
    }
    cargo(workspace, &["deny", "check", "licenses", "bans", "sources"], None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_selected_by_name_and_keep_their_order() {
        let names = |wanted: &[&str], skipped: &[&str]| -> Vec<&str> {
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            select(&owned(wanted), &owned(skipped)).unwrap().iter().map(|step| step.name).collect()
        };
        assert_eq!(names(&["test", "fmt"], &[]), ["fmt", "test"]);
        assert_eq!(names(&[], &[]).len(), STEPS.len());
        assert_eq!(names(&[], &["page", "deny"]).len(), STEPS.len() - 2);
        let error = select(&["clipy".to_owned()], &[]).err().unwrap().to_string();
        assert!(error.contains("did you mean `clippy`?"), "{error}");
        for name in STEPS.iter().map(|step| step.name) {
            assert!(EXAMPLES.contains(name), "`{name}` is missing in the help");
        }
    }
}
