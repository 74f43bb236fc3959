//! BMP as Pillow 13 reads it.

mod header;
mod rows;
mod runs;

use image::metadata::Orientation;
use image::{Rgb, RgbImage};

use super::decode::{Decoded, ImageError};
use super::limits::DecodeOptions;
pub(super) use header::sides;
use header::{Bitmap, Packing};

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let bitmap = Bitmap::read(file)?;
    let rgb = match bitmap.packing {
        Packing::Rows => rows::unpack(&bitmap, options)?,
        Packing::Runs { of_nibbles } => {
            let indices = runs::unpack(&bitmap, of_nibbles, options)?;
            let mut rgb = RgbImage::new(bitmap.width, bitmap.height);
            let lines = indices.chunks_exact(bitmap.width as usize);
            for (line, y) in lines.zip(bitmap.lines()) {
                for (index, x) in line.iter().zip(0..) {
                    rgb.put_pixel(x, y, Rgb(bitmap.palette[usize::from(*index)]));
                }
            }
            rgb
        }
    };
    Ok((rgb, Orientation::NoTransforms))
}
