//! From a table to the marks of a figure: filters, facets, series and the positions of categories.

use std::collections::HashSet;

use config::{Figure, FigureKind, OneOrMany, Scale, nearest};
use serde_json::Value as Json;
use tables::{Kind, Table, Value};

use crate::error::Error;

/// One row of the table (or of the overlay) as the figure sees it.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// Position in [`Selection::facets`]; `None` is drawn in every panel.
    pub facet: Option<usize>,
    /// Position in [`Selection::rows`].
    pub row: Option<usize>,
    /// Position in [`Selection::series`]; `None` is an overlay without that column.
    pub series: Option<usize>,
    /// Number, or position of the category.
    pub x: f64,
    /// Number, or position of the category; NaN for histograms.
    pub y: f64,
    /// Colour of a heat map, strength of an arc; NaN for other kinds.
    pub value: f64,
    /// Third coordinate of a point in space; NaN for other kinds.
    pub z: f64,
    /// Position among the two sides of arcs.
    pub side: usize,
    /// From the overlay.
    pub overlay: bool,
}

/// The values of a column that the figure treats as categories.
#[derive(Clone, Debug, Default)]
pub(crate) struct Levels {
    /// How each reads.
    pub labels: Vec<String>,
    keys: Vec<String>,
    /// Whether the column holds numbers.
    pub numbers: bool,
}

/// A straight line in space.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub facet: Option<usize>,
    pub row: Option<usize>,
    pub from: [f64; 3],
    pub to: [f64; 3],
}

/// What a figure draws.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub marks: Vec<Mark>,
    /// Categories of the horizontal axis; `None` where it is numbers.
    pub x: Option<Levels>,
    /// Categories of the vertical axis.
    pub y: Option<Levels>,
    pub series: Levels,
    pub facets: Levels,
    pub rows: Levels,
    pub x_label: String,
    pub y_label: String,
    pub value_label: String,
    pub z_label: String,
    pub sides: Levels,
    /// Straight lines in space, with the panel that they belong to.
    pub links: Vec<Link>,
    pub series_label: String,
    /// What a reader should know about the drawing, in sentences.
    pub notes: Vec<String>,
}

/// Text under which a value is the same wherever it stands: `3` for 3, 3.0 and "3".
fn key(value: &Value) -> Option<String> {
    match value {
        Value::Missing => None,
        Value::Float(v) if v.is_nan() => None,
        Value::Float(v) if v.fract() == 0.0 && v.abs() < 1e15 => Some(format!("{}", *v as i64)),
        value => Some(value.to_string()),
    }
}

fn json_keys(json: &Json) -> Vec<String> {
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
        _ => Vec::new(),
    }
}

fn named(figure: &Figure, raw: &str) -> Option<String> {
    figure.names.as_ref()?.0.iter().find(|(name, _)| name == raw).map(|(_, words)| words.clone())
}

fn column_label(figure: &Figure, table: &Table, column: &str) -> Result<String, tables::Error> {
    if let Some(words) = named(figure, column) {
        return Ok(words);
    }
    let unit = &table.schema().get(column)?.unit;
    let words = column.replace('_', " ");
    Ok(if unit.is_empty() { words } else { format!("{words} ({unit})") })
}

/// Picks the rows and turns the columns into numbers.
///
/// `strict` is off for a run that is still going: values that have not come yet are then no mistake.
pub(crate) fn select(
    figure: &Figure,
    table: &Table,
    overlay: Option<&Table>,
    links: Option<&Table>,
    strict: bool,
) -> Result<Selection, Error> {
    let fail = |what: String| Error::Figure { figure: figure.id.clone(), what };
    let read = |source: tables::Error| Error::FigureTable { figure: figure.id.clone(), source: Box::new(source) };
    check_keys(figure)?;

    let mut notes = Vec::new();
    let sources: Vec<(&Table, bool)> = std::iter::once((table, false)).chain(overlay.map(|t| (t, true))).collect();
    let used: Vec<&String> = [Some(&figure.x), figure.y.as_ref(), figure.value.as_ref(), figure.series.as_ref()]
        .into_iter()
        .chain([figure.facet.as_ref(), figure.facet_row.as_ref(), figure.z.as_ref(), figure.side.as_ref()])
        .flatten()
        .collect();
    for column in &used {
        table.schema().position(column).map_err(read)?;
    }
    for (column, _) in figure.order.iter().flat_map(|o| &o.0) {
        if !used.contains(&column) {
            let hint = did_you_mean(nearest(column, used.iter().map(|c| c.as_str())));
            return Err(fail(format!("`order` names column `{column}`, which the figure does not use{hint}")));
        }
    }

    // `where`: rows that stay, per source
    let mut keep: Vec<Vec<bool>> = sources.iter().map(|(t, _)| vec![true; t.len()]).collect();
    for (column, wanted) in figure.filter.iter().flat_map(|f| &f.0) {
        table.schema().position(column).map_err(read)?;
        let (wanted, unwanted): (Vec<&Json>, bool) = match wanted {
            OneOrMany::Many(many) => (many.iter().collect(), false),
            OneOrMany::But(but) => (but.not.iter().collect(), true),
            OneOrMany::One(one) => (vec![one], false),
        };
        let mut there: Vec<String> = Vec::new();
        for ((source, _), keep) in sources.iter().zip(&mut keep) {
            if !source.schema().has(column) {
                continue;
            }
            for (cell, keep) in source.values(column).map_err(read)?.iter().zip(keep) {
                let cell = key(cell);
                let listed = cell.as_ref().is_some_and(|c| wanted.iter().any(|w| json_keys(w).contains(c)));
                *keep &= listed != unwanted;
                if let Some(cell) = cell
                    && !there.contains(&cell)
                {
                    there.push(cell);
                }
            }
        }
        for value in wanted.iter().filter(|_| !unwanted) {
            if !json_keys(value).iter().any(|k| there.contains(k)) {
                let what = absent(column, value, &there, "where", table);
                if strict {
                    return Err(Error::Empty { figure: figure.id.clone(), what });
                }
                notes.push(format!("Not there yet: {what}."));
            }
        }
    }

    let levels = |column: &Option<String>, notes: &mut Vec<String>| match column {
        Some(column) => levels(figure, column, &sources, &keep, strict, notes),
        None => Ok(Levels::default()),
    };
    let series = levels(&figure.series, &mut notes)?;
    let facets = levels(&figure.facet, &mut notes)?;
    let rows = levels(&figure.facet_row, &mut notes)?;
    let sides = levels(&figure.side, &mut notes)?;
    if sides.keys.len() > 2 {
        let what = format!(
            "`side` has room for two values, but column `{}` has {}",
            figure.side.as_deref().unwrap_or(""),
            sides.keys.len()
        );
        return Err(fail(what));
    }
    let places = figure.kind == FigureKind::Arcs;
    let x = match is_slots(figure, table, &figure.x, figure.x_scale, figure.x_range, &keep[0]).map_err(read)? {
        true if places => Some(both(figure, table, &keep[0]).map_err(read)?),
        true => Some(levels(&Some(figure.x.clone()), &mut notes)?),
        false => None,
    };
    let y = match &figure.y {
        Some(_) if places => x.clone(),
        Some(y)
            if is_slots(figure, table, y, figure.y_scale, figure.y_range, &keep[0]).map_err(read)?
                && matches!(figure.kind, FigureKind::HeatMap | FigureKind::Scatter) =>
        {
            Some(levels(&figure.y, &mut notes)?)
        }
        _ => None,
    };

    let mut marks = Vec::new();
    for ((source, is_overlay), keep) in sources.iter().zip(&keep) {
        let positions = |column: &Option<String>, levels: &Levels| {
            let Some(column) = column else { return Ok(vec![Some(Some(0)); source.len()]) };
            if *is_overlay && !source.schema().has(column) {
                return Ok(vec![Some(None); source.len()]);
            }
            Ok(source.values(column)?.iter().map(|v| levels.position(v).map(Some)).collect::<Vec<_>>())
        };
        let coordinates = |column: &str, levels: &Option<Levels>| match levels {
            Some(levels) => {
                Ok(source.values(column)?.iter().map(|v| levels.position(v).map_or(f64::NAN, |i| i as f64)).collect())
            }
            None => source.floats(column),
        };
        let place = |e| match is_overlay {
            true => fail(format!("its overlay: {e}")),
            false => read(e),
        };
        let none = vec![f64::NAN; source.len()];
        let facet = positions(&figure.facet, &facets).map_err(place)?;
        let row = positions(&figure.facet_row, &rows).map_err(place)?;
        let line = positions(&figure.series, &series).map_err(place)?;
        let xs = coordinates(&figure.x, &x).map_err(place)?;
        let ys = match &figure.y {
            Some(column) => coordinates(column, &y).map_err(place)?,
            None => none.clone(),
        };
        let floats = |column: &Option<String>| match column {
            Some(column) => source.floats(column).map_err(place),
            None => Ok(none.clone()),
        };
        let (values, zs) = (floats(&figure.value)?, floats(&figure.z)?);
        let side = positions(&figure.side, &sides).map_err(place)?;
        for i in (0..source.len()).filter(|i| keep[*i]) {
            if let (Some(facet), Some(row), Some(series)) = (facet[i], row[i], line[i])
                && !xs[i].is_nan()
                && (y.is_none() || !ys[i].is_nan())
            {
                let overlay = *is_overlay;
                let side = side[i].flatten().unwrap_or(0);
                marks.push(Mark { facet, row, series, x: xs[i], y: ys[i], value: values[i], z: zs[i], side, overlay });
            }
        }
    }
    if !marks.iter().any(|m| !m.overlay) {
        let rows = table.len();
        let name = &table.schema().name;
        let what = match rows {
            0 => format!("table `{name}` has no rows"),
            _ => format!("none of the {rows} rows of table `{name}` meets all of `where` and `order`"),
        };
        return Err(Error::Empty { figure: figure.id.clone(), what });
    }

    let label = |given: &Option<String>, column: Option<&String>| match (given, column) {
        (Some(given), _) => Ok(given.clone()),
        (None, Some(column)) => column_label(figure, table, column).map_err(read),
        (None, None) => Ok(String::new()),
    };
    let counts = figure.kind == FigureKind::Histogram && figure.y_label.is_none();
    Ok(Selection {
        x_label: label(&figure.x_label, Some(&figure.x))?,
        y_label: if counts { "count".into() } else { label(&figure.y_label, figure.y.as_ref())? },
        value_label: label(&figure.value_label, figure.value.as_ref())?,
        z_label: label(&None, figure.z.as_ref())?,
        links: match links {
            Some(table) => segments(figure, table, &facets, &rows).map_err(read)?,
            None => Vec::new(),
        },
        sides,
        series_label: label(&None, figure.series.as_ref())?,
        marks,
        x,
        y,
        series,
        facets: facets.titled(&label(&None, figure.facet.as_ref())?),
        rows: rows.titled(&label(&None, figure.facet_row.as_ref())?),
        notes,
    })
}

/// The places of arcs: all that look or are looked at, in the order of an `order` for the horizontal axis, or as they come.
fn both(figure: &Figure, table: &Table, keep: &[bool]) -> Result<Levels, tables::Error> {
    let mut keys: Vec<String> = Vec::new();
    let order = figure.order.iter().flat_map(|o| &o.0).find(|(column, _)| *column == figure.x);
    keys.extend(
        order.iter().flat_map(|(_, places)| places.iter().filter_map(|place| json_keys(place).into_iter().next())),
    );
    for column in [Some(&figure.x), figure.y.as_ref()].into_iter().flatten() {
        for (cell, _) in table.values(column)?.iter().zip(keep).filter(|(_, keep)| **keep) {
            if let Some(key) = key(cell)
                && !keys.contains(&key)
            {
                keys.push(key);
            }
        }
    }
    let labels = keys.iter().map(|key| named(figure, key).unwrap_or_else(|| key.clone())).collect();
    Ok(Levels { labels, keys, numbers: false })
}

/// The lines of a scatter in space, with the panels that the figure has.
fn segments(figure: &Figure, table: &Table, facets: &Levels, rows: &Levels) -> Result<Vec<Link>, tables::Error> {
    let end = |end: &str| -> Result<Vec<[f64; 3]>, tables::Error> {
        let axis = |axis: &str| table.floats(&format!("{axis}_{end}"));
        let (x, y, z) = (axis("x")?, axis("y")?, axis("z")?);
        Ok((0..table.len()).map(|i| [x[i], y[i], z[i]]).collect())
    };
    let panel = |column: &Option<String>, levels: &Levels| -> Result<Vec<Option<usize>>, tables::Error> {
        match column {
            Some(column) => Ok(table.values(column)?.iter().map(|value| levels.position(value)).collect()),
            None => Ok(vec![Some(0); table.len()]),
        }
    };
    let (from, to) = (end("from")?, end("to")?);
    let (facet, row) = (panel(&figure.facet, facets)?, panel(&figure.facet_row, rows)?);
    let there = (0..table.len()).filter(|i| facet[*i].is_some() && row[*i].is_some());
    Ok(there.map(|i| Link { facet: facet[i], row: row[i], from: from[i], to: to[i] }).collect())
}

/// Which keys a kind of figure needs, and which would say nothing.
fn check_keys(figure: &Figure) -> Result<(), Error> {
    let (kind, needs, allows): (_, &[&str], &[&str]) = match figure.kind {
        FigureKind::Line => ("a line figure", &["y"], &["series", "overlay"]),
        FigureKind::Scatter => ("a scatter figure", &["y"], &["series", "overlay"]),
        FigureKind::Scatter3d => ("a scatter in space", &["y", "z"], &["series", "links", "view"]),
        FigureKind::Arcs => ("an arc figure", &["y", "value"], &["series", "side"]),
        FigureKind::Bar => ("a bar figure", &["y"], &["series", "overlay"]),
        FigureKind::HeatMap => ("a heat map", &["y", "value"], &["overlay"]),
        FigureKind::Histogram => ("a histogram", &[], &["series", "bins", "overlay"]),
    };
    let keys = [
        ("y", figure.y.is_some()),
        ("z", figure.z.is_some()),
        ("value", figure.value.is_some()),
        ("series", figure.series.is_some()),
        ("side", figure.side.is_some()),
        ("links", figure.links.is_some()),
        ("view", figure.view.is_some()),
        ("bins", figure.bins.is_some()),
        ("overlay", figure.overlay.is_some()),
    ];
    let fail = |what: String| Err(Error::Figure { figure: figure.id.clone(), what });
    for (key, there) in keys {
        if !there && needs.contains(&key) {
            return fail(format!("{kind} needs the key `{key}`"));
        }
        if there && !needs.contains(&key) && !allows.contains(&key) {
            return fail(format!("{kind} has no use for the key `{key}`"));
        }
    }
    if figure.value_centre.is_some() && (figure.value_range.is_some() || figure.value_scale == Scale::Log) {
        return fail("`value_centre` decides the range by itself, and on a linear scale: leave `value_range` and `value_scale` out".to_owned());
    }
    for (key, range, scale) in [
        ("x_range", figure.x_range, figure.x_scale),
        ("y_range", figure.y_range, figure.y_scale),
        ("value_range", figure.value_range, figure.value_scale),
    ] {
        let Some([low, high]) = range else { continue };
        if !(low < high && low.is_finite() && high.is_finite()) {
            return fail(format!("`{key}` must rise from its first to its second number"));
        }
        if scale == Scale::Log && low <= 0.0 {
            return fail(format!("`{key}` must be positive on a logarithmic scale"));
        }
    }
    Ok(())
}

/// Text and ordered columns are categories; so are the bars' columns, and the few numbers of a heat map's side.
fn is_slots(
    figure: &Figure,
    table: &Table,
    column: &str,
    scale: Scale,
    range: Option<[f64; 2]>,
    keep: &[bool],
) -> Result<bool, tables::Error> {
    let ordered = figure.order.as_ref().is_some_and(|o| o.0.iter().any(|(c, _)| c == column));
    let text = table.schema().get(column)?.kind == Kind::Text;
    Ok(match figure.kind {
        FigureKind::Histogram | FigureKind::Scatter3d => false,
        FigureKind::Arcs => column == figure.x,
        FigureKind::Bar => column == figure.x,
        FigureKind::Line => (text || ordered) && column == figure.x,
        FigureKind::Scatter => text || ordered,
        FigureKind::HeatMap => {
            let few = || -> Result<bool, tables::Error> {
                let cells = table.values(column)?;
                let kept = cells.iter().zip(keep).filter(|(_, k)| **k);
                let distinct: HashSet<String> = kept.filter_map(|(v, _)| key(v)).collect();
                Ok(distinct.len() <= 16)
            };
            text || ordered || (scale == Scale::Linear && range.is_none() && few()?)
        }
    })
}

fn levels(
    figure: &Figure,
    column: &str,
    sources: &[(&Table, bool)],
    keep: &[Vec<bool>],
    strict: bool,
    notes: &mut Vec<String>,
) -> Result<Levels, Error> {
    let read = |source: tables::Error| Error::FigureTable { figure: figure.id.clone(), source: Box::new(source) };
    let fail = |what: String| Error::Empty { figure: figure.id.clone(), what };
    let mut found: Vec<(String, f64)> = Vec::new();
    let mut seen = HashSet::new();
    for ((source, _), keep) in sources.iter().zip(keep) {
        if !source.schema().has(column) {
            continue;
        }
        for (value, _) in source.values(column).map_err(read)?.iter().zip(keep).filter(|(_, k)| **k) {
            if let Some(k) = key(value)
                && seen.insert(k.clone())
            {
                found.push((k, value.as_f64().unwrap_or(f64::NAN)));
            }
        }
    }
    let numbers = !found.is_empty() && found.iter().all(|(_, v)| !v.is_nan());
    if numbers {
        found.sort_by(|a, b| a.1.total_cmp(&b.1));
    }
    let mut keys: Vec<String> = found.into_iter().map(|(k, _)| k).collect();
    let order = figure.order.iter().flat_map(|o| &o.0).find(|(c, _)| c == column);
    if let Some((_, order)) = order {
        let mut chosen = Vec::new();
        let mut absent_values = Vec::new();
        for value in order {
            let wanted = json_keys(value);
            match keys.iter().find(|k| wanted.contains(k)) {
                Some(k) => chosen.push(k.clone()),
                None => absent_values.push(value),
            }
        }
        let left: Vec<&String> = keys.iter().filter(|k| !chosen.contains(k)).collect();
        for value in absent_values {
            let word = json_keys(value).into_iter().next().unwrap_or_default();
            let typo = nearest(&word, left.iter().map(|k| k.as_str())).is_some();
            let what = absent(column, value, &keys, "order", sources[0].0);
            if chosen.is_empty() || (typo && strict) {
                return Err(fail(what));
            }
            notes.push(format!("Not drawn: {what}."));
        }
        keys = chosen;
    }
    let label = |k: &String| named(figure, k).unwrap_or_else(|| k.clone());
    Ok(Levels { labels: keys.iter().map(label).collect(), keys, numbers })
}

impl Levels {
    fn position(&self, value: &Value) -> Option<usize> {
        let k = key(value)?;
        self.keys.iter().position(|other| *other == k)
    }

    /// For panels: a bare number says little, `seed = 3` more.
    fn titled(mut self, column: &str) -> Self {
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

fn did_you_mean(nearest: Option<String>) -> String {
    nearest.map(|n| format!(", did you mean `{n}`?")).unwrap_or_default()
}

/// `order names aux, which no row of table t has in column method; did you mean ..; there is ..`.
fn absent(column: &str, value: &Json, there: &[String], place: &str, table: &Table) -> String {
    let word = json_keys(value).into_iter().next().unwrap_or_else(|| value.to_string());
    let hint = did_you_mean(nearest(&word, there.iter().map(String::as_str)));
    let number = word.parse::<f64>().ok();
    let mut shown: Vec<&String> = there.iter().collect();
    if let Some(number) = number {
        let gap = |text: &String| text.parse::<f64>().map_or(f64::INFINITY, |v| (v - number).abs());
        shown.sort_by(|a, b| gap(a).total_cmp(&gap(b)));
    }
    let mut list: Vec<String> = shown.iter().take(8).map(|v| format!("`{v}`")).collect();
    if there.len() > 8 {
        list.push(format!("{} more", there.len() - 8));
    }
    let list = if list.is_empty() { "nothing".to_string() } else { list.join(", ") };
    let name = &table.schema().name;
    format!("`{place}` asks for `{column}: {word}`, which no row of table `{name}` has{hint}; there is {list}")
}
