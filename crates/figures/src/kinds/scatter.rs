//! Points, coloured by series.

use super::{Kind, point_note, point_step};
use crate::{
    canvas::{Canvas, Ink, Marker},
    chart::Chart,
    error::Error,
    legend::Swatch,
    palette::Rgb,
    panel::Panel,
    select::{Column, Selection},
};

/// Points; large clouds are thinned evenly, and a note says so.
pub(super) struct Scatter;

impl Kind for Scatter {
    fn is_categorical(&self, column: &Column<'_>) -> Result<bool, tables::Error> {
        Ok(column.text || column.ordered)
    }

    fn notes(&self, data: &Selection) -> Vec<String> {
        point_note(data)
    }

    fn panel_size(&self, _chart: &Chart<'_>, across: usize) -> (f64, f64) {
        match across {
            1 => (420.0, 380.0),
            2 => (330.0, 310.0),
            3 => (240.0, 235.0),
            _ => (190.0, 190.0),
        }
    }

    fn series_swatch(&self, series: usize, colour: Rgb, _dash: &'static [f64]) -> Swatch {
        Swatch::Point { colour, marker: Marker::of(series), filled: true }
    }

    fn overlay_swatch(&self, colour: Rgb) -> Option<Swatch> {
        Some(Swatch::Point { colour, marker: Marker::Circle, filled: false })
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        for ((ours, series), marks) in chart.by_series(panel) {
            let many = marks.len() > 150;
            let radius = if many { 2.0 } else { 3.0 };
            let ink = Ink::new(chart.colour_of(series), 1.2).alpha(if many && ours { 0.55 } else { 1.0 });
            let step = if ours { point_step(&chart.data) } else { 1 };
            for mark in marks.iter().step_by(step) {
                let at = chart.at(mark.x, mark.y, r);
                if at.1.is_finite() && r.contains(at) {
                    canvas.marker(Marker::of(series.unwrap_or(0)), at, radius, ink, ours)?;
                }
            }
        }
        Ok(())
    }
}
