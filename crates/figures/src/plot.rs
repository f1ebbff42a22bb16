//! Layout and ink: where panels, ticks, legend and colour bar go, and what is drawn into them.
//!
//! [`Plan::new`] decides every place in CSS pixels; [`Plan::paint`] draws it on any back end.
//! Nothing is ever laid over the data: the legend stands above the panels and the colour bar beside them.

use std::collections::{BTreeMap, BTreeSet};

use config::{Figure, FigureKind, Scale};
use plotters_backend::DrawingBackend;

use crate::{
    canvas::{Anchor, CAP, Canvas, Ink, Marker, Rect, Type, ellipsis, text_width, wrap},
    error::Error,
    number::fixed,
    palette::{self, AXIS, GRID, HATCH, INK, MISSING, RULE, Rgb, WHITE},
    scale::{Axis, Tick},
    select::{Mark, Selection},
    space::{Scene, VIEW},
};

const PAD: f64 = 14.0;
const TITLE: f64 = 15.0;
const LABEL: f64 = 12.0;
const TICK: f64 = 11.0;
const LEGEND_ROW: f64 = 19.0;
const STRIP_ROW: f64 = 16.0;
const SWATCH: f64 = 28.0;
const OVERLAY_DASH: [f64; 2] = [4.5, 2.5];
const RULE_DASHES: [&[f64]; 3] = [&[6.0, 3.0], &[1.5, 2.5], &[7.0, 2.5, 1.5, 2.5]];
/// More points than this are thinned, evenly; the note says so.
const MOST_POINTS: usize = 3000;
/// More columns than this share cells in a heat map.
const MOST_COLUMNS: usize = 160;

/// One panel: where it is and which marks it shows.
#[derive(Clone, Debug)]
struct Panel {
    rect: Rect,
    facet: usize,
    row: usize,
    /// Only ours (`false`) or only the overlay (`true`); both when `None`.
    overlay: Option<bool>,
    strip: Vec<String>,
    side: Option<String>,
    x_ticks: bool,
    y_ticks: bool,
}

impl Panel {
    /// Whether what has these values of the columns of panels lies here; without one it lies in all.
    fn has(&self, facet: Option<usize>, row: Option<usize>) -> bool {
        facet.is_none_or(|f| f == self.facet) && row.is_none_or(|r| r == self.row)
    }

    fn shows(&self, mark: &Mark) -> bool {
        self.has(mark.facet, mark.row) && self.overlay.is_none_or(|o| o == mark.overlay)
    }
}

/// How the tick labels of a horizontal axis are set.
#[derive(Clone, Debug)]
enum Setting {
    /// Each label on one or more level lines.
    Level(Vec<Vec<String>>),
    /// Each label turned, reading upwards.
    Turned(Vec<String>),
}

/// What stands in front of a legend entry.
#[derive(Clone, Debug)]
enum Swatch {
    Line { colour: Rgb, dash: Vec<f64>, marker: Option<Marker>, filled: bool },
    Point { colour: Rgb, marker: Marker, filled: bool },
    Fill { colour: Rgb, hatch: usize, filled: bool },
    Words,
}

/// All rows at one x of one series.
#[derive(Clone, Copy, Debug)]
struct Spot {
    x: f64,
    mean: f64,
    low: f64,
    high: f64,
}

/// A figure with every place decided.
pub(crate) struct Plan<'a> {
    figure: &'a Figure,
    data: Selection,
    x: Axis,
    y: Axis,
    colour: Option<Axis>,
    bins: Vec<f64>,
    panels: Vec<Panel>,
    title: Vec<String>,
    legend: Vec<(f64, f64, Swatch, String)>,
    x_ticks: Vec<Tick>,
    x_setting: Setting,
    y_ticks: Vec<Tick>,
    bar: Option<(Rect, Vec<Tick>)>,
    x_label_at: (f64, f64),
    y_label_at: (f64, f64),
    /// Names of the axes of a scatter in space.
    axes: [String; 3],
    has_overlay: bool,
    step: usize,
    /// Size in CSS pixels.
    pub size: (f64, f64),
}

impl<'a> Plan<'a> {
    /// Lays the figure out.
    pub fn new(figure: &'a Figure, mut data: Selection, overlay: Option<&str>) -> Result<Self, Error> {
        let space = figure.kind == FigureKind::Scatter3d;
        let arcs = figure.kind == FigureKind::Arcs;
        // names of these axes stand inside of the panels
        let axes = [data.x_label.clone(), data.y_label.clone(), data.z_label.clone()];
        if space || arcs {
            data.y_label.clear();
        }
        if space {
            data.x_label.clear();
            data.notes.push("Each panel has its own scale, the same along its three axes.".into());
            let far = leave_out_far(&mut data.marks);
            if far > 0 {
                let are = if far == 1 { "point far outside is" } else { "points far outside are" };
                data.notes.push(format!("{far} {are} not drawn."));
            }
        }
        let has_overlay = overlay.is_some() && data.marks.iter().any(|m| m.overlay);
        let heat = figure.kind == FigureKind::HeatMap;
        let rule_xs = figure.rules.iter().filter_map(|r| r.x);
        let rule_ys = figure.rules.iter().filter_map(|r| r.y);

        // axes
        let x = match &data.x {
            Some(levels) => Axis::Slots(levels.labels.clone()),
            None if heat => {
                Axis::over(edges_of(&data.marks, |m| m.x, figure.x_scale), figure.x_scale, figure.x_range, 0.0)
            }
            None => {
                let xs = data.marks.iter().map(|m| m.x).chain(rule_xs);
                let room = if figure.kind == FigureKind::Histogram { 0.0 } else { 0.025 };
                Axis::over(xs, figure.x_scale, figure.x_range, room)
            }
        };
        let bins = match (&x, figure.kind) {
            (Axis::Numbers { low, high, log }, FigureKind::Histogram) => {
                let n = figure.bins.unwrap_or(30).max(1);
                let share = |i: u32| f64::from(i) / f64::from(n);
                let edge = |i| match log {
                    true => low * (high / low).powf(share(i)),
                    false => low + (high - low) * share(i),
                };
                (0..=n).map(edge).collect()
            }
            _ => Vec::new(),
        };
        let y = match (&data.y, figure.kind) {
            (Some(levels), _) => Axis::Slots(levels.labels.clone()),
            (None, FigureKind::HeatMap) => {
                Axis::over(edges_of(&data.marks, |m| m.y, figure.y_scale), figure.y_scale, figure.y_range, 0.0)
            }
            (None, FigureKind::Histogram) => {
                let mut counts: BTreeMap<(usize, usize, usize, bool, usize), f64> = BTreeMap::new();
                for m in &data.marks {
                    if let Some(bin) = bin_of(&bins, m.x) {
                        let place = |p: Option<usize>| p.unwrap_or(0);
                        *counts.entry((place(m.facet), place(m.row), place(m.series), m.overlay, bin)).or_default() +=
                            1.0;
                    }
                }
                from_zero(Axis::over(counts.into_values().chain(rule_ys), figure.y_scale, figure.y_range, 0.05), figure)
            }
            (None, FigureKind::Bar) => {
                let ys = data.marks.iter().map(|m| m.y).chain(rule_ys);
                let zero = (figure.y_scale == Scale::Linear).then_some(0.0);
                from_zero(Axis::over(ys.chain(zero), figure.y_scale, figure.y_range, 0.06), figure)
            }
            (None, _) => {
                let inside = |m: &&Mark| match figure.x_range {
                    Some([low, high]) => m.x >= low && m.x <= high,
                    None => true,
                };
                let ys = data.marks.iter().filter(inside).map(|m| m.y).chain(rule_ys);
                Axis::over(ys, figure.y_scale, figure.y_range, 0.04)
            }
        };
        let values = || data.marks.iter().map(|m| m.value);
        let colour = heat.then(|| Axis::over(values(), figure.value_scale, colour_range(figure, &data), 0.0));

        // which panels
        let facets = if figure.facet.is_some() { data.facets.labels.clone() } else { vec![String::new()] };
        let rows = if figure.facet_row.is_some() { data.rows.labels.clone() } else { vec![String::new()] };
        let split = heat && has_overlay;
        let versions = [("ours".to_string(), Some(false)), (overlay.unwrap_or_default().to_string(), Some(true))];
        let mut grid: Vec<Vec<Panel>> = Vec::new();
        let panel = |facet: usize, row: usize, overlay, strip: &str, side: &str| Panel {
            rect: Rect { x: 0.0, y: 0.0, w: 0.0, h: 0.0 },
            facet,
            row,
            overlay,
            strip: if strip.is_empty() { Vec::new() } else { vec![strip.to_string()] },
            side: (!side.is_empty()).then(|| side.to_string()),
            x_ticks: false,
            y_ticks: false,
        };
        for (r, row) in rows.iter().enumerate() {
            match (split, figure.facet.is_some()) {
                (true, false) => {
                    grid.push(versions.iter().map(|(label, o)| panel(0, r, *o, label, row)).collect());
                }
                (true, true) => {
                    for (label, o) in &versions {
                        let side = if row.is_empty() { label.clone() } else { format!("{row} · {label}") };
                        let line = facets.iter().enumerate().map(|(f, s)| panel(f, r, *o, s, &side));
                        grid.push(line.collect());
                    }
                }
                (false, _) => {
                    grid.push(facets.iter().enumerate().map(|(f, s)| panel(f, r, None, s, row)).collect());
                }
            }
        }
        let wrapped = grid.len() == 1 && grid[0].len() > 4;
        if wrapped {
            let line = grid.remove(0);
            let across = match line.len() {
                5 | 6 | 9 => 3,
                _ => 4,
            };
            grid = line.chunks(across).map(<[Panel]>::to_vec).collect();
        }
        let across = grid[0].len();

        // sizes
        let (w, h) = panel_size(figure, &x, &y, across, data.series.labels.len().max(1), &data.marks);
        let (x_ticks, x_setting) =
            if space || arcs { (Vec::new(), Setting::Level(Vec::new())) } else { x_labels(&x, w) };
        let y_ticks = if space || arcs { Vec::new() } else { y.ticks((h / 36.0).clamp(3.0, 8.0) as usize) };
        let y_ticks = thin(y_ticks, h, 13.0, y.is_slots());
        let y_ticks: Vec<Tick> =
            y_ticks.into_iter().map(|t| Tick { label: ellipsis(&t.label, TICK, false, 150.0), ..t }).collect();
        let widest = |ticks: &[Tick]| ticks.iter().map(|t| text_width(&t.label, TICK, false)).fold(0.0, f64::max);
        let gap = match &x_setting {
            Setting::Level(labels) if !x.is_slots() => {
                let ends = [labels.first(), labels.last()].into_iter().flatten();
                let room: f64 = ends.map(|l| text_width(&l[0], TICK, false)).sum::<f64>() / 2.0 + 8.0;
                room.max(18.0)
            }
            _ => 18.0,
        };
        let x_tick_height = match &x_setting {
            Setting::Level(labels) => 6.0 + 13.0 * labels.iter().map(Vec::len).max().unwrap_or(0).max(1) as f64,
            Setting::Turned(labels) => 8.0 + labels.iter().map(|l| text_width(l, TICK, false)).fold(0.0, f64::max),
        };
        let sides = grid.iter().flatten().any(|p| p.side.is_some());
        let mut strip_height: f64 = 0.0;
        for panel in grid.iter_mut().flatten() {
            if let Some(words) = panel.strip.first() {
                let mut lines = wrap(words, LABEL, true, w);
                if lines.len() > 2 {
                    lines = vec![lines[0].clone(), ellipsis(&lines[1..].join(" "), LABEL, true, w)];
                }
                strip_height = strip_height.max(lines.len() as f64 * STRIP_ROW + 4.0);
                panel.strip = lines;
            }
        }
        let left = PAD + if data.y_label.is_empty() { 0.0 } else { 20.0 } + widest(&y_ticks) + 8.0;
        let panels_width = across as f64 * w + (across - 1) as f64 * gap;
        let mut right = PAD + if sides { 20.0 } else { 0.0 };
        let bar_ticks = colour.as_ref().map(|c| c.ticks(6)).unwrap_or_default();
        if colour.is_some() {
            right += 16.0 + 12.0 + 6.0 + widest(&bar_ticks) + if data.value_label.is_empty() { 0.0 } else { 22.0 };
        }
        let last_half = match (&x_setting, x.is_slots()) {
            (Setting::Level(labels), false) => {
                labels.last().map_or(0.0, |l| text_width(&l[0], TICK, false) / 2.0 - 8.0)
            }
            _ => 0.0,
        };
        right = right.max(PAD + last_half);
        let width = (left + panels_width + right).max(400.0).ceil();

        // title and legend
        let title = wrap(&figure.title, TITLE, true, width - 2.0 * PAD);
        let mut top = PAD + title.len() as f64 * 20.0 + if title.is_empty() { 0.0 } else { 4.0 };
        let (legend, legend_bottom) = legend(figure, &data, overlay.filter(|_| has_overlay), top, width);
        top = legend_bottom + 4.0;

        // places
        let mut panels = Vec::new();
        let lines = grid.len();
        let counts: Vec<usize> = grid.iter().map(Vec::len).collect();
        let mut y_at = top;
        let mut bottom = top;
        for (r, line) in grid.into_iter().enumerate() {
            let strips = if wrapped || r == 0 { strip_height } else { 0.0 };
            y_at += strips;
            for (c, mut panel) in line.into_iter().enumerate() {
                panel.rect = Rect { x: left + c as f64 * (w + gap), y: y_at, w, h };
                if !(wrapped || r == 0) {
                    panel.strip.clear();
                }
                panel.x_ticks = r + 1 == lines || counts[r + 1] <= c;
                panel.y_ticks = c == 0;
                if c + 1 < counts[r] {
                    panel.side = None;
                }
                panels.push(panel);
            }
            y_at += h;
            bottom = y_at;
            y_at += 14.0;
        }
        let mut height = bottom + x_tick_height;
        let x_label_at = (left + panels_width / 2.0, height + 13.0);
        if !data.x_label.is_empty() {
            height += 20.0;
        }
        height = (height + PAD - 4.0).ceil();
        let middle = (panels[0].rect.y + bottom) / 2.0;
        let bar = colour.as_ref().map(|_| {
            let x = left + panels_width + if sides { 20.0 } else { 0.0 } + 16.0;
            let y = panels[0].rect.y;
            (Rect { x, y, w: 12.0, h: bottom - y }, bar_ticks)
        });

        // notes
        let ours = data.marks.iter().filter(|m| !m.overlay).count();
        let step = if space || figure.kind == FigureKind::Scatter { ours.div_ceil(MOST_POINTS).max(1) } else { 1 };
        if step > 1 {
            data.notes.push(format!("One point in {step} is drawn."));
        }
        let repeated = |data: &Selection| {
            let mut seen = BTreeSet::new();
            let place = |m: &Mark| (m.facet, m.row, m.series, m.x.to_bits(), m.y.to_bits());
            let level = |m: &Mark| (m.facet, m.row, m.series, m.x.to_bits(), 0);
            data.marks.iter().filter(|m| !m.overlay).any(|m| !seen.insert(if heat { place(m) } else { level(m) }))
        };
        match figure.kind {
            FigureKind::Line if repeated(&data) => {
                data.notes.push("Lines are means, bands run from the smallest to the largest value.".into());
            }
            FigureKind::Bar if repeated(&data) => {
                data.notes.push("Bars are means, whiskers run from the smallest to the largest value.".into());
            }
            FigureKind::HeatMap if repeated(&data) => {
                data.notes.push("Cells are means over several rows of the table.".into());
            }
            _ => {}
        }
        if heat {
            let columns = data.marks.iter().map(|m| m.x.to_bits()).collect::<BTreeSet<_>>().len();
            if data.x.is_none() && columns > MOST_COLUMNS {
                data.notes.push("Neighbouring columns share a cell, which shows their mean.".into());
            }
        }

        Ok(Self {
            figure,
            data,
            x,
            y,
            colour,
            bins,
            panels,
            title,
            legend,
            x_ticks,
            x_setting,
            y_ticks,
            bar,
            x_label_at,
            y_label_at: (PAD + 10.0, middle),
            axes,
            has_overlay,
            step,
            size: (width, height),
        })
    }

    /// What a reader should know about the drawing.
    pub fn notes(&self) -> &[String] {
        &self.data.notes
    }

    /// What a page needs to turn a scatter in space: axes, view, colours, and each panel's place, points and lines.
    pub fn turnable(&self) -> Option<serde_json::Value> {
        if self.figure.kind != FigureKind::Scatter3d {
            return None;
        }
        // three digits are enough for a picture
        let short = |x: f64| format!("{x:.2e}").parse::<f64>().unwrap_or(x);
        let hex = |c: Rgb| format!("#{:02x}{:02x}{:02x}", c[0], c[1], c[2]);
        let count = self.data.series.labels.len().max(1);
        let panels: Vec<_> = self
            .panels
            .iter()
            .map(|panel| {
                let marks = self.data.marks.iter().filter(|m| panel.shows(m)).step_by(self.step);
                let points: Vec<_> = marks
                    .filter(|m| m.x.is_finite() && m.y.is_finite() && m.z.is_finite())
                    .map(|m| serde_json::json!([short(m.x), short(m.y), short(m.z), m.series.unwrap_or(0)]))
                    .collect();
                let links: Vec<Vec<f64>> = self
                    .data
                    .links
                    .iter()
                    .filter(|link| panel.has(link.facet, link.row))
                    .map(|link| link.from.iter().chain(&link.to).map(|x| short(*x)).collect())
                    .collect();
                let Rect { x, y, w, h } = panel.rect;
                serde_json::json!({ "rect": [x, y, w, h], "points": points, "links": links })
            })
            .collect();
        Some(serde_json::json!({
            "axes": self.axes,
            "view": self.figure.view.unwrap_or(VIEW),
            "colours": (0..count).map(|i| hex(self.colour_of(Some(i)))).collect::<Vec<_>>(),
            "size": [self.size.0, self.size.1],
            "panels": panels,
        }))
    }

    /// Draws everything.
    pub fn paint<B: DrawingBackend>(&self, canvas: &mut Canvas<B>) -> Result<(), Error> {
        let (width, height) = self.size;
        canvas.rect(Rect { x: 0.0, y: 0.0, w: width, h: height }, Ink::fill(WHITE))?;
        for (i, line) in self.title.iter().enumerate() {
            let at = (PAD, PAD + 14.0 + i as f64 * 20.0);
            canvas.text(line, at, &Type::new(TITLE, INK, Anchor::Start).bold())?;
        }
        for (x, y, swatch, label) in &self.legend {
            self.swatch(canvas, (*x, *y), swatch)?;
            let start = if matches!(swatch, Swatch::Words) { *x } else { x + SWATCH + 6.0 };
            canvas.text(label, (start, y + LABEL * CAP / 2.0), &Type::new(LABEL, INK, Anchor::Start))?;
        }
        for panel in &self.panels {
            self.panel(canvas, panel)?;
        }
        if let Some((rect, ticks)) = &self.bar {
            self.colour_bar(canvas, *rect, ticks)?;
        }
        canvas.text(&self.data.x_label, self.x_label_at, &Type::new(LABEL, INK, Anchor::Middle))?;
        let turned = Type::new(LABEL, INK, Anchor::Middle).turned();
        canvas.text(&self.data.y_label, self.y_label_at, &turned)
    }

    fn panel<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let heat = self.figure.kind == FigureKind::HeatMap;
        for (i, line) in panel.strip.iter().enumerate() {
            let up = (panel.strip.len() - 1 - i) as f64 * STRIP_ROW;
            let at = (r.x + r.w / 2.0, r.y - 6.0 - up);
            canvas.text(line, at, &Type::new(LABEL, INK, Anchor::Middle).bold())?;
        }
        if let Some(side) = &panel.side {
            let words = ellipsis(side, LABEL, true, r.h + 10.0);
            let at = (r.right() + 15.0, r.y + r.h / 2.0);
            canvas.text(&words, at, &Type::new(LABEL, INK, Anchor::Middle).bold().turned())?;
        }
        match self.figure.kind {
            FigureKind::Scatter3d => return self.space(canvas, panel),
            FigureKind::Arcs => return self.arcs(canvas, panel),
            _ => {}
        }
        let grid = Ink::new(GRID, 1.0);
        if !heat {
            for tick in &self.y_ticks {
                let y = r.bottom() - self.y.at(tick.value) * r.h;
                canvas.line(&[(r.x, y), (r.right(), y)], grid, &[])?;
            }
            if !self.x.is_slots() {
                for tick in &self.x_ticks {
                    let x = r.x + self.x.at(tick.value) * r.w;
                    canvas.line(&[(x, r.y), (x, r.bottom())], grid, &[])?;
                }
            }
        }
        // over filled shapes a rule would vanish below them, over lines and points it would hide them
        let rules_last = heat || self.figure.kind == FigureKind::Bar;
        if !rules_last {
            self.rules(canvas, r)?;
        }
        match self.figure.kind {
            FigureKind::Line => self.lines(canvas, panel)?,
            FigureKind::Scatter => self.points(canvas, panel)?,
            // drawn above, without axes
            FigureKind::Scatter3d | FigureKind::Arcs => {}
            FigureKind::Bar => self.bars(canvas, panel)?,
            FigureKind::HeatMap => self.cells(canvas, panel)?,
            FigureKind::Histogram => self.outlines(canvas, panel)?,
        }
        if rules_last {
            self.rules(canvas, r)?;
        }
        self.axes(canvas, panel)
    }

    /// Frame, tick strokes and tick labels.
    fn axes<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let ink = Ink::new(AXIS, 1.0);
        if self.figure.kind == FigureKind::HeatMap {
            canvas.frame(r, ink, &[])?;
        } else {
            canvas.line(&[(r.x, r.y), (r.x, r.bottom()), (r.right(), r.bottom())], ink, &[])?;
        }
        let style = Type::new(TICK, INK, Anchor::Middle);
        if panel.x_ticks {
            for (i, tick) in self.x_ticks.iter().enumerate() {
                let x = r.x + self.x.at(tick.value) * r.w;
                if !self.x.is_slots() {
                    canvas.line(&[(x, r.bottom()), (x, r.bottom() + 4.0)], ink, &[])?;
                }
                match &self.x_setting {
                    Setting::Level(labels) => {
                        for (l, line) in labels[i].iter().enumerate() {
                            canvas.text(line, (x, r.bottom() + 16.0 + 13.0 * l as f64), &style)?;
                        }
                    }
                    Setting::Turned(labels) => {
                        let style = Type::new(TICK, INK, Anchor::End).turned();
                        canvas.text(&labels[i], (x + TICK * CAP / 2.0, r.bottom() + 6.0), &style)?;
                    }
                }
            }
        }
        if panel.y_ticks {
            for tick in &self.y_ticks {
                let y = self.y_of(tick.value, r);
                if !self.y.is_slots() {
                    canvas.line(&[(r.x - 4.0, y), (r.x, y)], ink, &[])?;
                }
                let style = Type::new(TICK, INK, Anchor::End);
                canvas.text(&tick.label, (r.x - 7.0, y + TICK * CAP / 2.0), &style)?;
            }
        }
        Ok(())
    }

    /// Heights: numbers grow upwards, categories are read downwards.
    fn y_of(&self, value: f64, r: Rect) -> f64 {
        let share = self.y.at(value);
        if self.y.is_slots() { r.y + share * r.h } else { r.bottom() - share * r.h }
    }

    fn place(&self, x: f64, y: f64, r: Rect) -> (f64, f64) {
        (r.x + self.x.at(x) * r.w, self.y_of(y, r))
    }

    fn rules<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, r: Rect) -> Result<(), Error> {
        let heat = self.figure.kind == FigureKind::HeatMap;
        for (i, rule) in self.figure.rules.iter().enumerate() {
            let mut paths: Vec<Vec<(f64, f64)>> = Vec::new();
            if let Some(x) = rule.x {
                let x = r.x + self.x.at(x) * r.w;
                paths.push(vec![(x, r.y), (x, r.bottom())]);
            }
            if let Some(y) = rule.y {
                let y = self.y_of(y, r);
                paths.push(vec![(r.x, y), (r.right(), y)]);
            }
            if let (true, Axis::Numbers { low: a, high: b, .. }, Axis::Numbers { low: c, high: d, .. }) =
                (rule.diagonal, &self.x, &self.y)
            {
                let (low, high) = (a.max(*c), b.min(*d));
                let at = |i: i32| low + (high - low) * f64::from(i) / 64.0;
                paths.push((0..=64).map(|i| self.place(at(i), at(i), r)).collect());
            }
            for path in paths.iter().filter(|p| p.iter().all(|p| r.contains(*p))) {
                if heat {
                    canvas.line(path, Ink::new(WHITE, 2.6), &[])?;
                    canvas.line(path, Ink::new([0; 3], 1.3), &[5.0, 4.0])?;
                } else {
                    canvas.line(path, Ink::new(RULE, 1.2), RULE_DASHES[i % RULE_DASHES.len()])?;
                }
            }
        }
        Ok(())
    }

    fn colour_of(&self, series: Option<usize>) -> Rgb {
        match series {
            Some(i) => palette::series(i, self.data.series.labels.len(), self.data.series.numbers),
            None => [0; 3],
        }
    }

    /// The marks of a panel by series, overlay first, so that ours lie on top.
    fn by_series(&self, panel: &Panel) -> BTreeMap<(bool, Option<usize>), Vec<&Mark>> {
        let mut groups: BTreeMap<(bool, Option<usize>), Vec<&Mark>> = BTreeMap::new();
        for mark in self.data.marks.iter().filter(|m| panel.shows(m)) {
            groups.entry((!mark.overlay, mark.series)).or_default().push(mark);
        }
        groups
    }

    fn lines<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let groups: Vec<_> = self.by_series(panel).into_iter().map(|(k, marks)| (k, spots(&marks))).collect();
        for ((ours, series), spots) in &groups {
            if *ours && spots.iter().any(|s| s.high > s.low) {
                let upper = spots.iter().map(|s| self.place(s.x, s.high, r));
                let lower = spots.iter().rev().map(|s| self.place(s.x, s.low, r));
                let inside = |(x, y): (f64, f64)| (x.clamp(r.x, r.right()), y.clamp(r.y, r.bottom()));
                let band: Vec<_> = upper.chain(lower).filter(|p| p.1.is_finite()).map(inside).collect();
                canvas.polygon(&band, Ink::fill(self.colour_of(*series)).alpha(0.18))?;
            }
        }
        let n = self.data.series.labels.len().max(1);
        for ((ours, series), spots) in &groups {
            let colour = self.colour_of(*series);
            let ink = if *ours { Ink::new(colour, 1.9) } else { Ink::new(colour, 1.4) };
            let dash: &[f64] = if *ours { self.dash(*series) } else { &OVERLAY_DASH };
            let points: Vec<_> = spots.iter().map(|s| self.place(s.x, s.mean, r)).collect();
            for run in points.split(|p| !p.1.is_finite()) {
                for piece in clipped(&coarse(run), r) {
                    canvas.line(&piece, ink, dash)?;
                }
            }
            let marker = Marker::of(series.unwrap_or(0));
            let visible: Vec<_> = points.iter().copied().filter(|p| p.1.is_finite() && r.contains(*p)).collect();
            let radius = if *ours { 3.1 } else { 3.3 };
            for at in spread(&visible, series.unwrap_or(0), n, r) {
                canvas.marker(marker, at, radius, Ink::new(colour, 1.2), *ours)?;
            }
        }
        Ok(())
    }

    /// Beside an overlay, which is dashed, ours are solid; alone, the second half of the palette is dashed.
    fn dash(&self, series: Option<usize>) -> &'static [f64] {
        const DASHES: [&[f64]; 4] = [&[], &[7.0, 3.0], &[2.5, 2.0], &[8.0, 2.5, 2.0, 2.5]];
        if self.has_overlay { &[] } else { DASHES[series.unwrap_or(0) / 4 % 4] }
    }

    fn points<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        for ((ours, series), marks) in self.by_series(panel) {
            let colour = self.colour_of(series);
            let many = marks.len() > 150;
            let radius = if many { 2.0 } else { 3.0 };
            let ink = Ink::new(colour, 1.2).alpha(if many && ours { 0.55 } else { 1.0 });
            let step = if ours { self.step } else { 1 };
            for mark in marks.iter().step_by(step) {
                let at = self.place(mark.x, mark.y, r);
                if at.1.is_finite() && r.contains(at) {
                    canvas.marker(Marker::of(series.unwrap_or(0)), at, radius, ink, ours)?;
                }
            }
        }
        Ok(())
    }

    /// A box with points in it, far ones first, and straight lines between some places.
    fn space<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let mut marks: Vec<&Mark> = self.data.marks.iter().filter(|m| panel.shows(m)).step_by(self.step).collect();
        let links: Vec<_> = self.data.links.iter().filter(|link| panel.has(link.facet, link.row)).collect();
        let ends = links.iter().flat_map(|link| [link.from, link.to]);
        let place = |m: &Mark| [m.x, m.y, m.z];
        let scene =
            Scene::new(marks.iter().map(|m| place(m)).chain(ends), self.figure.view.unwrap_or(VIEW), panel.rect);
        for edge in scene.edges() {
            canvas.line(&edge, Ink::new(HATCH, 1.0), &[])?;
        }
        for (axis, name) in self.axes.iter().enumerate() {
            let (x, y) = scene.name_at(axis);
            let style = Type::new(TICK, INK, Anchor::Middle);
            let style = if axis == 2 { style.turned() } else { style };
            canvas.text(name, (x, y + if axis == 2 { 0.0 } else { TICK * CAP / 2.0 }), &style)?;
        }
        marks.sort_by(|a, b| scene.depth(place(a)).total_cmp(&scene.depth(place(b))));
        let radius = if marks.len() > 150 { 2.1 } else { 3.2 };
        for mark in marks {
            let at = scene.at(place(mark));
            if at.0.is_finite() && at.1.is_finite() {
                let ink = Ink::new(self.colour_of(mark.series), 1.0).alpha(0.8);
                canvas.marker(Marker::of(mark.series.unwrap_or(0)), at, radius, ink, true)?;
            }
        }
        for link in links {
            canvas.line(&[scene.at(link.from), scene.at(link.to)], Ink::new(INK, 1.3), &[])?;
        }
        Ok(())
    }

    /// Places along a line, and arcs between them, above and below.
    fn arcs<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let Axis::Slots(slots) = &self.x else { return Ok(()) };
        let sides = self.data.sides.labels.len().max(1);
        let half = if sides > 1 { r.h / 2.0 } else { r.h - 16.0 };
        let line = r.y + half;
        let strongest = self.data.marks.iter().map(|m| m.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
        let at = |x: f64| r.x + self.x.at(x) * r.w;
        let mut marks: Vec<&Mark> = self.data.marks.iter().filter(|m| panel.shows(m) && m.value > 0.0).collect();
        marks.sort_by(|a, b| a.value.total_cmp(&b.value));
        let farthest = marks.iter().map(|m| (m.x - m.y).abs()).fold(1.0, f64::max);
        for mark in marks {
            let up = if mark.side == 0 { -1.0 } else { 1.0 };
            let ink = Ink::new(self.colour_of(mark.series), 0.6 + 3.4 * mark.value / strongest).alpha(0.85);
            let (from, to) = (at(mark.x), at(mark.y));
            // a place that looks at itself gets a small loop
            let (middle, wide, high) = match mark.x == mark.y {
                true => (from, 5.0, 16.0),
                false => {
                    let share = (mark.x - mark.y).abs() / farthest;
                    ((from + to) / 2.0, (to - from) / 2.0, (half - 22.0) * share.max(0.12))
                }
            };
            let curve: Vec<(f64, f64)> = (0..=32)
                .map(|i| std::f64::consts::PI * f64::from(i) / 32.0)
                .map(|t| (middle - wide * t.cos(), line + up * (9.0 + high * t.sin())))
                .collect();
            canvas.line(&curve, ink, &[])?;
        }
        for (i, label) in slots.iter().enumerate() {
            let style = Type::new(TICK, INK, Anchor::Middle);
            canvas.text(label, (at(i as f64), line + TICK * CAP / 2.0), &style)?;
        }
        for (i, label) in self.data.sides.labels.iter().enumerate().filter(|_| sides > 1) {
            let y = if i == 0 { r.y + 10.0 } else { r.bottom() - 4.0 };
            canvas.text(label, (r.x, y), &Type::new(TICK, AXIS, Anchor::Start))?;
        }
        Ok(())
    }

    fn bars<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let Axis::Slots(slots) = &self.x else { return Ok(()) };
        let n = self.data.series.labels.len().max(1) as f64;
        let slot = r.w / slots.len() as f64;
        let wide = (slot * 0.8 / n).min(46.0);
        let base = match &self.y {
            Axis::Numbers { low, high, log: false } => 0f64.clamp(*low, *high),
            Axis::Numbers { low, .. } => *low,
            Axis::Slots(_) => 0.0,
        };
        let clamp = |y: f64| self.y_of(y, r).clamp(r.y, r.bottom());
        for ((ours, series), marks) in self.by_series(panel).into_iter().rev() {
            let colour = self.colour_of(series);
            let i = series.unwrap_or(0);
            for spot in spots(&marks) {
                if !spot.mean.is_finite() {
                    continue;
                }
                let centre = r.x + self.x.at(spot.x) * r.w;
                let left = centre + (i as f64 - n / 2.0) * wide;
                let (top, bottom) = (clamp(spot.mean.max(base)), clamp(spot.mean.min(base)));
                if !ours {
                    let bar = Rect { x: left - 1.0, y: top, w: wide + 2.0, h: bottom - top };
                    canvas.frame(bar, Ink::new(WHITE, 2.6), &[])?;
                    canvas.frame(bar, Ink::new(palette::INK, 1.3), &OVERLAY_DASH)?;
                    continue;
                }
                let bar = Rect { x: left + 1.0, y: top, w: wide - 2.0, h: bottom - top };
                canvas.rect(bar, Ink::fill(colour))?;
                hatch(canvas, bar, i)?;
                if spot.high > spot.low {
                    let (x, a, b) = (left + wide / 2.0, clamp(spot.high), clamp(spot.low));
                    let ink = Ink::new(INK, 1.3);
                    canvas.line(&[(x, a), (x, b)], ink, &[])?;
                    for y in [a, b] {
                        canvas.line(&[(x - 3.0, y), (x + 3.0, y)], ink, &[])?;
                    }
                }
                if let Some(decimals) = self.figure.annotate {
                    let label = fixed(spot.mean, usize::from(decimals));
                    if text_width(&label, 9.5, false) <= slot / n + 4.0 {
                        let y = clamp(spot.high.max(base)) - 4.0;
                        let style = Type::new(9.5, INK, Anchor::Middle);
                        canvas.text(&label, (left + wide / 2.0, y.max(r.y + 8.0)), &style)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn outlines<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let base = match &self.y {
            Axis::Numbers { low, log: true, .. } => *low,
            _ => 0.0,
        };
        for ((ours, series), marks) in self.by_series(panel) {
            let colour = self.colour_of(series);
            let mut counts = vec![0.0f64; self.bins.len().saturating_sub(1)];
            for bin in marks.iter().filter_map(|m| bin_of(&self.bins, m.x)) {
                counts[bin] += 1.0;
            }
            let mut outline = vec![self.place(self.bins[0], base, r)];
            for (count, edges) in counts.iter().zip(self.bins.windows(2)) {
                outline.extend(edges.iter().map(|e| self.place(*e, count.max(base), r)));
            }
            outline.push(self.place(self.bins[counts.len()], base, r));
            let inside: Vec<_> =
                outline.iter().map(|p| (p.0.clamp(r.x, r.right()), p.1.clamp(r.y, r.bottom()))).collect();
            if ours {
                canvas.polygon(&inside, Ink::fill(colour).alpha(0.22))?;
            }
            let dash: &[f64] = if ours { self.dash(series) } else { &OVERLAY_DASH };
            canvas.line(&inside, Ink::new(colour, 1.6), dash)?;
        }
        Ok(())
    }

    fn cells<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let Some(colours) = &self.colour else { return Ok(()) };
        let marks: Vec<&Mark> = self.data.marks.iter().filter(|m| panel.shows(m)).collect();
        let columns = spans(marks.iter().map(|m| m.x), &self.x, self.figure.x_scale, MOST_COLUMNS);
        let rows = spans(marks.iter().map(|m| m.y), &self.y, self.figure.y_scale, usize::MAX);
        let mut sums: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for mark in marks.iter().filter(|m| !m.value.is_nan()) {
            if let (Some(c), Some(y)) = (span_of(&columns, mark.x), span_of(&rows, mark.y)) {
                let sum = sums.entry((y, c)).or_default();
                *sum = (sum.0 + mark.value, sum.1 + 1.0);
            }
        }
        let covers = |spans: &[Span], axis: &Axis| match (axis, spans.first(), spans.last()) {
            (Axis::Slots(slots), ..) => spans.len() == slots.len(),
            (_, Some(first), Some(last)) => first.from <= 1e-6 && last.to >= 1.0 - 1e-6,
            _ => false,
        };
        let whole = sums.len() == columns.len() * rows.len();
        if !(whole && covers(&columns, &self.x) && covers(&rows, &self.y)) {
            canvas.rect(r, Ink::fill(MISSING))?;
            canvas.hatch(r, 1.0, 7.0, Ink::new(HATCH, 0.8))?;
        }
        for ((y, c), (sum, n)) in &sums {
            let (column, row) = (&columns[*c], &rows[*y]);
            let across = (r.x + column.from * r.w, r.x + column.to * r.w);
            let down = match self.y.is_slots() {
                true => (r.y + row.from * r.h, r.y + row.to * r.h),
                false => (r.bottom() - row.to * r.h, r.bottom() - row.from * r.h),
            };
            let left = across.0.max(r.x);
            let top = down.0.max(r.y);
            let cell = Rect {
                x: left,
                y: top,
                // a pixel over the next cell, so that no seam shows between them
                w: (across.1 + 1.0).min(r.right()) - left,
                h: (down.1 + 1.0).min(r.bottom()) - top,
            };
            if cell.w <= 0.0 || cell.h <= 0.0 {
                continue;
            }
            let value = sum / n;
            let colour = self.colour_at(colours.at(value));
            canvas.rect(cell, Ink::fill(colour))?;
            if let Some(decimals) = self.figure.annotate {
                let label = fixed(value, usize::from(decimals));
                let fits = |size: &f64| text_width(&label, *size, false) <= cell.w - 3.0 && *size <= cell.h - 3.0;
                if let Some(size) = [10.5, 9.5, 8.5, 7.5].into_iter().find(fits) {
                    let at = (left + (across.1 - left) / 2.0, top + (down.1 - top) / 2.0 + size * CAP / 2.0);
                    canvas.text(&label, at, &Type::new(size, palette::ink_on(colour), Anchor::Middle))?;
                }
            }
        }
        Ok(())
    }

    /// Colour at a share of the colour axis.
    fn colour_at(&self, share: f64) -> Rgb {
        if self.figure.value_centre.is_some() { palette::diverging(share) } else { palette::viridis(share) }
    }

    fn colour_bar<B: DrawingBackend>(&self, canvas: &mut Canvas<B>, r: Rect, ticks: &[Tick]) -> Result<(), Error> {
        let Some(axis) = &self.colour else { return Ok(()) };
        let steps = 64;
        for i in 0..steps {
            let share = f64::from(i) / f64::from(steps);
            let slice = r.h / f64::from(steps);
            let top = r.bottom() - (share * r.h) - slice;
            let tall = if i == 0 { slice } else { slice + 1.0 };
            let colour = self.colour_at(f64::from(i) / f64::from(steps - 1));
            canvas.rect(Rect { x: r.x, y: top, w: r.w, h: tall }, Ink::fill(colour))?;
        }
        let ink = Ink::new(AXIS, 1.0);
        canvas.frame(r, ink, &[])?;
        let mut widest = 0.0f64;
        for tick in ticks {
            let y = r.bottom() - axis.at(tick.value) * r.h;
            canvas.line(&[(r.right(), y), (r.right() + 3.0, y)], ink, &[])?;
            let style = Type::new(TICK, INK, Anchor::Start);
            canvas.text(&tick.label, (r.right() + 6.0, y + TICK * CAP / 2.0), &style)?;
            widest = widest.max(text_width(&tick.label, TICK, false));
        }
        let words = ellipsis(&self.data.value_label, LABEL, false, r.h + 40.0);
        let at = (r.right() + 6.0 + widest + 16.0, r.y + r.h / 2.0);
        canvas.text(&words, at, &Type::new(LABEL, INK, Anchor::Middle).turned())
    }

    fn swatch<B: DrawingBackend>(
        &self,
        canvas: &mut Canvas<B>,
        (x, y): (f64, f64),
        swatch: &Swatch,
    ) -> Result<(), Error> {
        let middle = (x + SWATCH / 2.0, y);
        match swatch {
            Swatch::Line { colour, dash, marker, filled } => {
                canvas.line(&[(x, y), (x + SWATCH, y)], Ink::new(*colour, 1.8), dash)?;
                match marker {
                    Some(m) => canvas.marker(*m, middle, 3.3, Ink::new(*colour, 1.2), *filled),
                    None => Ok(()),
                }
            }
            Swatch::Point { colour, marker, filled } => {
                canvas.marker(*marker, middle, 3.6, Ink::new(*colour, 1.3), *filled)
            }
            Swatch::Fill { colour, hatch: pattern, filled } => {
                let r = Rect { x: x + 5.0, y: y - 5.5, w: SWATCH - 8.0, h: 11.0 };
                if *filled {
                    canvas.rect(r, Ink::fill(*colour))?;
                    hatch(canvas, r, *pattern)
                } else {
                    canvas.frame(r, Ink::new(*colour, 1.3), &OVERLAY_DASH)
                }
            }
            Swatch::Words => Ok(()),
        }
    }
}

/// White strokes that tell the bars of different series apart without colour.
/// Fixed ends of the colours: those asked for, or as far below the centre as above it.
fn colour_range(figure: &Figure, data: &Selection) -> Option<[f64; 2]> {
    let Some(centre) = figure.value_centre else { return figure.value_range };
    let distances = data.marks.iter().map(|m| (m.value - centre).abs()).filter(|distance| distance.is_finite());
    let far = distances.fold(0.0, f64::max);
    (far > 0.0).then_some([centre - far, centre + far])
}

fn hatch<B: DrawingBackend>(canvas: &mut Canvas<B>, r: Rect, pattern: usize) -> Result<(), Error> {
    let ink = Ink::new(WHITE, 1.2);
    match pattern % 4 {
        1 => canvas.hatch(r, 1.0, 7.0, ink),
        2 => canvas.hatch(r, -1.0, 7.0, ink),
        3 => canvas.hatch(r, 0.0, 5.0, ink),
        _ => Ok(()),
    }
}

fn slots_in(axis: &Axis) -> f64 {
    if let Axis::Slots(slots) = axis { slots.len() as f64 } else { 0.0 }
}

fn from_zero(axis: Axis, figure: &Figure) -> Axis {
    match axis {
        Axis::Numbers { high, low, log: false } if figure.y_range.is_none() => {
            let pad = (high - low) * 0.06;
            let low = if low >= -pad { 0.0 } else { low };
            let high = if high <= pad { 0.0 } else { high };
            if low == high {
                Axis::Numbers { low: 0.0, high: 1.0, log: false }
            } else {
                Axis::Numbers { low, high, log: false }
            }
        }
        axis => axis,
    }
}

fn bin_of(bins: &[f64], x: f64) -> Option<usize> {
    let (first, last) = (bins.first()?, bins.last()?);
    if !(x >= *first && x <= *last) {
        return None;
    }
    Some((bins.partition_point(|e| *e <= x).max(1) - 1).min(bins.len() - 2))
}

/// Rows of one series, gathered by x.
fn spots(marks: &[&Mark]) -> Vec<Spot> {
    let mut sorted: Vec<&&Mark> = marks.iter().collect();
    sorted.sort_by(|a, b| a.x.total_cmp(&b.x));
    sorted
        .chunk_by(|a, b| a.x == b.x)
        .map(|same| {
            let ys = || same.iter().map(|m| m.y).filter(|y| !y.is_nan());
            let n = ys().count() as f64;
            Spot {
                x: same[0].x,
                mean: if n > 0.0 { ys().sum::<f64>() / n } else { f64::NAN },
                low: ys().fold(f64::INFINITY, f64::min),
                high: ys().fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .map(|s| if s.mean.is_nan() { Spot { low: f64::NAN, high: f64::NAN, ..s } } else { s })
        .collect()
}

/// A line of many points, with at most first, lowest, highest and last of each quarter pixel.
fn coarse(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() < 1500 {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for same in points.chunk_by(|a, b| (a.0 * 2.0).floor() == (b.0 * 2.0).floor()) {
        let low = (0..same.len()).min_by(|a, b| same[*a].1.total_cmp(&same[*b].1)).unwrap_or(0);
        let high = (0..same.len()).max_by(|a, b| same[*a].1.total_cmp(&same[*b].1)).unwrap_or(0);
        let chosen = BTreeSet::from([0, low, high, same.len() - 1]);
        kept.extend(chosen.into_iter().map(|i| same[i]));
    }
    kept
}

/// The pieces of a line inside the panel.
fn clipped(points: &[(f64, f64)], r: Rect) -> Vec<Vec<(f64, f64)>> {
    let mut pieces: Vec<Vec<(f64, f64)>> = Vec::new();
    for pair in points.windows(2) {
        let Some([a, b]) = r.clip(pair[0], pair[1]) else { continue };
        match pieces.last_mut() {
            Some(piece) if piece.last() == Some(&a) => piece.push(b),
            _ => pieces.push(vec![a, b]),
        }
    }
    pieces
}

/// Where a line carries its marker: at every point when few, else about every 70 pixels, shifted by series.
fn spread(points: &[(f64, f64)], series: usize, n: usize, r: Rect) -> Vec<(f64, f64)> {
    if points.len() <= 12 {
        return points.to_vec();
    }
    let every = 70.0;
    let shift = every * (series % n.max(1)) as f64 / n.max(1) as f64;
    let mut chosen: Vec<usize> = Vec::new();
    let mut target = r.x + shift;
    while target <= r.right() {
        let gap = |i: &usize| (points[*i].0 - target).abs();
        if let Some(i) = (0..points.len()).min_by(|a, b| gap(a).total_cmp(&gap(b)))
            && gap(&i) <= every / 2.0
            && !chosen.contains(&i)
        {
            chosen.push(i);
        }
        target += every;
    }
    chosen.into_iter().map(|i| points[i]).collect()
}

/// Values that share a cell of a heat map, and the shares of the side that it covers.
#[derive(Clone, Debug)]
struct Span {
    first: f64,
    last: f64,
    from: f64,
    to: f64,
}

fn span_of(spans: &[Span], value: f64) -> Option<usize> {
    let i = spans.partition_point(|s| s.last < value);
    (i < spans.len() && spans[i].first <= value).then_some(i)
}

fn sorted_distinct(values: impl Iterator<Item = f64>, scale: Scale) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0)).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// Ends of the cells around sorted values: halfway to the neighbours.
fn edges(values: &[f64], scale: Scale) -> Vec<f64> {
    let log = scale == Scale::Log;
    let there = |v: f64| if log { v.ln() } else { v };
    let back = |v: f64| if log { v.exp() } else { v };
    let at: Vec<f64> = values.iter().map(|v| there(*v)).collect();
    let Some((first, last)) = at.first().zip(at.last()) else { return Vec::new() };
    let halves: Vec<f64> = at.windows(2).map(|p| (p[0] + p[1]) / 2.0).collect();
    let start = halves.first().map_or(first - 0.5, |h| first - (h - first));
    let end = halves.last().map_or(last + 0.5, |h| last + (last - h));
    std::iter::once(start).chain(halves).chain([end]).map(back).collect()
}

fn edges_of(marks: &[Mark], side: impl Fn(&Mark) -> f64, scale: Scale) -> impl Iterator<Item = f64> {
    let edges = edges(&sorted_distinct(marks.iter().map(side), scale), scale);
    [edges.first().copied(), edges.last().copied()].into_iter().flatten()
}

fn spans(values: impl Iterator<Item = f64>, axis: &Axis, scale: Scale, most: usize) -> Vec<Span> {
    if let Axis::Slots(slots) = axis {
        let n = slots.len() as f64;
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        return values.into_iter().map(|v| Span { first: v, last: v, from: v / n, to: (v + 1.0) / n }).collect();
    }
    let values = sorted_distinct(values, scale);
    let edges = edges(&values, scale);
    let together = values.len().div_ceil(most).max(1);
    (0..values.len())
        .step_by(together)
        .map(|i| {
            let end = (i + together).min(values.len());
            Span { first: values[i], last: values[end - 1], from: axis.at(edges[i]), to: axis.at(edges[end]) }
        })
        .collect()
}

fn panel_size(figure: &Figure, x: &Axis, y: &Axis, across: usize, series: usize, marks: &[Mark]) -> (f64, f64) {
    let (w, h) = match (figure.kind, across) {
        (FigureKind::Arcs, 1) => (620.0, 300.0),
        (FigureKind::Arcs, _) => (420.0, 260.0),
        (FigureKind::Scatter3d, 1) => (460.0, 400.0),
        (FigureKind::Scatter3d, 2 | 4) => (330.0, 300.0),
        (FigureKind::Scatter3d, _) => (260.0, 240.0),
        (FigureKind::Scatter, 1) => (420.0, 380.0),
        (FigureKind::Scatter, 2) => (330.0, 310.0),
        (FigureKind::Scatter, 3) => (240.0, 235.0),
        (FigureKind::Scatter, _) => (190.0, 190.0),
        (_, 1) => (560.0, 310.0),
        (_, 2) => (350.0, 250.0),
        (_, 3) => (252.0, 210.0),
        (_, _) => (200.0, 180.0),
    };
    match figure.kind {
        FigureKind::Bar => {
            let wanted = slots_in(x) * (series as f64 * 22.0 + 16.0);
            (wanted.clamp(w * 0.55, w * 1.15), h)
        }
        FigureKind::HeatMap => {
            let widest = figure.annotate.map_or(0.0, |decimals| {
                marks
                    .iter()
                    .filter(|m| m.value.is_finite())
                    .map(|m| text_width(&fixed(m.value, usize::from(decimals)), 10.5, false))
                    .fold(0.0, f64::max)
            });
            let side = |n: f64, room: f64| (room / n).clamp(9.0, 30.0);
            let w = match x {
                Axis::Slots(slots) => {
                    let n = slots.len() as f64;
                    (n * side(n, w * 1.1).max(widest + 7.0)).max(110.0)
                }
                Axis::Numbers { .. } => w,
            };
            let h = match y {
                Axis::Slots(slots) => {
                    let n = slots.len() as f64;
                    n * side(n, 420.0).min(if figure.annotate.is_some() { 24.0 } else { 26.0 })
                }
                Axis::Numbers { .. } => h,
            };
            (w, h.max(48.0))
        }
        _ => (w, h),
    }
}

/// Takes points out that lie so far from the others of their panel that these would shrink to a dot; gives their number.
///
/// Far is beyond the middle 98 % along some axis by more than a quarter of their extent.
fn leave_out_far(marks: &mut Vec<Mark>) -> usize {
    let panel = |m: &Mark| (m.facet, m.row);
    let panels: BTreeSet<_> = marks.iter().map(panel).collect();
    let ends: BTreeMap<_, [[f64; 2]; 3]> = panels
        .into_iter()
        .map(|key| {
            let along = |of: fn(&Mark) -> f64| {
                let mut values: Vec<f64> =
                    marks.iter().filter(|m| panel(m) == key).map(of).filter(|v| v.is_finite()).collect();
                values.sort_by(f64::total_cmp);
                let at = |share: f64| values.get((share * (values.len().max(1) - 1) as f64).round() as usize).copied();
                let (low, high) = (at(0.01).unwrap_or(0.0), at(0.99).unwrap_or(0.0));
                let room = 0.25 * (high - low);
                [low - room, high + room]
            };
            (key, [along(|m| m.x), along(|m| m.y), along(|m| m.z)])
        })
        .collect();
    let before = marks.len();
    marks.retain(|m| {
        let Some(ends) = ends.get(&panel(m)) else { return true };
        [m.x, m.y, m.z].iter().zip(ends).all(|(v, [low, high])| v.is_nan() || (low..=high).contains(&v))
    });
    before - marks.len()
}

/// Leaves out labels that would touch: for categories every second, third, ..
fn thin(ticks: Vec<Tick>, side: f64, each: f64, slots: bool) -> Vec<Tick> {
    let every = (ticks.len() as f64 * each / side).ceil().max(1.0) as usize;
    if slots && every > 1 { ticks.into_iter().step_by(every).collect() } else { ticks }
}

/// Ticks of the horizontal axis and how their labels are set without touching.
fn x_labels(axis: &Axis, w: f64) -> (Vec<Tick>, Setting) {
    let width = |text: &str| text_width(text, TICK, false);
    if let Axis::Slots(slots) = axis {
        let slot = w / slots.len().max(1) as f64 - 5.0;
        let ticks = axis.ticks(0);
        if slots.iter().all(|s| s.split_whitespace().all(|word| width(word) <= slot)) {
            let lines: Vec<_> = slots.iter().map(|s| wrap(s, TICK, false, slot)).collect();
            if lines.iter().all(|l| l.len() <= 3) {
                return (ticks, Setting::Level(lines));
            }
        }
        let ticks = thin(ticks, w, 13.0, true);
        let labels = ticks.iter().map(|t| ellipsis(&t.label, TICK, false, 130.0)).collect();
        return (ticks, Setting::Turned(labels));
    }
    let mut most = (w / 48.0).clamp(2.0, 10.0) as usize;
    loop {
        let ticks = axis.ticks(most);
        let apart = |pair: &[Tick]| {
            let gap = (axis.at(pair[1].value) - axis.at(pair[0].value)) * w;
            gap >= (width(&pair[0].label) + width(&pair[1].label)) / 2.0 + 9.0
        };
        if most <= 2 || ticks.windows(2).all(apart) {
            let lines = ticks.iter().map(|t| vec![t.label.clone()]).collect();
            return (ticks, Setting::Level(lines));
        }
        most -= 1;
    }
}

/// Legend entries with their places, and where the legend ends.
fn legend(
    figure: &Figure,
    data: &Selection,
    overlay: Option<&str>,
    top: f64,
    width: f64,
) -> (Vec<(f64, f64, Swatch, String)>, f64) {
    let n = data.series.labels.len();
    let mut entries: Vec<(Swatch, String)> = Vec::new();
    let heat = figure.kind == FigureKind::HeatMap;
    if figure.kind == FigureKind::Arcs {
        entries.push((Swatch::Words, format!("width: {}", data.value_label)));
    }
    if figure.series.is_some() && (n > 1 || overlay.is_some()) && !heat {
        if data.series.numbers {
            entries.push((Swatch::Words, format!("{}:", data.series_label)));
        }
        for (i, label) in data.series.labels.iter().enumerate() {
            let colour = palette::series(i, n, data.series.numbers);
            let dash: &[f64] = match (i / 4 % 4, overlay.is_some()) {
                (0, _) | (_, true) => &[],
                (1, _) => &[7.0, 3.0],
                (2, _) => &[2.5, 2.0],
                _ => &[8.0, 2.5, 2.0, 2.5],
            };
            let swatch = match figure.kind {
                FigureKind::Line => {
                    Swatch::Line { colour, dash: dash.to_vec(), marker: Some(Marker::of(i)), filled: true }
                }
                FigureKind::Scatter | FigureKind::Scatter3d => {
                    Swatch::Point { colour, marker: Marker::of(i), filled: true }
                }
                FigureKind::Bar => Swatch::Fill { colour, hatch: i, filled: true },
                _ => Swatch::Line { colour, dash: dash.to_vec(), marker: None, filled: true },
            };
            entries.push((swatch, label.clone()));
        }
    }
    if let Some(label) = overlay.filter(|_| !heat) {
        let own = figure.series.is_none() || data.marks.iter().any(|m| m.overlay && m.series.is_none());
        let colour = if own && figure.series.is_none() { palette::series(0, 1, false) } else { INK };
        let marker = Marker::Circle;
        let swatch = match figure.kind {
            FigureKind::Scatter => Swatch::Point { colour, marker, filled: false },
            FigureKind::Bar => Swatch::Fill { colour: INK, hatch: 0, filled: false },
            FigureKind::Histogram => Swatch::Line { colour, dash: OVERLAY_DASH.to_vec(), marker: None, filled: false },
            _ => Swatch::Line { colour, dash: OVERLAY_DASH.to_vec(), marker: Some(marker), filled: false },
        };
        entries.push((swatch, label.to_string()));
    }
    for (i, rule) in figure.rules.iter().enumerate().filter(|(_, r)| !r.label.is_empty()) {
        let dash = if heat { vec![5.0, 4.0] } else { RULE_DASHES[i % RULE_DASHES.len()].to_vec() };
        let colour = if heat { [0; 3] } else { RULE };
        entries.push((Swatch::Line { colour, dash, marker: None, filled: true }, rule.label.clone()));
    }
    if entries.is_empty() {
        return (Vec::new(), top);
    }
    let (mut x, mut y) = (PAD, top + LEGEND_ROW / 2.0);
    let mut placed = Vec::new();
    for (swatch, label) in entries {
        let lead = if matches!(swatch, Swatch::Words) { 0.0 } else { SWATCH + 6.0 };
        let label = ellipsis(&label, LABEL, false, width - 2.0 * PAD - lead);
        let wide = lead + text_width(&label, LABEL, false);
        if x > PAD && x + wide > width - PAD {
            (x, y) = (PAD, y + LEGEND_ROW);
        }
        placed.push((x, y, swatch, label));
        x += wide + 18.0;
    }
    (placed, y + LEGEND_ROW / 2.0 + 4.0)
}
