//! PNG files.

use plotters::backend::BitMapBackend;

use crate::{
    canvas::{Canvas, SCALE},
    error::Error,
    plot::Plot,
};

/// Draws a plot as a PNG file with two pixels per CSS pixel.
pub(crate) fn png(plot: &Plot) -> Result<Vec<u8>, Error> {
    let units = (plot.size.0 as u32 * SCALE as u32, plot.size.1 as u32 * SCALE as u32);
    let mut pixels = vec![255; units.0 as usize * units.1 as usize * 3];
    let mut canvas = Canvas::new(BitMapBackend::with_buffer(&mut pixels, units));
    plot.paint(&mut canvas)?;
    canvas.finish()?;
    encode(&halve(&pixels, units.0 as usize), units.0 / 2, units.1 / 2)
}

/// Averages every 2 × 2 pixels, which smooths plotters' edges.
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

fn encode(pixels: &[u8], width: u32, height: u32) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Best);
    // flat colours repeat better unfiltered
    encoder.set_filter(png::FilterType::NoFilter);
    let fail = |e: png::EncodingError| Error::Backend(e.to_string());
    let mut writer = encoder.write_header().map_err(fail)?;
    writer.write_image_data(pixels).map_err(fail)?;
    writer.finish().map_err(fail)?;
    Ok(bytes)
}
