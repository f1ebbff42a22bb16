//! Comparison with golden tables: text and whole numbers exactly, numbers within a tolerance.

use std::fmt;

use crate::{table::Table, value::Value};

/// The largest allowed difference from the golden number: `absolute + relative · |golden|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// As a share of the golden value.
    pub relative: f64,
    /// In the column's unit.
    pub absolute: f64,
}

impl Tolerance {
    /// No difference.
    pub const EXACT: Self = Self { relative: 0.0, absolute: 0.0 };
}

/// A cell that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Row number from 0.
    pub row: usize,
    /// Column name.
    pub column: String,
    /// The golden value.
    pub golden: Value,
    /// Our value.
    pub ours: Value,
}

/// A difference between two tables.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Mismatch {
    /// The columns are not the same.
    #[error("table `{table}`: columns are `{ours}`, the golden ones `{golden}`")]
    Columns {
        /// Name of the table.
        table: String,
        /// Golden columns with kinds.
        golden: String,
        /// Our columns with kinds.
        ours: String,
    },
    /// The numbers of rows are not the same.
    #[error("table `{table}`: {ours} rows, the golden one has {golden}")]
    Rows {
        /// Name of the table.
        table: String,
        /// Golden rows.
        golden: usize,
        /// Our rows.
        ours: usize,
    },
    /// Cells differ.
    #[error("{}", cells(table, *count, first, largest))]
    Cells {
        /// Name of the table.
        table: String,
        /// Number of cells.
        count: usize,
        /// The first ten, row by row.
        first: Vec<Cell>,
        /// The cell with the largest difference, among those where both are numbers.
        largest: Option<Box<Cell>>,
    },
    /// A table could not be read.
    #[error("{0}")]
    Unreadable(String),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |v: &Value| match v {
            Value::Missing => "nothing".to_string(),
            v => format!("`{v}`"),
        };
        let (ours, golden) = (show(&self.ours), show(&self.golden));
        write!(f, "row {}, column `{}`: {ours}, golden {golden}", self.row, self.column)?;
        match difference(&self.golden, &self.ours) {
            Some(d) => write!(f, " (difference {d:.3e})"),
            None => Ok(()),
        }
    }
}

fn cells(table: &str, count: usize, first: &[Cell], largest: &Option<Box<Cell>>) -> String {
    let mut text = format!("table `{table}`: {count} cells differ");
    for cell in first {
        text.push_str(&format!("\n  {cell}"));
    }
    if count > first.len() {
        text.push_str(&format!("\n  and {} more", count - first.len()));
    }
    if let Some(cell) = largest {
        text.push_str(&format!("\n  largest: {cell}"));
    }
    text
}

fn difference(golden: &Value, ours: &Value) -> Option<f64> {
    Some((ours.as_f64()? - golden.as_f64()?).abs())
}

/// Compares our table with the golden one: text and whole numbers exactly, numbers within the tolerance;
/// NaN equals NaN, and an infinity only itself.
///
/// # Errors
/// With the columns, the numbers of rows, or the first ten differing cells and the largest difference.
pub fn compare(golden: &Table, ours: &Table, tolerance: Tolerance) -> Result<(), Mismatch> {
    let table = golden.schema().name.clone();
    let columns = |t: &Table| {
        let columns = t.schema().columns.iter();
        columns.map(|c| format!("{}: {}", c.name, c.kind.in_words())).collect::<Vec<_>>().join(", ")
    };
    if columns(golden) != columns(ours) {
        return Err(Mismatch::Columns { table, golden: columns(golden), ours: columns(ours) });
    }
    if golden.len() != ours.len() {
        return Err(Mismatch::Rows { table, golden: golden.len(), ours: ours.len() });
    }
    let mut found = Vec::new();
    for column in &golden.schema().columns {
        let read = |t: &Table| t.values(&column.name).map_err(|e| Mismatch::Unreadable(e.to_string()));
        for (row, (golden, ours)) in read(golden)?.into_iter().zip(read(ours)?).enumerate() {
            if !agree(&golden, &ours, tolerance) {
                found.push(Cell { row, column: column.name.clone(), golden, ours });
            }
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    found.sort_by_key(|c| c.row);
    let gap = |c: &Cell| difference(&c.golden, &c.ours).filter(|d| !d.is_nan());
    let largest = found
        .iter()
        .filter(|c| gap(c).is_some())
        .max_by(|a, b| gap(a).unwrap_or(0.0).total_cmp(&gap(b).unwrap_or(0.0)))
        .map(|c| Box::new(c.clone()));
    let count = found.len();
    found.truncate(10);
    Err(Mismatch::Cells { table, count, first: found, largest })
}

fn agree(golden: &Value, ours: &Value, tolerance: Tolerance) -> bool {
    match (golden, ours) {
        (Value::Float(g), Value::Float(o)) => {
            g == o
                || (g.is_nan() && o.is_nan())
                || (g.is_finite() && (g - o).abs() <= tolerance.absolute + tolerance.relative * g.abs())
        }
        (g, o) => g == o,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Schema, row};

    fn table(rows: &[(&str, i64, f64)]) -> Table {
        let schema = Schema::new("t", "").text("a", "").int("b", "").float("c", "", "");
        Table::from_rows(schema, rows.iter().map(|(a, b, c)| row![*a, *b, *c])).unwrap()
    }

    #[test]
    fn floats_within_tolerance_pass() {
        let tolerance = Tolerance { relative: 1e-3, absolute: 1e-6 };
        let check = |golden: f64, ours: f64, passes: bool| {
            let result = compare(&table(&[("x", 1, golden)]), &table(&[("x", 1, ours)]), tolerance);
            assert_eq!(result.is_ok(), passes, "{golden} against {ours}: {result:?}");
        };
        check(1.0, 1.0009, true);
        check(1.0, 1.002, false);
        check(0.0, 5e-7, true);
        check(f64::NAN, f64::NAN, true);
        check(f64::NAN, 1.0, false);
        check(1.0, f64::NAN, false);
        check(f64::INFINITY, f64::INFINITY, true);
        check(f64::INFINITY, 1.0, false);
    }

    #[test]
    fn messages_name_the_differences() {
        let golden = table(&[("x", 1, 1.0), ("y", 2, 2.0)]);
        let ours = table(&[("x", 1, 1.5), ("z", 3, 4.0)]);
        let says = compare(&golden, &ours, Tolerance::EXACT).unwrap_err().to_string();
        for part in [
            "4 cells differ",
            "row 0, column `c`: `1.5`, golden `1.0` (difference 5.000e-1)",
            "row 1, column `a`: `z`, golden `y`",
            "largest: row 1, column `c`",
        ] {
            assert!(says.contains(part), "{says}\nlacks {part}");
        }
        let short = table(&[("x", 1, 1.0)]);
        assert!(matches!(compare(&golden, &short, Tolerance::EXACT), Err(Mismatch::Rows { .. })));
    }

    #[test]
    fn at_most_ten_cells_are_listed() {
        let rows = |shift: f64| (0..30).map(|i| ("x", i, i as f64 + shift)).collect::<Vec<_>>();
        let error = compare(&table(&rows(0.0)), &table(&rows(1.0)), Tolerance::EXACT).unwrap_err();
        assert!(error.to_string().contains("and 20 more"));
    }
}
