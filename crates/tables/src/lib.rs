//! Measurements as tables: one row per measurement, and a declared kind, unit and meaning for every column.
//!
//! An experiment declares a [`Schema`], pushes rows through a [`Builder`] and gets a [`Table`], which is a polars frame
//! under that schema.
//! Filters, distinct values, joins of sweeps ([`concat()`]) and summaries over seeds ([`Table::summarise`]) are operations
//! of polars.
//! [`Table::write`] writes CSV, and Parquet for large tables. The folder's `tables.json` ([`write_index`]) keeps the
//! schemas, so that [`Table::read`] returns the same kinds.
//! The CSV writer and parser are in this crate: the bytes depend on the values alone, and errors name file, line and
//! column.
//!
//! ```
//! use tables::{Builder, Schema, Table, row, write_index};
//!
//! let schema = Schema::new("accuracy", "one row per method and seed")
//!     .text("method", "how the model was trained")
//!     .int("seed", "seed of the run")
//!     .float("exact", "share of answers with every digit right", "fraction");
//! let mut builder = Builder::new(schema);
//! builder.push(row!["icot", 1, 0.25])?;
//! builder.push(row!["icot", 2, 0.75])?;
//! let table = builder.finish()?;
//!
//! let folder = tempfile::tempdir()?;
//! table.write(folder.path())?;
//! write_index(folder.path(), &[(table.schema(), table.len())])?;
//! let table = Table::read(folder.path(), "accuracy")?;
//! assert_eq!(table.floats("exact")?, [0.25, 0.75]);
//!
//! let means = table.summarise(&["method"], "exact")?;
//! assert_eq!(means.floats("mean")?, [0.5]);
//! assert_eq!(means.ints("n")?, [Some(2)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod build;
mod compare;
mod csv;
mod error;
mod evaluate;
mod index;
mod join;
mod schema;
pub mod standard;
mod summary;
mod table;
mod value;

pub use build::Builder;
pub use compare::{Cell, Mismatch, Tolerance, compare};
pub use error::Error;
pub use evaluate::evaluate;
pub use index::{INDEX, files, read_index, write_index};
pub use join::concat;
pub use schema::{Column, Kind, Schema};
pub use table::Table;
pub use value::Value;

/// A row of [`Value`]s from anything that converts into one.
///
/// ```
/// let row = tables::row!["sft", 3, 0.5, None::<f64>];
/// assert_eq!(row[3], tables::Value::Missing);
/// ```
#[macro_export]
macro_rules! row {
    ($($cell:expr),* $(,)?) => { vec![$($crate::Value::from($cell)),*] };
}
