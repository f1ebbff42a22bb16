//! Grouped bars: x holds categories, with one bar per series.

use config::{Figure, Scale};

use super::{
    Kind, rule_ys,
    summary::{Summary, repeats, summaries},
    wide_panel,
};
use crate::{
    canvas::{Canvas, Ink, Rect},
    chart::Chart,
    error::Error,
    legend::Swatch,
    number::fixed,
    palette::{INK, Rgb, WHITE},
    panel::Panel,
    scale::Axis,
    select::{Column, Selection, Side},
    style::OVERLAY_DASH,
    text::{Anchor, Type, text_width},
};

/// Bars, with whiskers from the smallest to the largest value where rows repeat.
pub(super) struct Bar;

impl Kind for Bar {
    fn is_categorical(&self, column: &Column<'_>) -> Result<bool, tables::Error> {
        Ok(column.side == Side::X)
    }

    fn y_axis(&self, figure: &Figure, data: &Selection, _x: &Axis) -> Axis {
        let ys = data.marks.iter().map(|m| m.y).chain(rule_ys(figure));
        let zero = (figure.y_scale == Scale::Linear).then_some(0.0);
        Axis::over(ys.chain(zero), figure.y_scale, figure.y_range, 0.06).starting_at_zero(figure.y_range.is_some())
    }

    fn notes(&self, data: &Selection) -> Vec<String> {
        let note = "Bars are means, whiskers run from the smallest to the largest value.";
        if repeats(data, false) { vec![note.into()] } else { Vec::new() }
    }

    fn panel_size(&self, chart: &Chart<'_>, across: usize) -> (f64, f64) {
        let (w, h) = wide_panel(across);
        let slots = if let Axis::Slots(slots) = &chart.x { slots.len() as f64 } else { 0.0 };
        let wanted = slots * (chart.series_count() as f64 * 22.0 + 16.0);
        (wanted.clamp(w * 0.55, w * 1.15), h)
    }

    fn fills(&self) -> bool {
        true
    }

    fn series_swatch(&self, series: usize, colour: Rgb, _dash: &'static [f64]) -> Swatch {
        Swatch::Fill { colour, hatch: series, filled: true }
    }

    fn overlay_swatch(&self, _colour: Rgb) -> Option<Swatch> {
        Some(Swatch::Fill { colour: INK, hatch: 0, filled: false })
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let Axis::Slots(slots) = &chart.x else { return Ok(()) };
        let r = panel.rect;
        let n = chart.series_count() as f64;
        let slot = r.w / slots.len() as f64;
        let bars = Bars { chart, r, room: slot / n, wide: (slot * 0.8 / n).min(46.0), base: base(&chart.y) };
        for ((ours, series), marks) in chart.by_series(panel).into_iter().rev() {
            let i = series.unwrap_or(0);
            for summary in summaries(&marks).into_iter().filter(|s| s.mean.is_finite()) {
                let left = chart.x_at(summary.x, r) + (i as f64 - n / 2.0) * bars.wide;
                if ours {
                    bars.ours(canvas, left, series, &summary)?;
                } else {
                    bars.theirs(canvas, left, &summary)?;
                }
            }
        }
        Ok(())
    }
}

/// The value at which bars start.
fn base(axis: &Axis) -> f64 {
    match axis {
        Axis::Numbers { low, high, log: false } => 0f64.clamp(*low, *high),
        Axis::Numbers { low, log: true, .. } => *low,
        Axis::Slots(_) => 0.0,
    }
}

/// Measures shared by the bars of a panel.
struct Bars<'a> {
    chart: &'a Chart<'a>,
    r: Rect,
    /// Width for a bar and its label.
    room: f64,
    /// Width of a bar.
    wide: f64,
    base: f64,
}

impl Bars<'_> {
    /// Height of a value, inside the panel.
    fn y(&self, value: f64) -> f64 {
        self.chart.y_at(value, self.r).clamp(self.r.y, self.r.bottom())
    }

    /// Top and bottom of a bar.
    fn ends(&self, mean: f64) -> (f64, f64) {
        (self.y(mean.max(self.base)), self.y(mean.min(self.base)))
    }

    fn theirs(&self, canvas: &mut Canvas, left: f64, summary: &Summary) -> Result<(), Error> {
        let (top, bottom) = self.ends(summary.mean);
        let bar = Rect { x: left - 1.0, y: top, w: self.wide + 2.0, h: bottom - top };
        canvas.frame(bar, Ink::new(WHITE, 2.6), &[])?;
        canvas.frame(bar, Ink::new(INK, 1.3), OVERLAY_DASH)
    }

    fn ours(&self, canvas: &mut Canvas, left: f64, series: Option<usize>, summary: &Summary) -> Result<(), Error> {
        let (top, bottom) = self.ends(summary.mean);
        let bar = Rect { x: left + 1.0, y: top, w: self.wide - 2.0, h: bottom - top };
        canvas.rect(bar, Ink::fill(self.chart.colour_of(series)))?;
        canvas.pattern(bar, series.unwrap_or(0))?;
        let centre = left + self.wide / 2.0;
        if summary.high > summary.low {
            self.whisker(canvas, centre, summary)?;
        }
        self.number(canvas, centre, summary)
    }

    fn whisker(&self, canvas: &mut Canvas, x: f64, summary: &Summary) -> Result<(), Error> {
        let (high, low) = (self.y(summary.high), self.y(summary.low));
        let ink = Ink::new(INK, 1.3);
        canvas.line(&[(x, high), (x, low)], ink, &[])?;
        for y in [high, low] {
            canvas.line(&[(x - 3.0, y), (x + 3.0, y)], ink, &[])?;
        }
        Ok(())
    }

    /// The number above a bar, where the figure asks for it and it fits.
    fn number(&self, canvas: &mut Canvas, x: f64, summary: &Summary) -> Result<(), Error> {
        let Some(decimals) = self.chart.figure.annotate else { return Ok(()) };
        let label = fixed(summary.mean, usize::from(decimals));
        if text_width(&label, 9.5, false) > self.room + 4.0 {
            return Ok(());
        }
        let y = self.y(summary.high.max(self.base)) - 4.0;
        canvas.text(&label, (x, y.max(self.r.y + 8.0)), &Type::new(9.5, INK, Anchor::Middle))
    }
}
