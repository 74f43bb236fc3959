//! Picture orientation from metadata, and its application to pixels.

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::exif;

/// The XMP property with its usual namespace prefix, the only one that Pillow recognizes.
const XMP_PROPERTY: &[u8] = b"tiff:Orientation";

/// The orientation that a picture's metadata state, as Pillow's `exif_transpose` finds it.
///
/// EXIF takes precedence: XMP is used only if the EXIF block has no orientation entry. If the block cannot be read, or
/// the value of its entry is not an orientation, the picture stays as stored.
pub(super) fn of_metadata(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let stated = exif.and_then(exif::orientation).or_else(|| xmp.and_then(of_xmp));
    stated.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms)
}

/// The digit of the first attribute or element of that name in the packet; like Pillow, without parsing the XML.
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

/// Rotates and mirrors the picture to make it upright.
pub(super) fn apply(rgb: RgbImage, orientation: Orientation) -> RgbImage {
    if orientation == Orientation::NoTransforms {
        return rgb;
    }
    let mut picture = DynamicImage::ImageRgb8(rgb);
    picture.apply_orientation(orientation);
    picture.into_rgb8()
}
