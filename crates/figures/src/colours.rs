//! The colour scale of a heat map, and the bar beside the panels that explains it.

use crate::{
    canvas::{Canvas, Ink, Rect},
    error::Error,
    palette::{self, AXIS, INK, Rgb},
    scale::{Axis, Tick},
    style::{LABEL, TICK},
    text::{Anchor, CAP, Type, ellipsis, text_width},
};

/// Colours of values.
#[derive(Clone, Debug)]
pub(crate) struct Colours {
    pub axis: Axis,
    /// Blue over white to red, in place of viridis.
    pub diverging: bool,
}

impl Colours {
    /// Colour of a value.
    pub fn of(&self, value: f64) -> Rgb {
        self.at(self.axis.at(value))
    }

    /// Colour at a share of the axis.
    fn at(&self, share: f64) -> Rgb {
        if self.diverging { palette::diverging(share) } else { palette::viridis(share) }
    }
}

/// The bar, laid out.
#[derive(Clone, Debug)]
pub(crate) struct ColourBar {
    pub rect: Rect,
    pub ticks: Vec<Tick>,
}

impl ColourBar {
    /// Draws the bar with its ticks and label.
    pub fn paint(&self, canvas: &mut Canvas, colours: &Colours, label: &str) -> Result<(), Error> {
        let r = self.rect;
        let steps = 64;
        for i in 0..steps {
            let share = f64::from(i) / f64::from(steps);
            let slice = r.h / f64::from(steps);
            let top = r.bottom() - (share * r.h) - slice;
            // a pixel over the slice below, so that no seam shows between them
            let tall = if i == 0 { slice } else { slice + 1.0 };
            let colour = colours.at(f64::from(i) / f64::from(steps - 1));
            canvas.rect(Rect { x: r.x, y: top, w: r.w, h: tall }, Ink::fill(colour))?;
        }
        let ink = Ink::new(AXIS, 1.0);
        canvas.frame(r, ink, &[])?;
        let mut widest = 0.0f64;
        for tick in &self.ticks {
            let y = r.bottom() - colours.axis.at(tick.value) * r.h;
            canvas.line(&[(r.right(), y), (r.right() + 3.0, y)], ink, &[])?;
            let style = Type::new(TICK, INK, Anchor::Start);
            canvas.text(&tick.label, (r.right() + 6.0, y + TICK * CAP / 2.0), &style)?;
            widest = widest.max(text_width(&tick.label, TICK, false));
        }
        let label = ellipsis(label, LABEL, false, r.h + 40.0);
        let at = (r.right() + 6.0 + widest + 16.0, r.y + r.h / 2.0);
        canvas.text(&label, at, &Type::new(LABEL, INK, Anchor::Middle).rotated())
    }
}
