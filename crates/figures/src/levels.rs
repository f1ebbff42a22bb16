//! Categories: the values of a column, in order, with their labels.

use std::collections::HashSet;

use config::{Figure, nearest};
use serde_json::Value as Json;
use tables::{Table, Value};

/// The values of a column that the figure treats as categories.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    pub labels: Vec<String>,
    keys: Vec<String>,
    /// Whether the column holds numbers.
    pub numbers: bool,
}

/// Text that is the same for equal values of different kinds: `3` for 3, 3.0 and "3".
pub(super) fn key(value: &Value) -> Option<String> {
    match value {
        Value::Missing => None,
        Value::Float(v) if v.is_nan() => None,
        Value::Float(v) if v.fract() == 0.0 && v.abs() < 1e15 => Some(format!("{}", *v as i64)),
        value => Some(value.to_string()),
    }
}

/// Keys of the values that a value of a configuration can mean.
pub(super) fn json_keys(json: &Json) -> Vec<String> {
    match json {
        Json::String(text) => vec![text.clone()],
        Json::Bool(true) => vec!["true".into(), "yes".into()],
        Json::Bool(false) => vec!["false".into(), "no".into()],
        Json::Number(n) => n
            .as_i64()
            .map(Value::Int)
            .or_else(|| n.as_f64().map(Value::Float))
            .and_then(|v| key(&v))
            .into_iter()
            .collect(),
        Json::Null | Json::Array(_) | Json::Object(_) => Vec::new(),
    }
}

/// The label that the figure gives to a value or a column.
pub(super) fn named(figure: &Figure, raw: &str) -> Option<String> {
    figure.names.as_ref()?.0.iter().find(|(name, _)| name == raw).map(|(_, label)| label.clone())
}

/// The values of a column in the order of the figure, if it states one.
fn stated_order<'f>(figure: &'f Figure, column: &str) -> Option<&'f Vec<Json>> {
    figure.order.iter().flat_map(|o| &o.0).find(|(c, _)| c == column).map(|(_, values)| values)
}

/// Values of an `order` that no row has.
pub(super) struct AbsentValue {
    pub problem: String,
    /// Whether it resembles a value that the order leaves out, and so is probably a typing mistake.
    pub typo: bool,
}

impl Levels {
    fn new(figure: &Figure, keys: Vec<String>, numbers: bool) -> Self {
        let label = |k: &String| named(figure, k).unwrap_or_else(|| k.clone());
        Self { labels: keys.iter().map(label).collect(), keys, numbers }
    }

    /// The values of a column in several tables: numbers ascend, text keeps the order of the rows, and an `order` of
    /// the figure wins over both.
    pub(super) fn of(
        figure: &Figure,
        column: &str,
        cells: impl Iterator<Item = Value>,
        table: &Table,
    ) -> (Self, Vec<AbsentValue>) {
        let mut found: Vec<(String, f64)> = Vec::new();
        let mut seen = HashSet::new();
        for value in cells {
            if let Some(k) = key(&value)
                && seen.insert(k.clone())
            {
                found.push((k, value.as_f64().unwrap_or(f64::NAN)));
            }
        }
        let numbers = !found.is_empty() && found.iter().all(|(_, v)| !v.is_nan());
        if numbers {
            found.sort_by(|a, b| a.1.total_cmp(&b.1));
        }
        let keys: Vec<String> = found.into_iter().map(|(k, _)| k).collect();
        let (keys, absent) = match stated_order(figure, column) {
            Some(order) => in_order(order, column, &keys, table),
            None => (keys, Vec::new()),
        };
        (Self::new(figure, keys, numbers), absent)
    }

    /// The values of two columns together: first those of the `order` of the first column, then as they come.
    pub(super) fn union(figure: &Figure, columns: [&str; 2], cells: impl Iterator<Item = Value>) -> Self {
        let order = stated_order(figure, columns[0]);
        let mut keys: Vec<String> =
            order.into_iter().flatten().filter_map(|v| json_keys(v).into_iter().next()).collect();
        for key in cells.filter_map(|cell| key(&cell)) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Self::new(figure, keys, false)
    }

    /// Number of categories.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Index of a value.
    pub(super) fn index(&self, value: &Value) -> Option<usize> {
        let k = key(value)?;
        self.keys.iter().position(|other| *other == k)
    }

    /// Labels for panels, where a bare number says little and `seed = 3` more.
    pub(super) fn titled(mut self, column: &str) -> Self {
        if self.numbers {
            for (label, key) in self.labels.iter_mut().zip(&self.keys) {
                if label == key {
                    *label = format!("{column} = {label}");
                }
            }
        }
        self
    }
}

/// The keys that an order names, and those of its values that are not among them.
fn in_order(order: &[Json], column: &str, keys: &[String], table: &Table) -> (Vec<String>, Vec<AbsentValue>) {
    let mut chosen = Vec::new();
    let mut missing = Vec::new();
    for value in order {
        let wanted = json_keys(value);
        match keys.iter().find(|k| wanted.contains(k)) {
            Some(k) => chosen.push(k.clone()),
            None => missing.push(value),
        }
    }
    let left: Vec<&String> = keys.iter().filter(|k| !chosen.contains(k)).collect();
    let absent = missing.into_iter().map(|value| {
        let text = json_keys(value).into_iter().next().unwrap_or_default();
        let typo = nearest(&text, left.iter().map(|k| k.as_str())).is_some();
        AbsentValue { problem: absent(column, value, keys, "order", table), typo }
    });
    let absent = absent.collect();
    (chosen, absent)
}

/// A hint for an error message.
pub(super) fn did_you_mean(nearest: Option<String>) -> String {
    nearest.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default()
}

/// A clause on a value that is not in a table, with the nearest values that are.
pub(super) fn absent(column: &str, value: &Json, present: &[String], key: &str, table: &Table) -> String {
    let text = json_keys(value).into_iter().next().unwrap_or_else(|| value.to_string());
    let hint = did_you_mean(nearest(&text, present.iter().map(String::as_str)));
    let number = text.parse::<f64>().ok();
    let mut shown: Vec<&String> = present.iter().collect();
    if let Some(number) = number {
        let gap = |text: &String| text.parse::<f64>().map_or(f64::INFINITY, |v| (v - number).abs());
        shown.sort_by(|a, b| gap(a).total_cmp(&gap(b)));
    }
    let mut list: Vec<String> = shown.iter().take(8).map(|v| format!("`{v}`")).collect();
    if present.len() > 8 {
        list.push(format!("{} more", present.len() - 8));
    }
    let list = if list.is_empty() { "nothing".to_string() } else { list.join(", ") };
    let name = &table.schema().name;
    format!("`{key}` asks for `{column}: {text}`, which no row of table `{name}` has{hint}; there is {list}")
}
