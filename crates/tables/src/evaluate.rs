//! Claims and published numbers of a finished run, evaluated from the tables on disk.

use std::path::Path;

use config::{
    MANIFEST, Manifest,
    claims::{self, Holds},
};

use crate::{
    error::Error,
    index::{INDEX, read_index, write_index},
    schema::Schema,
    standard,
    table::Table,
};

/// Evaluates the claims and published numbers of the manifest's configuration on `metrics.csv` in a finished run's folder.
///
/// Writes `claims.csv`, `published.csv` and `tables.json`, then `run.yaml` with the hashes of the new files.
/// Returns a message for each claim or published number whose metric the run does not report.
///
/// # Errors
/// When a file cannot be read or written. The tables of the run and its metrics stay as they are.
pub fn evaluate(folder: &Path, manifest: &mut Manifest) -> Result<Vec<String>, Error> {
    let mut points = standard::points(&Table::read(folder, standard::metrics().name.as_str())?)?;
    if points.is_empty() {
        // a run without metrics is one point: claims on it are mistakes
        points.push(Vec::new());
    }
    let body = &manifest.config.body;
    let verdicts = claims::evaluate(&body.claims, &body.claims_asked, &points);
    let compared = claims::compare(&body.published, &points);
    let wrong = verdicts.iter().filter(|verdict| verdict.holds == Holds::Error);
    let mut messages: Vec<String> = wrong.map(|of| format!("claim `{}`: {}", of.claim.id, of.note)).collect();
    let unknown = compared.iter().filter(|of| !of.note.is_empty());
    messages.extend(unknown.map(|of| format!("published `{}`: {}", of.published.statement, of.note)));

    let mut index = read_index(folder)?;
    for table in [standard::claims_table(&verdicts)?, standard::published_table(&compared)?] {
        for path in table.write(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            manifest.outputs.insert(name, storage::hash_file(&path)?);
        }
        let entry = (table.schema().clone(), table.len());
        match index.iter_mut().find(|(schema, _)| schema.name == entry.0.name) {
            Some(old) => *old = entry,
            None => index.push(entry),
        }
    }
    let entries: Vec<(&Schema, usize)> = index.iter().map(|(schema, rows)| (schema, *rows)).collect();
    write_index(folder, &entries)?;
    if let Some(hash) = manifest.outputs.get_mut(INDEX) {
        *hash = storage::hash_file(&folder.join(INDEX))?;
    }
    storage::write_atomic(&folder.join(MANIFEST), config::yaml::to_string(manifest)?.as_bytes())?;
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use config::{claims::Metric, yaml};

    use super::*;

    #[test]
    fn claims_are_evaluated_from_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let metric = |value: f64| Metric { name: "acc".into(), value: Some(value), unit: "fraction".into() };
        let metrics = standard::metrics_table(&[vec![metric(0.75)], vec![metric(0.5)]]).unwrap();
        assert_eq!(metrics.to_csv().unwrap(), "metric,value,unit\nacc,0.75,fraction\nacc@2,0.5,fraction\n");
        metrics.write(folder.path()).unwrap();
        write_index(folder.path(), &[(metrics.schema(), metrics.len())]).unwrap();
        let claim = |id: &str, metric: &str| {
            format!("{{id: {id}, artefact: a, statement: s, metric: {metric}, threshold: {{at_least: 0.6}}}}")
        };
        let text = format!(
            "{{run_id: r, rehearsal: false, code: {{version: x}}, machine: {{device: cpu, threads: 1, system: x}}, wall_seconds: 1, \
             config: {{paper: p, experiment: e, profile: cpu, title: t, seed: 1, params: {{}}, \
             claims: [{}, {}, {}], claims_asked: {{except: [later]}}}}}}",
            claim("worst", "acc"),
            claim("typo", "ac"),
            claim("later", "acc")
        );
        let mut manifest: Manifest = yaml::from_str(&text, "x").unwrap();
        let messages = evaluate(folder.path(), &mut manifest).unwrap();
        assert_eq!(messages, ["claim `typo`: unknown metric `ac`, did you mean `acc`? (there are: acc)"]);
        let claims = Table::read(folder.path(), "claims").unwrap();
        let holds = claims.texts("holds").unwrap();
        assert_eq!(holds, ["no", "error", "not asked"].map(|holds| Some(holds.to_owned())));
        assert_eq!(claims.floats("measured").unwrap()[0], 0.5);
        let text = std::fs::read_to_string(folder.path().join(MANIFEST)).unwrap();
        let written: Manifest = yaml::from_str(&text, "x").unwrap();
        for (name, hash) in &written.outputs {
            assert_eq!(*hash, storage::hash_file(&folder.path().join(name)).unwrap());
        }
        assert_eq!(written.outputs.len(), 2);
    }
}
