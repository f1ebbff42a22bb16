//! The few strokes that figures are made of, over any plotters back end.
//!
//! Coordinates are CSS pixels. Back ends count in quarters of them ([`SCALE`]), because their coordinates are whole
//! numbers, and lines and text would otherwise miss their positions.

use plotters_backend::{BackendColor, BackendCoord, BackendStyle, DrawingBackend, DrawingErrorKind};

use crate::{
    error::Error,
    palette::{Rgb, WHITE},
    text::Type,
};

/// Back-end units in one CSS pixel.
pub(crate) const SCALE: f64 = 4.0;

pub(crate) fn backend_colour(rgb: Rgb, alpha: f64) -> BackendColor {
    BackendColor { alpha, rgb: (rgb[0], rgb[1], rgb[2]) }
}

/// A stroke or fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ink {
    pub colour: Rgb,
    pub alpha: f64,
    /// In CSS pixels; ignored by fills.
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
        backend_colour(self.colour, self.alpha)
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

/// The calls of a plotters back end that figures use, in back-end units.
///
/// Unlike plotters' own trait this one can be a trait object, so that drawing code is not generic.
trait Surface {
    fn fill(&mut self, polygon: Vec<BackendCoord>, ink: Ink) -> Result<(), Error>;
    fn stroke(&mut self, path: Vec<BackendCoord>, ink: Ink) -> Result<(), Error>;
    fn disc(&mut self, centre: BackendCoord, radius: u32, ink: Ink) -> Result<(), Error>;
    fn write(&mut self, text: &str, at: BackendCoord, style: &Type) -> Result<(), Error>;
    fn finish(&mut self) -> Result<(), Error>;
}

impl<B: DrawingBackend> Surface for B {
    fn fill(&mut self, polygon: Vec<BackendCoord>, ink: Ink) -> Result<(), Error> {
        drawn(self.fill_polygon(polygon, &ink))
    }

    fn stroke(&mut self, path: Vec<BackendCoord>, ink: Ink) -> Result<(), Error> {
        drawn(self.draw_path(path, &ink))
    }

    fn disc(&mut self, centre: BackendCoord, radius: u32, ink: Ink) -> Result<(), Error> {
        drawn(self.draw_circle(centre, radius, &ink, true))
    }

    fn write(&mut self, text: &str, at: BackendCoord, style: &Type) -> Result<(), Error> {
        drawn(self.draw_text(text, style, at))
    }

    fn finish(&mut self) -> Result<(), Error> {
        drawn(self.present())
    }
}

fn drawn<E: std::error::Error + Send + Sync>(result: Result<(), DrawingErrorKind<E>>) -> Result<(), Error> {
    result.map_err(|e| Error::Backend(e.to_string()))
}

/// A back end that is drawn on in CSS pixels.
pub(crate) struct Canvas<'b> {
    surface: Box<dyn Surface + 'b>,
}

fn unit((x, y): (f64, f64)) -> BackendCoord {
    ((x * SCALE).round() as i32, (y * SCALE).round() as i32)
}

impl<'b> Canvas<'b> {
    pub fn new(backend: impl DrawingBackend + 'b) -> Self {
        Self { surface: Box::new(backend) }
    }

    pub fn finish(mut self) -> Result<(), Error> {
        self.surface.finish()
    }

    /// A filled box.
    pub fn rect(&mut self, r: Rect, ink: Ink) -> Result<(), Error> {
        let (a, b) = (unit((r.x, r.y)), unit((r.right(), r.bottom())));
        // plotters' bitmaps draw both ends, its SVG the difference: polygons agree on both
        self.surface.fill(vec![a, (b.0, a.1), b, (a.0, b.1)], ink)
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
        self.surface.stroke(path, ink)
    }

    /// A filled polygon.
    pub fn polygon(&mut self, points: &[(f64, f64)], ink: Ink) -> Result<(), Error> {
        self.surface.fill(points.iter().map(|p| unit(*p)).collect(), ink)
    }

    /// A point of a series: filled, or white with an outline.
    pub fn marker(&mut self, marker: Marker, (x, y): (f64, f64), r: f64, ink: Ink, filled: bool) -> Result<(), Error> {
        if marker == Marker::Circle && filled {
            let radius = (r * SCALE).round() as u32;
            return self.surface.disc(unit((x, y)), radius, ink);
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
        self.polygon(&outline, Ink::fill(WHITE))?;
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

    /// White strokes that tell the filled shapes of different series apart without colour.
    pub fn pattern(&mut self, r: Rect, series: usize) -> Result<(), Error> {
        let ink = Ink::new(WHITE, 1.2);
        match series % 4 {
            1 => self.hatch(r, 1.0, 7.0, ink),
            2 => self.hatch(r, -1.0, 7.0, ink),
            3 => self.hatch(r, 0.0, 5.0, ink),
            _ => Ok(()),
        }
    }

    /// A line of text whose baseline goes through the point.
    pub fn text(&mut self, text: &str, at: (f64, f64), style: &Type) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        self.surface.write(text, unit(at), style)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_clipped_to_the_box() {
        let r = Rect { x: 0.0, y: 0.0, w: 10.0, h: 10.0 };
        assert_eq!(r.clip((-10.0, 5.0), (20.0, 5.0)), Some([(0.0, 5.0), (10.0, 5.0)]));
        assert_eq!(r.clip((-10.0, 15.0), (20.0, 15.0)), None);
    }
}
