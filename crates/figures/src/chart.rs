//! A figure with its marks and scales, before anything has a position on the page.

use std::collections::BTreeMap;

use config::Figure;

use crate::{
    canvas::Rect,
    colours::Colours,
    kinds::{self, Kind},
    palette::{self, Rgb},
    panel::Panel,
    scale::Axis,
    select::{Mark, Selection},
    style::series_dash,
};

/// Marks and scales, from which a kind of figure is laid out and drawn.
pub(crate) struct Chart<'a> {
    pub figure: &'a Figure,
    pub kind: &'static dyn Kind,
    pub data: Selection,
    pub x: Axis,
    pub y: Axis,
    /// Colour scale of a heat map.
    pub colours: Option<Colours>,
    /// Label of the overlay; `None` without rows of an overlay.
    pub overlay: Option<&'a str>,
}

impl<'a> Chart<'a> {
    /// Chooses the scales.
    pub fn new(figure: &'a Figure, mut data: Selection, overlay: Option<&'a str>) -> Self {
        let kind = kinds::of(figure.kind);
        kind.prepare(&mut data);
        let overlay = overlay.filter(|_| data.marks.iter().any(|m| m.overlay));
        let x = kind.x_axis(figure, &data);
        let y = kind.y_axis(figure, &data, &x);
        let colours = kind.colours(figure, &data);
        data.notes.extend(kind.notes(&data));
        Self { figure, kind, data, x, y, colours, overlay }
    }

    /// Number of series, at least 1.
    pub fn series_count(&self) -> usize {
        self.data.series.labels.len().max(1)
    }

    /// Position of a point of a panel.
    pub fn at(&self, x: f64, y: f64, r: Rect) -> (f64, f64) {
        (self.x_at(x, r), self.y_at(y, r))
    }

    /// Horizontal position of a value.
    pub fn x_at(&self, x: f64, r: Rect) -> f64 {
        r.x + self.x.at(x) * r.w
    }

    /// Vertical position of a value: numbers grow upwards, categories are read downwards.
    pub fn y_at(&self, y: f64, r: Rect) -> f64 {
        let share = self.y.at(y);
        if self.y.is_slots() { r.y + share * r.h } else { r.bottom() - share * r.h }
    }

    /// Colour of a series; black for marks without one.
    pub fn colour_of(&self, series: Option<usize>) -> Rgb {
        match series {
            Some(i) => palette::series(i, self.data.series.labels.len(), self.data.series.numbers),
            None => [0; 3],
        }
    }

    /// Dash of a series: solid beside an overlay, which is dashed itself.
    pub fn dash(&self, series: Option<usize>) -> &'static [f64] {
        if self.overlay.is_some() { &[] } else { series_dash(series.unwrap_or(0)) }
    }

    /// The marks of a panel.
    pub fn marks(&self, panel: &Panel) -> impl Iterator<Item = &Mark> {
        self.data.marks.iter().filter(|mark| panel.shows(mark))
    }

    /// The marks of a panel by series, as `(is ours, series)`; the overlay comes first, so that ours lie on top.
    pub fn by_series(&self, panel: &Panel) -> BTreeMap<(bool, Option<usize>), Vec<&Mark>> {
        let mut groups: BTreeMap<(bool, Option<usize>), Vec<&Mark>> = BTreeMap::new();
        for mark in self.marks(panel) {
            groups.entry((!mark.overlay, mark.series)).or_default().push(mark);
        }
        groups
    }
}
