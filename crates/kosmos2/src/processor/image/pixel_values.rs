//! The vision tower's input: resized and normalized pixels.

use image::RgbImage;

use super::config::ImageProcessor;
use super::picture::Picture;
use super::resample;

/// A picture as the vision tower takes it: normalized f32 planes of shape `[3, size, size]`.
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
    /// Resizes the picture to the model's square and normalizes each channel: (byte · rescale − mean) / std.
    ///
    /// The aspect ratio is not kept, because the published configuration sets `use_square_size`.
    pub fn pixel_values(&self, picture: &Picture) -> PixelValues {
        let square = self.square(&picture.rgb);
        let (mut values, bytes) = (Vec::with_capacity(square.len()), square.as_raw());
        for (channel, (mean, std)) in self.mean.iter().zip(&self.std).enumerate() {
            let table: [f32; 256] = std::array::from_fn(|byte| (byte as f32 * self.rescale - mean) / std);
            values.extend(bytes.as_chunks::<3>().0.iter().map(|pixel| table[usize::from(pixel[channel])]));
        }
        PixelValues { values, size: self.size }
    }

    /// The picture resized to the model's square, before normalization: Pillow's bicubic filter on 8-bit channels.
    pub fn square(&self, rgb: &RgbImage) -> RgbImage {
        resample::square(rgb, self.size as u32)
    }
}
