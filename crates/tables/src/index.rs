//! `tables.json`: what the tables of a run folder hold.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::{
    error::Error,
    schema::{Column, Kind, Schema},
};

/// File name of the index in a run folder.
pub const INDEX: &str = "tables.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    about: String,
    rows: usize,
    columns: Vec<ColumnEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnEntry {
    name: String,
    kind: Kind,
    unit: String,
    about: String,
}

/// Writes `tables.json` into a run folder: schema and number of rows of each table, in the order given.
///
/// # Errors
/// When the file cannot be written.
pub fn write_index(folder: &Path, tables: &[(&Schema, usize)]) -> Result<(), Error> {
    let path = folder.join(INDEX);
    let fail = |source| Error::Index { path: path.clone(), source };
    let mut index = Map::new();
    for (schema, rows) in tables {
        let columns = schema.columns.iter().map(|c| ColumnEntry {
            name: c.name.clone(),
            kind: c.kind,
            unit: c.unit.clone(),
            about: c.about.clone(),
        });
        let entry = Entry { about: schema.about.clone(), rows: *rows, columns: columns.collect() };
        index.insert(schema.name.clone(), serde_json::to_value(entry).map_err(fail)?);
    }
    let mut text = serde_json::to_string_pretty(&Json::Object(index)).map_err(fail)?;
    text.push('\n');
    storage::write_atomic(&path, text.as_bytes())?;
    Ok(())
}

/// Reads `tables.json` of a run folder: each schema with its number of rows, in the order of the file.
///
/// # Errors
/// When the file is missing or malformed.
pub fn read_index(folder: &Path) -> Result<Vec<(Schema, usize)>, Error> {
    let path = folder.join(INDEX);
    let text = storage::read_text(&path)?;
    let fail = |source| Error::Index { path: path.clone(), source };
    let index: Map<String, Json> = serde_json::from_str(&text).map_err(fail)?;
    index
        .into_iter()
        .map(|(name, entry)| {
            let entry: Entry = serde_json::from_value(entry).map_err(fail)?;
            let columns =
                entry.columns.into_iter().map(|c| Column { name: c.name, kind: c.kind, about: c.about, unit: c.unit });
            Ok((Schema { name, about: entry.about, columns: columns.collect() }, entry.rows))
        })
        .collect()
}
