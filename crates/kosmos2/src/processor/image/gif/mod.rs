//! The first frame of a GIF file, as Pillow 13 reads it.

mod frame;
mod lzw;

use image::RgbImage;

use super::error::ImageError;
use super::limits::DecodeOptions;
use super::picture::Decoded;
use super::transparency::Palette;
pub(super) use frame::Frame;

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let frame = Frame::read(file)?;
    let (width, height) = frame.size;
    // Pillow fills the area outside of the frame with the transparent colour or, without one, the first colour.
    let background = frame.transparency.unwrap_or(0);
    let mut indices = vec![background; width as usize * height as usize];
    lzw::decode(&frame, &mut indices, options)?;
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
    // GIF cannot hold EXIF, and Pillow ignores its XMP.
    Ok((rgb, image::metadata::Orientation::NoTransforms))
}
