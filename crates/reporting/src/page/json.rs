//! `index.json`: artefacts, claims and runs for programs.

use serde_json::{Value as Json, json};

use crate::{
    error::Error,
    run::{ClaimRow, Run},
};

/// The document over all runs.
pub(super) fn json(runs: &[Run]) -> Result<Json, Error> {
    let (mut artefacts, mut claims, mut list) = (Vec::new(), Vec::new(), Vec::new());
    for run in runs {
        artefacts.extend(artefacts_of(run));
        claims.extend(run.claim_rows()?.iter().map(|row| claim(run, row)));
        list.push(json!({
            "paper": run.config.paper,
            "experiment": run.config.experiment,
            "profile": run.config.profile,
            "rehearsal": run.is_rehearsal(),
            "title": run.config.body.title,
            "folder": run.path,
            "run_id": run_id(run),
            "tables": run.tables.iter().map(|(s, rows)| json!({"name": s.name, "rows": rows})).collect::<Vec<_>>(),
        }));
    }
    Ok(json!({"artefacts": artefacts, "claims": claims, "runs": list}))
}

fn run_id(run: &Run) -> String {
    run.manifest.as_ref().map(|m| m.run_id.clone()).unwrap_or_default()
}

fn artefacts_of(run: &Run) -> impl Iterator<Item = Json> {
    run.config.body.artefacts.iter().map(|artefact| {
        json!({
            "paper": run.config.paper,
            "id": artefact.id,
            "title": artefact.title,
            "experiment": run.config.experiment,
            "profile": run.config.profile,
            "rehearsal": run.is_rehearsal(),
            "files": files(run, &artefact.id),
            "run_id": run_id(run),
        })
    })
}

/// Files of the figures of an artefact; an artefact without figures rests on the tables.
fn files(run: &Run, artefact: &str) -> Vec<String> {
    let path = |file: &str| if run.path.is_empty() { file.to_string() } else { format!("{}/{file}", run.path) };
    let mut files: Vec<String> = Vec::new();
    for figure in run.config.body.figures.iter().filter(|f| f.artefact == artefact) {
        for file in figure.files() {
            if run.folder.join(&file).exists() && !files.contains(&path(&file)) {
                files.push(path(&file));
            }
        }
    }
    if files.is_empty() {
        let own = run.own_tables().flat_map(|(s, rows)| tables::files(&s.name, *rows));
        let published = run.published.iter().map(|_| "published.csv".to_string());
        files.extend(own.chain(published).map(|file| path(&file)));
    }
    files
}

fn claim(run: &Run, row: &ClaimRow) -> Json {
    let number = |v: Option<f64>| v.filter(|v| v.is_finite()).map_or(Json::Null, Json::from);
    json!({
        "paper": run.config.paper,
        "experiment": run.config.experiment,
        "profile": run.config.profile,
        "rehearsal": run.is_rehearsal(),
        "id": row.id,
        "artefact": row.artefact,
        "claim": row.statement,
        "measured": number(row.measured),
        "published": number(row.published),
        "threshold": row.threshold,
        "holds": row.holds(),
        "n": row.n,
        "unit": row.unit,
        "source": row.source,
        "run_id": run_id(run),
    })
}
