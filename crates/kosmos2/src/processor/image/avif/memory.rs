//! The memory that decoding takes.

use super::super::error::ImageError;
use super::av1_stream;
use super::description::Description;

/// Bytes of decoder state per pixel, besides the frames.
const STATE_PER_PIXEL: u64 = 3;
/// Bytes of decoder state, independent of the picture's size.
const STATE: u64 = 4 << 20;

impl Description<'_> {
    /// Upper bound on the bytes that decoding takes: the frames of one stream at a time, one of which is copied if film
    /// grain is applied, and the decoder's state; the assembled planes; and the pixels up to upright RGB.
    ///
    /// # Errors
    /// [`ImageError::TooManyParts`] if a stream has too many frames.
    pub(in super::super) fn memory(&self) -> Result<u64, ImageError> {
        let mut memory = 0u64;
        let pixels = u64::from(self.width).saturating_mul(self.height.into());
        let mut planes = 0u64;
        for streams in [Some(&self.colour), self.alpha.as_ref()].into_iter().flatten() {
            // Frames are padded to whole superblocks.
            let padded = |side: u32| u64::from(side).next_multiple_of(128) + 128;
            let tile = padded(streams.width).saturating_mul(padded(streams.height));
            let (mut decoding, mut bytes_per_pixel) = (0, 3);
            for stream in &streams.tiles {
                let contents = av1_stream::count_frames(stream)?;
                // All planes, two bytes per sample.
                let frame = if contents.may_have_full_chroma { 6 } else { 3 };
                bytes_per_pixel = bytes_per_pixel.max(frame);
                let frames = contents.frames.max(1) + 1;
                decoding = decoding.max((frame * frames + STATE_PER_PIXEL).saturating_mul(tile));
            }
            planes = planes.saturating_add(pixels.saturating_mul(bytes_per_pixel));
            memory = memory.max(planes.saturating_add(decoding));
        }
        let rotated = pixels.saturating_mul(3 + 3);
        Ok(memory.max(planes.saturating_add(rotated)).saturating_add(STATE))
    }
}
