//! One cell of a table.

use std::fmt;

/// One cell of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text. Empty text becomes missing in a table, because CSV cannot tell them apart.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// Not measured.
    Missing,
}

impl Value {
    /// The number, if the cell is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(v) => Some(*v as f64),
            Value::Float(v) => Some(*v),
            Value::Text(_) | Value::Missing => None,
        }
    }
}

impl fmt::Display for Value {
    /// As in the CSV file but without quotes: floats in the shortest form that reads back to the same number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(v) => f.write_str(v),
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) => write!(f, "{v:?}"),
            Value::Missing => Ok(()),
        }
    }
}

impl From<&str> for Value {
    fn from(v: &str) -> Self {
        Value::Text(v.into())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Self {
        Value::Text(v)
    }
}

impl From<&String> for Value {
    fn from(v: &String) -> Self {
        Value::Text(v.clone())
    }
}

impl From<bool> for Value {
    /// `yes` or `no`.
    fn from(v: bool) -> Self {
        Value::Text(if v { "yes" } else { "no" }.into())
    }
}

impl From<f64> for Value {
    fn from(v: f64) -> Self {
        Value::Float(v)
    }
}

impl From<f32> for Value {
    /// The f64 with the same shortest decimal, so that `0.1f32` is written as `0.1` and not `0.10000000149011612`;
    /// it still rounds back to the same f32.
    fn from(v: f32) -> Self {
        Value::Float(format!("{v:?}").parse().unwrap_or(f64::from(v)))
    }
}

macro_rules! from_int {
    ($($int:ty),*) => { $(
        impl From<$int> for Value {
            fn from(v: $int) -> Self {
                Value::Int(i64::from(v))
            }
        }
    )* };
}

from_int!(i64, i32, u32, u16, u8);

impl From<usize> for Value {
    /// # Panics
    /// Above `i64::MAX`.
    fn from(v: usize) -> Self {
        Value::Int(i64::try_from(v).expect("counts stay below 2^63"))
    }
}

impl From<u64> for Value {
    /// Numbers above `i64::MAX`, such as some seeds, become text.
    fn from(v: u64) -> Self {
        i64::try_from(v).map_or_else(|_| Value::Text(v.to_string()), Value::Int)
    }
}

impl<T> From<Option<T>> for Value
where
    Value: From<T>,
{
    fn from(v: Option<T>) -> Self {
        v.map_or(Value::Missing, Value::from)
    }
}
