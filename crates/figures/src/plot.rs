//! A figure laid out: [`Plot::new`] decides every position in CSS pixels, [`Plot::paint`] draws it on a canvas.
//!
//! Nothing ever lies over the data: the legend stands above the panels and the colour bar beside them.

use config::Figure;

use crate::{
    canvas::{Canvas, Ink, Rect},
    chart::Chart,
    colours::ColourBar,
    error::Error,
    frame::{Frame, STRIP_ROW, paint_panel},
    legend::Legend,
    palette::{INK, WHITE},
    panel::{Grid, Panel},
    scale::Tick,
    select::Selection,
    style::{LABEL, PAD, TITLE},
    text::{Anchor, Type, ellipsis, wrap},
    ticks::{XTicks, widest, y_ticks},
};

/// A figure with every position decided.
pub(crate) struct Plot<'a> {
    chart: Chart<'a>,
    panels: Vec<Panel>,
    title: Vec<String>,
    legend: Legend,
    x_ticks: XTicks,
    y_ticks: Vec<Tick>,
    bar: Option<ColourBar>,
    x_label_at: (f64, f64),
    y_label_at: (f64, f64),
    /// Size in CSS pixels.
    pub size: (f64, f64),
}

impl<'a> Plot<'a> {
    /// Lays the figure out; `overlay` is the label of the overlay.
    pub fn new(figure: &'a Figure, data: Selection, overlay: Option<&'a str>) -> Self {
        let chart = Chart::new(figure, data, overlay);
        let mut grid = Grid::new(&chart);
        let (w, h) = chart.kind.panel_size(&chart, grid.across());
        let bare = chart.kind.frame() == Frame::Bare;
        let x_ticks = if bare { XTicks::none() } else { XTicks::new(&chart.x, w) };
        let y_ticks = if bare { Vec::new() } else { y_ticks(&chart.y, h) };
        let strip_height = set_strips(&mut grid, w);
        let bar_ticks = chart.colours.as_ref().map(|c| c.axis.ticks(6)).unwrap_or_default();
        let room = Margins::new(&chart, &grid, &x_ticks, &y_ticks, &bar_ticks);

        let gap = x_ticks.gap();
        let across = grid.across();
        let panels_width = across as f64 * w + (across - 1) as f64 * gap;
        let width = (room.left + panels_width + room.right).max(400.0).ceil();
        let title = wrap(&figure.title, TITLE, true, width - 2.0 * PAD);
        let title_bottom = PAD + title.len() as f64 * 20.0 + if title.is_empty() { 0.0 } else { 4.0 };
        let legend = Legend::new(&chart, title_bottom, width);
        let bottom = grid.place(room.left, legend.bottom + 4.0, (w, h), gap, strip_height);
        let panels: Vec<Panel> = grid.rows.into_iter().flatten().collect();

        let [x_label, _] = chart.kind.outer_labels(&chart.data);
        let below = bottom + x_ticks.height();
        let height = (below + if x_label.is_empty() { 0.0 } else { 20.0 } + PAD - 4.0).ceil();
        let top = panels[0].rect.y;
        let bar = chart.colours.as_ref().map(|_| {
            let x = room.left + panels_width + room.sides + 16.0;
            ColourBar { rect: Rect { x, y: top, w: 12.0, h: bottom - top }, ticks: bar_ticks }
        });
        let x_label_at = (room.left + panels_width / 2.0, below + 13.0);
        let y_label_at = (PAD + 10.0, (top + bottom) / 2.0);
        let size = (width, height);
        Self { chart, panels, title, legend, x_ticks, y_ticks, bar, x_label_at, y_label_at, size }
    }

    /// Sentences about the drawing that a reader should know.
    pub fn notes(&self) -> &[String] {
        &self.chart.data.notes
    }

    /// Data from which a page can rotate the figure; `None` for flat figures.
    pub fn scene(&self) -> Option<serde_json::Value> {
        self.chart.kind.scene(&self.chart, &self.panels, self.size)
    }

    /// Draws everything.
    pub fn paint(&self, canvas: &mut Canvas) -> Result<(), Error> {
        let (w, h) = self.size;
        canvas.rect(Rect { x: 0.0, y: 0.0, w, h }, Ink::fill(WHITE))?;
        for (i, line) in self.title.iter().enumerate() {
            let at = (PAD, PAD + 14.0 + i as f64 * 20.0);
            canvas.text(line, at, &Type::new(TITLE, INK, Anchor::Start).bold())?;
        }
        self.legend.paint(canvas)?;
        for panel in &self.panels {
            paint_panel(canvas, &self.chart, panel, &self.x_ticks, &self.y_ticks)?;
        }
        if let (Some(bar), Some(colours)) = (&self.bar, &self.chart.colours) {
            bar.paint(canvas, colours, &self.chart.data.value_label)?;
        }
        let [x_label, y_label] = self.chart.kind.outer_labels(&self.chart.data);
        canvas.text(x_label, self.x_label_at, &Type::new(LABEL, INK, Anchor::Middle))?;
        canvas.text(y_label, self.y_label_at, &Type::new(LABEL, INK, Anchor::Middle).rotated())
    }
}

/// Wraps the titles above the panels into at most two lines; returns the height of the tallest.
fn set_strips(grid: &mut Grid, width: f64) -> f64 {
    let mut height: f64 = 0.0;
    for panel in grid.rows.iter_mut().flatten() {
        if let Some(title) = panel.strip.first() {
            let mut lines = wrap(title, LABEL, true, width);
            if lines.len() > 2 {
                lines = vec![lines[0].clone(), ellipsis(&lines[1..].join(" "), LABEL, true, width)];
            }
            height = height.max(lines.len() as f64 * STRIP_ROW + 4.0);
            panel.strip = lines;
        }
    }
    height
}

/// Space at both sides of the panels.
struct Margins {
    left: f64,
    right: f64,
    /// The part of the right margin that the titles beside the panels take.
    sides: f64,
}

impl Margins {
    fn new(chart: &Chart, grid: &Grid, x_ticks: &XTicks, y_ticks: &[Tick], bar_ticks: &[Tick]) -> Self {
        let [_, y_label] = chart.kind.outer_labels(&chart.data);
        let left = PAD + if y_label.is_empty() { 0.0 } else { 20.0 } + widest(y_ticks) + 8.0;
        let sides = if grid.rows.iter().flatten().any(|p| p.side.is_some()) { 20.0 } else { 0.0 };
        let mut right = PAD + sides;
        if chart.colours.is_some() {
            let label = if chart.data.value_label.is_empty() { 0.0 } else { 22.0 };
            right += 16.0 + 12.0 + 6.0 + widest(bar_ticks) + label;
        }
        Self { left, right: right.max(PAD + x_ticks.last_half()), sides }
    }
}
