//! Where the cells of a heat map begin and end along one axis.

use config::Scale;

use crate::{scale::Axis, select::Mark};

/// Values that share a cell, and the shares of the axis that it covers.
#[derive(Clone, Debug)]
pub(super) struct Span {
    first: f64,
    last: f64,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// Index of the span that holds a value.
pub(super) fn span_of(spans: &[Span], value: f64) -> Option<usize> {
    let i = spans.partition_point(|s| s.last < value);
    (i < spans.len() && spans[i].first <= value).then_some(i)
}

/// The spans of some values; more than `most` share cells.
pub(super) fn spans(values: impl Iterator<Item = f64>, axis: &Axis, scale: Scale, most: usize) -> Vec<Span> {
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

/// Outer ends of the cells over the values of some marks.
pub(super) fn cell_ends(marks: &[Mark], value: impl Fn(&Mark) -> f64, scale: Scale) -> impl Iterator<Item = f64> {
    let edges = edges(&sorted_distinct(marks.iter().map(value), scale), scale);
    [edges.first().copied(), edges.last().copied()].into_iter().flatten()
}

fn sorted_distinct(values: impl Iterator<Item = f64>, scale: Scale) -> Vec<f64> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0)).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    values
}

/// Ends of the cells around sorted values: halfway to the neighbouring values.
fn edges(values: &[f64], scale: Scale) -> Vec<f64> {
    let log = scale == Scale::Log;
    let forwards = |v: f64| if log { v.ln() } else { v };
    let back = |v: f64| if log { v.exp() } else { v };
    let at: Vec<f64> = values.iter().map(|v| forwards(*v)).collect();
    let Some((first, last)) = at.first().zip(at.last()) else { return Vec::new() };
    let halves: Vec<f64> = at.windows(2).map(|p| (p[0] + p[1]) / 2.0).collect();
    let start = halves.first().map_or(first - 0.5, |h| first - (h - first));
    let end = halves.last().map_or(last + 0.5, |h| last + (last - h));
    std::iter::once(start).chain(halves).chain([end]).map(back).collect()
}
