//! Joins the tables of a sweep's points into one, with the swept keys as leading columns.

use polars::prelude::{Column, DataFrame, DataType, PlSmallStr, PolarsResult, Scalar};

use crate::{
    error::Error,
    schema::{Kind, Schema},
    table::Table,
    value::Value,
};

/// Joins one table per point. The keys of the points become the leading columns.
///
/// All points must have the same keys and the same columns.
/// Where the table already has a column of a key's name, with the key's value in every row, that column moves to the front.
///
/// # Errors
/// When there are no points, keys or columns differ between them, or a column contradicts a key of the same name.
pub fn concat(points: &[(Vec<(String, Value)>, Table)]) -> Result<Table, Error> {
    let Some((first_keys, first)) = points.first() else {
        return Err(Error::Join { table: String::new(), point: 0, what: "there are no points".into() });
    };
    let name = &first.schema().name;
    let fail = |point: usize, what: String| Error::Join { table: name.clone(), point, what };
    let mut schema = Schema::new(name, &first.schema().about);
    for (i, (key, _)) in first_keys.iter().enumerate() {
        match first.schema().get(key) {
            Ok(column) => schema.columns.push(column.clone()),
            Err(_) => {
                let kind = kind(points.iter().filter_map(|(keys, _)| keys.get(i).map(|(_, v)| v)));
                schema = schema.column(key, kind, "swept key", "");
            }
        }
    }
    let rest: Vec<_> = first.schema().columns.iter().filter(|c| first_keys.iter().all(|(k, _)| *k != c.name)).collect();
    schema.columns.extend(rest.iter().map(|c| (*c).clone()));

    schema.check()?;

    let polars = |source| Error::Frame { table: name.clone(), source: Box::new(source) };
    let mut joined: Option<DataFrame> = None;
    for (number, (keys, table)) in points.iter().enumerate() {
        if !keys.iter().map(|(k, _)| k).eq(first_keys.iter().map(|(k, _)| k)) {
            return Err(fail(number, "its swept keys differ from those of point 0".into()));
        }
        if table.schema().columns != first.schema().columns {
            let names = |t: &Table| t.schema().columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(",");
            let (ours, theirs) = (names(table), names(first));
            return Err(fail(number, format!("its columns are `{ours}`, those of point 0 `{theirs}`")));
        }
        for (key, value) in keys {
            if table.schema().has(key)
                && let Some(other) = table.values(key)?.iter().find(|cell| !same(cell, value))
            {
                let what = format!("column `{key}` holds `{other}`, the swept key of that name is `{value}`");
                return Err(fail(number, what));
            }
        }
        let mut columns = Vec::new();
        for ((key, value), column) in keys.iter().zip(&schema.columns) {
            columns.push(match table.frame().column(key) {
                Ok(cells) => cells.clone(),
                Err(_) => repeated(key, &cast(value, column.kind), column.kind, table.len()),
            });
        }
        let rest = rest.iter().map(|column| table.frame().column(&column.name).cloned());
        columns.extend(rest.collect::<PolarsResult<Vec<_>>>().map_err(polars)?);
        let frame = DataFrame::new(table.len(), columns).map_err(polars)?;
        match &mut joined {
            Some(joined) => joined.vstack_mut(&frame).map(|_| ()).map_err(polars)?,
            None => joined = Some(frame),
        }
    }
    Ok(Table::from_parts(schema, joined.unwrap_or_default()))
}

/// A column with one value in every row.
fn repeated(name: &str, value: &Value, kind: Kind, rows: usize) -> Column {
    let kind = match kind {
        Kind::Text => DataType::String,
        Kind::Int => DataType::Int64,
        Kind::Float => DataType::Float64,
    };
    let scalar = match value {
        Value::Text(text) if !text.is_empty() => Scalar::from(PlSmallStr::from(text.as_str())),
        Value::Int(number) if kind == DataType::Float64 => Scalar::from(*number as f64),
        Value::Int(number) => Scalar::from(*number),
        Value::Float(number) => Scalar::from(*number),
        Value::Text(_) | Value::Missing => return Column::full_null(name.into(), rows, &kind),
    };
    Column::new_scalar(name.into(), scalar, rows)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a.to_string() == b.to_string(),
    }
}

/// The narrowest kind that holds all values.
fn kind<'a>(values: impl Iterator<Item = &'a Value>) -> Kind {
    values.fold(Kind::Int, |kind, value| match (kind, value) {
        (_, Value::Text(_)) | (Kind::Text, _) => Kind::Text,
        (_, Value::Float(_)) | (Kind::Float, _) => Kind::Float,
        (Kind::Int, Value::Int(_) | Value::Missing) => Kind::Int,
    })
}

fn cast(value: &Value, kind: Kind) -> Value {
    match (value, kind) {
        (Value::Int(_) | Value::Float(_), Kind::Text) => Value::Text(value.to_string()),
        (Value::Text(text), Kind::Int) => text.parse().map_or(Value::Missing, Value::Int),
        (Value::Text(text), Kind::Float) => text.parse().map_or(Value::Missing, Value::Float),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row;

    fn point(rows: &[(i64, f64)]) -> Table {
        let schema = Schema::new("t", "rows").int("step", "when").float("loss", "", "nats");
        Table::from_rows(schema, rows.iter().map(|(s, l)| row![*s, *l])).unwrap()
    }

    fn keys(seed: i64, lr: impl Into<Value>) -> Vec<(String, Value)> {
        vec![("seed".into(), seed.into()), ("lr".into(), lr.into())]
    }

    #[test]
    fn keys_lead() {
        let joined =
            concat(&[(keys(1, 1), point(&[(0, 2.5), (10, 1.5)])), (keys(2, 0.5), point(&[(0, 3.0)]))]).unwrap();
        assert_eq!(joined.to_csv().unwrap(), "seed,lr,step,loss\n1,1.0,0,2.5\n1,1.0,10,1.5\n2,0.5,0,3.0\n");
    }

    #[test]
    fn a_column_with_the_values_of_a_key_is_not_repeated() {
        let keys = |step: i64| vec![("step".to_string(), Value::from(step))];
        let joined = concat(&[(keys(0), point(&[(0, 2.5)])), (keys(7), point(&[(7, 1.0)]))]).unwrap();
        assert_eq!(joined.to_csv().unwrap(), "step,loss\n0,2.5\n7,1.0\n");
        let error = concat(&[(keys(1), point(&[(0, 2.5)]))]).unwrap_err().to_string();
        assert!(error.contains("column `step` holds `0`"), "{error}");
    }

    #[test]
    fn different_columns_are_refused() {
        let other = Table::from_rows(Schema::new("t", "").int("stop", ""), [row![1]]).unwrap();
        let error = concat(&[(keys(1, 1), point(&[])), (keys(2, 1), other)]).unwrap_err().to_string();
        assert!(error.contains("point 1") && error.contains("`stop`"), "{error}");
        assert!(concat(&[]).is_err());
    }
}
