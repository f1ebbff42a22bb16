//! From tables to the marks of a figure: filters, panels, series and the indices of categories.

use std::collections::HashSet;

use config::{Figure, OneOrMany, Scale, nearest};
use serde_json::Value as Json;
use tables::{Kind as ColumnKind, Table, Value};

use crate::{
    Tables,
    error::Error,
    kinds::{self, Kind},
    levels::{Levels, absent, did_you_mean, json_keys, key, named},
};

/// One row of a table as the figure uses it.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    /// Index into [`Selection::facets`]; `None` is drawn in every panel.
    pub facet: Option<usize>,
    /// Index into [`Selection::rows`]; `None` is drawn in every row of panels.
    pub row: Option<usize>,
    /// Index into [`Selection::series`]; `None` for an overlay without that column.
    pub series: Option<usize>,
    /// Number, or index of the category.
    pub x: f64,
    /// Number, or index of the category; NaN without such a column, as for the other coordinates.
    pub y: f64,
    /// Third coordinate.
    pub z: f64,
    /// Colour of a cell, or width of an arc.
    pub value: f64,
    /// Side of an arc, 0 or 1.
    pub side: usize,
    /// Whether the row comes from the overlay.
    pub overlay: bool,
}

/// A line segment in three dimensions, with the panel that it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub facet: Option<usize>,
    pub row: Option<usize>,
    pub from: [f64; 3],
    pub to: [f64; 3],
}

/// The rows and labels that a figure draws.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub marks: Vec<Mark>,
    /// Categories of the horizontal axis; `None` where it holds numbers.
    pub x: Option<Levels>,
    /// Categories of the vertical axis.
    pub y: Option<Levels>,
    pub series: Levels,
    pub facets: Levels,
    pub rows: Levels,
    pub sides: Levels,
    pub links: Vec<Link>,
    pub x_label: String,
    pub y_label: String,
    pub z_label: String,
    pub value_label: String,
    pub series_label: String,
    /// Sentences about the drawing that a reader should know.
    pub notes: Vec<String>,
}

/// The axis that a column is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    X,
    Y,
}

/// A column that may hold categories.
pub(crate) struct Column<'a> {
    pub side: Side,
    /// Whether it holds text.
    pub text: bool,
    /// Whether the figure states the order of its values.
    pub ordered: bool,
    pub scale: Scale,
    pub range: Option<[f64; 2]>,
    name: &'a str,
    source: &'a Source<'a>,
}

impl Column<'_> {
    /// Number of different values in the rows that stay.
    pub fn distinct(&self) -> Result<usize, tables::Error> {
        let kept = self.source.kept(self.name)?;
        Ok(kept.filter_map(|v| key(&v)).collect::<HashSet<String>>().len())
    }
}

/// A table and which of its rows stay.
struct Source<'a> {
    table: &'a Table,
    overlay: bool,
    keep: Vec<bool>,
}

impl Source<'_> {
    /// The values of a column in the rows that stay.
    fn kept(&self, column: &str) -> Result<impl Iterator<Item = Value>, tables::Error> {
        let cells = self.table.values(column)?;
        Ok(cells.into_iter().zip(&self.keep).filter(|(_, keep)| **keep).map(|(cell, _)| cell))
    }
}

/// Picks the rows and turns the columns into numbers.
///
/// `strict` is off for a run that is still going: values that have not come yet are then no mistake.
pub(crate) fn select(figure: &Figure, tables: Tables<'_>, strict: bool) -> Result<Selection, Error> {
    figure.check().map_err(|problem| Error::Figure { figure: figure.id.clone(), problem })?;
    let mut selector = Selector::new(figure, tables, strict);
    selector.check_columns()?;
    selector.filter()?;
    let levels = selector.levels()?;
    let mut marks = Vec::new();
    for source in &selector.sources {
        selector.marks(source, &levels, &mut marks)?;
    }
    if !marks.iter().any(|m| !m.overlay) {
        return Err(selector.empty());
    }
    selector.finish(levels, marks, tables.links)
}

/// The categories of every column that can have them.
struct AllLevels {
    series: Levels,
    facets: Levels,
    rows: Levels,
    sides: Levels,
    x: Option<Levels>,
    y: Option<Levels>,
}

struct Selector<'a> {
    figure: &'a Figure,
    kind: &'static dyn Kind,
    /// The table of the figure, and that of its overlay.
    sources: Vec<Source<'a>>,
    strict: bool,
    notes: Vec<String>,
}

impl<'a> Selector<'a> {
    fn new(figure: &'a Figure, tables: Tables<'a>, strict: bool) -> Self {
        let source = |table: &'a Table, overlay| Source { table, overlay, keep: vec![true; table.len()] };
        let overlay = tables.overlay.map(|table| source(table, true));
        let sources = std::iter::once(source(tables.table, false)).chain(overlay).collect();
        Self { figure, kind: kinds::of(figure.kind), sources, strict, notes: Vec::new() }
    }

    fn table(&self) -> &'a Table {
        self.sources[0].table
    }

    fn mistake(&self, problem: String) -> Error {
        Error::Figure { figure: self.figure.id.clone(), problem }
    }

    fn missing(&self, problem: String) -> Error {
        Error::Empty { figure: self.figure.id.clone(), problem }
    }

    fn read(&self, source: tables::Error) -> Error {
        Error::Table { figure: self.figure.id.clone(), source: Box::new(source) }
    }

    /// Every column that the figure names is there, and `order` names only those.
    fn check_columns(&self) -> Result<(), Error> {
        let Figure { x, y, z, value, series, side, facet, facet_row, order, .. } = self.figure;
        let optional = [y, value, series, facet, facet_row, z, side];
        let used: Vec<&String> = std::iter::once(x).chain(optional.into_iter().flatten()).collect();
        for column in &used {
            self.table().schema().position(column).map_err(|e| self.read(e))?;
        }
        for (column, _) in order.iter().flat_map(|o| &o.0) {
            if !used.contains(&column) {
                let hint = did_you_mean(nearest(column, used.iter().map(|c| c.as_str())));
                let problem = format!("`order` names column `{column}`, which the figure does not use{hint}");
                return Err(self.mistake(problem));
            }
        }
        Ok(())
    }

    /// Applies `where`.
    fn filter(&mut self) -> Result<(), Error> {
        let figure = self.figure;
        for (column, wanted) in figure.filter.iter().flat_map(|f| &f.0) {
            self.table().schema().position(column).map_err(|e| self.read(e))?;
            let (wanted, unwanted): (Vec<&Json>, bool) = match wanted {
                OneOrMany::Many(many) => (many.iter().collect(), false),
                OneOrMany::But(but) => (but.not.iter().collect(), true),
                OneOrMany::One(one) => (vec![one], false),
            };
            let present = self.filter_column(column, &wanted, unwanted)?;
            for value in wanted.iter().filter(|_| !unwanted) {
                if !json_keys(value).iter().any(|k| present.contains(k)) {
                    let problem = absent(column, value, &present, "where", self.table());
                    if self.strict {
                        return Err(self.missing(problem));
                    }
                    self.notes.push(format!("Not there yet: {problem}."));
                }
            }
        }
        Ok(())
    }

    /// Keeps the rows of a column with one of the values, or with none of them; returns all values of the column.
    fn filter_column(&mut self, column: &str, wanted: &[&Json], unwanted: bool) -> Result<Vec<String>, Error> {
        let mut present: Vec<String> = Vec::new();
        let figure = self.figure;
        for source in self.sources.iter_mut().filter(|source| source.table.schema().has(column)) {
            let cells = source.table.values(column);
            let cells = cells.map_err(|e| Error::Table { figure: figure.id.clone(), source: Box::new(e) })?;
            for (cell, keep) in cells.iter().zip(&mut source.keep) {
                let cell = key(cell);
                let listed = cell.as_ref().is_some_and(|c| wanted.iter().any(|w| json_keys(w).contains(c)));
                *keep &= listed != unwanted;
                if let Some(cell) = cell
                    && !present.contains(&cell)
                {
                    present.push(cell);
                }
            }
        }
        Ok(present)
    }

    fn levels(&mut self) -> Result<AllLevels, Error> {
        let figure = self.figure;
        let series = self.levels_of(figure.series.as_ref())?;
        let facets = self.levels_of(figure.facet.as_ref())?;
        let rows = self.levels_of(figure.facet_row.as_ref())?;
        let sides = self.levels_of(figure.side.as_ref())?;
        if sides.len() > 2 {
            let column = figure.side.as_deref().unwrap_or_default();
            let problem = format!("`side` has room for two values, but column `{column}` has {}", sides.len());
            return Err(self.mistake(problem));
        }
        let x = match self.is_categorical(Side::X, &figure.x)? {
            true if self.kind.shares_categories() => Some(self.shared_levels().map_err(|e| self.read(e))?),
            true => Some(self.levels_of(Some(&figure.x))?),
            false => None,
        };
        let y = match &figure.y {
            Some(_) if self.kind.shares_categories() => x.clone(),
            Some(column) if self.is_categorical(Side::Y, column)? => Some(self.levels_of(Some(column))?),
            Some(_) | None => None,
        };
        Ok(AllLevels { series, facets, rows, sides, x, y })
    }

    fn is_categorical(&self, side: Side, name: &str) -> Result<bool, Error> {
        let figure = self.figure;
        let (scale, range) = match side {
            Side::X => (figure.x_scale, figure.x_range),
            Side::Y => (figure.y_scale, figure.y_range),
        };
        let ordered = figure.order.as_ref().is_some_and(|o| o.0.iter().any(|(c, _)| c == name));
        let kind = self.table().schema().get(name).map_err(|e| self.read(e))?.kind;
        let text = kind == ColumnKind::Text;
        let column = Column { side, text, ordered, scale, range, name, source: &self.sources[0] };
        self.kind.is_categorical(&column).map_err(|e| self.read(e))
    }

    /// The values of a column in both tables; values of `order` that are not there are an error or a note.
    fn levels_of(&mut self, column: Option<&String>) -> Result<Levels, Error> {
        let Some(column) = column else { return Ok(Levels::default()) };
        let mut cells = Vec::new();
        for source in self.sources.iter().filter(|source| source.table.schema().has(column)) {
            cells.extend(source.kept(column).map_err(|e| self.read(e))?);
        }
        let (levels, absent) = Levels::of(self.figure, column, cells.into_iter(), self.table());
        for value in absent {
            if levels.len() == 0 || (value.typo && self.strict) {
                return Err(self.missing(value.problem));
            }
            self.notes.push(format!("Not drawn: {}.", value.problem));
        }
        Ok(levels)
    }

    /// The values of both columns of axes, for axes that share their categories.
    fn shared_levels(&self) -> Result<Levels, tables::Error> {
        let x = self.figure.x.as_str();
        let y = self.figure.y.as_deref().unwrap_or(x);
        let cells = self.sources[0].kept(x)?.chain(self.sources[0].kept(y)?);
        Ok(Levels::union(self.figure, [x, y], cells))
    }

    /// The rows of one table as marks.
    fn marks(&self, source: &Source<'_>, levels: &AllLevels, marks: &mut Vec<Mark>) -> Result<(), Error> {
        let (figure, overlay) = (self.figure, source.overlay);
        let fail = |e| if overlay { self.mistake(format!("its overlay: {e}")) } else { self.read(e) };
        let group = |column: &Option<String>, levels| groups(source, column.as_deref(), levels).map_err(fail);
        let number = |column: &Option<String>, levels| numbers(source, column.as_deref(), levels).map_err(fail);
        let facet = group(&figure.facet, &levels.facets)?;
        let row = group(&figure.facet_row, &levels.rows)?;
        let series = group(&figure.series, &levels.series)?;
        let x = numbers(source, Some(&figure.x), levels.x.as_ref()).map_err(fail)?;
        let y = number(&figure.y, levels.y.as_ref())?;
        let (value, z) = (number(&figure.value, None)?, number(&figure.z, None)?);
        let side = group(&figure.side, &levels.sides)?;
        for i in (0..source.table.len()).filter(|i| source.keep[*i]) {
            if let (Group::In(facet), Group::In(row), Group::In(series)) = (facet[i], row[i], series[i])
                && !x[i].is_nan()
                && (levels.y.is_none() || !y[i].is_nan())
            {
                let side = if let Group::In(Some(side)) = side[i] { side } else { 0 };
                marks.push(Mark { facet, row, series, x: x[i], y: y[i], z: z[i], value: value[i], side, overlay });
            }
        }
        Ok(())
    }

    fn empty(&self) -> Error {
        let name = &self.table().schema().name;
        self.missing(match self.table().len() {
            0 => format!("table `{name}` has no rows"),
            rows => format!("none of the {rows} rows of table `{name}` meets all of `where` and `order`"),
        })
    }

    /// The label that the figure states, or that of the column.
    fn label(&self, stated: Option<&String>, column: Option<&String>) -> Result<String, Error> {
        match (stated, column) {
            (Some(stated), _) => Ok(stated.clone()),
            (None, Some(column)) => column_label(self.figure, self.table(), column).map_err(|e| self.read(e)),
            (None, None) => Ok(String::new()),
        }
    }

    fn finish(self, levels: AllLevels, marks: Vec<Mark>, links: Option<&Table>) -> Result<Selection, Error> {
        let figure = self.figure;
        let y_label = match (&figure.y_label, &figure.y) {
            (None, None) => self.kind.y_label().into(),
            (stated, column) => self.label(stated.as_ref(), column.as_ref())?,
        };
        let links = match links {
            Some(table) => segments(figure, table, &levels).map_err(|e| self.read(e))?,
            None => Vec::new(),
        };
        Ok(Selection {
            marks,
            links,
            x_label: self.label(figure.x_label.as_ref(), Some(&figure.x))?,
            y_label,
            z_label: self.label(None, figure.z.as_ref())?,
            value_label: self.label(figure.value_label.as_ref(), figure.value.as_ref())?,
            series_label: self.label(None, figure.series.as_ref())?,
            facets: levels.facets.titled(&self.label(None, figure.facet.as_ref())?),
            rows: levels.rows.titled(&self.label(None, figure.facet_row.as_ref())?),
            x: levels.x,
            y: levels.y,
            series: levels.series,
            sides: levels.sides,
            notes: self.notes,
        })
    }
}

/// Where a row belongs among the values of a column.
#[derive(Clone, Copy)]
enum Group {
    /// At an index, or everywhere.
    In(Option<usize>),
    /// Nowhere: the figure leaves out its value.
    Out,
}

/// Where the rows belong; everywhere in an overlay without the column.
fn groups(source: &Source<'_>, column: Option<&str>, levels: &Levels) -> Result<Vec<Group>, tables::Error> {
    let Some(column) = column else { return Ok(vec![Group::In(Some(0)); source.table.len()]) };
    if source.overlay && !source.table.schema().has(column) {
        return Ok(vec![Group::In(None); source.table.len()]);
    }
    let index = |value: &Value| levels.index(value).map_or(Group::Out, |i| Group::In(Some(i)));
    Ok(source.table.values(column)?.iter().map(index).collect())
}

/// The numbers of a column, or the indices of its categories; NaN where there are none.
fn numbers(source: &Source<'_>, column: Option<&str>, levels: Option<&Levels>) -> Result<Vec<f64>, tables::Error> {
    match (column, levels) {
        (None, _) => Ok(vec![f64::NAN; source.table.len()]),
        (Some(column), None) => source.table.floats(column),
        (Some(column), Some(levels)) => {
            let index = |value: &Value| levels.index(value).map_or(f64::NAN, |i| i as f64);
            Ok(source.table.values(column)?.iter().map(index).collect())
        }
    }
}

/// The name of a column with its unit.
fn column_label(figure: &Figure, table: &Table, column: &str) -> Result<String, tables::Error> {
    if let Some(label) = named(figure, column) {
        return Ok(label);
    }
    let unit = &table.schema().get(column)?.unit;
    let label = column.replace('_', " ");
    Ok(if unit.is_empty() { label } else { format!("{label} ({unit})") })
}

/// The line segments in the panels that the figure has.
fn segments(figure: &Figure, table: &Table, levels: &AllLevels) -> Result<Vec<Link>, tables::Error> {
    let end = |end: &str| -> Result<Vec<[f64; 3]>, tables::Error> {
        let axis = |axis: &str| table.floats(&format!("{axis}_{end}"));
        let (x, y, z) = (axis("x")?, axis("y")?, axis("z")?);
        Ok((0..table.len()).map(|i| [x[i], y[i], z[i]]).collect())
    };
    let panel = |column: &Option<String>, levels: &Levels| -> Result<Vec<Option<usize>>, tables::Error> {
        match column {
            Some(column) => Ok(table.values(column)?.iter().map(|value| levels.index(value)).collect()),
            None => Ok(vec![Some(0); table.len()]),
        }
    };
    let (from, to) = (end("from")?, end("to")?);
    let (facet, row) = (panel(&figure.facet, &levels.facets)?, panel(&figure.facet_row, &levels.rows)?);
    let shown = (0..table.len()).filter(|i| facet[*i].is_some() && row[*i].is_some());
    Ok(shown.map(|i| Link { facet: facet[i], row: row[i], from: from[i], to: to[i] }).collect())
}
