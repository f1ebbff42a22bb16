//! Builds binaries and runs frozen copies of them, so that an edit or a rebuild cannot change a queued run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::code::{self, CodeHash};
use crate::places::{Workspace, short};
use crate::runner;

/// Package of the program `render`, which draws figures and writes reports.
pub const REPORTING: &str = "reporting";

/// Number of frozen copies of one binary to keep; older ones are deleted.
const KEPT: usize = 6;

/// Number of builds to try when the sources change during each of them.
const ATTEMPTS: usize = 3;

/// Which binaries a command needs.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Packages: papers and `reporting`.
    pub packages: Vec<String>,
    /// Build the papers with their `cuda` feature.
    pub cuda: bool,
}

/// A frozen binary and the hash of the code it was built from.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// Path of the copy.
    pub path: PathBuf,
    /// Hash of the code that it was built from.
    pub code: CodeHash,
}

/// A command that runs one of the workspace's programs.
///
/// Every step allocates and frees many megabytes of activations. The allocator keeps freed memory for ten seconds, so
/// that the next step does not request it from the system again. The environment variable `MIMALLOC_PURGE_DELAY`
/// overrides this.
pub fn program(path: &Path) -> Command {
    const DELAY: &str = "MIMALLOC_PURGE_DELAY";
    let mut command = Command::new(path);
    if std::env::var_os(DELAY).is_none() {
        command.env(DELAY, "10000");
    }
    command
}

/// Name of a package's binary.
fn binary(package: &str) -> &str {
    if package == REPORTING { "render" } else { package }
}

/// Path of the frozen binary of this code, whether or not it exists.
pub fn frozen_path(workspace: &Workspace, package: &str, code: &CodeHash, cuda: bool) -> PathBuf {
    let cuda = cuda && package != REPORTING;
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let key = storage::hash_bytes(format!("{}\n{cuda}\n{flags}", code.hash).as_bytes());
    let name = format!("{}-{}{}", binary(package), short(&key, 12), std::env::consts::EXE_SUFFIX);
    workspace.local().join("bin").join(name)
}

/// Returns the frozen binaries of the current sources, and builds what is missing with one call of cargo.
///
/// # Errors
/// When the build fails, or the sources keep changing while it runs.
pub fn ensure(workspace: &Workspace, wanted: &Wanted) -> Result<BTreeMap<String, Frozen>> {
    for _ in 0..ATTEMPTS {
        let hashes = hashes(workspace, &wanted.packages)?;
        let missing: Vec<&String> = wanted
            .packages
            .iter()
            .filter(|package| !frozen_path(workspace, package, &hashes[*package], wanted.cuda).is_file())
            .collect();
        if missing.is_empty() {
            let freeze = |(package, code): (String, CodeHash)| {
                let path = frozen_path(workspace, &package, &code, wanted.cuda);
                (package, Frozen { path, code })
            };
            return Ok(hashes.into_iter().map(freeze).collect());
        }
        let built = build(workspace, &missing, wanted.cuda)?;
        // after an edit during the build, the copy would not match its hash: compare, and rebuild if needed
        if self::hashes(workspace, &wanted.packages)? == hashes {
            for package in missing {
                let made = built.get(binary(package)).with_context(|| {
                    format!(
                        "package `{package}` has no binary `{}`: give the package, its folder and its binary the same name",
                        binary(package)
                    )
                })?;
                freeze(made, &frozen_path(workspace, package, &hashes[package], wanted.cuda))?;
                prune(&workspace.local().join("bin"), binary(package));
            }
        }
    }
    bail!(
        "the sources changed during each of {ATTEMPTS} builds: stop editing for a moment and run the same command again"
    )
}

fn hashes(workspace: &Workspace, packages: &[String]) -> Result<BTreeMap<String, CodeHash>> {
    packages.iter().map(|package| Ok((package.clone(), code::hash(workspace, package)?))).collect()
}

/// Builds packages in release and returns their binaries by name.
///
/// The build always includes `reporting` and a paper. Cargo unifies the features of packages that are built together;
/// building one without the other would compile polars and other large crates a second time.
///
/// # Errors
/// When the build fails.
pub fn build(workspace: &Workspace, packages: &[&String], cuda: bool) -> Result<BTreeMap<String, PathBuf>> {
    let names: Vec<&str> = packages.iter().map(|package| binary(package)).collect();
    eprintln!("building {}", names.join(", "));
    let papers = workspace.papers()?;
    let mut others: Vec<String> =
        packages.iter().filter(|name| **name != REPORTING).map(|name| (*name).clone()).collect();
    if !others.iter().any(|name| papers.contains(name)) {
        others.extend(papers.first().cloned());
    }
    let mut command = workspace.cargo_command();
    command.current_dir(&workspace.root).args(["build", "--release", "--message-format=json-render-diagnostics"]);
    command.args(["-p", REPORTING]);
    for package in others {
        command.args(["-p", &package]);
        if cuda {
            command.arg("--features").arg(format!("{package}/cuda"));
        }
    }
    let messages = runner::ask(command.stderr(Stdio::inherit())).with_context(|| {
        let hint = if cuda { "; a build for the GPU needs nvcc: see .ci/cuda-check" } else { "" };
        format!("building {} failed{hint}", names.join(", "))
    })?;
    Ok(executables(&messages))
}

/// The binaries in cargo's JSON messages.
fn executables(messages: &str) -> BTreeMap<String, PathBuf> {
    messages
        .lines()
        .filter_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).ok()?;
            let path = message.get("executable")?.as_str()?;
            Some((message.get("target")?.get("name")?.as_str()?.to_owned(), PathBuf::from(path)))
        })
        .collect()
}

/// Copies a binary to its frozen path atomically.
fn freeze(made: &Path, frozen: &Path) -> Result<()> {
    let folder = frozen.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot create folder {}", folder.display()))?;
    let partial = folder.join(format!("{}bin-{}", storage::TEMPORARY_PREFIX, std::process::id()));
    let copy = fs::copy(made, &partial).and_then(|_| fs::rename(&partial, frozen));
    if copy.is_err() {
        let _ = fs::remove_file(&partial);
    }
    copy.with_context(|| format!("cannot copy {} to {}", made.display(), frozen.display()))
}

/// Removes all but the newest frozen copies of one binary; errors are ignored.
fn prune(folder: &Path, binary: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut copies: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.rsplit_once('-').is_some_and(|(stem, _)| stem == binary)
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    copies.sort();
    copies.reverse();
    for (_, path) in copies.into_iter().skip(KEPT) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_found_in_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"config"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"render"},"executable":"/t/release/render"}
not json
{"reason":"build-finished","success":true}"#;
        assert_eq!(executables(messages), BTreeMap::from([("render".to_owned(), PathBuf::from("/t/release/render"))]));
    }

    #[test]
    fn the_frozen_name_follows_the_code_and_the_device() {
        let workspace = Workspace { root: "/w".into(), cargo: "cargo".into() };
        let code = |hash: &str| CodeHash { hash: hash.to_owned(), parts: BTreeMap::new() };
        let name = |package: &str, hash: &str, cuda| frozen_path(&workspace, package, &code(hash), cuda);
        assert_ne!(name("paper", "a", false), name("paper", "b", false));
        assert_ne!(name("paper", "a", false), name("paper", "a", true));
        assert_eq!(name(REPORTING, "a", false), name(REPORTING, "a", true), "drawing needs no GPU");
    }

    #[test]
    fn old_copies_are_deleted() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..KEPT + 3 {
            fs::write(folder.path().join(format!("icot-mult-{index}")), "").unwrap();
        }
        fs::write(folder.path().join("icot-mult-two-0"), "").unwrap();
        prune(folder.path(), "icot-mult");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), KEPT + 1);
    }
}
