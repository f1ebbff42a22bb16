//! Errors of tables. Each names the table, and the file, line and column where there are any.

use std::path::PathBuf;

use crate::schema::Kind;

/// A failure of a table operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading or writing a file failed.
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A manifest cannot be written as YAML.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A file of an earlier table of the same name cannot be removed.
    #[error("cannot remove {}: {source}", .path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: std::io::Error,
    },
    /// An operation of polars failed.
    #[error("table `{table}`: {source}")]
    Frame {
        /// Name of the table.
        table: String,
        /// The error of polars.
        source: Box<polars::error::PolarsError>,
    },
    /// A column that the table does not have.
    #[error("table `{table}` has no column `{column}`{}; it has {}", hint(.nearest), list(.columns))]
    NoColumn {
        /// Name of the table.
        table: String,
        /// The column asked for.
        column: String,
        /// The most similar column.
        nearest: Option<String>,
        /// All columns.
        columns: Vec<String>,
    },
    /// A table that the folder does not have.
    #[error("{}: no table `{table}`{}; there is {}", .folder.display(), hint(.nearest), list(.tables))]
    NoTable {
        /// The folder.
        folder: PathBuf,
        /// The table asked for.
        table: String,
        /// The most similar table.
        nearest: Option<String>,
        /// All tables of the folder.
        tables: Vec<String>,
    },
    /// A row with too few or too many cells.
    #[error("table `{table}`: row {row} has {found} cells, the schema has {wanted} columns")]
    RowLength {
        /// Name of the table.
        table: String,
        /// Row number from 0.
        row: usize,
        /// Cells in the row.
        found: usize,
        /// Columns of the schema.
        wanted: usize,
    },
    /// A cell of the wrong kind.
    #[error("table `{table}`, row {row}, column `{column}`: `{value}` is not {}", .wanted.in_words())]
    WrongKind {
        /// Name of the table.
        table: String,
        /// Row number from 0.
        row: usize,
        /// Column.
        column: String,
        /// The cell.
        value: String,
        /// The kind that the schema declares.
        wanted: Kind,
    },
    /// A column read as another kind than its own.
    #[error("table `{table}`: column `{column}` is {}, asked for as {}", .found.in_words(), .wanted.in_words())]
    ColumnKind {
        /// Name of the table.
        table: String,
        /// Column.
        column: String,
        /// Its kind.
        found: Kind,
        /// The kind asked for.
        wanted: Kind,
    },
    /// Two columns with one name, or a name that cannot be one.
    #[error("table `{table}`: bad schema: {what}")]
    BadSchema {
        /// Name of the table.
        table: String,
        /// The problem.
        what: String,
    },
    /// A malformed CSV file.
    #[error("{}:{line}: {what}", .path.display())]
    Csv {
        /// The file.
        path: PathBuf,
        /// Line from 1.
        line: usize,
        /// The problem.
        what: String,
    },
    /// A malformed `tables.json`.
    #[error("{}: {source}", .path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// The error of the JSON parser.
        source: serde_json::Error,
    },
    /// Tables of a sweep that cannot be joined, because their columns differ.
    #[error("table `{table}` of point {point} cannot be joined: {what}")]
    Join {
        /// Name of the table.
        table: String,
        /// Number of the point from 0.
        point: usize,
        /// The difference.
        what: String,
    },
}

/// `, did you mean ..?` or nothing.
pub(crate) fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!(", did you mean `{n}`?")).unwrap_or_default()
}

/// Names in backticks with commas, or `none`.
pub(crate) fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "none".into();
    }
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}
