//! The columns of a table: name, kind, meaning and unit.

use std::collections::HashSet;

use config::nearest;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Kind of the values of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Text.
    Text,
    /// Whole numbers.
    Int,
    /// Numbers.
    Float,
}

impl Kind {
    /// As in messages: `text`, `a whole number`, `a number`.
    pub fn in_words(self) -> &'static str {
        match self {
            Kind::Text => "text",
            Kind::Int => "a whole number",
            Kind::Float => "a number",
        }
    }
}

/// One column of a [`Schema`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name, as in the header of the CSV file.
    pub name: String,
    /// Kind of its values.
    pub kind: Kind,
    /// Its content, in words.
    pub about: String,
    /// Unit, such as `nats` or `fraction`; empty for text and counts.
    pub unit: String,
}

/// Name, meaning and columns of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Name of the table, and stem of its files.
    pub name: String,
    /// The content of one row, in words.
    pub about: String,
    /// Columns in the order of the file.
    pub columns: Vec<Column>,
}

impl Schema {
    /// A schema without columns.
    pub fn new(name: impl Into<String>, about: impl Into<String>) -> Self {
        Self { name: name.into(), about: about.into(), columns: Vec::new() }
    }

    /// Adds a column of text.
    pub fn text(self, name: impl Into<String>, about: impl Into<String>) -> Self {
        self.column(name, Kind::Text, about, "")
    }

    /// Adds a column of whole numbers.
    pub fn int(self, name: impl Into<String>, about: impl Into<String>) -> Self {
        self.column(name, Kind::Int, about, "")
    }

    /// Adds a column of numbers with a unit.
    pub fn float(self, name: impl Into<String>, about: impl Into<String>, unit: impl Into<String>) -> Self {
        self.column(name, Kind::Float, about, unit)
    }

    /// Adds a column of any kind.
    pub fn column(
        mut self,
        name: impl Into<String>,
        kind: Kind,
        about: impl Into<String>,
        unit: impl Into<String>,
    ) -> Self {
        self.columns.push(Column { name: name.into(), kind, about: about.into(), unit: unit.into() });
        self
    }

    /// Index of a column.
    ///
    /// # Errors
    /// When there is no column of that name; the message has the nearest one.
    pub fn position(&self, column: &str) -> Result<usize, Error> {
        self.columns.iter().position(|c| c.name == column).ok_or_else(|| Error::NoColumn {
            table: self.name.clone(),
            column: column.into(),
            nearest: nearest(column, self.columns.iter().map(|c| c.name.as_str())),
            columns: self.columns.iter().map(|c| c.name.clone()).collect(),
        })
    }

    /// A column by name.
    ///
    /// # Errors
    /// When there is no column of that name; the message has the nearest one.
    pub fn get(&self, column: &str) -> Result<&Column, Error> {
        Ok(&self.columns[self.position(column)?])
    }

    /// Whether there is a column of that name.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|c| c.name == column)
    }

    /// Checks that the names can be a file name and a header.
    ///
    /// # Errors
    /// For an empty or repeated name, one with a path separator, or no columns at all.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |what: String| Error::BadSchema { table: self.name.clone(), what };
        let plain =
            |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\n', '\r', '\0']);
        if !plain(&self.name) {
            return Err(bad("the name must be a plain file stem".into()));
        }
        if self.columns.is_empty() {
            return Err(bad("no columns".into()));
        }
        let mut seen = HashSet::new();
        for column in &self.columns {
            if column.name.is_empty() || column.name.contains(['\n', '\r']) {
                return Err(bad(format!("column name {:?}", column.name)));
            }
            if !seen.insert(&column.name) {
                return Err(bad(format!("column `{}` twice", column.name)));
            }
        }
        Ok(())
    }
}
