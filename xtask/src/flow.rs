//! Tests that the dependencies between the crates follow the layers of the architecture.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::code::Lockfile;
use crate::places::Workspace;

/// A crate of this workspace: its stage and its dependencies.
struct Member {
    stage: Option<u64>,
    dependencies: Vec<String>,
}

fn workspace() -> Workspace {
    Workspace::find(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn members() -> BTreeMap<String, Member> {
    let workspace = workspace();
    let output = Command::new(&workspace.cargo)
        .current_dir(&workspace.root)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let names = dependencies.iter().map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            let member = Member { stage: package["metadata"]["flow"]["stage"].as_u64(), dependencies: names.collect() };
            (package["name"].as_str().unwrap().to_owned(), member)
        })
        .collect()
}

#[test]
fn every_crate_has_a_stage_and_depends_on_lower_stages_only() {
    let members = members();
    let mut problems = Vec::new();
    for (name, member) in &members {
        let Some(stage) = member.stage else {
            problems.push(format!("{name} has no stage: add `[package.metadata.flow] stage = N` to its manifest"));
            continue;
        };
        for dependency in &member.dependencies {
            if let Some(below) = members.get(dependency).and_then(|member| member.stage)
                && below >= stage
            {
                problems.push(format!(
                    "{name} (stage {stage}) depends on {dependency} (stage {below}): depend on lower stages only"
                ));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn only_the_owners_depend_on_an_external_crate() {
    let owners: [(&str, &[&str]); 6] = [
        ("yaml_serde", &["config"]),
        ("polars", &["tables", "corpora", "mcq-circuits"]),
        ("plotters", &["figures"]),
        ("hf-hub", &["hub"]),
        ("ureq", &["hub"]),
        ("tokenizers", &["tokens"]),
    ];
    let mut problems = Vec::new();
    for (name, member) in members() {
        for (external, owners) in owners {
            if member.dependencies.iter().any(|dependency| dependency == external) && !owners.contains(&name.as_str()) {
                problems.push(format!("{name} depends on {external}, which belongs to {}", owners.join(" and ")));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn measuring_and_drawing_share_only_files() {
    let lock = Lockfile::read(&workspace().root).unwrap();
    let mut problems = Vec::new();
    for (name, member) in members() {
        let reached = lock.closure(&name).unwrap();
        let reaches = |wanted: &str| reached.iter().any(|package| package.name == wanted);
        let draws = ["figures", "reporting"].contains(&name.as_str());
        if !draws && ["figures", "reporting", "plotters"].into_iter().any(reaches) {
            problems.push(format!("{name} links a drawing crate: exchange data through files"));
        }
        if draws && reaches("candle-core") {
            problems.push(format!("{name} links candle: exchange data through files"));
        }
        let heavy = ["candle-core", "polars", "plotters", "tokio"];
        for heavy in heavy.iter().filter(|heavy| name == "xtask" && reaches(heavy)) {
            problems.push(format!("xtask depends on {heavy}: remove it, because xtask must build in seconds"));
        }
        assert!(member.stage.is_some());
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
