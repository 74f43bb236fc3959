//! Pictures as the vision tower takes them: decoded, upright, opaque, 224×224, normalised.
//!
//! Decoding and resizing follow Pillow, byte for byte on lossless files; see [`decode`] and [`ImageProcessor`].

mod avif;
mod bmp;
mod config;
mod decode;
mod exif;
mod gif;
mod header;
mod jpeg;
mod limits;
mod orientation;
mod png;
mod resample;
mod tiff;
mod transparency;
mod webp;

pub use config::{ImageProcessor, ProcessorConfigError};
pub use decode::{DecodeLimit, ImageError, Picture, PictureFacts, PictureFormat, decode};
pub use header::Header;
pub use limits::DecodeOptions;

use image::RgbImage;

/// A picture as the vision tower takes it: f32 `[3, size, size]`, normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelValues {
    values: Vec<f32>,
    size: usize,
}

impl PixelValues {
    /// Takes values in the order channel, row, column; `None` unless there are 3 · `size` · `size` of them.
    pub fn new(values: Vec<f32>, size: usize) -> Option<Self> {
        (values.len() == 3 * size * size).then_some(Self { values, size })
    }

    /// The values in the order channel, row, column.
    pub fn as_slice(&self) -> &[f32] {
        &self.values
    }

    /// Side of the square in pixels.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl ImageProcessor {
    /// Squashes the picture to the model's square and normalises it: (byte · rescale − mean) / std for each channel.
    ///
    /// The square does not keep the aspect ratio, as the published configuration's `use_square_size` asks.
    pub fn pixel_values(&self, picture: &Picture) -> PixelValues {
        let square = self.square(&picture.rgb);
        let (mut values, bytes) = (Vec::with_capacity(square.len()), square.as_raw());
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            let table: [f32; 256] = std::array::from_fn(|byte| (byte as f32 * self.rescale - mean) / std);
            values.extend(bytes.as_chunks::<3>().0.iter().map(|pixel| table[usize::from(pixel[channel])]));
        }
        PixelValues { values, size: self.size }
    }

    /// The picture at the model's size, before normalisation: Pillow's bicubic resize of bytes to bytes.
    pub fn square(&self, rgb: &RgbImage) -> RgbImage {
        resample::square(rgb, self.size as u32)
    }
}
