//! CSV (RFC 4180 with `\n`): writer and parser.

use std::path::Path;

use crate::{
    build::Builder,
    error::Error,
    schema::{Kind, Schema},
    table::Table,
    value::Value,
};

/// A header and one line per row.
pub(crate) fn write<'a>(header: impl Iterator<Item = &'a str>, columns: &[Vec<Option<String>>]) -> String {
    let mut text = String::new();
    push_line(&mut text, header);
    for row in 0..columns.first().map_or(0, Vec::len) {
        push_line(&mut text, columns.iter().map(|c| c[row].as_deref().unwrap_or("")));
    }
    text
}

fn push_line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    let start = text.len();
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            text.push(',');
        }
        if cell.contains([',', '"', '\n', '\r']) {
            text.push('"');
            text.push_str(&cell.replace('"', "\"\""));
            text.push('"');
        } else {
            text.push_str(cell);
        }
    }
    if text.len() == start {
        // a single missing cell: most readers skip an empty line
        text.push_str("\"\"");
    }
    text.push('\n');
}

/// Records, each with the line that it starts on.
fn records(path: &Path, text: &str) -> Result<Vec<(usize, Vec<String>)>, Error> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records = Vec::new();
    let (mut cells, mut cell) = (Vec::new(), String::new());
    let (mut line, mut start) = (1, 1);
    let (mut quoted, mut written) = (false, false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        line += usize::from(c == '\n');
        if quoted {
            match c {
                '"' if chars.peek() == Some(&'"') => {
                    chars.next();
                    cell.push('"');
                }
                '"' => quoted = false,
                c => cell.push(c),
            }
            continue;
        }
        match c {
            '"' if cell.is_empty() => (quoted, written) = (true, true),
            ',' => {
                cells.push(std::mem::take(&mut cell));
                written = true;
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                if written || !cell.is_empty() {
                    cells.push(std::mem::take(&mut cell));
                    records.push((start, std::mem::take(&mut cells)));
                }
                (start, written) = (line, false);
            }
            c => cell.push(c),
        }
    }
    if quoted {
        let what = "a quote is never closed".into();
        return Err(Error::Csv { path: path.into(), line: start, what });
    }
    if written || !cell.is_empty() {
        cells.push(cell);
        records.push((start, cells));
    }
    Ok(records)
}

/// Header and rows; every row has as many cells as the header.
#[allow(clippy::type_complexity)]
fn split(path: &Path, text: &str) -> Result<(Vec<String>, Vec<(usize, Vec<String>)>), Error> {
    let csv = |line: usize, what: String| Error::Csv { path: path.into(), line, what };
    let mut records = records(path, text)?.into_iter();
    let (_, header) = records.next().ok_or_else(|| csv(1, "no header".into()))?;
    let rows: Vec<_> = records.collect();
    if let Some((line, row)) = rows.iter().find(|(_, row)| row.len() != header.len()) {
        let what = format!("{} cells, the header has {}", row.len(), header.len());
        return Err(csv(*line, what));
    }
    Ok((header, rows))
}

/// Parses text under a known schema.
pub(crate) fn parse(path: &Path, text: &str, schema: Schema) -> Result<Table, Error> {
    let csv = |line: usize, what: String| Error::Csv { path: path.into(), line, what };
    let (header, rows) = split(path, text)?;
    let wanted: Vec<&str> = schema.columns.iter().map(|c| c.name.as_str()).collect();
    if header != wanted {
        let what = format!("header is `{}`, wanted `{}`", header.join(","), wanted.join(","));
        return Err(csv(1, what));
    }
    let mut builder = Builder::new(schema.clone());
    for (line, row) in rows {
        let mut cells = Vec::with_capacity(row.len());
        for (cell, column) in row.into_iter().zip(&schema.columns) {
            cells.push(value(&cell, column.kind).ok_or_else(|| {
                let kind = column.kind.in_words();
                csv(line, format!("column `{}`: `{cell}` is not {kind}", column.name))
            })?);
        }
        builder.push(cells)?;
    }
    builder.finish()
}

/// Parses text; each column gets the narrowest kind that fits.
pub(crate) fn infer(path: &Path, text: &str, name: &str) -> Result<Table, Error> {
    let (header, rows) = split(path, text)?;
    let mut schema = Schema::new(name, "");
    for (i, column) in header.iter().enumerate() {
        let fits = |kind| rows.iter().all(|(_, row)| value(&row[i], kind).is_some());
        let empty = rows.iter().all(|(_, row)| row[i].is_empty());
        let kind = if empty && !rows.is_empty() {
            Kind::Float
        } else if rows.is_empty() {
            Kind::Text
        } else {
            [Kind::Int, Kind::Float].into_iter().find(|k| fits(*k)).unwrap_or(Kind::Text)
        };
        schema = schema.column(column, kind, "", "");
    }
    parse(path, text, schema)
}

fn value(cell: &str, kind: Kind) -> Option<Value> {
    if cell.is_empty() {
        return Some(Value::Missing);
    }
    match kind {
        Kind::Text => Some(Value::from(cell)),
        Kind::Int => cell.parse().ok().map(Value::Int),
        Kind::Float => cell.parse().ok().map(Value::Float),
    }
}
