//! Tables and a figure list in; SVG, PNG, `report.md` and one self-contained HTML page out.
//!
//! Nothing here measures: everything is read from run folders, so it can be drawn as often as one likes.
//! [`draw`] makes one picture, [`experiment`] brings the picture part of a run folder up to date,
//! [`join`] makes one folder of a sweep's points, [`index`] writes the page and its JSON twin over all runs.
//!
//! plotters is used for its back ends only: layout, scales, ticks and text are ours, because its charts neither
//! keep legends off the data nor share scales between panels.
//! The same code draws both formats and the bytes depend on the table and the figure alone.

mod board;
mod canvas;
mod error;
mod experiment;
mod join;
pub mod number;
mod page;
mod palette;
mod plot;
mod report;
mod run;
mod scale;
mod select;
mod space;

use config::Figure;
use plotters::backend::{BitMapBackend, SVGBackend};
use tables::Table;

use crate::canvas::{Canvas, FAMILY, SCALE};
pub use crate::{
    board::scoreboard,
    error::Error,
    experiment::experiment,
    join::{PointFolder, join},
    page::index,
    run::{Run, runs},
};

/// A drawn figure.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The SVG document.
    pub svg: String,
    /// The PNG file at two pixels per CSS pixel.
    pub png: Vec<u8>,
    /// What a reader should know about the drawing, in sentences.
    pub notes: Vec<String>,
}

/// Draws a figure from its table, its overlay's and, for a scatter in space, that of its straight lines.
///
/// `strict` is off for a run that is still going: values that the figure asks for and that have not come yet
/// are then a note and not an error.
///
/// # Errors
/// When the figure asks for a column, value or row that is not there, with the nearest names,
/// or for keys that its kind has no use for.
pub fn draw(
    figure: &Figure,
    table: &Table,
    overlay: Option<&Table>,
    links: Option<&Table>,
    strict: bool,
) -> Result<Picture, Error> {
    let selection = select::select(figure, table, overlay, links, strict)?;
    let label = figure.overlay.as_ref().map(|o| o.label.as_str());
    let plan = plot::Plan::new(figure, selection, label.filter(|_| overlay.is_some()))?;
    let (width, height) = (plan.size.0 as u32, plan.size.1 as u32);
    let units = (width * SCALE as u32, height * SCALE as u32);

    let mut svg = String::new();
    let mut canvas = Canvas::new(SVGBackend::with_string(&mut svg, units));
    plan.paint(&mut canvas)?;
    canvas.finish()?;

    let mut pixels = vec![255; units.0 as usize * units.1 as usize * 3];
    let mut canvas = Canvas::new(BitMapBackend::with_buffer(&mut pixels, units));
    plan.paint(&mut canvas)?;
    canvas.finish()?;

    let picture = Picture {
        svg: tidy(&svg, width, height, units, plan.notes(), plan.turnable()),
        png: png(&halve(&pixels, units.0 as usize), units.0 / 2, units.1 / 2)?,
        notes: plan.notes().to_vec(),
    };
    Ok(picture)
}

/// The SVG in CSS pixels with the notes as its description and the font named once, in a stack that has the same widths nearly everywhere.
fn tidy(
    svg: &str,
    width: u32,
    height: u32,
    units: (u32, u32),
    notes: &[String],
    turnable: Option<serde_json::Value>,
) -> String {
    let plain = format!("<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\"", units.0, units.1);
    let ours = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\" stroke-linejoin=\"round\" \
         font-family=\"{FAMILY},Verdana,Bitstream Vera Sans,sans-serif\"",
        units.0, units.1
    );
    // quotes inside of text are escaped, so these are attributes
    // quotes may stay: this is no attribute
    let notes = notes.join(" ").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let desc = if notes.is_empty() { ">".to_string() } else { format!(">\n<desc>{notes}</desc>") };
    // in a text of JSON, these two can be written in another way
    let json = turnable.map(|scene| scene.to_string().replace('<', "\\u003c").replace('&', "\\u0026"));
    let desc = format!("{desc}{}", json.map(|json| format!("\n<metadata>{json}</metadata>")).unwrap_or_default());
    let svg = svg.replacen(&plain, &ours, 1);
    let mut pieces = svg.split(" font-size=\"");
    let mut tidied = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let (size, rest) = piece.split_once('"').unwrap_or((piece, ""));
        let size = size.parse::<f64>().map_or(size.to_string(), |s| format!("{}", (s * 100.0).round() / 100.0));
        tidied.push_str(&format!(" font-size=\"{size}\"{rest}"));
    }
    tidied
        .replace(&format!(" font-family=\"{FAMILY}\""), "")
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" dy=\"0.5ex\"", "")
        .replace(" \"/>", "\"/>")
        .replace("\n</text>", "</text>")
        .replacen('>', &desc, 1)
}

/// Every 2 × 2 pixels as one, which smooths plotters' edges.
fn halve(pixels: &[u8], width: usize) -> Vec<u8> {
    let mut half = Vec::with_capacity(pixels.len() / 4);
    for pair in pixels.chunks_exact(width * 6) {
        let (upper, lower) = pair.split_at(width * 3);
        for x in (0..width * 3).step_by(6) {
            for c in x..x + 3 {
                let sum = [upper[c], upper[c + 3], lower[c], lower[c + 3]].map(u16::from).iter().sum::<u16>();
                half.push(((sum + 2) / 4) as u8);
            }
        }
    }
    half
}

fn png(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Best);
    // flat colours repeat better unfiltered
    encoder.set_filter(png::FilterType::NoFilter);
    let fail = |e: png::EncodingError| Error::Draw(e.to_string());
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(pixels).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
