//! Rows of a BMP file that are not packed.

use image::RgbImage;

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::DecodeOptions;
use super::super::transparency::on_white;
use super::header::{Bitmap, Channels};

pub(super) fn unpack(bitmap: &Bitmap, options: &DecodeOptions) -> Result<RgbImage, ImageError> {
    let width = bitmap.width as usize;
    let row = match bitmap.channels {
        Channels::Indices(bits) => (width * bits).div_ceil(8),
        Channels::Rgb555 | Channels::Rgb565 => width * 2,
        Channels::Bytes(size, ..) => width * size,
    };
    if row > bitmap.stride {
        return Err(undecodable(PictureFormat::Bmp, "its rows are shorter than its pixels"));
    }
    // The last row needs no padding.
    let needed = bitmap.stride * (bitmap.height as usize - 1) + row;
    if bitmap.data.len() < needed {
        return Err(undecodable(PictureFormat::Bmp, "its pixels end early"));
    }
    let mut rgb = RgbImage::new(bitmap.width, bitmap.height);
    let pixels = rgb.as_chunks_mut::<3>().0;
    for (stored, line) in bitmap.data.chunks(bitmap.stride).zip(bitmap.lines()) {
        options.check_time()?;
        let line = &mut pixels[line as usize * width..][..width];
        match bitmap.channels {
            Channels::Indices(bits) => fill(line, |x| {
                let (per_byte, mask) = (8 / bits, (1u16 << bits) - 1);
                let shift = 8 - bits - x % per_byte * bits;
                bitmap.palette[usize::from(u16::from(stored[x / per_byte]) >> shift & mask)]
            }),
            Channels::Rgb555 => fill(line, |x| {
                let pixel = pixel_of_two_bytes(stored, x);
                [scaled(pixel >> 10, 31), scaled(pixel >> 5, 31), scaled(pixel, 31)]
            }),
            Channels::Rgb565 => fill(line, |x| {
                let pixel = pixel_of_two_bytes(stored, x);
                [scaled(pixel >> 11, 31), scaled(pixel >> 5, 63), scaled(pixel, 31)]
            }),
            Channels::Bytes(size, [red, green, blue], None) => fill(line, |x| {
                let pixel = &stored[x * size..];
                [pixel[red], pixel[green], pixel[blue]]
            }),
            Channels::Bytes(size, [red, green, blue], Some(alpha)) => fill(line, |x| {
                let pixel = &stored[x * size..];
                on_white([pixel[red], pixel[green], pixel[blue], pixel[alpha]])
            }),
        }
    }
    Ok(rgb)
}

fn fill(line: &mut [[u8; 3]], colour: impl Fn(usize) -> [u8; 3]) {
    line.iter_mut().enumerate().for_each(|(x, pixel)| *pixel = colour(x));
}

fn pixel_of_two_bytes(row: &[u8], x: usize) -> u32 {
    u32::from(row[2 * x]) | u32::from(row[2 * x + 1]) << 8
}

/// The low bits, of which `most` are all, to a byte; rounded down.
fn scaled(bits: u32, most: u32) -> u8 {
    ((bits & most) * 255 / most) as u8
}
