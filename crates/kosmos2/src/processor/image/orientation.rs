//! Orientation: how to turn a stored picture to see it as it was taken.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::exif;

/// The XMP property, by the prefix that its namespace usually has. Pillow knows it by no other prefix.
const XMP_PROPERTY: &[u8] = b"tiff:Orientation";

/// The orientation that a picture's metadata state, as Pillow's `exif_transpose` finds it.
///
/// An EXIF block comes first: XMP counts only where the block has no orientation entry. A block that cannot be read,
/// or an entry whose value is not an orientation, leaves the picture as it is stored.
pub(super) fn of_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let stated = exif.and_then(exif::orientation).or_else(|| xmp.and_then(of_xmp));
    stated.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// The digit of the first attribute or element of that name, wherever in the packet it stands.
fn of_xmp(packet: &[u8]) -> Option<u8> {
    let mut rest = packet;
    while let Some(at) = rest.windows(XMP_PROPERTY.len()).position(|part| part == XMP_PROPERTY) {
        rest = rest.get(at + XMP_PROPERTY.len()..)?;
        let value = rest.strip_prefix(b"=\"").or_else(|| rest.strip_prefix(b">"));
        if let Some([digit @ b'0'..=b'9', ..]) = value {
            return Some(digit - b'0');
        }
    }
    None
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
