//! Lines over x, one per series.

use std::collections::BTreeSet;

use super::{
    Kind,
    summary::{Summary, repeats, summaries},
    wide_panel,
};
use crate::{
    canvas::{Canvas, Ink, Marker, Rect},
    chart::Chart,
    error::Error,
    legend::Swatch,
    palette::Rgb,
    panel::Panel,
    select::{Column, Selection, Side},
    style::OVERLAY_DASH,
};

/// Lines, with bands from the smallest to the largest value where rows repeat.
pub(super) struct Line;

impl Kind for Line {
    fn is_categorical(&self, column: &Column<'_>) -> Result<bool, tables::Error> {
        Ok(column.side == Side::X && (column.text || column.ordered))
    }

    fn notes(&self, data: &Selection) -> Vec<String> {
        let note = "Lines are means, bands run from the smallest to the largest value.";
        if repeats(data, false) { vec![note.into()] } else { Vec::new() }
    }

    fn panel_size(&self, _chart: &Chart<'_>, across: usize) -> (f64, f64) {
        wide_panel(across)
    }

    fn series_swatch(&self, series: usize, colour: Rgb, dash: &'static [f64]) -> Swatch {
        Swatch::Line { colour, dash, marker: Some(Marker::of(series)), filled: true }
    }

    fn overlay_swatch(&self, colour: Rgb) -> Option<Swatch> {
        Some(Swatch::Line { colour, dash: OVERLAY_DASH, marker: Some(Marker::Circle), filled: false })
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let groups: Vec<_> = chart.by_series(panel).into_iter().map(|(k, marks)| (k, summaries(&marks))).collect();
        for ((ours, series), summaries) in &groups {
            if *ours && summaries.iter().any(|s| s.high > s.low) {
                band(canvas, chart, panel.rect, *series, summaries)?;
            }
        }
        for ((ours, series), summaries) in &groups {
            line(canvas, chart, panel.rect, *ours, *series, summaries)?;
        }
        Ok(())
    }
}

fn band(canvas: &mut Canvas, chart: &Chart, r: Rect, series: Option<usize>, all: &[Summary]) -> Result<(), Error> {
    let upper = all.iter().map(|s| chart.at(s.x, s.high, r));
    let lower = all.iter().rev().map(|s| chart.at(s.x, s.low, r));
    let inside = |(x, y): (f64, f64)| (x.clamp(r.x, r.right()), y.clamp(r.y, r.bottom()));
    let outline: Vec<_> = upper.chain(lower).filter(|p| p.1.is_finite()).map(inside).collect();
    canvas.polygon(&outline, Ink::fill(chart.colour_of(series)).alpha(0.18))
}

fn line(
    canvas: &mut Canvas,
    chart: &Chart,
    r: Rect,
    ours: bool,
    series: Option<usize>,
    summaries: &[Summary],
) -> Result<(), Error> {
    let colour = chart.colour_of(series);
    let ink = if ours { Ink::new(colour, 1.9) } else { Ink::new(colour, 1.4) };
    let dash = if ours { chart.dash(series) } else { OVERLAY_DASH };
    let points: Vec<_> = summaries.iter().map(|s| chart.at(s.x, s.mean, r)).collect();
    for run in points.split(|p| !p.1.is_finite()) {
        for piece in clipped(&coarse(run), r) {
            canvas.line(&piece, ink, dash)?;
        }
    }
    let marker = Marker::of(series.unwrap_or(0));
    let visible: Vec<_> = points.iter().copied().filter(|p| p.1.is_finite() && r.contains(*p)).collect();
    let radius = if ours { 3.1 } else { 3.3 };
    for at in spread(&visible, series.unwrap_or(0), chart.series_count(), r) {
        canvas.marker(marker, at, radius, Ink::new(colour, 1.2), ours)?;
    }
    Ok(())
}

/// A line of many points, reduced to the first, lowest, highest and last point of each half pixel.
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

/// Points that carry a marker: all of a few, else one about every 70 pixels, shifted by series.
fn spread(points: &[(f64, f64)], series: usize, n: usize, r: Rect) -> Vec<(f64, f64)> {
    if points.len() <= 12 {
        return points.to_vec();
    }
    let every = 70.0;
    let shift = every * (series % n) as f64 / n as f64;
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
