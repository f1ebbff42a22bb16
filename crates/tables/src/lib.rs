//! Measurements as long tables: one row per measurement, every column declared with its kind, unit and meaning.
//!
//! An experiment declares a [`Schema`], pushes rows through a [`Builder`] and writes a [`Table`] as CSV.
//! The folder's `tables.json` ([`write_index`]) keeps the schemas, so that a reader gets the same kinds back.
//! CSV is written and parsed here rather than by polars, so that its bytes depend on the values alone and
//! its errors name file, line and column; frames and Parquet are polars'.
//!
//! ```
//! use tables::{Builder, Schema, row};
//!
//! let schema = Schema::new("accuracy", "one row per method and step")
//!     .text("method", "how the model was trained")
//!     .int("step", "optimiser step")
//!     .float("exact", "share of answers with every digit right", "fraction");
//! let mut builder = Builder::new(schema);
//! builder.push(row!["icot", 500, 0.25])?;
//! let table = builder.finish()?;
//! assert_eq!(table.floats("exact")?, [0.25]);
//! # Ok::<(), tables::Error>(())
//! ```

mod build;
mod compare;
mod csv;
mod error;
mod index;
mod join;
mod schema;
pub mod standard;
mod table;
mod value;

pub use build::Builder;
pub use compare::{Cell, Mismatch, Tolerance, compare};
pub use error::Error;
pub use index::{INDEX, read_index, write_index};
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
