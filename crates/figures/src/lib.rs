//! Tables to pictures: a figure of a configuration and its table become an SVG document or a PNG file.
//!
//! [`draw`] selects the rows, chooses the scales and lays the figure out; the [`Picture`] then writes either format.
//! The bytes depend on the figure and its tables alone: the font is bundled, and nothing asks for the time, the
//! system's locale or the number of threads.
//!
//! ```
//! use config::{Figure, yaml};
//! use tables::{Schema, Table, row};
//!
//! let schema = Schema::new("losses", "one row per step")
//!     .int("step", "optimiser step")
//!     .float("loss", "cross-entropy", "nats");
//! let table = Table::from_rows(schema, [row![0, 2.3], row![500, 1.1], row![1000, 0.4]])?;
//! let figure: Figure = yaml::from_str(
//!     "{id: losses, artefact: F1, title: Training, kind: line, table: losses, x: step, y: loss}",
//!     "example",
//! )?;
//!
//! let picture = figures::draw(&figure, &table, true)?;
//! let svg = picture.svg()?;
//! assert!(svg.starts_with("<svg") && svg.contains("loss (nats)"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # From a table to a picture
//!
//! 1. `select` applies `where` and `order`, and turns rows into marks: numbers, or indices of categories.
//! 2. `chart` asks the kind of the figure for its axes and its colour scale.
//! 3. `plot` gives panels, ticks, legend and colour bar their positions, in CSS pixels.
//! 4. `frame` draws titles, grid and axes of each panel, and the kind draws its marks.
//!
//! A legend never hides data, because it stands above the panels; panels of one figure share their scales.
//! Colours survive colour blindness and a grey printer: every series also has its own marker, dash or hatch.
//!
//! # Kinds
//!
//! Each kind is one file in `kinds/` that implements one trait. To add a kind, add a variant to
//! [`FigureKind`](config::FigureKind) with the row of keys that it uses; the compiler then asks for the file.
//!
//! plotters serves as the writer of both formats and nothing else: its own charts put legends over the data and do not
//! share scales between panels.

mod bitmap;
mod canvas;
mod chart;
mod colours;
mod error;
mod frame;
mod kinds;
mod legend;
mod levels;
pub mod number;
mod palette;
mod panel;
mod plot;

mod scale;
mod select;
mod style;
mod svg;
mod text;
mod ticks;

use config::Figure;
use tables::Table;

pub use crate::error::Error;
use crate::plot::Plot;

/// The tables of a figure.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// The figure's own table.
    pub table: &'a Table,
    /// The table of its `overlay`, whose rows are drawn hollow and dashed.
    pub overlay: Option<&'a Table>,
    /// The table of its `links`, the line segments of a `scatter_3d`.
    pub links: Option<&'a Table>,
}

impl<'a> From<&'a Table> for Tables<'a> {
    fn from(table: &'a Table) -> Self {
        Self { table, overlay: None, links: None }
    }
}

/// A figure with every position decided.
pub struct Picture<'a> {
    plot: Plot<'a>,
}

/// Lays out a figure over its tables.
///
/// `strict` is off for a run that is still going: values that the figure asks for and that have not come yet are then
/// a note and not an error.
///
/// # Errors
/// When the figure lacks a key that its kind requires or has one that means nothing to it, or when it asks for a column,
/// value or row that is not there; the message names the nearest that are.
pub fn draw<'f, 't>(figure: &'f Figure, tables: impl Into<Tables<'t>>, strict: bool) -> Result<Picture<'f>, Error> {
    let tables = tables.into();
    let selection = select::select(figure, tables, strict)?;
    let label = figure.overlay.as_ref().filter(|_| tables.overlay.is_some()).map(|o| o.label.as_str());
    Ok(Picture { plot: Plot::new(figure, selection, label) })
}

impl Picture<'_> {
    /// The picture as an SVG document.
    ///
    /// Its `desc` element holds the notes, and its `metadata` element the data from which a page can rotate a
    /// `scatter_3d`.
    ///
    /// # Errors
    /// When plotters fails.
    pub fn svg(&self) -> Result<String, Error> {
        svg::svg(&self.plot)
    }

    /// The picture as a PNG file, with two pixels per CSS pixel.
    ///
    /// # Errors
    /// When plotters or the encoder fails.
    pub fn png(&self) -> Result<Vec<u8>, Error> {
        bitmap::png(&self.plot)
    }

    /// Sentences that a reader should know: means over rows, thinned points, values that are missing.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.plot.notes()
    }
}

#[cfg(test)]
mod tests;
