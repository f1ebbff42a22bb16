//! Text in the bundled font: measured, wrapped, and drawn into bitmaps.
//!
//! The font is part of the program, so that a bare machine lays out and draws the same picture.

use std::sync::LazyLock;

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont as _, point};
use plotters_backend::{
    BackendColor, BackendTextStyle, FontFamily, FontStyle, FontTransform,
    text_anchor::{HPos, Pos, VPos},
};

use crate::{
    canvas::{SCALE, backend_colour},
    palette::Rgb,
};

/// The bundled font's family name.
pub(crate) const FAMILY: &str = "DejaVu Sans";

/// Height of capital letters and digits over the type size.
pub(crate) const CAP: f64 = 0.73;

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

/// The part of a line of text that lies at its point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Size, weight, colour, anchor and direction of a text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Type {
    pub size: f64,
    pub bold: bool,
    pub ink: Rgb,
    pub anchor: Anchor,
    /// Reads from bottom to top.
    pub rotated: bool,
}

impl Type {
    pub fn new(size: f64, ink: Rgb, anchor: Anchor) -> Self {
        Self { size, bold: false, ink, anchor, rotated: false }
    }

    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    pub fn rotated(self) -> Self {
        Self { rotated: true, ..self }
    }
}

impl BackendTextStyle for Type {
    type FontError = std::convert::Infallible;

    fn color(&self) -> BackendColor {
        backend_colour(self.ink, 1.0)
    }

    fn size(&self) -> f64 {
        // the SVG back end divides by 1.24 to get from line height to em
        self.size * SCALE * 1.24
    }

    fn transform(&self) -> FontTransform {
        if self.rotated { FontTransform::Rotate270 } else { FontTransform::None }
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

    /// A box without height, so that the point given lies on the baseline.
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
                    && let Err(e) = draw(x, y, backend_colour(self.ink, f64::from(share.min(1.0))))
                {
                    return Ok(Err(e));
                }
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_font_has_the_characters_of_labels() {
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
}
