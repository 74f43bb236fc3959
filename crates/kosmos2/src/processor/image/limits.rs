//! Limits on what decoding a picture may cost: pixels, sides, memory, parts and time.

use std::time::Instant;

use super::deadline_reader::has_passed;
use super::error::ImageError;
use super::format::PictureFormat;

/// Maximum number of scans of a JPEG. Encoders write about ten, and one per coefficient would be 64; a file of a few
/// kilobytes can hold thousands, each of which is a pass over the whole picture.
pub(super) const MAX_SCANS: u64 = 100;
/// Maximum number of frames of an animation, although only the first one is decoded.
pub(super) const MAX_FRAMES: u64 = 10_000;
/// Maximum number of other parts: segments, chunks and blocks. Decoders keep a record of each.
pub(super) const MAX_PARTS: u64 = 50_000;
/// Bytes reserved for the decompressed texts of a PNG: three are kept while a fourth is decompressed, 1 MiB each.
pub(super) const PNG_METADATA: u64 = 8 << 20;

/// How to decode, and what a picture may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Rotate the picture upright by the orientation that EXIF or XMP states, as the reference's `load_image` does.
    /// Without it, pixels stay as stored, as with an image object passed to the reference's processor. A TIFF is
    /// rotated in either case, because Pillow rotates it when it loads the pixels.
    pub apply_orientation: bool,
    /// Maximum width times height. The default is the size at which Pillow raises `DecompressionBombError`.
    pub max_pixels: u64,
    /// Maximum width and height in pixels. The default is the maximum of JPEG and GIF.
    pub max_side: u32,
    /// Maximum bytes of memory that decoding may take according to the headers, see
    /// [`Header::memory`](super::Header::memory).
    pub max_memory: u64,
    /// When to stop decoding. Checked whenever a decoder reads more of the file and between steps. A step that reads
    /// nothing runs to its end; its time is bounded by the picture's pixels.
    pub deadline: Option<Instant>,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { apply_orientation: true, max_pixels: 178_956_970, max_side: 65_535, max_memory: 2 << 30, deadline: None }
    }
}

impl DecodeOptions {
    pub(super) fn check_size(&self, width: u64, height: u64) -> Result<(), ImageError> {
        match width.checked_mul(height) {
            Some(pixels) if pixels <= self.max_pixels => {}
            _ => return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels }),
        }
        let limit = self.max_side;
        if width.max(height) > limit.into() {
            return Err(ImageError::SideTooLong { width, height, limit });
        }
        Ok(())
    }

    pub(super) fn check_memory(&self, needed: u64) -> Result<(), ImageError> {
        let limit = self.max_memory;
        if needed > limit { Err(ImageError::TooMuchMemory { needed, limit }) } else { Ok(()) }
    }

    pub(super) fn check_deadline(&self) -> Result<(), ImageError> {
        if has_passed(self.deadline) { Err(ImageError::TimedOut) } else { Ok(()) }
    }
}

pub(super) fn check_count(format: PictureFormat, part: &'static str, count: u64, limit: u64) -> Result<(), ImageError> {
    if count > limit { Err(ImageError::TooManyParts { format, part, limit }) } else { Ok(()) }
}
