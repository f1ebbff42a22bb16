//! Builds a table from rows, with every cell checked.

use polars::prelude::{DataFrame, IntoColumn, NamedFrom, Series};

use crate::{
    error::Error,
    schema::{Kind, Schema},
    table::Table,
    value::Value,
};

/// Collects rows for a [`Table`] and checks each against the schema.
#[derive(Clone, Debug)]
pub struct Builder {
    schema: Schema,
    columns: Vec<Cells>,
    rows: usize,
}

#[derive(Clone, Debug)]
enum Cells {
    Text(Vec<Option<String>>),
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
}

impl Builder {
    /// A builder without rows.
    pub fn new(schema: Schema) -> Self {
        let columns = schema
            .columns
            .iter()
            .map(|c| match c.kind {
                Kind::Text => Cells::Text(Vec::new()),
                Kind::Int => Cells::Int(Vec::new()),
                Kind::Float => Cells::Float(Vec::new()),
            })
            .collect();
        Self { schema, columns, rows: 0 }
    }

    /// Adds one row; whole numbers are accepted in a column of numbers.
    ///
    /// # Errors
    /// When the number of cells or the kind of one does not fit the schema; the table is then unchanged.
    pub fn push(&mut self, row: impl IntoIterator<Item = Value>) -> Result<(), Error> {
        let row: Vec<Value> = row.into_iter().collect();
        if row.len() != self.columns.len() {
            return Err(Error::RowLength {
                table: self.schema.name.clone(),
                row: self.rows,
                found: row.len(),
                wanted: self.columns.len(),
            });
        }
        for (value, column) in row.iter().zip(&self.schema.columns) {
            let fits = match value {
                Value::Missing => true,
                Value::Text(_) => column.kind == Kind::Text,
                Value::Int(_) => column.kind != Kind::Text,
                Value::Float(_) => column.kind == Kind::Float,
            };
            if !fits {
                return Err(Error::WrongKind {
                    table: self.schema.name.clone(),
                    row: self.rows,
                    column: column.name.clone(),
                    value: value.to_string(),
                    wanted: column.kind,
                });
            }
        }
        for (value, cells) in row.into_iter().zip(&mut self.columns) {
            match cells {
                Cells::Text(cells) => cells.push(match value {
                    Value::Text(text) if !text.is_empty() => Some(text),
                    _ => None,
                }),
                Cells::Int(cells) => cells.push(match value {
                    Value::Int(v) => Some(v),
                    _ => None,
                }),
                Cells::Float(cells) => cells.push(value.as_f64()),
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Number of rows so far.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows yet.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The table.
    ///
    /// # Errors
    /// When the schema is invalid: no columns, or repeated or unusable names.
    pub fn finish(self) -> Result<Table, Error> {
        self.schema.check()?;
        let columns = self
            .schema
            .columns
            .iter()
            .zip(self.columns)
            .map(|(column, cells)| {
                let name = column.name.as_str().into();
                match cells {
                    Cells::Text(cells) => Series::new(name, cells),
                    Cells::Int(cells) => Series::new(name, cells),
                    Cells::Float(cells) => Series::new(name, cells),
                }
                .into_column()
            })
            .collect();
        let frame = DataFrame::new(self.rows, columns)
            .map_err(|source| Error::Frame { table: self.schema.name.clone(), source: Box::new(source) })?;
        Ok(Table::from_parts(self.schema, frame))
    }
}
