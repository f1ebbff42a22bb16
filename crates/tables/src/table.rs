//! A polars frame with a schema.

use std::path::{Path, PathBuf};

use config::nearest;
use polars::prelude::{
    BooleanChunked, ChunkCompareEq, ChunkFull, Column, DataFrame, DataType, NewChunkedArray, ParquetReader,
    ParquetWriter, PolarsResult, SerReader,
};

use crate::{
    build::Builder,
    csv,
    error::Error,
    index::{files, read_index},
    schema::{Kind, Schema},
    value::Value,
};

/// Rows of measurements under a [`Schema`].
#[derive(Clone, Debug)]
pub struct Table {
    schema: Schema,
    frame: DataFrame,
}

impl Table {
    /// A frame that fits the schema.
    pub(crate) fn from_parts(schema: Schema, frame: DataFrame) -> Self {
        Self { schema, frame }
    }

    /// A table from whole rows.
    ///
    /// # Errors
    /// When a row does not fit the schema, or the schema is invalid; see [`Builder`].
    pub fn from_rows(schema: Schema, rows: impl IntoIterator<Item = Vec<Value>>) -> Result<Self, Error> {
        let mut builder = Builder::new(schema);
        for row in rows {
            builder.push(row)?;
        }
        builder.finish()
    }

    /// The schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The rows: `str`, `i64` and `f64` columns, missing cells null.
    pub(crate) fn frame(&self) -> &DataFrame {
        &self.frame
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.frame.height()
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A column of any kind as text; numbers as the CSV file writes them.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn texts(&self, column: &str) -> Result<Vec<Option<String>>, Error> {
        Ok(self
            .values(column)?
            .into_iter()
            .map(|v| match v {
                Value::Missing => None,
                v => Some(v.to_string()),
            })
            .collect())
    }

    /// A column of numbers; whole numbers are widened, missing cells are NaN.
    ///
    /// # Errors
    /// When there is no such column or it holds text.
    pub fn floats(&self, column: &str) -> Result<Vec<f64>, Error> {
        if self.schema.get(column)?.kind == Kind::Text {
            return Err(self.wrong_kind(column, Kind::Text, Kind::Float));
        }
        Ok(self.values(column)?.iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect())
    }

    /// A column of whole numbers.
    ///
    /// # Errors
    /// When there is no such column or it is of another kind.
    pub fn ints(&self, column: &str) -> Result<Vec<Option<i64>>, Error> {
        let kind = self.schema.get(column)?.kind;
        if kind != Kind::Int {
            return Err(self.wrong_kind(column, kind, Kind::Int));
        }
        let cells = self.frame.column(column).and_then(|c| c.i64()).map_err(|e| self.frame_error(e))?;
        Ok(cells.iter().collect())
    }

    /// A column of any kind, cell by cell.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn values(&self, column: &str) -> Result<Vec<Value>, Error> {
        let kind = self.schema.get(column)?.kind;
        let cells = self.frame.column(column).map_err(|e| self.frame_error(e))?;
        values(cells, kind).map_err(|e| self.frame_error(e))
    }

    /// One cell.
    ///
    /// # Errors
    /// When there is no such column; a row past the end is [`Value::Missing`].
    pub fn value(&self, row: usize, column: &str) -> Result<Value, Error> {
        Ok(self.values(column)?.into_iter().nth(row).unwrap_or(Value::Missing))
    }

    /// The distinct values of a column, in the order of their first row, without missing cells.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn distinct(&self, column: &str) -> Result<Vec<Value>, Error> {
        let kind = self.schema.get(column)?.kind;
        let distinct = || values(&self.frame.column(column)?.drop_nulls().unique_stable()?, kind);
        distinct().map_err(|e| self.frame_error(e))
    }

    /// The rows in which the column has one of the values; `1` and `1.0` are the same number.
    ///
    /// # Errors
    /// When there is no such column.
    pub fn filter(&self, column: &str, wanted: &[Value]) -> Result<Table, Error> {
        self.schema.get(column)?;
        let filtered = || {
            let cells = self.frame.column(column)?;
            let mut mask = BooleanChunked::full("mask".into(), false, self.len());
            for value in wanted {
                mask = &mask | &equal(cells, value)?;
            }
            self.frame.filter(&mask)
        };
        let frame = filtered().map_err(|e| self.frame_error(e))?;
        Ok(Table { schema: self.schema.clone(), frame })
    }

    /// The rows marked `true`.
    ///
    /// # Errors
    /// When the mask is not as long as the table.
    pub fn keep(&self, mask: &[bool]) -> Result<Table, Error> {
        let mask = BooleanChunked::from_slice("mask".into(), mask);
        let frame = self.frame.filter(&mask).map_err(|e| self.frame_error(e))?;
        Ok(Table { schema: self.schema.clone(), frame })
    }

    /// Writes the table into the folder, atomically, and returns the paths of its [`files`].
    ///
    /// The bytes of the CSV file depend on the values alone: floats in the shortest form that reads back to the same
    /// number, missing cells empty, lines ended by `\n`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>, Error> {
        let name = &self.schema.name;
        let files = files(name, self.len());
        let mut paths = Vec::new();
        for file in [format!("{name}.csv"), format!("{name}.parquet")] {
            let path = folder.join(&file);
            if files.contains(&file) {
                let bytes = if file.ends_with(".csv") { self.to_csv()?.into_bytes() } else { self.to_parquet()? };
                storage::write_atomic(&path, &bytes)?;
                paths.push(path);
            } else if path.exists() {
                // a file of an earlier, smaller or larger table of this name
                std::fs::remove_file(&path).map_err(|source| Error::Remove { path, source })?;
            }
        }
        Ok(paths)
    }

    /// The text of the CSV file.
    ///
    /// # Errors
    /// When the frame does not fit its schema, which would be a bug of this crate.
    pub fn to_csv(&self) -> Result<String, Error> {
        let columns = self.schema.columns.iter().map(|c| self.texts(&c.name)).collect::<Result<Vec<_>, _>>()?;
        Ok(csv::write(self.schema.columns.iter().map(|c| c.name.as_str()), &columns))
    }

    fn to_parquet(&self) -> Result<Vec<u8>, Error> {
        let mut frame = self.frame.clone();
        // row groups follow chunks, and the bytes must not depend on how the table was joined
        frame.rechunk_mut();
        let mut bytes = Vec::new();
        ParquetWriter::new(&mut bytes).finish(&mut frame).map_err(|e| self.frame_error(e))?;
        Ok(bytes)
    }

    /// Reads a table of a run folder, from either of its files, with the schema that `tables.json` keeps.
    ///
    /// # Errors
    /// When the folder has no such table (the message has the nearest name), or the file does not fit the schema.
    pub fn read(folder: &Path, name: &str) -> Result<Table, Error> {
        let index = read_index(folder)?;
        let names: Vec<String> = index.iter().map(|(schema, _)| schema.name.clone()).collect();
        let schema = index.into_iter().map(|(schema, _)| schema).find(|s| s.name == name);
        let schema = schema.ok_or_else(|| Error::NoTable {
            folder: folder.into(),
            table: name.into(),
            nearest: nearest(name, names.iter().map(String::as_str)),
            tables: names,
        })?;
        let (csv, parquet) = (folder.join(format!("{name}.csv")), folder.join(format!("{name}.parquet")));
        if csv.exists() || !parquet.exists() {
            return Self::read_csv_as(&csv, schema);
        }
        let bytes = std::io::Cursor::new(storage::read(&parquet)?);
        let table = |frame| Table { schema, frame };
        ParquetReader::new(bytes)
            .finish()
            .map(table)
            .map_err(|source| Error::Frame { table: name.into(), source: Box::new(source) })
    }

    /// Reads a CSV file under a known schema.
    ///
    /// # Errors
    /// When the file cannot be read or does not follow the schema.
    pub fn read_csv_as(path: &Path, schema: Schema) -> Result<Table, Error> {
        csv::parse(path, &storage::read_text(path)?, schema)
    }

    /// Reads a CSV file without a schema: a column is whole numbers or numbers when all of its cells are, else text.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn read_csv(path: &Path) -> Result<Table, Error> {
        let text = storage::read_text(path)?;
        let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        csv::infer(path, &text, &name)
    }

    fn wrong_kind(&self, column: &str, found: Kind, wanted: Kind) -> Error {
        Error::ColumnKind { table: self.schema.name.clone(), column: column.into(), found, wanted }
    }

    fn frame_error(&self, source: polars::error::PolarsError) -> Error {
        Error::Frame { table: self.schema.name.clone(), source: Box::new(source) }
    }
}

/// The cells of a column.
fn values(cells: &Column, kind: Kind) -> PolarsResult<Vec<Value>> {
    Ok(match kind {
        Kind::Text => cells.str()?.iter().map(Value::from).collect(),
        Kind::Int => cells.i64()?.iter().map(Value::from).collect(),
        Kind::Float => cells.f64()?.iter().map(Value::from).collect(),
    })
}

/// Marks the cells with a value; numbers are compared by value, and NaN equals NaN.
fn equal(cells: &Column, value: &Value) -> PolarsResult<BooleanChunked> {
    let text = *cells.dtype() == DataType::String;
    Ok(match (value, value.as_f64()) {
        (Value::Missing, _) => cells.is_null(),
        (Value::Text(wanted), _) if text => cells.str()?.equal_missing(wanted.as_str()),
        (_, Some(wanted)) if !text => cells.cast(&DataType::Float64)?.f64()?.equal_missing(wanted),
        _ => BooleanChunked::full("mask".into(), false, cells.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Tolerance, compare, row, write_index};

    fn table() -> Table {
        let schema =
            Schema::new("t", "rows").text("method", "how").int("step", "when").float("loss", "how much", "nats");
        Table::from_rows(
            schema,
            [
                row!["sft", 0, 11.25],
                row!["a \"b\",\nc", 500, f64::NAN],
                row![None::<&str>, None::<i64>, None::<f64>],
                row!["", 10_000, 1e-7],
                row!["sft", -1, 1],
            ],
        )
        .unwrap()
    }

    #[test]
    fn csv_round_trip_is_exact_and_deterministic() {
        let folder = tempfile::tempdir().unwrap();
        let ours = table();
        let path = ours.write(folder.path()).unwrap().remove(0);
        let first = std::fs::read(&path).unwrap();
        assert_eq!(
            String::from_utf8(first.clone()).unwrap(),
            "method,step,loss\nsft,0,11.25\n\"a \"\"b\"\",\nc\",500,NaN\n,,\n,10000,1e-7\nsft,-1,1.0\n"
        );
        write_index(folder.path(), &[(ours.schema(), ours.len())]).unwrap();
        let back = Table::read(folder.path(), "t").unwrap();
        assert_eq!(back.schema(), ours.schema());
        back.write(folder.path()).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap());
        assert_eq!(back.ints("step").unwrap(), [Some(0), Some(500), None, Some(10_000), Some(-1)]);
        let loss = back.floats("loss").unwrap();
        assert!(loss[1].is_nan() && loss[2].is_nan());
        assert_eq!((loss[0], loss[3], loss[4]), (11.25, 1e-7, 1.0));
        assert_eq!(back.value(1, "method").unwrap(), Value::from("a \"b\",\nc"));
        assert_eq!(back.value(3, "method").unwrap(), Value::Missing);
    }

    #[test]
    fn every_float_survives() {
        let folder = tempfile::tempdir().unwrap();
        let floats = [f64::MIN_POSITIVE, f64::MAX, -0.0, 0.1 + 0.2, 1e16, f64::NEG_INFINITY, 5e-324];
        let schema = Schema::new("f", "").float("x", "", "");
        let table = Table::from_rows(schema, floats.iter().map(|f| row![*f])).unwrap();
        table.write(folder.path()).unwrap();
        let back = Table::read_csv(&folder.path().join("f.csv")).unwrap().floats("x").unwrap();
        assert_eq!(back.map_bits(), floats.to_vec().map_bits());
        assert_eq!(Value::from(0.1f32), Value::Float(0.1));
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u64>;
    }

    impl Bits for Vec<f64> {
        fn map_bits(&self) -> Vec<u64> {
            self.iter().map(|f| f.to_bits()).collect()
        }
    }

    #[test]
    fn a_column_of_missing_cells_keeps_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let schema = Schema::new("m", "").int("x", "");
        let table = Table::from_rows(schema, [row![None::<i64>], row![2], row![None::<i64>]]).unwrap();
        let path = table.write(folder.path()).unwrap().remove(0);
        let back = Table::read_csv(&path).unwrap();
        assert_eq!(back.ints("x").unwrap(), [None, Some(2), None]);
    }

    #[test]
    fn large_tables_are_parquet_too_and_larger_ones_parquet_only() {
        let folder = tempfile::tempdir().unwrap();
        let schema = Schema::new("t", "rows").text("method", "how").int("step", "when").float("loss", "", "nats");
        for (rows, wanted) in [
            (10_000, &["t.csv"][..]),
            (10_001, &["t.csv", "t.parquet"]),
            (100_000, &["t.csv", "t.parquet"]),
            (100_001, &["t.parquet"]),
            (2, &["t.csv"]),
        ] {
            let cells = (0..rows).map(|i| row![None::<&str>, i, if i == 1 { f64::NAN } else { i as f64 / 3.0 }]);
            let ours = Table::from_rows(schema.clone(), cells).unwrap();
            let paths = ours.write(folder.path()).unwrap();
            write_index(folder.path(), &[(ours.schema(), ours.len())]).unwrap();
            let mut found: Vec<String> = std::fs::read_dir(folder.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .filter(|name| name != crate::INDEX)
                .collect();
            found.sort();
            assert_eq!(found, wanted, "{rows} rows");
            assert_eq!(paths.len(), wanted.len());
            assert_eq!(files("t", ours.len()), wanted);
            let back = Table::read(folder.path(), "t").unwrap();
            assert_eq!(compare(&ours, &back, Tolerance::EXACT), Ok(()));
            if let Some(parquet) = paths.iter().find(|path| path.extension().is_some_and(|e| e == "parquet")) {
                let first = std::fs::read(parquet).unwrap();
                ours.write(folder.path()).unwrap();
                assert!(first == std::fs::read(parquet).unwrap(), "the same table gives the same bytes");
            }
        }
    }

    #[test]
    fn filters_compare_numbers_by_value() {
        let table = table();
        assert_eq!(table.filter("step", &[Value::Float(500.0), Value::Int(0)]).unwrap().len(), 2);
        assert_eq!(table.filter("method", &["sft".into()]).unwrap().len(), 2);
        assert_eq!(table.filter("method", &[Value::Missing, 1.into()]).unwrap().len(), 2);
        assert_eq!(table.filter("loss", &[f64::NAN.into(), "sft".into()]).unwrap().len(), 1);
        assert_eq!(table.filter("step", &[Value::Missing]).unwrap().len(), 1);
        assert_eq!(table.distinct("step").unwrap(), [0, 500, 10_000, -1].map(Value::from));
        assert_eq!(table.distinct("method").unwrap().len(), 2);
    }

    #[test]
    fn errors_name_the_column_and_the_nearest_name() {
        let says = |e: Error| e.to_string();
        let table = table();
        assert!(says(table.floats("los").unwrap_err()).contains("did you mean `loss`?"));
        assert!(says(table.floats("method").unwrap_err()).contains("asked for as a number"));
        let mut builder = Builder::new(table.schema().clone());
        assert!(says(builder.push(row!["sft", 1]).unwrap_err()).contains("2 cells"));
        assert!(says(builder.push(row!["sft", 1.5, 1.0]).unwrap_err()).contains("column `step`: `1.5`"));
        assert!(builder.is_empty());

        let folder = tempfile::tempdir().unwrap();
        table.write(folder.path()).unwrap();
        write_index(folder.path(), &[(table.schema(), table.len())]).unwrap();
        assert!(says(Table::read(folder.path(), "tt").unwrap_err()).contains("no table `tt`; there is `t`"));
        let path = folder.path().join("t.csv");
        let check = |text: &str, wanted: &str| {
            std::fs::write(&path, text).unwrap();
            let found = says(Table::read(folder.path(), "t").unwrap_err());
            assert!(found.contains(wanted), "{found:?} lacks {wanted:?}");
        };
        check("method,step,loss\nsft,1,1\nsft,x,1\n", "t.csv:3: column `step`: `x` is not a whole number");
        check("method,stpe,loss\n", "header is `method,stpe,loss`, wanted `method,step,loss`");
        check("method,step,loss\nsft,1\n", "t.csv:2: 2 cells, the header has 3");
        check("method,step,loss\n\"sft,1,2\n", "t.csv:2: a quote is never closed");
        check("", "no header");
    }

    #[test]
    fn unfit_schemas_are_refused() {
        for schema in
            [Schema::new("a/b", "").int("x", ""), Schema::new("a", ""), Schema::new("a", "").int("x", "").text("x", "")]
        {
            assert!(matches!(Builder::new(schema).finish(), Err(Error::BadSchema { .. })));
        }
    }
}
