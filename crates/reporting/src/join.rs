//! One run folder from the points of a sweep: tables are joined, and claims are evaluated over all points.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use config::{Envelope, MANIFEST, Manifest, Ordered, Point, Sweep};
use serde_json::Value as Json;
use tables::{Schema, Table, Value, concat, read_index, write_index};

use crate::{error::Error, run::read_manifest};

/// A finished point of a sweep.
#[derive(Clone, Debug)]
pub struct PointFolder {
    /// Name of the point.
    pub id: String,
    /// Its run folder.
    pub folder: PathBuf,
}

/// Joins the points' tables into `out`, with the swept keys as leading columns, writes the manifest, and then evaluates
/// claims over all points.
///
/// Claims are evaluated over all points, and the manifest is written last.
///
/// The column of a key has the last part of its path as its name, or the whole path where that would be ambiguous.
/// The values of the keys come from the manifests of the points, so the names of the folders carry no meaning.
///
/// # Errors
/// When there are no points, a point is not finished or belongs to another experiment, or tables differ in columns.
pub fn join(config: &Envelope, out: &Path, points: &[PointFolder], code_hash: Option<&str>) -> Result<(), Error> {
    if points.is_empty() {
        return Err(Error::Join("there are no points".into()));
    }
    let mut manifests = Vec::new();
    for point in points {
        if !point.folder.join(MANIFEST).exists() {
            return Err(Error::Join(format!("point {} ({}) is not finished", point.id, point.folder.display())));
        }
        let manifest = read_manifest(&point.folder)?;
        if (&manifest.config.paper, &manifest.config.experiment) != (&config.paper, &config.experiment) {
            let (paper, experiment) = (&manifest.config.paper, &manifest.config.experiment);
            return Err(Error::Join(format!("point {} is a run of {paper}/{experiment}", point.id)));
        }
        manifests.push(manifest);
    }
    let configs = manifests.iter().map(|m| serde_json::to_value(&m.config)).collect::<Result<Vec<Json>, _>>()?;
    let paths = swept(config.body.sweep.as_ref(), &configs);
    let values: Vec<Vec<Json>> = configs
        .iter()
        .map(|config| paths.iter().map(|path| lookup(config, path).cloned().unwrap_or(Json::Null)).collect())
        .collect();

    // the tables of every point, in the order of the first point
    let first = read_index(&points[0].folder)?;
    let names: Vec<&str> = first.iter().map(|(s, _)| s.name.as_str()).collect();
    let mut read: Vec<Vec<Table>> = Vec::new();
    for point in points {
        let index = read_index(&point.folder)?;
        let own = |name: &str| !matches!(name, "claims" | "published");
        if let Some((extra, _)) = index.iter().find(|(s, _)| !names.contains(&s.name.as_str())) {
            let problem = format!("point {} has a table `{}` that point {} lacks", point.id, extra.name, points[0].id);
            return Err(Error::Join(problem));
        }
        let tables = names.iter().filter(|n| own(n)).map(|n| Table::read(&point.folder, n));
        read.push(tables.collect::<Result<_, _>>()?);
    }
    let columns = columns(&paths, &values, &read)?;
    let mut joined = Vec::new();
    for t in 0..read[0].len() {
        let parts: Vec<_> = read
            .iter()
            .zip(&values)
            .map(|(tables, values)| {
                let keys = columns.iter().cloned().zip(values.iter().map(value));
                (keys.collect::<Vec<_>>(), tables[t].clone())
            })
            .collect();
        joined.push(concat(&parts)?);
    }
    if columns.iter().any(|column| column == "seed") {
        let keys = columns.iter().map(String::as_str).filter(|column| *column != "seed");
        let by: Vec<&str> = keys.chain(["metric", "unit"]).collect();
        let metrics = joined.iter().find(|table| table.schema().name == "metrics");
        let summary = metrics.map(|metrics| metrics.summarise(&by, "value")).transpose()?;
        joined.extend(summary);
    }

    let mut outputs = BTreeMap::new();
    for table in &joined {
        for path in table.write(out)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            outputs.insert(name, storage::hash_file(&path)?);
        }
    }
    let entries: Vec<(&Schema, usize)> = joined.iter().map(|t| (t.schema(), t.len())).collect();
    write_index(out, &entries)?;
    let mut manifest = manifest(config, points, &paths, &values, &manifests, outputs, code_hash);
    let yaml = config::yaml::to_string(&manifest)?;
    storage::write_atomic(&out.join(MANIFEST), yaml.as_bytes())?;
    // problems are in `claims.csv`, and the scoreboard shows them
    tables::evaluate(out, &mut manifest)?;
    Ok(())
}

fn manifest(
    config: &Envelope,
    points: &[PointFolder],
    paths: &[String],
    values: &[Vec<Json>],
    manifests: &[Manifest],
    outputs: BTreeMap<String, String>,
    code_hash: Option<&str>,
) -> Manifest {
    let first = &manifests[0];
    let mut code = first.code.clone();
    if let Some(hash) = code_hash {
        code.hash = hash.into();
    }
    let ids: Vec<&str> = manifests.iter().map(|m| m.run_id.as_str()).collect();
    let whole = format!("{}\n{}\n{}", config.identity(), code.hash, ids.join("\n"));
    let union = |map: fn(&Manifest) -> &BTreeMap<String, String>| -> BTreeMap<String, String> {
        manifests.iter().flat_map(|m| map(m).clone()).collect()
    };
    let streams: BTreeSet<String> = manifests.iter().flat_map(|m| m.streams.clone()).collect();
    let keys = |i: usize| Ordered(paths.iter().cloned().zip(values[i].iter().cloned()).collect());
    Manifest {
        run_id: storage::hash_bytes(whole.as_bytes()).chars().take(12).collect(),
        rehearsal: manifests.iter().any(|m| m.rehearsal),
        config: config.clone(),
        points: points
            .iter()
            .enumerate()
            .map(|(i, p)| Point { id: p.id.clone(), keys: keys(i), run_id: manifests[i].run_id.clone() })
            .collect(),
        needs: union(|m| &m.needs),
        inputs: union(|m| &m.inputs),
        outputs,
        streams: streams.into_iter().collect(),
        code,
        machine: first.machine.clone(),
        wall_seconds: manifests.iter().map(|m| m.wall_seconds).sum(),
        peak_mib: manifests.iter().filter_map(|m| m.peak_mib).reduce(f64::max),
    }
}

/// Paths of the swept keys; without a sweep, all paths in which the configurations of the points differ.
fn swept(sweep: Option<&Sweep>, configs: &[Json]) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    let mut add = |path: &str| {
        if !paths.iter().any(|p| p == path) {
            paths.push(path.to_string());
        }
    };
    match sweep {
        Some(Sweep::Grid(keys)) => keys.0.iter().for_each(|(k, _)| add(k)),
        Some(Sweep::List(points)) => points.iter().flat_map(|p| &p.0).for_each(|(k, _)| add(k)),
        Some(Sweep::Random(random)) => random.keys.0.iter().for_each(|(k, _)| add(k)),
        None => {
            let mut all = Vec::new();
            for config in configs {
                for part in ["seed", "params"] {
                    leaves(&config[part], part.to_string(), &mut all);
                }
            }
            for path in all {
                if configs.iter().any(|c| lookup(c, &path) != lookup(&configs[0], &path)) {
                    add(&path);
                }
            }
        }
    }
    paths
}

fn leaves(json: &Json, path: String, found: &mut Vec<String>) {
    match json {
        Json::Object(map) => map.iter().for_each(|(k, v)| leaves(v, format!("{path}.{k}"), found)),
        _ => found.push(path),
    }
}

fn lookup<'a>(json: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').try_fold(json, |json, part| match json {
        Json::Array(items) => items.get(part.parse::<usize>().ok()?),
        json => json.get(part),
    })
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Missing,
        Json::Bool(b) => Value::Text(b.to_string()),
        Json::String(text) => Value::from(text),
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(f)) => Value::Float(f),
            (None, None) => Value::Text(n.to_string()),
        },
        other => Value::Text(other.to_string()),
    }
}

/// Column names: the last part of each path, unless two keys share it or a table uses it for something else.
fn columns(paths: &[String], values: &[Vec<Json>], tables: &[Vec<Table>]) -> Result<Vec<String>, Error> {
    let short = |path: &str| path.rsplit('.').next().unwrap_or(path).to_string();
    let mut names = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        let name = short(path);
        let mut taken = paths.iter().filter(|p| short(p) == name).count() > 1;
        for (tables, values) in tables.iter().zip(values) {
            let own = value(&values[i]);
            for table in tables.iter().filter(|t| t.schema().has(&name)) {
                taken |= table.filter(&name, std::slice::from_ref(&own))?.len() < table.len();
            }
        }
        names.push(if taken { path.clone() } else { name });
    }
    Ok(names)
}
