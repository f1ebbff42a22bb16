//! The metrics that configurations name, compared with those that finished runs have reported.
//!
//! A metric exists only once a run has reported it, so no configuration can be checked against a schema for this.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Result;
use config::claims::{named_metrics, unknown_name};
use config::{Envelope, ExperimentId, MANIFEST, Profile};

use crate::places::{Variant, Workspace};

/// The comparison of one configuration with a finished run.
#[derive(Debug, PartialEq)]
pub enum Check {
    /// No run has finished in any profile.
    NotChecked,
    /// A message for each metric that the run does not report; none when all names are known.
    Checked(Vec<String>),
}

/// Compares the metrics of claims and published numbers with those of a finished run: the run of the same profile, else
/// the newest of another profile, else the golden tables of the paper's tests.
///
/// # Errors
/// When a file of a run cannot be read.
pub fn check(workspace: &Workspace, id: &ExperimentId, profile: Profile, envelope: &Envelope) -> Result<Check> {
    let named = named_metrics(&envelope.body.claims, &envelope.body.published);
    if named.is_empty() {
        return Ok(Check::Checked(Vec::new()));
    }
    let Some(path) = newest(workspace, id, profile) else { return Ok(Check::NotChecked) };
    let names = names(&storage::read_text(&path)?);
    let of = workspace.show(&path);
    let problem = |(by, metric): (String, &str)| {
        let problem = unknown_name(metric, names.iter().map(String::as_str))?;
        Some(format!("{id} ({profile}), {by}: {problem}; compared with {of}"))
    };
    Ok(Check::Checked(named.into_iter().filter_map(problem).collect()))
}

/// The `metrics.csv` to compare with.
fn newest(workspace: &Workspace, id: &ExperimentId, profile: Profile) -> Option<PathBuf> {
    let folder = |profile| Variant::new(profile, false, &[]).folder(workspace, id);
    let finished = |folder: PathBuf| {
        let time: SystemTime = fs::metadata(folder.join(MANIFEST)).and_then(|file| file.modified()).ok()?;
        let path = folder.join("metrics.csv");
        path.is_file().then_some((time, path))
    };
    if let Some((_, own)) = finished(folder(profile)) {
        return Some(own);
    }
    let runs = Profile::ALL.into_iter().filter_map(|profile| finished(folder(profile)));
    let golden = workspace.root.join("experiments").join(&id.paper).join("tests/golden").join(&id.name);
    let golden = golden.join("metrics.csv");
    runs.max().map(|(_, path)| path).or_else(|| golden.is_file().then_some(golden))
}

/// The names in the column `metric`, without the numbers of seeds.
fn names(csv: &str) -> BTreeSet<String> {
    let mut lines = csv.lines().map(cells);
    let column = lines.next().and_then(|header| header.iter().position(|name| name == "metric"));
    let name = |cells: Vec<String>| Some(cells.get(column?)?.clone());
    let first_seed = |name: String| match name.rsplit_once('@') {
        Some((name, seed)) if seed.parse::<usize>().is_ok() => name.to_owned(),
        _ => name,
    };
    lines.filter_map(name).map(first_seed).collect()
}

/// The cells of one line. A metric's name has no line breaks.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    for c in line.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().into_iter().for_each(|cell| cell.push(c)),
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const CONFIG: &str = "{paper: p, experiment: e, profile: paper, title: t, seed: 1, params: {}, \
        claims: [{id: c, artefact: a, statement: s, metric: acuracy, minus: loss, threshold: {at_least: 1}}], \
        published: [{artefact: a, metric: lss, statement: s, source: x, provenance: read}]}";

    fn write(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_mistyped_metric_of_any_profile_is_found_without_a_run_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let workspace = Workspace { root: folder.path().to_owned(), cargo: "cargo".into() };
        let id: ExperimentId = "p/e".parse().unwrap();
        let envelope: Envelope = config::yaml::from_str(CONFIG, "x").unwrap();
        let check = || check(&workspace, &id, Profile::Paper, &envelope).unwrap();
        assert_eq!(check(), Check::NotChecked);

        write(
            folder.path(),
            "experiments/p/tests/golden/e/metrics.csv",
            "metric,value,unit\nacuracy,1,\nlss,1,\nloss,2,\n",
        );
        assert_eq!(check(), Check::Checked(Vec::new()));

        let smoke = "results/.runs/smoke/p/e";
        write(
            folder.path(),
            &format!("{smoke}/metrics.csv"),
            "seed,metric,value\n1,accuracy,0.5\n2,accuracy@2,\n1,loss,2\n",
        );
        assert_eq!(check(), Check::Checked(Vec::new()), "a folder without a manifest is not a finished run");
        write(folder.path(), &format!("{smoke}/run.yaml"), "");
        let Check::Checked(problems) = check() else { panic!("not checked") };
        assert_eq!(
            problems,
            [
                "p/e (paper), claim `c`: unknown metric `acuracy`, did you mean `accuracy`? (there are: accuracy, loss); \
                 compared with results/.runs/smoke/p/e/metrics.csv",
                "p/e (paper), published `s`: unknown metric `lss`, did you mean `loss`? (there are: accuracy, loss); \
                 compared with results/.runs/smoke/p/e/metrics.csv",
            ]
        );
    }
}
