//! Uncompressed BMP pixels.

use image::RgbImage;

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::limits::DecodeOptions;
use super::super::transparency::on_white;
use super::header::{Bitmap, Channels};

pub(super) fn decode(bitmap: &Bitmap, options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    let width = bitmap.width as usize;
    let row_bytes = match bitmap.channels {
        Channels::Indices(bits) => (width * bits).div_ceil(8),
        Channels::Rgb555 | Channels::Rgb565 => width * 2,
        Channels::Bytes(size, ..) => width * size,
    };
    if row_bytes > bitmap.stride {
        return Err(undecodable(PictureFormat::Bmp, "its rows are too short for its width"));
    }
    // Like Pillow, the last row may lack its padding.
    let needed = bitmap.stride * (bitmap.height as usize - 1) + row_bytes;
    if bitmap.data.len() < needed {
        return Err(undecodable(PictureFormat::Bmp, "its pixel data ends early"));
    }
    let mut rgb = RgbImage::new(bitmap.width, bitmap.height);
    let pixels = rgb.as_chunks_mut::<3>().0;
    for (stored, y) in bitmap.data.chunks(bitmap.stride).zip(bitmap.row_order()) {
        options.check_deadline()?;
        let row = &mut pixels[y as usize * width..][..width];
        match bitmap.channels {
            Channels::Indices(bits) => fill(row, |x| {
                let (per_byte, mask) = (8 / bits, (1u16 << bits) - 1);
                let shift = 8 - bits - x % per_byte * bits;
                bitmap.palette[usize::from(u16::from(stored[x / per_byte]) >> shift & mask)]
            }),
            Channels::Rgb555 => fill(row, |x| {
                let pixel = u16_pixel(stored, x);
                [scaled(pixel >> 10, 31), scaled(pixel >> 5, 31), scaled(pixel, 31)]
            }),
            Channels::Rgb565 => fill(row, |x| {
                let pixel = u16_pixel(stored, x);
                [scaled(pixel >> 11, 31), scaled(pixel >> 5, 63), scaled(pixel, 31)]
            }),
            Channels::Bytes(size, [red, green, blue], None) => fill(row, |x| {
                let pixel = &stored[x * size..];
                [pixel[red], pixel[green], pixel[blue]]
            }),
            Channels::Bytes(size, [red, green, blue], Some(alpha)) => fill(row, |x| {
                let pixel = &stored[x * size..];
                on_white([pixel[red], pixel[green], pixel[blue], pixel[alpha]])
            }),
        }
    }
    Ok(rgb)
}

fn fill(row: &mut [[u8; 3]], colour: impl Fn(usize) -> [u8; 3]) {
    row.iter_mut().enumerate().for_each(|(x, pixel)| *pixel = colour(x));
}

fn u16_pixel(row: &[u8], x: usize) -> u32 {
    u32::from(row[2 * x]) | u32::from(row[2 * x + 1]) << 8
}

/// Scales the low bits, selected by the mask `max`, to a byte; rounds down, as Pillow does.
fn scaled(bits: u32, max: u32) -> u8 {
    ((bits & max) * 255 / max) as u8
}
