//! Coloured cells, x by y.

mod span;

use std::collections::{BTreeMap, BTreeSet};

use config::{Figure, Scale};

use self::span::{Span, cell_ends, span_of, spans};
use super::{Kind, summary::repeats, wide_panel};
use crate::{
    canvas::{Canvas, Ink, Rect},
    chart::Chart,
    colours::Colours,
    error::Error,
    frame::Frame,
    legend::Swatch,
    number::fixed,
    palette::{HATCH, MISSING, Rgb, ink_on},
    panel::Panel,
    scale::Axis,
    select::{Column, Mark, Selection},
    text::{Anchor, CAP, Type, text_width},
};

/// More columns than this share cells.
const MOST_COLUMNS: usize = 160;
/// Numbers with at most this many values are categories, unless a scale or a range is chosen.
const FEW: usize = 16;

/// Cells; rows of the table that share a cell are averaged.
pub(super) struct HeatMap;

impl Kind for HeatMap {
    fn is_categorical(&self, column: &Column<'_>) -> Result<bool, tables::Error> {
        let scaled = column.scale == Scale::Log || column.range.is_some();
        Ok(column.text || column.ordered || (!scaled && column.distinct()? <= FEW))
    }

    fn x_axis(&self, figure: &Figure, data: &Selection) -> Axis {
        match &data.x {
            Some(levels) => Axis::Slots(levels.labels.clone()),
            None => Axis::over(cell_ends(&data.marks, |m| m.x, figure.x_scale), figure.x_scale, figure.x_range, 0.0),
        }
    }

    fn y_axis(&self, figure: &Figure, data: &Selection, _x: &Axis) -> Axis {
        match &data.y {
            Some(levels) => Axis::Slots(levels.labels.clone()),
            None => Axis::over(cell_ends(&data.marks, |m| m.y, figure.y_scale), figure.y_scale, figure.y_range, 0.0),
        }
    }

    fn colours(&self, figure: &Figure, data: &Selection) -> Option<Colours> {
        let values = data.marks.iter().map(|m| m.value);
        let axis = Axis::over(values, figure.value_scale, colour_range(figure, data), 0.0);
        Some(Colours { axis, diverging: figure.value_centre.is_some() })
    }

    fn notes(&self, data: &Selection) -> Vec<String> {
        let mut notes = Vec::new();
        if repeats(data, true) {
            notes.push("Cells are means over several rows of the table.".into());
        }
        let columns = data.marks.iter().map(|m| m.x.to_bits()).collect::<BTreeSet<_>>().len();
        if data.x.is_none() && columns > MOST_COLUMNS {
            notes.push("Neighbouring columns share a cell, which shows their mean.".into());
        }
        notes
    }

    fn splits_overlay(&self) -> bool {
        true
    }

    fn panel_size(&self, chart: &Chart<'_>, across: usize) -> (f64, f64) {
        let (w, h) = wide_panel(across);
        let side = |n: f64, room: f64| (room / n).clamp(9.0, 30.0);
        let w = match &chart.x {
            Axis::Slots(slots) => {
                let n = slots.len() as f64;
                (n * side(n, w * 1.1).max(widest_number(chart) + 7.0)).max(110.0)
            }
            Axis::Numbers { .. } => w,
        };
        let h = match &chart.y {
            Axis::Slots(slots) => {
                let n = slots.len() as f64;
                n * side(n, 420.0).min(if chart.figure.annotate.is_some() { 24.0 } else { 26.0 })
            }
            Axis::Numbers { .. } => h,
        };
        (w, h.max(48.0))
    }

    fn frame(&self) -> Frame {
        Frame::Closed
    }

    fn fills(&self) -> bool {
        true
    }

    fn series_swatch(&self, _series: usize, colour: Rgb, _dash: &'static [f64]) -> Swatch {
        Swatch::Fill { colour, hatch: 0, filled: true }
    }

    fn overlay_swatch(&self, _colour: Rgb) -> Option<Swatch> {
        None
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let Some(colours) = &chart.colours else { return Ok(()) };
        let r = panel.rect;
        let marks: Vec<&Mark> = chart.marks(panel).collect();
        let columns = spans(marks.iter().map(|m| m.x), &chart.x, chart.figure.x_scale, MOST_COLUMNS);
        let rows = spans(marks.iter().map(|m| m.y), &chart.y, chart.figure.y_scale, usize::MAX);
        let means = means(&marks, &columns, &rows);
        let whole = means.len() == columns.len() * rows.len();
        if !(whole && covers(&columns, &chart.x) && covers(&rows, &chart.y)) {
            canvas.rect(r, Ink::fill(MISSING))?;
            canvas.hatch(r, 1.0, 7.0, Ink::new(HATCH, 0.8))?;
        }
        for ((row, column), value) in means {
            let cell = Cell::new(chart, r, &columns[column], &rows[row]);
            cell.paint(canvas, value, colours.of(value), chart.figure.annotate)?;
        }
        Ok(())
    }
}

/// Fixed ends of the colours: those that the figure states, or as far below its centre as above it.
fn colour_range(figure: &Figure, data: &Selection) -> Option<[f64; 2]> {
    let Some(centre) = figure.value_centre else { return figure.value_range };
    let distances = data.marks.iter().map(|m| (m.value - centre).abs()).filter(|distance| distance.is_finite());
    let far = distances.fold(0.0, f64::max);
    (far > 0.0).then_some([centre - far, centre + far])
}

/// Width of the widest number that the figure prints into its cells.
fn widest_number(chart: &Chart) -> f64 {
    let Some(decimals) = chart.figure.annotate else { return 0.0 };
    let values = chart.data.marks.iter().map(|m| m.value).filter(|v| v.is_finite());
    values.map(|v| text_width(&fixed(v, usize::from(decimals)), 10.5, false)).fold(0.0, f64::max)
}

/// The mean value of each cell by `(row, column)`.
fn means(marks: &[&Mark], columns: &[Span], rows: &[Span]) -> BTreeMap<(usize, usize), f64> {
    let mut sums: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
    for mark in marks.iter().filter(|m| !m.value.is_nan()) {
        if let (Some(column), Some(row)) = (span_of(columns, mark.x), span_of(rows, mark.y)) {
            let sum = sums.entry((row, column)).or_default();
            *sum = (sum.0 + mark.value, sum.1 + 1.0);
        }
    }
    sums.into_iter().map(|(cell, (sum, n))| (cell, sum / n)).collect()
}

/// Whether the spans leave no part of the axis free.
fn covers(spans: &[Span], axis: &Axis) -> bool {
    match (axis, spans.first(), spans.last()) {
        (Axis::Slots(slots), ..) => spans.len() == slots.len(),
        (Axis::Numbers { .. }, Some(first), Some(last)) => first.from <= 1e-6 && last.to >= 1.0 - 1e-6,
        (Axis::Numbers { .. }, ..) => false,
    }
}

/// A cell on the page.
struct Cell {
    rect: Rect,
    /// Right and lower end without the overlap of neighbouring cells.
    end: (f64, f64),
}

impl Cell {
    fn new(chart: &Chart, r: Rect, column: &Span, row: &Span) -> Self {
        let across = (r.x + column.from * r.w, r.x + column.to * r.w);
        let down = match chart.y.is_slots() {
            true => (r.y + row.from * r.h, r.y + row.to * r.h),
            false => (r.bottom() - row.to * r.h, r.bottom() - row.from * r.h),
        };
        let (left, top) = (across.0.max(r.x), down.0.max(r.y));
        // a pixel over the next cell, so that no seam shows between them
        let (w, h) = ((across.1 + 1.0).min(r.right()) - left, (down.1 + 1.0).min(r.bottom()) - top);
        Self { rect: Rect { x: left, y: top, w, h }, end: (across.1, down.1) }
    }

    fn paint(&self, canvas: &mut Canvas, value: f64, colour: Rgb, annotate: Option<u8>) -> Result<(), Error> {
        let r = self.rect;
        if r.w <= 0.0 || r.h <= 0.0 {
            return Ok(());
        }
        canvas.rect(r, Ink::fill(colour))?;
        let Some(decimals) = annotate else { return Ok(()) };
        let label = fixed(value, usize::from(decimals));
        let fits = |size: &f64| text_width(&label, *size, false) <= r.w - 3.0 && *size <= r.h - 3.0;
        let Some(size) = [10.5, 9.5, 8.5, 7.5].into_iter().find(fits) else { return Ok(()) };
        let at = (r.x + (self.end.0 - r.x) / 2.0, r.y + (self.end.1 - r.y) / 2.0 + size * CAP / 2.0);
        canvas.text(&label, at, &Type::new(size, ink_on(colour), Anchor::Middle))
    }
}
