//! Several rows at one x of one series, drawn as their mean and range.

use std::collections::BTreeSet;

use crate::select::{Mark, Selection};

/// All rows at one x.
#[derive(Clone, Copy, Debug)]
pub(super) struct Summary {
    pub x: f64,
    pub mean: f64,
    pub low: f64,
    pub high: f64,
}

/// Rows of one series, gathered by x; NaN where no row has a number.
pub(super) fn summaries(marks: &[&Mark]) -> Vec<Summary> {
    let mut sorted: Vec<&&Mark> = marks.iter().collect();
    sorted.sort_by(|a, b| a.x.total_cmp(&b.x));
    sorted.chunk_by(|a, b| a.x == b.x).map(summary).collect()
}

fn summary(same: &[&&Mark]) -> Summary {
    let x = same[0].x;
    let ys = || same.iter().map(|m| m.y).filter(|y| !y.is_nan());
    let n = ys().count() as f64;
    let mean = if n > 0.0 { ys().sum::<f64>() / n } else { f64::NAN };
    if mean.is_nan() {
        return Summary { x, mean, low: f64::NAN, high: f64::NAN };
    }
    Summary { x, mean, low: ys().fold(f64::INFINITY, f64::min), high: ys().fold(f64::NEG_INFINITY, f64::max) }
}

/// Whether several rows of the table share a position; `y` says whether it counts.
pub(super) fn repeats(data: &Selection, y: bool) -> bool {
    let mut seen = BTreeSet::new();
    let position = |m: &Mark| (m.facet, m.row, m.series, m.x.to_bits(), if y { m.y.to_bits() } else { 0 });
    data.marks.iter().filter(|m| !m.overlay).any(|m| !seen.insert(position(m)))
}
