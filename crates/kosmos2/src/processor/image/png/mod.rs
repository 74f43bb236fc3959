//! PNG as Pillow 13 decodes it, including where Pillow deviates from the specification.

mod chunks;
mod layout;
mod metadata;
mod scanlines;

use image::RgbImage;

use super::error::{ImageError, undecodable};
use super::format::PictureFormat;
use super::limits::DecodeOptions;
use super::picture::Decoded;
use super::transparency::{Palette, on_white};
use chunks::Chunks;
use layout::{ColourType, Layout, Pass};

const MAX_COLOURS: usize = 256;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let chunks = Chunks::read(file, options)?;
    let scanlines = scanlines::decode(chunks.idat(), &chunks.layout, options)?;
    let mut rgb = RgbImage::new(chunks.layout.canvas[0] as u32, chunks.layout.canvas[1] as u32);
    convert(&scanlines, &chunks, &mut rgb)?;
    Ok((rgb, chunks.metadata.orientation()))
}

/// Converts samples to RGB, composited over white.
fn convert(scanlines: &[u8], chunks: &Chunks, rgb: &mut RgbImage) -> Result<(), ImageError> {
    let layout = &chunks.layout;
    // The transparent colour of tRNS. Pillow takes the low bytes of its samples, whatever the bit depth.
    let key = |at: usize| chunks.transparency.and_then(|key| key.get(2 * at + 1)).copied();
    let gray_or_key = |gray: u8, is_key: bool| if is_key { [255; 3] } else { [gray; 3] };
    match (layout.colour_type, layout.depth) {
        (ColourType::Gray, 16) => {
            let key = key(0);
            // Pillow clips 16-bit gray to 8 bits instead of scaling it.
            fill(scanlines, layout, rgb, |[high, low]| {
                let gray = if high == 0 { low } else { 255 };
                gray_or_key(gray, key == Some(gray))
            });
        }
        (ColourType::Gray, depth) => {
            // The largest sample becomes 255.
            let scale = 255 / ((1u16 << depth) - 1) as u8;
            let key = match depth {
                1 => chunks.transparency.map(|key| if key[..2] == [0, 0] { 0 } else { 255 }),
                _ => key(0),
            };
            let shades: [[u8; 3]; 256] = std::array::from_fn(|sample| {
                let gray = (sample as u8).wrapping_mul(scale);
                gray_or_key(gray, key == Some(gray))
            });
            fill_indexed(scanlines, layout, rgb, &shades);
        }
        (ColourType::Palette, _) => fill_indexed(scanlines, layout, rgb, &palette(chunks)?.on_white()),
        (ColourType::Rgb, depth) => {
            let key = key(0).zip(key(1)).zip(key(2)).map(|((red, green), blue)| [red, green, blue]);
            let shade = |colour: [u8; 3]| if key == Some(colour) { [255; 3] } else { colour };
            match depth {
                8 if key.is_none() => fill(scanlines, layout, rgb, |colour| colour),
                8 => fill(scanlines, layout, rgb, shade),
                // Pillow takes the high bytes of 16-bit samples.
                _ => fill(scanlines, layout, rgb, |[red, _, green, _, blue, _]| shade([red, green, blue])),
            }
        }
        (ColourType::GrayAlpha, 8) => fill(scanlines, layout, rgb, |[gray, alpha]| on_white([gray, gray, gray, alpha])),
        (ColourType::GrayAlpha, _) => {
            fill(scanlines, layout, rgb, |[gray, _, alpha, _]| on_white([gray, gray, gray, alpha]));
        }
        (ColourType::Rgba, 8) => fill(scanlines, layout, rgb, on_white),
        (ColourType::Rgba, _) => {
            fill(scanlines, layout, rgb, |[red, _, green, _, blue, _, alpha, _]| on_white([red, green, blue, alpha]));
        }
    }
    Ok(())
}

/// The palette with its alpha values from tRNS, one byte per colour.
fn palette(chunks: &Chunks) -> Result<Palette, ImageError> {
    let mut palette = Palette::new(chunks.palette.as_chunks().0.iter().copied());
    let Some(alphas) = chunks.transparency else { return Ok(palette) };
    // Pillow has a special case for exactly one transparent colour among opaque ones. It detects it with a regular
    // expression whose `$` also matches before a final line feed.
    let line = alphas.strip_suffix(b"\n").unwrap_or(alphas);
    let is_single =
        line.iter().all(|&alpha| alpha == 255 || alpha == 0) && line.iter().filter(|&&alpha| alpha == 0).count() == 1;
    let alphas = if is_single { line } else { alphas };
    let opaque_end = if is_single { alphas.iter().rev().take_while(|&&alpha| alpha == 255).count() } else { 0 };
    let stated = &alphas[..alphas.len() - opaque_end];
    if stated.len() > MAX_COLOURS {
        return Err(undecodable(PictureFormat::Png, "its tRNS chunk has more than 256 entries"));
    }
    for (index, &alpha) in (0..=255).zip(stated) {
        palette.set_alpha(index, alpha);
    }
    Ok(palette)
}

/// Converts pixels of at most one byte with a table.
fn fill_indexed(scanlines: &[u8], layout: &Layout, rgb: &mut RgbImage, shades: &[[u8; 3]; 256]) {
    let depth = usize::from(layout.depth);
    if depth == 8 {
        return fill(scanlines, layout, rgb, |[index]| shades[usize::from(index)]);
    }
    let (per_byte, mask) = (8 / depth, (1 << depth) - 1);
    for_each_scanline(scanlines, layout, rgb, shades[0], |scanline, row, pass| {
        for (x, pixel) in row.iter_mut().skip(pass.x).step_by(pass.column_step).enumerate() {
            let shift = 8 - depth - x % per_byte * depth;
            *pixel = shades[usize::from(scanline[x / per_byte] >> shift & mask)];
        }
    });
}

/// Converts pixels of `N` bytes with a function.
fn fill<const N: usize>(scanlines: &[u8], layout: &Layout, rgb: &mut RgbImage, shade: impl Fn([u8; N]) -> [u8; 3]) {
    for_each_scanline(scanlines, layout, rgb, shade([0; N]), |scanline, row, pass| {
        let stored = scanline.as_chunks::<N>().0;
        let put = |(pixel, stored): (&mut [u8; 3], &[u8; N])| *pixel = shade(*stored);
        // Separate because the compiler vectorizes it.
        match (pass.x, pass.column_step) {
            (0, 1) => row.iter_mut().zip(stored).for_each(put),
            (x, step) => row.iter_mut().skip(x).step_by(step).zip(stored).for_each(put),
        }
    });
}

/// Calls `draw` with each scanline, the row of the picture that it belongs to, and its pass. The area outside of a
/// smaller frame becomes `blank`: in Pillow, a pixel of zeros.
fn for_each_scanline(
    scanlines: &[u8],
    layout: &Layout,
    rgb: &mut RgbImage,
    blank: [u8; 3],
    draw: impl Fn(&[u8], &mut [[u8; 3]], &Pass),
) {
    let ([canvas_width, _], [left, top]) = (layout.canvas, layout.offset);
    let pixels = rgb.as_chunks_mut::<3>().0;
    if !layout.fills_the_canvas() {
        pixels.fill(blank);
    }
    let mut rest = scanlines;
    for pass in layout.passes() {
        let (scanlines, after) = rest.split_at((pass.scanline_bytes + 1) * pass.scanlines);
        rest = after;
        let rows = (top + pass.y..).step_by(pass.row_step);
        for (scanline, y) in scanlines.chunks_exact(pass.scanline_bytes + 1).zip(rows) {
            draw(&scanline[1..], &mut pixels[y * canvas_width + left..][..layout.width], &pass);
        }
    }
}
