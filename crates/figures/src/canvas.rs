//! The few strokes that figures are made of, over any plotters back end.
//!
//! Coordinates are CSS pixels; back ends count in quarters of them ([`SCALE`]), so lines and text lie where they
//! should although plotters' coordinates are whole numbers.
//! Text is laid out and, for bitmaps, drawn with a bundled font, so that a bare machine draws the same picture.

use std::sync::LazyLock;

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont as _, point};
use plotters_backend::{
    BackendColor, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontFamily, FontStyle,
    FontTransform,
    text_anchor::{HPos, Pos, VPos},
};

use crate::{error::Error, palette::Rgb};

/// Back-end units in one CSS pixel.
pub(crate) const SCALE: f64 = 4.0;

/// The bundled font's family name.
pub(crate) const FAMILY: &str = "DejaVu Sans";

static REGULAR: LazyLock<FontRef<'static>> = LazyLock::new(|| bundled(include_bytes!("../fonts/DejaVuSans.ttf")));
static BOLD: LazyLock<FontRef<'static>> = LazyLock::new(|| bundled(include_bytes!("../fonts/DejaVuSans-Bold.ttf")));

fn bundled(bytes: &'static [u8]) -> FontRef<'static> {
    FontRef::try_from_slice(bytes).expect("the bundled font is part of the program and was checked by its tests")
}

fn face(bold: bool) -> &'static FontRef<'static> {
    if bold { &BOLD } else { &REGULAR }
}

/// The glyphs of a line with their positions, and its width; `em` in the units of the result.
fn shape(text: &str, em: f64, bold: bool) -> (Vec<Glyph>, f64) {
    let font = face(bold);
    let per_em = font.units_per_em().unwrap_or(2048.0);
    let scale = PxScale::from(em as f32 * font.height_unscaled() / per_em);
    let scaled = font.as_scaled(scale);
    let (mut x, mut last) = (0.0f32, None);
    let mut glyphs = Vec::new();
    for c in text.chars() {
        let id = font.glyph_id(c);
        x += last.map_or(0.0, |last| scaled.kern(last, id));
        glyphs.push(id.with_scale_and_position(scale, point(x, 0.0)));
        x += scaled.h_advance(id);
        last = Some(id);
    }
    (glyphs, f64::from(x))
}

/// Width of a line of text in CSS pixels.
pub(crate) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    shape(text, size, bold).1
}

/// Breaks text at spaces so that no line is wider than `width`; a longer word is cut with an ellipsis.
pub(crate) fn wrap(text: &str, size: f64, bold: bool, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let word = ellipsis(word, size, bold, width);
        match lines.last_mut() {
            Some(line) if text_width(&format!("{line} {word}"), size, bold) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// The text, or as much of its start as fits with an ellipsis.
pub(crate) fn ellipsis(text: &str, size: f64, bold: bool, width: f64) -> String {
    if text_width(text, size, bold) <= width {
        return text.into();
    }
    let mut short: String = text.into();
    while short.pop().is_some() {
        let cut = format!("{}…", short.trim_end());
        if text_width(&cut, size, bold) <= width {
            return cut;
        }
    }
    "…".into()
}

/// Where a text's point lies along its line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Type {
    pub size: f64,
    pub bold: bool,
    pub ink: Rgb,
    pub anchor: Anchor,
    /// Reads from bottom to top.
    pub turned: bool,
}

impl Type {
    pub fn new(size: f64, ink: Rgb, anchor: Anchor) -> Self {
        Self { size, bold: false, ink, anchor, turned: false }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn turned(self) -> Self {
        Self { turned: true, ..self }
    }
}

/// Height of capital letters and digits over the type size.
pub(crate) const CAP: f64 = 0.73;

impl BackendTextStyle for Type {
    type FontError = std::convert::Infallible;

    fn color(&self) -> BackendColor {
        colour(self.ink, 1.0)
    }

    fn size(&self) -> f64 {
        // the SVG back end divides by 1.24 to get from line height to em
        self.size * SCALE * 1.24
    }

    fn transform(&self) -> FontTransform {
        if self.turned { FontTransform::Rotate270 } else { FontTransform::None }
    }

    fn style(&self) -> FontStyle {
        if self.bold { FontStyle::Bold } else { FontStyle::Normal }
    }

    fn anchor(&self) -> Pos {
        let h = match self.anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        Pos::new(h, VPos::Center)
    }

    fn family(&self) -> FontFamily<'_> {
        FontFamily::Name(FAMILY)
    }

    /// No height: the point given is on the baseline.
    fn layout_box(&self, text: &str) -> Result<((i32, i32), (i32, i32)), Self::FontError> {
        let (_, width) = shape(text, self.size * SCALE, self.bold);
        Ok(((0, 0), (width.round() as i32, 0)))
    }

    fn draw<E, F: FnMut(i32, i32, BackendColor) -> Result<(), E>>(
        &self,
        text: &str,
        (left, base): (i32, i32),
        mut draw: F,
    ) -> Result<Result<(), E>, Self::FontError> {
        let (glyphs, _) = shape(text, self.size * SCALE, self.bold);
        for glyph in glyphs {
            let Some(outline) = face(self.bold).outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            let mut pixels = Vec::new();
            outline.draw(|x, y, share| pixels.push((x as i32, y as i32, share)));
            for (x, y, share) in pixels {
                let (x, y) = (left + corner.x as i32 + x, base + corner.y as i32 + y);
                if share > 0.0
                    && let Err(e) = draw(x, y, colour(self.ink, f64::from(share.min(1.0))))
                {
                    return Ok(Err(e));
                }
            }
        }
        Ok(Ok(()))
    }
}

fn colour(rgb: Rgb, alpha: f64) -> BackendColor {
    BackendColor { alpha, rgb: (rgb[0], rgb[1], rgb[2]) }
}

/// A stroke or fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ink {
    pub colour: Rgb,
    pub alpha: f64,
    /// In CSS pixels; of no meaning for fills.
    pub width: f64,
}

impl Ink {
    pub fn new(colour: Rgb, width: f64) -> Self {
        Self { colour, alpha: 1.0, width }
    }

    pub fn fill(colour: Rgb) -> Self {
        Self::new(colour, 1.0)
    }

    pub fn alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }
}

impl BackendStyle for Ink {
    fn color(&self) -> BackendColor {
        colour(self.colour, self.alpha)
    }

    fn stroke_width(&self) -> u32 {
        (self.width * SCALE).round().max(1.0) as u32
    }
}

/// Shape of a point, one per series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Up,
    Diamond,
    Down,
    Left,
    Hexagon,
    Right,
}

impl Marker {
    /// The marker of the `i`-th series.
    pub fn of(i: usize) -> Self {
        use Marker::{Circle, Diamond, Down, Hexagon, Left, Right, Square, Up};
        [Circle, Square, Up, Diamond, Down, Left, Hexagon, Right][i % 8]
    }
}

/// A box in CSS pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

impl Rect {
    pub fn right(&self) -> f64 {
        self.x + self.w
    }

    pub fn bottom(&self) -> f64 {
        self.y + self.h
    }

    /// The part of a segment inside the box.
    pub fn clip(&self, a: (f64, f64), b: (f64, f64)) -> Option<[(f64, f64); 2]> {
        let (dx, dy) = (b.0 - a.0, b.1 - a.1);
        let (mut t0, mut t1) = (0.0f64, 1.0f64);
        for (p, q) in [(-dx, a.0 - self.x), (dx, self.right() - a.0), (-dy, a.1 - self.y), (dy, self.bottom() - a.1)] {
            if p == 0.0 {
                if q < 0.0 {
                    return None;
                }
            } else if p < 0.0 {
                t0 = t0.max(q / p);
            } else {
                t1 = t1.min(q / p);
            }
        }
        let at = |t: f64| (a.0 + t * dx, a.1 + t * dy);
        (t0 <= t1).then(|| [at(t0), at(t1)])
    }

    pub fn contains(&self, (x, y): (f64, f64)) -> bool {
        x >= self.x - 0.5 && x <= self.right() + 0.5 && y >= self.y - 0.5 && y <= self.bottom() + 0.5
    }
}

/// A back end that is drawn on in CSS pixels.
pub(crate) struct Canvas<B> {
    backend: B,
}

fn drawn<E: std::error::Error + Send + Sync>(result: Result<(), DrawingErrorKind<E>>) -> Result<(), Error> {
    result.map_err(|e| Error::Draw(e.to_string()))
}

fn unit((x, y): (f64, f64)) -> (i32, i32) {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

impl<B: DrawingBackend> Canvas<B> {
    pub fn new(backend: B) -> Self {
        Self { backend }
    }

    pub fn finish(mut self) -> Result<(), Error> {
        drawn(self.backend.present())
    }

    /// A filled box.
    pub fn rect(&mut self, r: Rect, ink: Ink) -> Result<(), Error> {
        let (a, b) = (unit((r.x, r.y)), unit((r.right(), r.bottom())));
        // plotters' bitmaps draw both ends, its SVG the difference: polygons agree on both
        drawn(self.backend.fill_polygon([a, (b.0, a.1), b, (a.0, b.1)], &ink))
    }

    /// The outline of a box.
    pub fn frame(&mut self, r: Rect, ink: Ink, dash: &[f64]) -> Result<(), Error> {
        let corners = [(r.x, r.y), (r.right(), r.y), (r.right(), r.bottom()), (r.x, r.bottom()), (r.x, r.y)];
        for side in corners.windows(2) {
            self.line(side, ink, dash)?;
        }
        Ok(())
    }

    /// A line through points, dashed by lengths of ink and gap in turn (solid when empty).
    pub fn line(&mut self, points: &[(f64, f64)], ink: Ink, dash: &[f64]) -> Result<(), Error> {
        if dash.is_empty() {
            return self.solid(points, ink);
        }
        let (mut left, mut part) = (dash[0], 0);
        let mut piece: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
        for pair in points.windows(2) {
            let (mut a, b) = (pair[0], pair[1]);
            loop {
                let length = (b.0 - a.0).hypot(b.1 - a.1);
                if length < left {
                    left -= length;
                    piece.push(b);
                    break;
                }
                let share = left / length;
                a = (a.0 + (b.0 - a.0) * share, a.1 + (b.1 - a.1) * share);
                piece.push(a);
                if part % 2 == 0 {
                    self.solid(&piece, ink)?;
                }
                piece = vec![a];
                part = (part + 1) % (2 * dash.len());
                left = dash[part % dash.len()];
            }
        }
        if part % 2 == 0 { self.solid(&piece, ink) } else { Ok(()) }
    }

    fn solid(&mut self, points: &[(f64, f64)], ink: Ink) -> Result<(), Error> {
        let mut path: Vec<_> = points.iter().map(|p| unit(*p)).collect();
        path.dedup();
        if path.len() < 2 {
            return Ok(());
        }
        drawn(self.backend.draw_path(path, &ink))
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: &[(f64, f64)], ink: Ink) -> Result<(), Error> {
        drawn(self.backend.fill_polygon(points.iter().map(|p| unit(*p)), &ink))
    }

    /// A point of a series: filled, or white with an outline.
    pub fn marker(&mut self, marker: Marker, (x, y): (f64, f64), r: f64, ink: Ink, filled: bool) -> Result<(), Error> {
        if marker == Marker::Circle && filled {
            let radius = (r * SCALE).round() as u32;
            return drawn(self.backend.draw_circle(unit((x, y)), radius, &ink, true));
        }
        let corners = |turn: f64, n: usize, r: f64| -> Vec<(f64, f64)> {
            (0..n)
                .map(|i| (turn + i as f64 / n as f64) * std::f64::consts::TAU)
                .map(|a| (x + r * a.sin(), y - r * a.cos()))
                .collect()
        };
        let outline = match marker {
            Marker::Circle => corners(0.0, 16, r),
            Marker::Square => corners(0.125, 4, r * 1.25),
            Marker::Up => corners(0.0, 3, r * 1.35),
            Marker::Diamond => corners(0.0, 4, r * 1.3),
            Marker::Down => corners(0.5, 3, r * 1.35),
            Marker::Hexagon => corners(0.0, 6, r * 1.1),
            Marker::Left => corners(0.75, 3, r * 1.35),
            Marker::Right => corners(0.25, 3, r * 1.35),
        };
        if filled {
            return self.polygon(&outline, ink);
        }
        self.polygon(&outline, Ink::fill(crate::palette::WHITE))?;
        let closed: Vec<_> = outline.iter().chain(&outline[..1]).copied().collect();
        self.line(&closed, ink, &[])
    }

    /// Parallel strokes over a box, `step` apart, leaning by `slope` (0 level, 1 rising to the right).
    pub fn hatch(&mut self, r: Rect, slope: f64, step: f64, ink: Ink) -> Result<(), Error> {
        let drop = slope.abs() * r.w;
        let mut at = -drop + step / 2.0;
        while at < r.h + drop {
            let (left, right) = (at, at - slope * r.w);
            if let Some(piece) = r.clip((r.x, r.y + left), (r.right(), r.y + right)) {
                self.line(&piece, ink, &[])?;
            }
            at += step;
        }
        Ok(())
    }

    /// A line of text whose baseline goes through the point.
    pub fn text(&mut self, text: &str, at: (f64, f64), style: &Type) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        drawn(self.backend.draw_text(text, style, unit(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_font_has_the_signs_that_labels_need() {
        for bold in [false, true] {
            for c in "aZ09 −×·…≤≥≈∞√∂∑Δθλσμ←→↑↓⁰¹²³⁴⁵⁶⁷⁸⁹⁻₀₁₂₃₄₅₆₇₈₉ĉéü✔✘█─│".chars()
            {
                assert_ne!(face(bold).glyph_id(c).0, 0, "no glyph for {c:?}");
            }
        }
        assert!(text_width("wide", 12.0, true) > text_width("wide", 12.0, false));
    }

    #[test]
    fn long_text_is_wrapped_and_cut() {
        let lines = wrap("one two three four", 12.0, false, 60.0);
        assert!(lines.len() > 1 && lines.iter().all(|l| text_width(l, 12.0, false) <= 60.0));
        assert!(ellipsis("incomprehensibilities", 12.0, false, 50.0).ends_with('…'));
    }

    #[test]
    fn segments_are_clipped_to_the_box() {
        let r = Rect { x: 0.0, y: 0.0, w: 10.0, h: 10.0 };
        assert_eq!(r.clip((-10.0, 5.0), (20.0, 5.0)), Some([(0.0, 5.0), (10.0, 5.0)]));
        assert_eq!(r.clip((-10.0, 15.0), (20.0, 15.0)), None);
    }
}
