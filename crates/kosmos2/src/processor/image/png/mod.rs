//! PNG as Pillow 13 reads it, also where Pillow departs from the standard.

mod chunks;
mod layout;
mod metadata;
mod rows;

use image::RgbImage;

use super::decode::{Decoded, ImageError, PictureFormat, undecodable};
use super::limits::DecodeOptions;
use super::transparency::{Palette, on_white};
use chunks::Chunks;
use layout::{Colours, Layout};

const MOST_COLOURS: usize = 256;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let chunks = Chunks::read(file, options)?;
    let rows = rows::unpack(&chunks.pixels, &chunks.layout, options)?;
    let mut rgb = RgbImage::new(chunks.layout.canvas[0] as u32, chunks.layout.canvas[1] as u32);
    paint(&rows, &chunks, &mut rgb)?;
    Ok((rgb, chunks.metadata.orientation()))
}

/// Samples to colours over white.
fn paint(rows: &[u8], chunks: &Chunks, rgb: &mut RgbImage) -> Result<(), ImageError> {
    let layout = &chunks.layout;
    // The transparent colour, of whose samples Pillow takes the low bytes, whatever the depth.
    let key = |at: usize| chunks.transparency.and_then(|key| key.get(2 * at + 1)).copied();
    let gray_or_key = |gray: u8, is_key: bool| if is_key { [255; 3] } else { [gray; 3] };
    match (layout.colours, layout.depth) {
        (Colours::Gray, 16) => {
            let key = key(0);
            // Pillow keeps 16-bit gray as it is and clips it on the way to 8 bits.
            fill(rows, layout, rgb, |row, x| match (row[2 * x], row[2 * x + 1]) {
                (0, gray) => gray_or_key(gray, key == Some(gray)),
                _ => gray_or_key(255, key == Some(255)),
            });
        }
        (Colours::Gray, depth) => {
            // Of the deepest sample, 255.
            let scale = 255 / ((1u16 << depth) - 1) as u8;
            let key = match depth {
                1 => chunks.transparency.map(|key| if key[..2] == [0, 0] { 0 } else { 255 }),
                _ => key(0),
            };
            let shades: [[u8; 3]; 256] = std::array::from_fn(|sample| {
                let gray = (sample as u8).wrapping_mul(scale);
                gray_or_key(gray, key == Some(gray))
            });
            fill_indexed(rows, layout, rgb, &shades);
        }
        (Colours::Palette, _) => fill_indexed(rows, layout, rgb, &palette(chunks)?.on_white()),
        (Colours::Rgb, depth) => {
            let key = key(0).zip(key(1)).zip(key(2)).map(|((red, green), blue)| [red, green, blue]);
            let shade = |colour: [u8; 3]| if key == Some(colour) { [255; 3] } else { colour };
            match depth {
                8 => fill(rows, layout, rgb, |row, x| shade([row[3 * x], row[3 * x + 1], row[3 * x + 2]])),
                // Of deeper samples Pillow takes the high bytes.
                _ => fill(rows, layout, rgb, |row, x| shade([row[6 * x], row[6 * x + 2], row[6 * x + 4]])),
            }
        }
        (Colours::GrayAlpha, depth) => {
            let sample = usize::from(depth / 8);
            fill(rows, layout, rgb, |row, x| {
                let gray = row[2 * sample * x];
                on_white([gray, gray, gray, row[2 * sample * x + sample]])
            });
        }
        (Colours::Rgba, depth) => {
            let sample = usize::from(depth / 8);
            fill(rows, layout, rgb, |row, x| on_white(std::array::from_fn(|channel| row[(4 * x + channel) * sample])));
        }
    }
    Ok(())
}

/// The palette with its transparency, one byte for each colour.
fn palette(chunks: &Chunks) -> Result<Palette, ImageError> {
    let mut palette = Palette::new(chunks.palette.as_chunks().0.iter().copied());
    let Some(alphas) = chunks.transparency else { return Ok(palette) };
    // Pillow looks for a single transparent colour among opaque ones, up to a last byte that is a line feed.
    let line = alphas.strip_suffix(b"\n").unwrap_or(alphas);
    let is_single =
        line.iter().all(|&alpha| alpha == 255 || alpha == 0) && line.iter().filter(|&&alpha| alpha == 0).count() == 1;
    let alphas = if is_single { line } else { alphas };
    let opaque_end = if is_single { alphas.iter().rev().take_while(|&&alpha| alpha == 255).count() } else { 0 };
    let stated = &alphas[..alphas.len() - opaque_end];
    if stated.len() > MOST_COLOURS {
        return Err(undecodable(PictureFormat::Png, "its tRNS chunk has more than 256 entries"));
    }
    for (index, &alpha) in (0..=255).zip(stated) {
        palette.set_alpha(index, alpha);
    }
    Ok(palette)
}

fn fill_indexed(rows: &[u8], layout: &Layout, rgb: &mut RgbImage, shades: &[[u8; 3]; 256]) {
    let depth = usize::from(layout.depth);
    if depth == 8 {
        return fill(rows, layout, rgb, |row, x| shades[usize::from(row[x])]);
    }
    let (per_byte, mask) = (8 / depth, (1 << depth) - 1);
    fill(rows, layout, rgb, |row, x| {
        let shift = 8 - depth - x % per_byte * depth;
        shades[usize::from(row[x / per_byte] >> shift & mask)]
    });
}

/// Puts every stored pixel, told by its row and its place there, where it belongs.
fn fill(rows: &[u8], layout: &Layout, rgb: &mut RgbImage, shade: impl Fn(&[u8], usize) -> [u8; 3]) {
    let ([canvas_width, _], [left, top]) = (layout.canvas, layout.place);
    let pixels = rgb.as_chunks_mut::<3>().0;
    if !layout.fills_the_canvas() {
        // What a frame leaves free looks like a pixel of zeros.
        pixels.fill(shade(&[0; 8], 0));
    }
    let mut rest = rows;
    for pass in layout.passes() {
        let (rows, behind) = rest.split_at((pass.row + 1) * pass.rows);
        rest = behind;
        for (row, y) in rows.chunks_exact(pass.row + 1).zip((top + pass.y..).step_by(pass.down)) {
            let line = pixels[y * canvas_width + left..].iter_mut().take(layout.width);
            let line = line.skip(pass.x).step_by(pass.across);
            for (x, pixel) in line.enumerate() {
                *pixel = shade(&row[1..], x);
            }
        }
    }
}
