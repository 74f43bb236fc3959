//! BMP as Pillow 13 reads it.

mod header;
mod rle;
mod uncompressed;

use image::metadata::Orientation;
use image::{Rgb, RgbImage};

use super::error::ImageError;
use super::limits::DecodeOptions;
use super::picture::Decoded;
pub(super) use header::dimensions;
use header::{Bitmap, Compression};

pub(super) fn decode(file: &[u8], options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let bitmap = Bitmap::read(file)?;
    let rgb = match bitmap.compression {
        Compression::None => uncompressed::decode(&bitmap, options)?,
        Compression::Rle { is_4_bit } => {
            let indices = rle::decode(&bitmap, is_4_bit, options)?;
            let mut rgb = RgbImage::new(bitmap.width, bitmap.height);
            let rows = indices.chunks_exact(bitmap.width as usize);
            for (row, y) in rows.zip(bitmap.row_order()) {
                for (index, x) in row.iter().zip(0..) {
                    rgb.put_pixel(x, y, Rgb(bitmap.palette[usize::from(*index)]));
                }
            }
            rgb
        }
    };
    Ok((rgb, Orientation::NoTransforms))
}
