//! EXIF orientation: how to turn a stored picture to see it as it was taken.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

/// The orientation an EXIF block tells, 1 to 8; 1 where it tells none.
pub(super) fn of_exif(exif: Option<&[u8]>) -> Orientation {
    // Some files keep the segment's own mark before the block.
    let block = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    block.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// The picture upright.
pub(super) fn apply(rgb: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return rgb;
    }
    let mut picture = DynamicImage::ImageRgb8(rgb);
    picture.apply_orientation(orientation);
    picture.into_rgb8()
}
