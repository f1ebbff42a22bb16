//! Panels: one for each value of the columns `facet` and `facet_row`, and which marks each shows.

use crate::{
    canvas::Rect,
    chart::Chart,
    select::{Link, Mark},
};

/// One panel: its box and the marks that it shows.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub rect: Rect,
    facet: usize,
    row: usize,
    /// Only ours (`Some(false)`) or only the overlay (`Some(true)`); both when `None`.
    overlay: Option<bool>,
    /// Title above the panel, in lines.
    pub strip: Vec<String>,
    /// Title at the right of the panel.
    pub side: Option<String>,
    /// Whether the horizontal axis has labels.
    pub x_ticks: bool,
    /// Whether the vertical axis has labels.
    pub y_ticks: bool,
}

impl Panel {
    fn new(facet: usize, row: usize, overlay: Option<bool>, strip: &str, side: &str) -> Self {
        Self {
            rect: Rect { x: 0.0, y: 0.0, w: 0.0, h: 0.0 },
            facet,
            row,
            overlay,
            strip: if strip.is_empty() { Vec::new() } else { vec![strip.to_string()] },
            side: (!side.is_empty()).then(|| side.to_string()),
            x_ticks: false,
            y_ticks: false,
        }
    }

    /// A row without a value for the columns of panels belongs to every panel.
    fn has(&self, facet: Option<usize>, row: Option<usize>) -> bool {
        facet.is_none_or(|f| f == self.facet) && row.is_none_or(|r| r == self.row)
    }

    /// Whether a mark is drawn here.
    pub fn shows(&self, mark: &Mark) -> bool {
        self.has(mark.facet, mark.row) && self.overlay.is_none_or(|o| o == mark.overlay)
    }

    /// Whether a line segment is drawn here.
    pub fn has_link(&self, link: &Link) -> bool {
        self.has(link.facet, link.row)
    }
}

/// The panels in rows, without positions.
pub(crate) struct Grid {
    pub rows: Vec<Vec<Panel>>,
    /// Whether one long row was broken into several; every panel then keeps its title.
    pub wrapped: bool,
}

impl Grid {
    /// The panels of a figure; a kind that cannot show ours and an overlay in one panel gets panels for both.
    pub fn new(chart: &Chart) -> Self {
        let (figure, data) = (chart.figure, &chart.data);
        let one = || vec![String::new()];
        let facets = if figure.facet.is_some() { data.facets.labels.clone() } else { one() };
        let sides = if figure.facet_row.is_some() { data.rows.labels.clone() } else { one() };
        let split = chart.overlay.filter(|_| chart.kind.splits_overlay());
        let mut rows: Vec<Vec<Panel>> = Vec::new();
        for (r, side) in sides.iter().enumerate() {
            match split {
                None => {
                    rows.push(facets.iter().enumerate().map(|(f, strip)| Panel::new(f, r, None, strip, side)).collect())
                }
                Some(theirs) if figure.facet.is_none() => {
                    let versions = [("ours", false), (theirs, true)];
                    rows.push(versions.map(|(label, o)| Panel::new(0, r, Some(o), label, side)).to_vec());
                }
                Some(theirs) => {
                    for (label, o) in [("ours", false), (theirs, true)] {
                        let side = if side.is_empty() { label.to_string() } else { format!("{side} · {label}") };
                        let line = facets.iter().enumerate();
                        rows.push(line.map(|(f, strip)| Panel::new(f, r, Some(o), strip, &side)).collect());
                    }
                }
            }
        }
        Self { rows, wrapped: false }.wrap()
    }

    /// Breaks a single row of more than four panels.
    fn wrap(mut self) -> Self {
        if self.rows.len() == 1 && self.rows[0].len() > 4 {
            let line = self.rows.remove(0);
            let across = if matches!(line.len(), 5 | 6 | 9) { 3 } else { 4 };
            self.rows = line.chunks(across).map(<[Panel]>::to_vec).collect();
            self.wrapped = true;
        }
        self
    }

    /// Number of panels in the longest row.
    pub fn across(&self) -> usize {
        self.rows[0].len()
    }

    /// Gives the panels their boxes and says which of them carry labels; returns the bottom of the last row.
    pub fn place(&mut self, left: f64, top: f64, (w, h): (f64, f64), gap: f64, strip_height: f64) -> f64 {
        let counts: Vec<usize> = self.rows.iter().map(Vec::len).collect();
        let (mut y, mut bottom) = (top, top);
        for (r, line) in self.rows.iter_mut().enumerate() {
            let titled = self.wrapped || r == 0;
            y += if titled { strip_height } else { 0.0 };
            for (c, panel) in line.iter_mut().enumerate() {
                panel.rect = Rect { x: left + c as f64 * (w + gap), y, w, h };
                if !titled {
                    panel.strip.clear();
                }
                panel.x_ticks = r + 1 == counts.len() || counts[r + 1] <= c;
                panel.y_ticks = c == 0;
                if c + 1 < counts[r] {
                    panel.side = None;
                }
            }
            y += h;
            bottom = y;
            y += 14.0;
        }
        bottom
    }
}
