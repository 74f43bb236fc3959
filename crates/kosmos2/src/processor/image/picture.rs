//! Decoded pictures.

use image::RgbImage;
use image::metadata::Orientation;

use super::format::PictureFormat;

/// A decoded picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// 8-bit RGB; transparent areas are composited over white.
    pub rgb: RgbImage,
    /// What the file states about itself.
    pub facts: PictureFacts,
}

/// What a picture file states about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureFacts {
    /// The file format.
    pub format: PictureFormat,
    /// Width in pixels, after the orientation if it was applied.
    pub width: u32,
    /// Height in pixels, after the orientation if it was applied.
    pub height: u32,
    /// Orientation from EXIF or, if EXIF has none, from XMP: 1 to 8; 1 if neither states one.
    pub orientation: u8,
    /// Whether the pixels were rotated or mirrored by it.
    pub orientation_applied: bool,
}

/// Pixels as the file stores them, and the orientation to apply to them.
pub(super) type Decoded = (RgbImage, Orientation);
