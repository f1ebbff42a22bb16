//! The surroundings of the marks of a panel: titles, grid, reference lines, axes and tick labels.

use crate::{
    canvas::{Canvas, Ink, Rect},
    chart::Chart,
    error::Error,
    palette::{AXIS, GRID, INK, RULE, Rgb, WHITE},
    panel::Panel,
    scale::{Axis, Tick},
    style::{LABEL, TICK, rule_dash},
    text::{Anchor, CAP, Type, ellipsis},
    ticks::{Setting, XTicks},
};

/// Height of a line of a panel's title.
pub(crate) const STRIP_ROW: f64 = 16.0;

/// The frame of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Axes at the left and at the bottom, over a grid.
    Open,
    /// A box around marks that cover the panel.
    Closed,
    /// Neither axes nor grid: the kind draws its own.
    Bare,
}

/// Colour and dash of a reference line.
pub(crate) fn rule_style(frame: Frame, rule: usize) -> (Rgb, &'static [f64]) {
    match frame {
        Frame::Closed => ([0; 3], &[5.0, 4.0]),
        Frame::Open | Frame::Bare => (RULE, rule_dash(rule)),
    }
}

/// Draws a panel with everything in and around it.
pub(crate) fn paint_panel(
    canvas: &mut Canvas,
    chart: &Chart,
    panel: &Panel,
    x_ticks: &XTicks,
    y_ticks: &[Tick],
) -> Result<(), Error> {
    titles(canvas, panel)?;
    let frame = chart.kind.frame();
    if frame == Frame::Bare {
        return chart.kind.paint(canvas, chart, panel);
    }
    let r = panel.rect;
    if frame == Frame::Open {
        grid(canvas, chart, r, x_ticks, y_ticks)?;
    }
    // filled shapes would hide a line below them, while points and thin lines must not be hidden by one
    let last = chart.kind.fills();
    if !last {
        rules(canvas, chart, r)?;
    }
    chart.kind.paint(canvas, chart, panel)?;
    if last {
        rules(canvas, chart, r)?;
    }
    let ink = Ink::new(AXIS, 1.0);
    if frame == Frame::Closed {
        canvas.frame(r, ink, &[])?;
    } else {
        canvas.line(&[(r.x, r.y), (r.x, r.bottom()), (r.right(), r.bottom())], ink, &[])?;
    }
    if panel.x_ticks {
        x_labels(canvas, chart, r, x_ticks)?;
    }
    if panel.y_ticks {
        y_labels(canvas, chart, r, y_ticks)?;
    }
    Ok(())
}

fn titles(canvas: &mut Canvas, panel: &Panel) -> Result<(), Error> {
    let r = panel.rect;
    for (i, line) in panel.strip.iter().enumerate() {
        let up = (panel.strip.len() - 1 - i) as f64 * STRIP_ROW;
        let at = (r.x + r.w / 2.0, r.y - 6.0 - up);
        canvas.text(line, at, &Type::new(LABEL, INK, Anchor::Middle).bold())?;
    }
    if let Some(side) = &panel.side {
        let title = ellipsis(side, LABEL, true, r.h + 10.0);
        let at = (r.right() + 15.0, r.y + r.h / 2.0);
        canvas.text(&title, at, &Type::new(LABEL, INK, Anchor::Middle).bold().rotated())?;
    }
    Ok(())
}

fn grid(canvas: &mut Canvas, chart: &Chart, r: Rect, x_ticks: &XTicks, y_ticks: &[Tick]) -> Result<(), Error> {
    let ink = Ink::new(GRID, 1.0);
    for tick in y_ticks {
        let y = r.bottom() - chart.y.at(tick.value) * r.h;
        canvas.line(&[(r.x, y), (r.right(), y)], ink, &[])?;
    }
    if !chart.x.is_slots() {
        for tick in &x_ticks.ticks {
            let x = chart.x_at(tick.value, r);
            canvas.line(&[(x, r.y), (x, r.bottom())], ink, &[])?;
        }
    }
    Ok(())
}

fn x_labels(canvas: &mut Canvas, chart: &Chart, r: Rect, x_ticks: &XTicks) -> Result<(), Error> {
    for (i, tick) in x_ticks.ticks.iter().enumerate() {
        let x = chart.x_at(tick.value, r);
        if !chart.x.is_slots() {
            canvas.line(&[(x, r.bottom()), (x, r.bottom() + 4.0)], Ink::new(AXIS, 1.0), &[])?;
        }
        match &x_ticks.setting {
            Setting::Level(labels) => {
                for (l, line) in labels[i].iter().enumerate() {
                    let at = (x, r.bottom() + 16.0 + 13.0 * l as f64);
                    canvas.text(line, at, &Type::new(TICK, INK, Anchor::Middle))?;
                }
            }
            Setting::Rotated(labels) => {
                let style = Type::new(TICK, INK, Anchor::End).rotated();
                canvas.text(&labels[i], (x + TICK * CAP / 2.0, r.bottom() + 6.0), &style)?;
            }
        }
    }
    Ok(())
}

fn y_labels(canvas: &mut Canvas, chart: &Chart, r: Rect, y_ticks: &[Tick]) -> Result<(), Error> {
    for tick in y_ticks {
        let y = chart.y_at(tick.value, r);
        if !chart.y.is_slots() {
            canvas.line(&[(r.x - 4.0, y), (r.x, y)], Ink::new(AXIS, 1.0), &[])?;
        }
        let style = Type::new(TICK, INK, Anchor::End);
        canvas.text(&tick.label, (r.x - 7.0, y + TICK * CAP / 2.0), &style)?;
    }
    Ok(())
}

/// Reference lines, where they lie in the panel.
fn rules(canvas: &mut Canvas, chart: &Chart, r: Rect) -> Result<(), Error> {
    let frame = chart.kind.frame();
    for (i, rule) in chart.figure.rules.iter().enumerate() {
        let (colour, dash) = rule_style(frame, i);
        for path in paths(chart, rule, r).iter().filter(|p| p.iter().all(|p| r.contains(*p))) {
            if frame == Frame::Closed {
                canvas.line(path, Ink::new(WHITE, 2.6), &[])?;
                canvas.line(path, Ink::new(colour, 1.3), dash)?;
            } else {
                canvas.line(path, Ink::new(colour, 1.2), dash)?;
            }
        }
    }
    Ok(())
}

fn paths(chart: &Chart, rule: &config::Rule, r: Rect) -> Vec<Vec<(f64, f64)>> {
    let mut paths = Vec::new();
    if let Some(x) = rule.x {
        let x = chart.x_at(x, r);
        paths.push(vec![(x, r.y), (x, r.bottom())]);
    }
    if let Some(y) = rule.y {
        let y = chart.y_at(y, r);
        paths.push(vec![(r.x, y), (r.right(), y)]);
    }
    if let (true, Axis::Numbers { low: a, high: b, .. }, Axis::Numbers { low: c, high: d, .. }) =
        (rule.diagonal, &chart.x, &chart.y)
    {
        // many pieces, because the diagonal bends where one scale is logarithmic
        let (low, high) = (a.max(*c), b.min(*d));
        let at = |i: i32| low + (high - low) * f64::from(i) / 64.0;
        paths.push((0..=64).map(|i| chart.at(at(i), at(i), r)).collect());
    }
    paths
}
