//! Hashes the sources that a package is built from, to record which code produced a result.
//!
//! The hash of a package covers the workspace crates it reaches through `Cargo.lock` (their sources and manifests, not
//! their tests), the name, version and checksum of every other package it reaches, and the lines of the workspace
//! manifest that name those packages.
//! So the results of a paper stay up to date when an unrelated crate changes or a new paper is added.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::places::Workspace;

/// The hash of a package's code and of its parts, by crate name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeHash {
    /// Hash over all parts.
    pub hash: String,
    /// Hashes of each workspace crate and of the relevant lines of `Cargo.lock` and `Cargo.toml`.
    pub parts: BTreeMap<String, String>,
}

impl CodeHash {
    fn over(parts: BTreeMap<String, String>) -> Self {
        let text: String = parts.iter().map(|(name, hash)| format!("{name} {hash}\n")).collect();
        Self { hash: storage::hash_bytes(text.as_bytes()), parts }
    }

    /// Names of the parts that differ from `before`.
    pub fn changed_since(&self, before: &Self) -> Vec<String> {
        let names: BTreeSet<&String> = self.parts.keys().chain(before.parts.keys()).collect();
        names.into_iter().filter(|name| self.parts.get(*name) != before.parts.get(*name)).cloned().collect()
    }
}

/// Hashes the code of a package.
///
/// # Errors
/// When `Cargo.lock` or a source cannot be read, or the package is not in the lock file.
pub fn hash(workspace: &Workspace, package: &str) -> Result<CodeHash> {
    let lock = Lockfile::read(&workspace.root)?;
    let mut parts = BTreeMap::new();
    let mut outside = String::new();
    let mut names = BTreeSet::new();
    for package in lock.closure(package)? {
        names.insert(package.name.as_str());
        if package.source.is_none() {
            parts.insert(package.name.clone(), hash_sources(&member_folder(workspace, &package.name)?)?);
        } else {
            outside += &format!("{} {} {}\n", package.name, package.version, package.checksum);
        }
    }
    parts.insert("Cargo.lock".to_owned(), storage::hash_bytes(outside.as_bytes()));
    let manifest = storage::read_text(&workspace.root.join("Cargo.toml"))?;
    parts.insert("Cargo.toml".to_owned(), storage::hash_bytes(manifest_lines(&manifest, &names).as_bytes()));
    Ok(CodeHash::over(parts))
}

/// Folder of a workspace crate, which has the same name as the crate.
fn member_folder(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    ["crates", "experiments", "."]
        .iter()
        .map(|parent| workspace.root.join(parent).join(name))
        .find(|folder| folder.join("Cargo.toml").is_file())
        .with_context(|| {
            format!("Cargo.lock lists `{name}`, which has no folder in crates/ or experiments/: run `cargo metadata`")
        })
}

/// Hash of all files in a crate's folder except tests, benches, examples, the readme and the changelog.
fn hash_sources(folder: &Path) -> Result<String> {
    const ASIDE: [&str; 5] = ["tests", "benches", "examples", "README.md", "CHANGELOG.md"];
    let keep = |path: &Path| {
        let inside = path.strip_prefix(folder).unwrap_or(path);
        let first = inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        !first.is_some_and(|first| ASIDE.contains(&first.as_str()))
    };
    Ok(storage::hash_tree(&[folder.to_owned()], &keep)?)
}

/// The lines of the workspace manifest that can change how one of `names` is built: its dependency lines and the
/// release profile.
fn manifest_lines(manifest: &str, names: &BTreeSet<&str>) -> String {
    let mut section = String::new();
    let mut wanted = false;
    let mut kept = String::new();
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if line.starts_with('[') {
            section = line.to_owned();
            wanted = section.starts_with("[profile.release") || section.starts_with("[patch");
        } else if section == "[workspace.dependencies]"
            && let Some((key, value)) = line.split_once('=')
            && !key.contains(['{', '"', '['])
        {
            let renamed = value.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            wanted = names.contains(renamed.unwrap_or(key.trim()));
        }
        if wanted {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

/// The packages of a `Cargo.lock`.
#[derive(Debug, Default)]
pub struct Lockfile {
    packages: Vec<Package>,
}

/// One package of a `Cargo.lock`.
#[derive(Debug, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its source; `None` for a crate of the workspace.
    pub source: Option<String>,
    /// Hash of its archive; empty for a crate of the workspace.
    pub checksum: String,
    dependencies: Vec<String>,
}

impl Lockfile {
    /// Reads `Cargo.lock`.
    ///
    /// # Errors
    /// When it cannot be read or holds no package.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("Cargo.lock");
        let lock = Self::parse(&storage::read_text(&path)?);
        if lock.packages.is_empty() {
            bail!("{} lists no package: restore it with `git checkout Cargo.lock`", path.display());
        }
        Ok(lock)
    }

    /// Parses the subset of TOML that cargo writes: `key = "value"` lines and one list.
    fn parse(text: &str) -> Self {
        let mut packages: Vec<Package> = Vec::new();
        for line in text.lines().map(str::trim) {
            if line == "[[package]]" {
                packages.push(Package::default());
            }
            let Some(package) = packages.last_mut() else { continue };
            if let Some((key, value)) = line.split_once(" = ") {
                let value = value.trim_matches('"').to_owned();
                match key {
                    "name" => package.name = value,
                    "version" => package.version = value,
                    "source" => package.source = Some(value),
                    "checksum" => package.checksum = value,
                    _ => {}
                }
            } else if let Some(dependency) = line.strip_prefix('"') {
                package.dependencies.push(dependency.trim_end_matches(',').trim_end_matches('"').to_owned());
            }
        }
        Self { packages }
    }

    /// A package of the workspace and all its dependencies, direct and indirect, in the order of the file.
    ///
    /// # Errors
    /// When there is no such package.
    pub fn closure(&self, name: &str) -> Result<Vec<&Package>> {
        let start =
            self.packages.iter().position(|package| package.name == name && package.source.is_none()).with_context(
                || format!("Cargo.lock has no package `{name}` of this workspace: run `cargo metadata`"),
            )?;
        let mut reached = BTreeSet::from([start]);
        let mut queue = vec![start];
        while let Some(index) = queue.pop() {
            for dependency in &self.packages[index].dependencies {
                for next in self.matching(dependency) {
                    if reached.insert(next) {
                        queue.push(next);
                    }
                }
            }
        }
        Ok(reached.into_iter().map(|index| &self.packages[index]).collect())
    }

    /// Indices of the packages that match a dependency written as `name`, `name version` or `name version (source)`.
    fn matching(&self, dependency: &str) -> impl Iterator<Item = usize> {
        let mut words = dependency.split(' ');
        let name = words.next().unwrap_or_default().to_owned();
        let version = words.next().map(str::to_owned);
        self.packages
            .iter()
            .enumerate()
            .filter(move |(_, package)| {
                package.name == name && version.as_ref().is_none_or(|version| *version == package.version)
            })
            .map(|(index, _)| index)
    }
}

/// The commit that is checked out.
#[derive(Clone, Debug, Default)]
pub struct Git {
    /// Its hash; `None` without a repository.
    pub commit: Option<String>,
    /// Whether files outside `results/` differ from it.
    pub dirty: Option<bool>,
}

/// Asks git about the checkout; a missing git or repository is not an error.
pub fn git(workspace: &Workspace) -> Git {
    let ask = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&workspace.root).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    Git {
        commit: ask(&["rev-parse", "--verify", "--quiet", "HEAD"]).filter(|commit| !commit.is_empty()),
        dirty: ask(&["status", "--porcelain", "--", ".", ":(exclude)results"]).map(|changes| !changes.is_empty()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    const LOCK: &str = r#"
version = 4

[[package]]
name = "alpha"
version = "1.0.0"
source = "registry"
checksum = "aa"

[[package]]
name = "alpha"
version = "2.0.0"
source = "registry"
checksum = "bb"
dependencies = [
 "beta",
]

[[package]]
name = "beta"
version = "1.0.0"
source = "registry"
checksum = "cc"

[[package]]
name = "core"
version = "0.1.0"
dependencies = [
 "alpha 2.0.0",
]

[[package]]
name = "figures"
version = "0.1.0"
dependencies = [
 "core",
]

[[package]]
name = "other"
version = "0.1.0"
dependencies = [
 "alpha 1.0.0",
]

[[package]]
name = "paper"
version = "0.1.0"
dependencies = [
 "core",
]
"#;

    const MANIFEST: &str = "[workspace]
members = [\"crates/*\", \"experiments/*\"]
[workspace.dependencies]
# a comment
alpha = \"2\"
gamma = { package = \"beta\", version = \"1\" }
unrelated = \"3\"
[profile.release]
debug = false
";

    /// A workspace of made-up packages: `paper` and `figures` use `core`; `other` is another paper.
    pub fn made_up(root: &Path) -> Workspace {
        fs::write(root.join("Cargo.lock"), LOCK).unwrap();
        fs::write(root.join("Cargo.toml"), MANIFEST).unwrap();
        for (parent, name) in
            [("crates", "core"), ("crates", "figures"), ("experiments", "paper"), ("experiments", "other")]
        {
            let folder = root.join(parent).join(name);
            fs::create_dir_all(folder.join("src")).unwrap();
            fs::create_dir_all(folder.join("tests")).unwrap();
            fs::write(folder.join("Cargo.toml"), format!("[package]\nname = \"{name}\"\n")).unwrap();
            fs::write(folder.join("src/lib.rs"), "//! one\n").unwrap();
            fs::write(folder.join("tests/all.rs"), "//! one\n").unwrap();
        }
        Workspace { root: root.to_owned(), cargo: "cargo".into() }
    }

    #[test]
    fn the_hash_depends_only_on_sources_that_are_compiled_in() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = made_up(folder.path());
        let before = hash(&workspace, "paper").unwrap();
        let changed = |path: &str, text: &str| {
            let path = folder.path().join(path);
            let old = fs::read_to_string(&path).unwrap();
            fs::write(&path, text).unwrap();
            let after = hash(&workspace, "paper").unwrap();
            fs::write(&path, old).unwrap();
            assert_eq!(after.hash == before.hash, after.changed_since(&before).is_empty());
            after.changed_since(&before)
        };
        assert_eq!(changed("experiments/paper/src/lib.rs", "//! two\n"), ["paper"]);
        assert_eq!(changed("crates/core/src/lib.rs", "//! two\n"), ["core"]);
        assert_eq!(changed("crates/core/Cargo.toml", "[package]\n"), ["core"]);
        assert_eq!(changed("crates/core/tests/all.rs", "//! two\n"), [""; 0], "tests change no number");
        assert_eq!(changed("crates/figures/src/lib.rs", "//! two\n"), [""; 0], "drawing changes no number");
        assert_eq!(changed("experiments/other/src/lib.rs", "//! two\n"), [""; 0]);
        assert_eq!(changed("Cargo.lock", &LOCK.replace("\"bb\"", "\"b2\"")), ["Cargo.lock"]);
        assert_eq!(changed("Cargo.lock", &LOCK.replace("\"cc\"", "\"c2\"")), ["Cargo.lock"], "reached through alpha");
        assert_eq!(changed("Cargo.lock", &LOCK.replace("\"aa\"", "\"a2\"")), [""; 0], "another version, not used");
        assert_eq!(changed("Cargo.toml", &MANIFEST.replace("alpha = \"2\"", "alpha = \"2.1\"")), ["Cargo.toml"]);
        assert_eq!(changed("Cargo.toml", &MANIFEST.replace("version = \"1\"", "version = \"1.1\"")), ["Cargo.toml"]);
        assert_eq!(changed("Cargo.toml", &MANIFEST.replace("debug = false", "debug = true")), ["Cargo.toml"]);
        assert_eq!(changed("Cargo.toml", &MANIFEST.replace("\"3\"", "\"4\"")), [""; 0], "not used");
        fs::write(folder.path().join("crates/core/src/new.rs"), "").unwrap();
        assert_eq!(hash(&workspace, "paper").unwrap().changed_since(&before), ["core"]);
    }

    #[test]
    fn an_unknown_package_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = made_up(folder.path());
        assert!(hash(&workspace, "nothing").unwrap_err().to_string().contains("nothing"));
        assert!(hash(&workspace, "alpha").unwrap_err().to_string().contains("alpha"), "not of this workspace");
    }
}
