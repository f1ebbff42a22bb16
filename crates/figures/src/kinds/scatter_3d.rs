//! Points in three dimensions, coloured by series.

mod scene;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use self::scene::{Scene, VIEW};
use super::{Kind, point_note, point_step};
use crate::{
    canvas::{Canvas, Ink, Marker, Rect},
    chart::Chart,
    error::Error,
    frame::Frame,
    legend::Swatch,
    palette::{HATCH, INK, Rgb},
    panel::Panel,
    select::{Column, Mark, Selection},
    style::TICK,
    text::{Anchor, CAP, Type},
};

/// A box with points and line segments in it; each panel has its own scale.
pub(super) struct Scatter3d;

impl Kind for Scatter3d {
    fn is_categorical(&self, _column: &Column<'_>) -> Result<bool, tables::Error> {
        Ok(false)
    }

    fn prepare(&self, data: &mut Selection) {
        data.notes.push("Each panel has its own scale, the same along its three axes.".into());
        let far = remove_far(&mut data.marks);
        if far > 0 {
            let are = if far == 1 { "point far outside is" } else { "points far outside are" };
            data.notes.push(format!("{far} {are} not drawn."));
        }
    }

    fn notes(&self, data: &Selection) -> Vec<String> {
        point_note(data)
    }

    fn panel_size(&self, _chart: &Chart<'_>, across: usize) -> (f64, f64) {
        match across {
            1 => (460.0, 400.0),
            2 | 4 => (330.0, 300.0),
            _ => (260.0, 240.0),
        }
    }

    fn frame(&self) -> Frame {
        Frame::Bare
    }

    /// The axes are named inside the panels.
    fn outer_labels<'d>(&self, _data: &'d Selection) -> [&'d str; 2] {
        ["", ""]
    }

    fn series_swatch(&self, series: usize, colour: Rgb, _dash: &'static [f64]) -> Swatch {
        Swatch::Point { colour, marker: Marker::of(series), filled: true }
    }

    fn overlay_swatch(&self, _colour: Rgb) -> Option<Swatch> {
        None
    }

    fn paint(&self, canvas: &mut Canvas, chart: &Chart<'_>, panel: &Panel) -> Result<(), Error> {
        let mut marks: Vec<&Mark> = chart.marks(panel).step_by(point_step(&chart.data)).collect();
        let links: Vec<_> = chart.data.links.iter().filter(|link| panel.has_link(link)).collect();
        let ends = links.iter().flat_map(|link| [link.from, link.to]);
        let view = chart.figure.view.unwrap_or(VIEW);
        let scene = Scene::new(marks.iter().map(|m| point(m)).chain(ends), view, panel.rect);
        for edge in scene.edges() {
            canvas.line(&edge, Ink::new(HATCH, 1.0), &[])?;
        }
        name_axes(canvas, &scene, axes(&chart.data))?;
        // far points first
        marks.sort_by(|a, b| scene.depth(point(a)).total_cmp(&scene.depth(point(b))));
        let radius = if marks.len() > 150 { 2.1 } else { 3.2 };
        for mark in marks {
            let at = scene.at(point(mark));
            if at.0.is_finite() && at.1.is_finite() {
                let ink = Ink::new(chart.colour_of(mark.series), 1.0).alpha(0.8);
                canvas.marker(Marker::of(mark.series.unwrap_or(0)), at, radius, ink, true)?;
            }
        }
        for link in links {
            canvas.line(&[scene.at(link.from), scene.at(link.to)], Ink::new(INK, 1.3), &[])?;
        }
        Ok(())
    }

    fn scene(&self, chart: &Chart<'_>, panels: &[Panel], size: (f64, f64)) -> Option<Json> {
        let hex = |c: Rgb| format!("#{:02x}{:02x}{:02x}", c[0], c[1], c[2]);
        let colours: Vec<_> = (0..chart.series_count()).map(|i| hex(chart.colour_of(Some(i)))).collect();
        Some(json!({
            "axes": axes(&chart.data),
            "view": chart.figure.view.unwrap_or(VIEW),
            "colours": colours,
            "size": [size.0, size.1],
            "panels": panels.iter().map(|panel| panel_scene(chart, panel)).collect::<Vec<_>>(),
        }))
    }
}

fn point(mark: &Mark) -> [f64; 3] {
    [mark.x, mark.y, mark.z]
}

fn axes(data: &Selection) -> [&str; 3] {
    [&data.x_label, &data.y_label, &data.z_label]
}

fn name_axes(canvas: &mut Canvas, scene: &Scene, names: [&str; 3]) -> Result<(), Error> {
    for (axis, name) in names.into_iter().enumerate() {
        let (x, y) = scene.name_at(axis);
        let style = Type::new(TICK, INK, Anchor::Middle);
        let style = if axis == 2 { style.rotated() } else { style };
        canvas.text(name, (x, y + if axis == 2 { 0.0 } else { TICK * CAP / 2.0 }), &style)?;
    }
    Ok(())
}

/// Box, points and line segments of a panel, with the three digits that a picture needs.
fn panel_scene(chart: &Chart, panel: &Panel) -> Json {
    let short = |x: f64| format!("{x:.2e}").parse::<f64>().unwrap_or(x);
    let points: Vec<_> = chart
        .marks(panel)
        .step_by(point_step(&chart.data))
        .filter(|m| m.x.is_finite() && m.y.is_finite() && m.z.is_finite())
        .map(|m| json!([short(m.x), short(m.y), short(m.z), m.series.unwrap_or(0)]))
        .collect();
    let links: Vec<Vec<f64>> = chart
        .data
        .links
        .iter()
        .filter(|link| panel.has_link(link))
        .map(|link| link.from.iter().chain(&link.to).map(|x| short(*x)).collect())
        .collect();
    let Rect { x, y, w, h } = panel.rect;
    json!({ "rect": [x, y, w, h], "points": points, "links": links })
}

/// Removes points so far from the rest of their panel that the rest would shrink to a dot; returns their number.
///
/// Far means beyond the middle 98 % along some axis by more than a quarter of its extent.
fn remove_far(marks: &mut Vec<Mark>) -> usize {
    let panel = |m: &Mark| (m.facet, m.row);
    let panels: BTreeSet<_> = marks.iter().map(panel).collect();
    let ends: BTreeMap<_, [[f64; 2]; 3]> = panels
        .into_iter()
        .map(|key| {
            let along = |of: fn(&Mark) -> f64| extent(marks.iter().filter(|m| panel(m) == key).map(of));
            (key, [along(|m| m.x), along(|m| m.y), along(|m| m.z)])
        })
        .collect();
    let before = marks.len();
    marks.retain(|m| {
        let Some(ends) = ends.get(&panel(m)) else { return true };
        point(m).iter().zip(ends).all(|(v, [low, high])| v.is_nan() || (low..=high).contains(&v))
    });
    before - marks.len()
}

/// Ends of the middle 98 % of some values, with a quarter of their distance added on both sides.
fn extent(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values.get((share * (values.len().max(1) - 1) as f64).round() as usize).copied();
    let (low, high) = (at(0.01).unwrap_or(0.0), at(0.99).unwrap_or(0.0));
    let room = 0.25 * (high - low);
    [low - room, high + room]
}
