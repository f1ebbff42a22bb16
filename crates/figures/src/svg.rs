//! SVG documents, tidied.

use plotters::backend::SVGBackend;

use crate::{
    canvas::{Canvas, SCALE},
    error::Error,
    plot::Plot,
    text::FAMILY,
};

/// Draws a plot as an SVG document.
pub(crate) fn svg(plot: &Plot) -> Result<String, Error> {
    let (width, height) = (plot.size.0 as u32, plot.size.1 as u32);
    let units = (width * SCALE as u32, height * SCALE as u32);
    let mut svg = String::new();
    let mut canvas = Canvas::new(SVGBackend::with_string(&mut svg, units));
    plot.paint(&mut canvas)?;
    canvas.finish()?;
    Ok(tidy(&svg, (width, height), units, &extras(plot)))
}

/// The elements after the opening tag: notes as the description, and the scene of a rotatable figure.
fn extras(plot: &Plot) -> String {
    // quotes may stay, because neither element is an attribute
    let notes = plot.notes().join(" ").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let desc = if notes.is_empty() { String::new() } else { format!("\n<desc>{notes}</desc>") };
    // inside strings of JSON, these two have another spelling
    let json = plot.scene().map(|scene| scene.to_string().replace('<', "\\u003c").replace('&', "\\u0026"));
    let metadata = json.map(|json| format!("\n<metadata>{json}</metadata>")).unwrap_or_default();
    format!("{desc}{metadata}")
}

/// The document in CSS pixels, without what is repeated in every element.
///
/// The font is named once, followed by fonts that have the same widths nearly everywhere.
fn tidy(svg: &str, (width, height): (u32, u32), units: (u32, u32), extras: &str) -> String {
    let plain = format!("<svg width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\"", units.0, units.1);
    let ours = format!(
        "<svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {} {}\" stroke-linejoin=\"round\" \
         font-family=\"{FAMILY},Verdana,Bitstream Vera Sans,sans-serif\"",
        units.0, units.1
    );
    // quotes inside of text are escaped, so everything replaced here is an attribute
    round_font_sizes(&svg.replacen(&plain, &ours, 1))
        .replace(&format!(" font-family=\"{FAMILY}\""), "")
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" dy=\"0.5ex\"", "")
        .replace(" \"/>", "\"/>")
        .replace("\n</text>", "</text>")
        .replacen('>', &format!(">{extras}"), 1)
}

fn round_font_sizes(svg: &str) -> String {
    let mut pieces = svg.split(" font-size=\"");
    let mut rounded = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let (size, rest) = piece.split_once('"').unwrap_or((piece, ""));
        let size = size.parse::<f64>().map_or(size.to_string(), |s| format!("{}", (s * 100.0).round() / 100.0));
        rounded.push_str(&format!(" font-size=\"{size}\"{rest}"));
    }
    rounded
}
