//! Tokens along a line, joined by arcs.

use super::Kind;
use crate::{
    canvas::{Canvas, Ink, Rect},
    chart::Chart,
    error::Error,
    frame::Frame,
    legend::Swatch,
    palette::{AXIS, INK, Rgb},
    panel::Panel,
    scale::Axis,
    select::{Column, Mark, Selection},
    style::TICK,
    text::{Anchor, CAP, Type},
};

/// Arcs from `x` to `y` whose width is their value, above and below the line.
pub(super) struct Arcs;

impl Kind for Arcs {
    fn is_categorical(&self, _column: &Column<'_>) -> Result<bool, tables::Error> {
        Ok(true)
    }

    fn shares_categories(&self) -> bool {
        true
    }

    fn panel_size(&self, _chart: &Chart<'_>, across: usize) -> (f64, f64) {
        if across == 1 { (620.0, 300.0) } else { (420.0, 260.0) }
    }

    fn frame(&self) -> Frame {
        Frame::Bare
    }

    fn outer_labels<'d>(&self, data: &'d Selection) -> [&'d str; 2] {
        [&data.x_label, ""]
    }

    fn legend_heading(&self, data: &Selection) -> Option<String> {
        Some(format!("width: {}", data.value_label))
    }

    fn series_swatch(&self, _series: usize, colour: Rgb, dash: &'static [f64]) -> Swatch {
        Swatch::Line { colour, dash, marker: None, filled: true }
    }

    fn overlay_swatch(&self, _colour: Rgb) -> Option<Swatch> {
        None
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let Axis::Slots(slots) = &chart.x else { return Ok(()) };
        let sides = &chart.data.sides.labels;
        let half = if sides.len() > 1 { r.h / 2.0 } else { r.h - 16.0 };
        let line = r.y + half;
        let strongest = chart.data.marks.iter().map(|m| m.value).filter(|v| v.is_finite()).fold(0.0, f64::max);
        let mut marks: Vec<&Mark> = chart.marks(panel).filter(|m| m.value > 0.0).collect();
        marks.sort_by(|a, b| a.value.total_cmp(&b.value));
        let farthest = marks.iter().map(|m| (m.x - m.y).abs()).fold(1.0, f64::max);
        for mark in marks {
            let width = 0.6 + 3.4 * mark.value / strongest;
            let ink = Ink::new(chart.colour_of(mark.series), width).alpha(0.85);
            canvas.line(&arc(chart, r, mark, half, farthest), ink, &[])?;
        }
        for (i, label) in slots.iter().enumerate() {
            let at = (chart.x_at(i as f64, r), line + TICK * CAP / 2.0);
            canvas.text(label, at, &Type::new(TICK, INK, Anchor::Middle))?;
        }
        if sides.len() > 1 {
            for (i, label) in sides.iter().enumerate() {
                let y = if i == 0 { r.y + 10.0 } else { r.bottom() - 4.0 };
                canvas.text(label, (r.x, y), &Type::new(TICK, AXIS, Anchor::Start))?;
            }
        }
        Ok(())
    }
}

/// The path of an arc; an arc from a token to itself is a small loop.
fn arc(chart: &Chart, r: Rect, mark: &Mark, half: f64, farthest: f64) -> Vec<(f64, f64)> {
    let line = r.y + half;
    let up = if mark.side == 0 { -1.0 } else { 1.0 };
    let (from, to) = (chart.x_at(mark.x, r), chart.x_at(mark.y, r));
    let (middle, wide, high) = if mark.x == mark.y {
        (from, 5.0, 16.0)
    } else {
        let share = (mark.x - mark.y).abs() / farthest;
        ((from + to) / 2.0, (to - from) / 2.0, (half - 22.0) * share.max(0.12))
    };
    (0..=32)
        .map(|i| std::f64::consts::PI * f64::from(i) / 32.0)
        .map(|t| (middle - wide * t.cos(), line + up * (9.0 + high * t.sin())))
        .collect()
}
