//! `tables.json`: the schemas, row counts and files of the tables in a run folder.

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
    /// Left out for a table that is only a CSV file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
    columns: Vec<ColumnEntry>,
}

/// A table with more rows is written as Parquet too.
const PARQUET_BESIDE: usize = 10_000;
/// A table with more rows is written as Parquet only.
const PARQUET_ONLY: usize = 100_000;

/// The names of the files that a table with so many rows is written to.
///
/// A table is a CSV file. Above 10,000 rows there is a Parquet file beside it; above 100,000 rows there is only the latter.
pub fn files(table: &str, rows: usize) -> Vec<String> {
    let (csv, parquet) = (format!("{table}.csv"), format!("{table}.parquet"));
    match rows {
        0..=PARQUET_BESIDE => vec![csv],
        _ if rows <= PARQUET_ONLY => vec![csv, parquet],
        _ => vec![parquet],
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnEntry {
    name: String,
    kind: Kind,
    unit: String,
    about: String,
}

/// Writes `tables.json` into a run folder: schema, number of rows and files of each table, in the order given.
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
        let mut files = files(&schema.name, *rows);
        if *rows <= PARQUET_BESIDE {
            files.clear();
        }
        let entry = Entry { about: schema.about.clone(), rows: *rows, files, columns: columns.collect() };
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
