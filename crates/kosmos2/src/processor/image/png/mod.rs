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
use layout::{Colours, Layout, Pass};

const MOST_COLOURS: usize = 256;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let chunks = Chunks::read(file, options)?;
    let rows = rows::unpack(chunks.pixels(), &chunks.layout, options)?;
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
            fill(rows, layout, rgb, |[high, low]| {
                let gray = if high == 0 { low } else { 255 };
                gray_or_key(gray, key == Some(gray))
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
                8 if key.is_none() => fill(rows, layout, rgb, |colour| colour),
                8 => fill(rows, layout, rgb, shade),
                // Of deeper samples Pillow takes the high bytes.
                _ => fill(rows, layout, rgb, |[red, _, green, _, blue, _]| shade([red, green, blue])),
            }
        }
        (Colours::GrayAlpha, 8) => fill(rows, layout, rgb, |[gray, alpha]| on_white([gray, gray, gray, alpha])),
        (Colours::GrayAlpha, _) => {
            fill(rows, layout, rgb, |[gray, _, alpha, _]| on_white([gray, gray, gray, alpha]));
        }
        (Colours::Rgba, 8) => fill(rows, layout, rgb, on_white),
        (Colours::Rgba, _) => {
            fill(rows, layout, rgb, |[red, _, green, _, blue, _, alpha, _]| on_white([red, green, blue, alpha]));
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

/// Puts pixels of one byte or less where they belong.
fn fill_indexed(rows: &[u8], layout: &Layout, rgb: &mut RgbImage, shades: &[[u8; 3]; 256]) {
    let depth = usize::from(layout.depth);
    if depth == 8 {
        return fill(rows, layout, rgb, |[index]| shades[usize::from(index)]);
    }
    let (per_byte, mask) = (8 / depth, (1 << depth) - 1);
    for_each_row(rows, layout, rgb, shades[0], |row, line, pass| {
        for (x, pixel) in line.iter_mut().skip(pass.x).step_by(pass.across).enumerate() {
            let shift = 8 - depth - x % per_byte * depth;
            *pixel = shades[usize::from(row[x / per_byte] >> shift & mask)];
        }
    });
}

/// Puts pixels of `N` bytes where they belong.
fn fill<const N: usize>(rows: &[u8], layout: &Layout, rgb: &mut RgbImage, shade: impl Fn([u8; N]) -> [u8; 3]) {
    for_each_row(rows, layout, rgb, shade([0; N]), |row, line, pass| {
        let stored = row.as_chunks::<N>().0;
        let put = |(pixel, stored): (&mut [u8; 3], &[u8; N])| *pixel = shade(*stored);
        // The usual case, which the compiler makes fast.
        match (pass.x, pass.across) {
            (0, 1) => line.iter_mut().zip(stored).for_each(put),
            (x, across) => line.iter_mut().skip(x).step_by(across).zip(stored).for_each(put),
        }
    });
}

/// Calls `draw` with each stored row, the line of the picture that it belongs to, and the pass that it is of. What a
/// frame leaves free looks like a pixel of zeros: `blank`.
fn for_each_row(
    rows: &[u8],
    layout: &Layout,
    rgb: &mut RgbImage,
    blank: [u8; 3],
    draw: impl Fn(&[u8], &mut [[u8; 3]], &Pass),
) {
    let ([canvas_width, _], [left, top]) = (layout.canvas, layout.place);
    let pixels = rgb.as_chunks_mut::<3>().0;
    if !layout.fills_the_canvas() {
        pixels.fill(blank);
    }
    let mut rest = rows;
    for pass in layout.passes() {
        let (rows, behind) = rest.split_at((pass.row + 1) * pass.rows);
        rest = behind;
        for (row, y) in rows.chunks_exact(pass.row + 1).zip((top + pass.y..).step_by(pass.down)) {
            draw(&row[1..], &mut pixels[y * canvas_width + left..][..layout.width], &pass);
        }
    }
}
