//! `cargo xtask schema`: writes the JSON Schema of every experiment's configuration, as printed by its binary.
//!
//! Editors with a YAML language server use the schema named in a file's first line for completion and checks. The
//! commands here check files and overrides against the same schema before anything runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::binaries::{self, Wanted};
use crate::output::print_line;
use crate::places::Workspace;
use crate::runner;

const EXAMPLES: &str = "Examples:
  cargo xtask schema             write configs/schema/<paper>/<experiment>.json after a change of parameters
  cargo xtask schema --check     only check whether they are up to date";

/// Write the JSON Schemas that editors use to complete and check the configurations
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Write nothing; fail when something is out of date
    #[arg(long)]
    check: bool,
}

/// Runs the command.
///
/// # Errors
/// When a binary cannot be built or a file cannot be read or written.
pub fn schema(workspace: &Workspace, args: &Args) -> Result<u8> {
    runner::catch_signals()?;
    write_or_check(workspace, args.check)
}

/// Writes the schemas, or reports those that are out of date.
///
/// # Errors
/// As [`schema`].
pub fn write_or_check(workspace: &Workspace, check: bool) -> Result<u8> {
    let papers = workspace.papers()?;
    let frozen = binaries::ensure(workspace, &Wanted { packages: papers.clone(), cuda: false })?;
    let mut wanted: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut problems = Vec::new();
    for paper in &papers {
        let binary = &frozen[paper].path;
        let list = runner::ask(Command::new(binary).arg("list"))?;
        for name in list.lines().map(str::trim).filter(|name| !name.is_empty()) {
            let text = runner::ask(Command::new(binary).args(["schema", name]))?;
            let whole: Value = serde_json::from_str(&text)
                .with_context(|| format!("the schema that `{paper} schema {name}` prints is not JSON"))?;
            let folder = workspace.configs().join("schema").join(paper);
            wanted.insert(folder.join(format!("{name}.overlay.json")), pretty(&config::overlay_schema(&whole))?);
            wanted.insert(folder.join(format!("{name}.json")), pretty(&whole)?);
        }
    }
    for path in existing(&workspace.configs().join("schema"))? {
        if !wanted.contains_key(&path) {
            if check {
                problems.push(format!("{}: no experiment has this schema", workspace.show(&path)));
            } else {
                fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
                print_line(format_args!("removed {}", workspace.show(&path)))?;
            }
        }
    }
    for (path, text) in &wanted {
        if storage::read_text(path).is_ok_and(|there| there == *text) {
            continue;
        }
        if check {
            problems.push(format!("{}: out of date", workspace.show(path)));
        } else {
            storage::write_atomic(path, text.as_bytes())?;
            print_line(format_args!("wrote {}", workspace.show(path)))?;
        }
    }
    if !problems.is_empty() {
        problems.push("run `cargo xtask schema` to update them".to_owned());
    }
    problems.extend(first_lines(workspace, &papers)?);
    if problems.is_empty() {
        print_line(format_args!("{} schemas are up to date", wanted.len()))?;
        return Ok(0);
    }
    eprintln!("{}", problems.join("\n"));
    Ok(1)
}

fn pretty(schema: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(schema).context("cannot write a schema as JSON")? + "\n")
}

/// The existing schema files.
fn existing(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !folder.is_dir() {
        return Ok(files);
    }
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_dir() {
            files.extend(existing(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    Ok(files)
}

/// A message for each configuration whose first line does not name its schema.
fn first_lines(workspace: &Workspace, papers: &[String]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for paper in papers {
        let folder = workspace.configs().join(paper);
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let line = schema_line(paper, &name);
            if storage::read_text(&path)?.lines().next() != Some(&line) {
                problems.push(format!("{}: its first line should be\n  {line}", workspace.show(&path)));
            }
        }
    }
    problems.sort();
    Ok(problems)
}

/// The first line of a configuration, which names its schema for editors.
///
/// `stem` is the file's name without `.yaml`, such as `train` or `train.smoke`.
pub fn schema_line(paper: &str, stem: &str) -> String {
    let file = match stem.split_once('.') {
        Some((name, _)) => format!("{name}.overlay.json"),
        None => format!("{stem}.json"),
    };
    format!("# yaml-language-server: $schema=../schema/{paper}/{file}")
}

/// Fails when a name is not valid for a folder, a package and a binary.
///
/// # Errors
/// When it is not lower-case letters, digits and `-`, starting with a letter.
pub fn check_name(kind: &str, name: &str) -> Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !starts || !rest || name.ends_with('-') || name.contains("--") {
        bail!(
            "`{name}` is not a valid name for a {kind}: use lower-case letters, digits and single `-`, such as `icot-mult`"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_file_names_the_schema_and_an_overlay_the_one_without_required_keys() {
        assert_eq!(schema_line("p", "train"), "# yaml-language-server: $schema=../schema/p/train.json");
        assert_eq!(schema_line("p", "train.smoke"), "# yaml-language-server: $schema=../schema/p/train.overlay.json");
    }

    #[test]
    fn names_fit_folders_packages_and_binaries() {
        for good in ["icot-mult", "a", "x2"] {
            check_name("paper", good).unwrap();
        }
        for bad in ["", "Icot", "2x", "a_b", "a/b", "a-", "a--b", "../x"] {
            assert!(check_name("paper", bad).is_err(), "{bad}");
        }
    }
}
