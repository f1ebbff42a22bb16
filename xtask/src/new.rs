//! `cargo xtask new`: the folders of a new paper, with a small model that trains and an analysis of it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::places::Workspace;
use crate::schema::check_name;

const EXAMPLES: &str = "Examples:
  cargo xtask new induction-heads            writes experiments/induction-heads and configs/induction-heads
  cargo xtask reproduce induction-heads --profile smoke
                                             trains the example and analyses it

The new paper touches no existing file: the folder is the registry.";

/// Write the folders of a new paper: a small model that trains, an analysis, figures, claims and a golden test
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name of the folder, the package and the binary, such as `induction-heads`
    paper: String,
}

/// The path of each template's copy; `{{paper}}` stands for the paper's name, in paths and texts.
const FILES: [(&str, &str); 12] = [
    ("experiments/{{paper}}/Cargo.toml", include_str!("../template/manifest.toml")),
    ("experiments/{{paper}}/README.md", include_str!("../template/README.md")),
    ("experiments/{{paper}}/src/main.rs", include_str!("../template/main.rs.txt")),
    ("experiments/{{paper}}/src/train.rs", include_str!("../template/train.rs.txt")),
    ("experiments/{{paper}}/src/attention.rs", include_str!("../template/attention.rs.txt")),
    ("experiments/{{paper}}/tests/program.rs", include_str!("../template/program.rs.txt")),
    ("experiments/{{paper}}/tests/golden/train/curves.csv", include_str!("../template/curves.csv")),
    ("experiments/{{paper}}/tests/golden/attention/scores.csv", include_str!("../template/scores.csv")),
    ("configs/{{paper}}/train.yaml", include_str!("../template/train.yaml")),
    ("configs/{{paper}}/train.smoke.yaml", include_str!("../template/train.smoke.yaml")),
    ("configs/{{paper}}/attention.yaml", include_str!("../template/attention.yaml")),
    ("configs/{{paper}}/attention.smoke.yaml", include_str!("../template/attention.smoke.yaml")),
];

/// Runs the command.
///
/// # Errors
/// When a name cannot be used, the paper is there already, or a file cannot be written.
pub fn new(workspace: &Workspace, args: &Args) -> Result<u8> {
    lay(workspace, args)?;
    println!("next: `cargo xtask schema`, then `cargo xtask reproduce {} --profile smoke`", args.paper);
    Ok(0)
}

/// Lays a new paper in a small workspace of its own that borrows this one's crates, and says where; what it builds is
/// shared with this workspace.
///
/// # Errors
/// When a file cannot be read or written.
pub fn lay_aside(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.local().join("new");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    let manifest = storage::read_text(&workspace.root.join("Cargo.toml"))?;
    let crates = workspace.root.join("crates").display().to_string();
    let manifest = manifest.replace("\"crates/*\", ", "").replace(", \"xtask\"", "");
    let manifest = manifest.replace("path = \"crates/", &format!("path = \"{crates}/"));
    storage::write_atomic(&root.join("Cargo.toml"), manifest.as_bytes())?;
    let lock = storage::read(&workspace.root.join("Cargo.lock"))?;
    storage::write_atomic(&root.join("Cargo.lock"), &lock)?;
    // built beside it, so that features unite as everywhere else and nothing large is compiled twice
    let beside = format!(
        "[package]\nname = \"beside\"\nedition = \"2024\"\n[dependencies]\nreporting = {{ path = \"{crates}/reporting\" }}\n"
    );
    storage::write_atomic(&root.join("experiments/beside/Cargo.toml"), beside.as_bytes())?;
    storage::write_atomic(&root.join("experiments/beside/src/lib.rs"), b"")?;
    let aside = Workspace { root: root.clone(), cargo: workspace.cargo.clone() };
    lay(&aside, &Args { paper: "new-paper".to_owned() })?;
    Ok(root)
}

/// Writes the files.
fn lay(workspace: &Workspace, args: &Args) -> Result<()> {
    check_name("paper", &args.paper)?;
    if ["xtask", "schema", "workbench", "render"].contains(&args.paper.as_str()) {
        bail!("`{}` is taken: choose another name", args.paper);
    }
    for parent in ["crates", "experiments", "configs"] {
        if workspace.root.join(parent).join(&args.paper).exists() {
            bail!("{parent}/{} is there already: choose another name, or remove it first", args.paper);
        }
    }
    let named = |text: &str| text.replace("{{paper}}", &args.paper);
    for (path, text) in FILES {
        let path = workspace.root.join(named(path));
        storage::write_atomic(&path, named(text).as_bytes())?;
        println!("wrote {}", workspace.show(&path));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use config::{Catalogue, Profile};

    use super::*;

    fn laid(paper: &str) -> (tempfile::TempDir, Workspace, Result<u8>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("experiments")).unwrap();
        let workspace = Workspace { root: folder.path().to_owned(), cargo: "cargo".into() };
        let result = new(&workspace, &Args { paper: paper.to_owned() });
        (folder, workspace, result)
    }

    #[test]
    fn a_new_paper_is_complete_and_its_configurations_load() {
        let (_folder, workspace, result) = laid("my-paper");
        result.unwrap();
        assert_eq!(workspace.papers().unwrap(), ["my-paper"]);
        let catalogue = Catalogue::scan(&workspace.root).unwrap();
        for name in ["train", "attention"] {
            let id = format!("my-paper/{name}").parse().unwrap();
            for profile in [Profile::Smoke, Profile::Cpu] {
                let envelope = catalogue.load(&id, profile, &[]).unwrap();
                assert_eq!((envelope.body.figures.len(), envelope.body.claims.len()), (1, 1));
            }
        }
        for (path, _) in FILES {
            let text = storage::read_text(&workspace.root.join(path.replace("{{paper}}", "my-paper"))).unwrap();
            assert!(!text.contains("{{"), "{path}: {text}");
        }
        let again = new(&workspace, &Args { paper: "my-paper".to_owned() });
        assert!(again.unwrap_err().to_string().contains("there already"));
    }

    #[test]
    fn names_that_cannot_work_are_refused() {
        for paper in ["My", "schema", "a b"] {
            assert!(laid(paper).2.is_err(), "{paper}");
        }
    }
}
