//! The kinds of figures, one file for each.
//!
//! A kind answers the questions of [`Kind`]; everything around the marks (panels, axes, legend) is shared.

mod arcs;
mod bar;
mod heat_map;
mod histogram;
mod line;
mod scatter;
mod scatter_3d;
mod summary;

use config::{Figure, FigureKind};

use crate::{
    canvas::Canvas,
    chart::Chart,
    colours::Colours,
    error::Error,
    frame::Frame,
    legend::Swatch,
    palette::Rgb,
    panel::Panel,
    scale::Axis,
    select::{Column, Mark, Selection},
};

/// Scatters show at most about this many points.
const MOST_POINTS: usize = 3000;

/// How one kind of figure is laid out and drawn; the defaults are those of a plot with two axes.
pub(crate) trait Kind: Sync {
    /// Whether an axis over this column has slots for categories, and not a scale of numbers.
    fn is_categorical(&self, column: &Column<'_>) -> Result<bool, tables::Error>;

    /// Whether the vertical axis has the categories of the horizontal one.
    fn shares_categories(&self) -> bool {
        false
    }

    /// Label of the vertical axis where the figure has no column for it.
    fn y_label(&self) -> &'static str {
        ""
    }

    /// Changes the marks before anything is laid out.
    fn prepare(&self, _data: &mut Selection) {}

    /// The horizontal axis.
    fn x_axis(&self, figure: &Figure, data: &Selection) -> Axis {
        number_axis(figure, data, 0.025)
    }

    /// The vertical axis.
    fn y_axis(&self, figure: &Figure, data: &Selection, _x: &Axis) -> Axis {
        if let Some(levels) = &data.y {
            return Axis::Slots(levels.labels.clone());
        }
        let shown = |m: &&Mark| figure.x_range.is_none_or(|[low, high]| m.x >= low && m.x <= high);
        let ys = data.marks.iter().filter(shown).map(|m| m.y);
        Axis::over(ys.chain(rule_ys(figure)), figure.y_scale, figure.y_range, 0.04)
    }

    /// The colour scale, where colours mean values.
    fn colours(&self, _figure: &Figure, _data: &Selection) -> Option<Colours> {
        None
    }

    /// Sentences about the drawing that a reader should know.
    fn notes(&self, _data: &Selection) -> Vec<String> {
        Vec::new()
    }

    /// Whether ours and an overlay need panels of their own.
    fn splits_overlay(&self) -> bool {
        false
    }

    /// Width and height of a panel, of which `across` stand side by side.
    fn panel_size(&self, chart: &Chart<'_>, across: usize) -> (f64, f64);

    /// The frame around the marks of a panel.
    fn frame(&self) -> Frame {
        Frame::Open
    }

    /// Whether marks are filled shapes that would hide a reference line below them.
    fn fills(&self) -> bool {
        false
    }

    /// Labels outside of the panels: below and at the left.
    fn outer_labels<'d>(&self, data: &'d Selection) -> [&'d str; 2] {
        [&data.x_label, &data.y_label]
    }

    /// First entry of the legend, without a sign.
    fn legend_heading(&self, _data: &Selection) -> Option<String> {
        None
    }

    /// Sign of a series in the legend.
    fn series_swatch(&self, series: usize, colour: Rgb, dash: &'static [f64]) -> Swatch;

    /// Sign of the overlay in the legend; `None` where panels are labelled, or where there is no overlay.
    fn overlay_swatch(&self, colour: Rgb) -> Option<Swatch>;

    /// Draws the marks of a panel.
    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error>;

    /// Data from which a page can rotate the figure.
    fn scene(&self, _chart: &Chart<'_>, _panels: &[Panel], _size: (f64, f64)) -> Option<serde_json::Value> {
        None
    }
}

/// The drawing of a kind.
pub(crate) fn of(kind: FigureKind) -> &'static dyn Kind {
    match kind {
        FigureKind::Line => &line::Line,
        FigureKind::Scatter => &scatter::Scatter,
        FigureKind::Bar => &bar::Bar,
        FigureKind::Scatter3d => &scatter_3d::Scatter3d,
        FigureKind::Arcs => &arcs::Arcs,
        FigureKind::HeatMap => &heat_map::HeatMap,
        FigureKind::Histogram => &histogram::Histogram,
    }
}

/// A horizontal axis: categories, or numbers with this share of room at both ends.
fn number_axis(figure: &Figure, data: &Selection, room: f64) -> Axis {
    match &data.x {
        Some(levels) => Axis::Slots(levels.labels.clone()),
        None => {
            let rules = figure.rules.iter().filter_map(|r| r.x);
            Axis::over(data.marks.iter().map(|m| m.x).chain(rules), figure.x_scale, figure.x_range, room)
        }
    }
}

/// Heights of reference lines, which the vertical axis must show.
fn rule_ys(figure: &Figure) -> impl Iterator<Item = f64> {
    figure.rules.iter().filter_map(|r| r.y)
}

/// Size of a panel of lines, bars or cells.
fn wide_panel(across: usize) -> (f64, f64) {
    match across {
        1 => (560.0, 310.0),
        2 => (350.0, 250.0),
        3 => (252.0, 210.0),
        _ => (200.0, 180.0),
    }
}

/// Every how many-th point of a scatter is drawn.
fn point_step(data: &Selection) -> usize {
    data.marks.iter().filter(|m| !m.overlay).count().div_ceil(MOST_POINTS).max(1)
}

/// The note on points that are not drawn.
fn point_note(data: &Selection) -> Vec<String> {
    let step = point_step(data);
    if step > 1 { vec![format!("One point in {step} is drawn.")] } else { Vec::new() }
}
