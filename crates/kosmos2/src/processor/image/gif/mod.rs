//! The first frame of a GIF file, as Pillow 13 reads it.

mod codes;
mod frame;

use image::RgbImage;

use super::decode::{Decoded, ImageError};
use super::limits::DecodeOptions;
use super::transparency::Palette;
pub(super) use frame::Frame;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let frame = Frame::find(file)?;
    let (width, height) = frame.size;
    // Without transparency, what the frame leaves free has the first colour.
    let background = frame.transparency.unwrap_or(0);
    let mut indices = vec![background; width as usize * height as usize];
    codes::unpack(&frame, &mut indices, options)?;
    let mut palette = match frame.palette {
        Some(colours) => Palette::new(colours.as_chunks().0.iter().copied()),
        None => Palette::gray(),
    };
    if let Some(index) = frame.transparency {
        palette.set_alpha(index, 0);
    }
    let colours = palette.on_white();
    let mut rgb = RgbImage::new(width, height);
    for (pixel, index) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(indices) {
        *pixel = colours[usize::from(index)];
    }
    // GIF has no place for EXIF, and of its XMP Pillow takes no notice.
    Ok((rgb, image::metadata::Orientation::NoTransforms))
}
