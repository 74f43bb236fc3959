//! Decodes picture files to upright, opaque RGB.

use super::error::{ImageError, undecodable};
use super::format::PictureFormat;
use super::header::Header;
use super::limits::DecodeOptions;
use super::picture::{Picture, PictureFacts};
use super::{avif, bmp, gif, jpeg, orientation, png, tiff, webp};

/// Decodes a picture file.
///
/// The format is detected from the first bytes. Dimensions and memory are checked against the limits before any pixel
/// buffer is allocated.
///
/// The result equals, byte for byte, what Pillow 13 decodes and the reference implementation converts to RGB, for lossy
/// formats too: transparent pixels are composited over white, 16-bit gray is clipped to 255 instead of scaled, and CMYK
/// is converted without a colour profile. The picture is rotated by the orientation that Pillow's `exif_transpose`
/// finds, from EXIF or else from XMP; if the metadata cannot be read, the picture stays as stored.
///
/// # Errors
/// [`ImageError`].
///
/// # Panics
/// Third-party decoders may panic on malformed files. Callers that decode untrusted files should catch panics.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, ImageError> {
    options.check_deadline()?;
    let header = Header::read(bytes, options)?;
    let format = header.format;
    let decoded = match format {
        PictureFormat::Jpeg => jpeg::decode(bytes, options),
        PictureFormat::Png => png::decode(bytes, options),
        PictureFormat::Gif => gif::decode(bytes, options),
        PictureFormat::WebP => webp::decode(bytes, options),
        PictureFormat::Bmp => bmp::decode(bytes, options),
        PictureFormat::Tiff => tiff::decode(bytes, options),
        PictureFormat::Avif => avif::decode(bytes, options),
    };
    // A decoder whose reader fails at the deadline reports a damaged file.
    let (rgb, orientation) = decoded.map_err(|error| options.check_deadline().err().unwrap_or(error))?;
    options.check_deadline()?;
    if rgb.dimensions() != (header.width, header.height) {
        return Err(undecodable(format, "its headers contradict each other"));
    }
    // Pillow rotates a TIFF when it loads the pixels, so that a caller never gets them as stored.
    let is_applied = options.apply_orientation || format == PictureFormat::Tiff;
    let rgb = if is_applied { orientation::apply(rgb, orientation) } else { rgb };
    let (width, height) = rgb.dimensions();
    let orientation = orientation.to_exif();
    let orientation_applied = is_applied && orientation != 1;
    Ok(Picture { rgb, facts: PictureFacts { format, width, height, orientation, orientation_applied } })
}
