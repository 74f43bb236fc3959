//! What decoding a picture will cost, from its headers alone: nothing is decompressed, and no pixel buffer is
//! allocated.
//!
//! Each format's estimate makes one pass over the file and follows the lengths that it states, as the decoders do.
//! Errors in the format are left to the decoders; here, they must only not make a picture look cheaper than it is.

mod avif;
mod bmp;
mod estimate;
mod gif;
mod jpeg;
mod png;
mod tiff;
mod unsupported_formats;
mod webp;

use image::ImageFormat;

use super::avif::is_avif;
use super::error::{ImageError, undecodable};
use super::format::PictureFormat;
use super::limits::DecodeOptions;
use super::tiff::Directory;
use estimate::Estimate;
use unsupported_formats::{NOT_PICTURES, camera_raw_name, unsupported_format_name};

/// What a picture's headers state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The file format.
    pub format: PictureFormat,
    /// Width in pixels, as stored.
    pub width: u32,
    /// Height in pixels, as stored.
    pub height: u32,
    /// Upper bound on the bytes of memory that decoding takes, without the file itself: the decoder's state, the
    /// pixels, and the intermediate copies up to upright RGB.
    pub memory: u64,
}

impl Header {
    /// Reads a picture's headers and checks them against the limits.
    ///
    /// # Errors
    /// [`ImageError`] if the format is unknown or unsupported, a header is incomplete, or a limit is exceeded.
    pub fn read(bytes: &[u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        let format = detect_format(bytes)?;
        let estimate = match format {
            PictureFormat::Jpeg => jpeg::estimate(bytes)?,
            PictureFormat::Png => png::estimate(bytes)?,
            PictureFormat::Gif => gif::estimate(bytes)?,
            PictureFormat::WebP => webp::estimate(bytes)?,
            PictureFormat::Bmp => bmp::estimate(bytes)?,
            PictureFormat::Tiff => tiff::estimate(bytes, options)?,
            PictureFormat::Avif => avif::estimate(bytes, options)?,
        };
        let Some(Estimate { width, height, memory }) = estimate else {
            return Err(undecodable(format, "its header is incomplete"));
        };
        options.check_size(width.into(), height.into())?;
        if width == 0 || height == 0 {
            return Err(undecodable(format, "its width or height is 0"));
        }
        options.check_memory(memory)?;
        Ok(Self { format, width, height, memory })
    }
}

/// The format by the first bytes, whatever the file's name.
fn detect_format(bytes: &[u8]) -> Result<PictureFormat, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => Ok(PictureFormat::Jpeg),
        Ok(ImageFormat::Png) => Ok(PictureFormat::Png),
        Ok(ImageFormat::Gif) => Ok(PictureFormat::Gif),
        Ok(ImageFormat::WebP) => Ok(PictureFormat::WebP),
        Ok(ImageFormat::Bmp) => Ok(PictureFormat::Bmp),
        _ if is_avif(bytes) => Ok(PictureFormat::Avif),
        _ if Directory::has_signature(bytes) => match camera_raw_name(bytes) {
            Some(name) => Err(ImageError::UnsupportedFormat { name }),
            None => Ok(PictureFormat::Tiff),
        },
        _ => match unsupported_format_name(bytes) {
            Some(name) if NOT_PICTURES.contains(&name) => Err(ImageError::NotAPicture { name }),
            Some(name) => Err(ImageError::UnsupportedFormat { name }),
            None => Err(ImageError::UnknownFormat),
        },
    }
}
