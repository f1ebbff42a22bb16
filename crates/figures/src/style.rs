//! Sizes, and the dashes that tell lines apart without colour.

/// Space around the figure.
pub(crate) const PAD: f64 = 14.0;
/// Type size of the title.
pub(crate) const TITLE: f64 = 15.0;
/// Type size of axis labels, panel titles and the legend.
pub(crate) const LABEL: f64 = 12.0;
/// Type size of tick labels.
pub(crate) const TICK: f64 = 11.0;

/// Lines and outlines of the overlay.
pub(crate) const OVERLAY_DASH: &[f64] = &[4.5, 2.5];

/// Dash of a series: the palette repeats after eight series, and the dashes change after every four.
pub(crate) fn series_dash(series: usize) -> &'static [f64] {
    const DASHES: [&[f64]; 4] = [&[], &[7.0, 3.0], &[2.5, 2.0], &[8.0, 2.5, 2.0, 2.5]];
    DASHES[series / 4 % 4]
}

/// Dash of a reference line.
pub(crate) fn rule_dash(rule: usize) -> &'static [f64] {
    const DASHES: [&[f64]; 3] = [&[6.0, 3.0], &[1.5, 2.5], &[7.0, 2.5, 1.5, 2.5]];
    DASHES[rule % DASHES.len()]
}
