//! Means over seeds with confidence intervals.

use polars::prelude::{DataFrame, DataType, PolarsResult};

use crate::{
    build::Builder,
    error::Error,
    schema::{Kind, Schema},
    table::Table,
    value::Value,
};

impl Table {
    /// The mean of a column for each combination of the `by` columns, with its 95 % confidence interval.
    ///
    /// The result is called `<name>_summary`. Its columns are `by`, then `mean`, `low`, `high` and `n`; groups are in the order of their first row.
    /// The interval is Student's, for independent rows of roughly normal values, such as one row per seed. It is missing
    /// where `n` is 1. Missing cells do not count; NaNs propagate.
    ///
    /// # Errors
    /// When there is no such column, `value` is text, or `by` is empty.
    pub fn summarise(&self, by: &[&str], value: &str) -> Result<Table, Error> {
        let of = self.schema().get(value)?.clone();
        if of.kind == Kind::Text {
            let table = self.schema().name.clone();
            return Err(Error::ColumnKind { table, column: value.into(), found: of.kind, wanted: Kind::Float });
        }
        let mut schema = Schema::new(
            format!("{}_summary", self.schema().name),
            format!("the mean of `{value}` over the rows of a group"),
        );
        for column in by {
            schema.columns.push(self.schema().get(column)?.clone());
        }
        if by.is_empty() {
            return Err(Error::BadSchema { table: schema.name, what: "a summary needs a column to group by".into() });
        }
        let schema = schema
            .float("mean", format!("mean of `{value}`"), &of.unit)
            .float("low", "lower end of the 95 % confidence interval", &of.unit)
            .float("high", "upper end of the 95 % confidence interval", &of.unit)
            .int("n", "rows with a value");
        let fail = |source| Error::Frame { table: self.schema().name.clone(), source: Box::new(source) };
        let groups = moments(self.frame(), by, value).map_err(fail)?;
        let keys = Table::from_parts(schema.clone(), groups.clone());
        let keys = by.iter().map(|column| keys.values(column)).collect::<Result<Vec<_>, _>>()?;
        let floats = |name: &str| -> PolarsResult<Vec<Option<f64>>> {
            Ok(groups.column(name)?.cast(&DataType::Float64)?.f64()?.iter().collect())
        };
        let (means, deviations) = (floats("mean").map_err(fail)?, floats("deviation").map_err(fail)?);
        let counts = floats("n").map_err(fail)?;
        let mut builder = Builder::new(schema);
        for row in 0..groups.height() {
            let n = counts[row].unwrap_or(0.0);
            let half =
                deviations[row].filter(|_| n > 1.0).map(|deviation| student_95(n as u64 - 1) * deviation / n.sqrt());
            let end = |sign: f64| means[row].zip(half).map(|(mean, half)| mean + sign * half);
            let mut cells: Vec<Value> = keys.iter().map(|column| column[row].clone()).collect();
            cells.extend([means[row].into(), end(-1.0).into(), end(1.0).into(), Value::Int(n as i64)]);
            builder.push(cells)?;
        }
        builder.finish()
    }
}

/// `by`, `mean`, `deviation` (of a sample, divisor `n - 1`) and `n` of each group.
#[expect(deprecated, reason = "the lazy aggregations that replace these would add minutes to every build")]
fn moments(frame: &DataFrame, by: &[&str], value: &str) -> PolarsResult<DataFrame> {
    let cells = frame.column(value)?;
    let mut frame = frame.filter(&cells.is_not_null())?;
    // a name of its own, since `value` may be one of `by`
    let mut cells = frame.column(value)?.cast(&DataType::Float64)?;
    cells.rename("summarised value".into());
    frame.with_column(cells)?;
    let groups = frame.group_by_stable(by.iter().copied())?.select(["summarised value"]);
    let mut result = groups.mean()?;
    let (deviations, counts) = (groups.std(1)?, groups.count()?);
    let mut take = |from: &DataFrame, name: &str| -> PolarsResult<()> {
        let mut column = from.columns()[by.len()].clone();
        column.rename(name.into());
        result.with_column(column)?;
        Ok(())
    };
    take(&groups.mean()?, "mean")?;
    take(&deviations, "deviation")?;
    take(&counts, "n")?;
    Ok(result)
}

/// The `t` that a Student variable exceeds in absolute value with probability 0.05, by bisection.
fn student_95(freedom: u64) -> f64 {
    let (mut low, mut high) = (1.9, 13.0);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if student_within(middle, freedom) < 0.95 { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The probability that a Student variable lies within `t` of zero, by the finite series for whole degrees of freedom
/// (Abramowitz and Stegun 26.7.3 and 26.7.4).
fn student_within(t: f64, freedom: u64) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sine, cosine) = angle.sin_cos();
    let odd = freedom % 2 == 1;
    let (mut term, mut sum) = if odd { (cosine, 0.0) } else { (1.0, 0.0) };
    let mut power = u64::from(odd);
    while power + 2 <= freedom && term > 1e-18 {
        sum += term;
        power += 2;
        term *= cosine * cosine * (power - 1) as f64 / power as f64;
    }
    if odd { (angle + sine * sum) * std::f64::consts::FRAC_2_PI } else { sine * sum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row;

    #[test]
    fn quantiles_are_those_of_printed_tables() {
        for (freedom, expected) in
            [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042), (120, 1.980)]
        {
            let found = student_95(freedom);
            assert!((found - expected).abs() < 5e-4, "{freedom}: {found}, not {expected}");
        }
        assert!((student_95(1_000_000) - 1.959_966).abs() < 1e-4);
    }

    #[test]
    fn means_and_intervals_over_seeds() {
        let schema = Schema::new("t", "").text("method", "").int("seed", "").float("loss", "", "nats");
        let rows = [
            row!["sft", 1, 1.0],
            row!["icot", 1, 5.0],
            row!["sft", 2, 2.0],
            row![None::<&str>, 1, 7.0],
            row!["sft", 3, 6.0],
            row!["sft", 4, None::<f64>],
            row![None::<&str>, 2, f64::NAN],
        ];
        let table = Table::from_rows(schema, rows).unwrap().summarise(&["method"], "loss").unwrap();
        assert_eq!(table.values("method").unwrap(), [Value::from("sft"), "icot".into(), Value::Missing]);
        assert_eq!(table.ints("n").unwrap(), [Some(3), Some(1), Some(2)]);
        let (means, low, high) =
            (table.floats("mean").unwrap(), table.floats("low").unwrap(), table.floats("high").unwrap());
        assert_eq!(means[..2], [3.0, 5.0]);
        // 1, 2, 6: mean 3, variance (4 + 1 + 9) / 2 = 7, half width 4.302653 * sqrt(7 / 3) = 6.572410
        assert!((low[0] + 3.572_410).abs() < 1e-5 && (high[0] - 9.572_410).abs() < 1e-5, "{low:?} {high:?}");
        assert!(low[1].is_nan() && high[1].is_nan(), "one seed has no interval");
        assert!(means[2].is_nan());
        assert_eq!(table.schema().get("mean").unwrap().unit, "nats");
    }

    #[test]
    fn several_columns_group_together() {
        let schema = Schema::new("t", "").text("method", "").int("digit", "").int("hits", "");
        let rows = [row!["a", 0, 1], row!["a", 1, 10], row!["a", 0, 3], row!["b", 0, 5]];
        let table = Table::from_rows(schema, rows).unwrap();
        let summary = table.summarise(&["method", "digit"], "hits").unwrap();
        assert_eq!(summary.floats("mean").unwrap(), [2.0, 10.0, 5.0]);
        // 1, 3: variance 2, half width 12.706205 * sqrt(2 / 2)
        assert!((summary.floats("high").unwrap()[0] - 14.706_205).abs() < 1e-5);
        assert!(table.summarise(&[], "hits").is_err());
        assert!(table.summarise(&["digit"], "method").is_err());
        assert!(table.summarise(&["digt"], "hits").unwrap_err().to_string().contains("did you mean `digit`?"));
    }
}
