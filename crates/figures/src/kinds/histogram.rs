//! Counts of x in bins, one outline per series.

use std::collections::BTreeMap;

use config::Figure;

use super::{Kind, number_axis, rule_ys, wide_panel};
use crate::{
    canvas::{Canvas, Ink},
    chart::Chart,
    error::Error,
    legend::Swatch,
    palette::Rgb,
    panel::Panel,
    scale::Axis,
    select::{Column, Mark, Selection},
    style::OVERLAY_DASH,
};

/// Outlines of counts.
pub(super) struct Histogram;

impl Kind for Histogram {
    fn is_categorical(&self, _column: &Column<'_>) -> Result<bool, tables::Error> {
        Ok(false)
    }

    fn y_label(&self) -> &'static str {
        "count"
    }

    fn x_axis(&self, figure: &Figure, data: &Selection) -> Axis {
        number_axis(figure, data, 0.0)
    }

    fn y_axis(&self, figure: &Figure, data: &Selection, x: &Axis) -> Axis {
        let edges = edges(figure, x);
        let mut counts: BTreeMap<(usize, usize, usize, bool, usize), f64> = BTreeMap::new();
        for m in &data.marks {
            if let Some(bin) = bin_of(&edges, m.x) {
                let index = |i: Option<usize>| i.unwrap_or(0);
                let key = (index(m.facet), index(m.row), index(m.series), m.overlay, bin);
                *counts.entry(key).or_default() += 1.0;
            }
        }
        let values = counts.into_values().chain(rule_ys(figure));
        Axis::over(values, figure.y_scale, figure.y_range, 0.05).starting_at_zero(figure.y_range.is_some())
    }

    fn panel_size(&self, _chart: &Chart<'_>, across: usize) -> (f64, f64) {
        wide_panel(across)
    }

    fn series_swatch(&self, _series: usize, colour: Rgb, dash: &'static [f64]) -> Swatch {
        Swatch::Line { colour, dash, marker: None, filled: true }
    }

    fn overlay_swatch(&self, colour: Rgb) -> Option<Swatch> {
        Some(Swatch::Line { colour, dash: OVERLAY_DASH, marker: None, filled: false })
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let r = panel.rect;
        let edges = edges(chart.figure, &chart.x);
        let base = match &chart.y {
            Axis::Numbers { low, log: true, .. } => *low,
            Axis::Numbers { .. } | Axis::Slots(_) => 0.0,
        };
        for ((ours, series), marks) in chart.by_series(panel) {
            let colour = chart.colour_of(series);
            let counts = counts(&edges, &marks);
            let mut outline = vec![chart.at(edges[0], base, r)];
            for (count, edges) in counts.iter().zip(edges.windows(2)) {
                outline.extend(edges.iter().map(|e| chart.at(*e, count.max(base), r)));
            }
            outline.push(chart.at(edges[counts.len()], base, r));
            let inside: Vec<_> =
                outline.iter().map(|p| (p.0.clamp(r.x, r.right()), p.1.clamp(r.y, r.bottom()))).collect();
            if ours {
                canvas.polygon(&inside, Ink::fill(colour).alpha(0.22))?;
            }
            let dash = if ours { chart.dash(series) } else { OVERLAY_DASH };
            canvas.line(&inside, Ink::new(colour, 1.6), dash)?;
        }
        Ok(())
    }
}

/// Edges of the bins, evenly spaced on the scale of the axis.
fn edges(figure: &Figure, x: &Axis) -> Vec<f64> {
    let Axis::Numbers { low, high, log } = x else { return Vec::new() };
    let n = figure.bins.unwrap_or(30).max(1);
    let share = |i: u32| f64::from(i) / f64::from(n);
    let edge = |i| if *log { low * (high / low).powf(share(i)) } else { low + (high - low) * share(i) };
    (0..=n).map(edge).collect()
}

/// Index of the bin that holds a value; the last bin includes its upper edge.
fn bin_of(edges: &[f64], x: f64) -> Option<usize> {
    let (first, last) = (edges.first()?, edges.last()?);
    if !(x >= *first && x <= *last) {
        return None;
    }
    Some((edges.partition_point(|e| *e <= x).max(1) - 1).min(edges.len() - 2))
}

fn counts(edges: &[f64], marks: &[&Mark]) -> Vec<f64> {
    let mut counts = vec![0.0f64; edges.len().saturating_sub(1)];
    for bin in marks.iter().filter_map(|m| bin_of(edges, m.x)) {
        counts[bin] += 1.0;
    }
    counts
}
