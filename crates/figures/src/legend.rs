//! The legend: it stands above the panels, so that it never hides data.

use crate::{
    canvas::{Canvas, Ink, Marker, Rect},
    chart::Chart,
    error::Error,
    frame::rule_style,
    palette::{self, INK, Rgb},
    style::{LABEL, OVERLAY_DASH, PAD},
    text::{Anchor, CAP, Type, ellipsis, text_width},
};

const ROW: f64 = 19.0;
const SWATCH: f64 = 28.0;

/// The sign in front of a legend entry.
#[derive(Clone, Debug)]
pub(crate) enum Swatch {
    Line {
        colour: Rgb,
        dash: &'static [f64],
        marker: Option<Marker>,
        filled: bool,
    },
    Point {
        colour: Rgb,
        marker: Marker,
        filled: bool,
    },
    Fill {
        colour: Rgb,
        hatch: usize,
        filled: bool,
    },
    /// No sign: the entry is a heading.
    None,
}

impl Swatch {
    /// Width that the swatch takes before the label.
    fn lead(&self) -> f64 {
        if matches!(self, Swatch::None) { 0.0 } else { SWATCH + 6.0 }
    }

    fn paint(&self, canvas: &mut Canvas, (x, y): (f64, f64)) -> Result<(), Error> {
        let middle = (x + SWATCH / 2.0, y);
        match self {
            Swatch::Line { colour, dash, marker, filled } => {
                canvas.line(&[(x, y), (x + SWATCH, y)], Ink::new(*colour, 1.8), dash)?;
                match marker {
                    Some(m) => canvas.marker(*m, middle, 3.3, Ink::new(*colour, 1.2), *filled),
                    None => Ok(()),
                }
            }
            Swatch::Point { colour, marker, filled } => {
                canvas.marker(*marker, middle, 3.6, Ink::new(*colour, 1.3), *filled)
            }
            Swatch::Fill { colour, hatch, filled } => {
                let r = Rect { x: x + 5.0, y: y - 5.5, w: SWATCH - 8.0, h: 11.0 };
                if *filled {
                    canvas.rect(r, Ink::fill(*colour))?;
                    canvas.pattern(r, *hatch)
                } else {
                    canvas.frame(r, Ink::new(*colour, 1.3), OVERLAY_DASH)
                }
            }
            Swatch::None => Ok(()),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    at: (f64, f64),
    swatch: Swatch,
    label: String,
}

/// The legend, laid out.
#[derive(Clone, Debug)]
pub(crate) struct Legend {
    entries: Vec<Entry>,
    /// Where the legend ends.
    pub bottom: f64,
}

impl Legend {
    /// Sets the entries from `top` downwards, in rows of at most `width`.
    pub fn new(chart: &Chart, top: f64, width: f64) -> Self {
        let signs = entries(chart);
        if signs.is_empty() {
            return Self { entries: Vec::new(), bottom: top };
        }
        let (mut x, mut y) = (PAD, top + ROW / 2.0);
        let mut placed = Vec::new();
        for (swatch, label) in signs {
            let lead = swatch.lead();
            let label = ellipsis(&label, LABEL, false, width - 2.0 * PAD - lead);
            let wide = lead + text_width(&label, LABEL, false);
            if x > PAD && x + wide > width - PAD {
                (x, y) = (PAD, y + ROW);
            }
            placed.push(Entry { at: (x, y), swatch, label });
            x += wide + 18.0;
        }
        Self { entries: placed, bottom: y + ROW / 2.0 + 4.0 }
    }

    /// Draws the legend.
    pub fn paint(&self, canvas: &mut Canvas) -> Result<(), Error> {
        for Entry { at, swatch, label } in &self.entries {
            swatch.paint(canvas, *at)?;
            let start = (at.0 + swatch.lead(), at.1 + LABEL * CAP / 2.0);
            canvas.text(label, start, &Type::new(LABEL, INK, Anchor::Start))?;
        }
        Ok(())
    }
}

/// Series, overlay and reference lines with their labels.
fn entries(chart: &Chart) -> Vec<(Swatch, String)> {
    let (figure, data) = (chart.figure, &chart.data);
    let mut entries: Vec<(Swatch, String)> = Vec::new();
    entries.extend(chart.kind.legend_heading(data).map(|heading| (Swatch::None, heading)));
    if figure.series.is_some() && (data.series.labels.len() > 1 || chart.overlay.is_some()) {
        if data.series.numbers {
            entries.push((Swatch::None, format!("{}:", data.series_label)));
        }
        for (i, label) in data.series.labels.iter().enumerate() {
            let swatch = chart.kind.series_swatch(i, chart.colour_of(Some(i)), chart.dash(Some(i)));
            entries.push((swatch, label.clone()));
        }
    }
    if let Some(label) = chart.overlay {
        let colour = if figure.series.is_none() { palette::series(0, 1, false) } else { INK };
        entries.extend(chart.kind.overlay_swatch(colour).map(|swatch| (swatch, label.to_string())));
    }
    for (i, rule) in figure.rules.iter().enumerate().filter(|(_, r)| !r.label.is_empty()) {
        let (colour, dash) = rule_style(chart.kind.frame(), i);
        entries.push((Swatch::Line { colour, dash, marker: None, filled: true }, rule.label.clone()));
    }
    entries
}
