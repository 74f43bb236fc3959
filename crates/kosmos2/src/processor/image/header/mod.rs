//! What a picture will cost, read from its headers alone: no room for pixels is made, and nothing is unpacked.
//!
//! Each format's walk goes once over the file and follows the lengths that it tells, as the decoders do. What is not
//! well-formed is left to them; here it only must not make a picture look cheaper than it is.

mod avif;
mod bmp;
mod gif;
mod jpeg;
mod names;
mod png;
mod tiff;
mod webp;

use image::ImageFormat;

use super::avif::is_avif;
use super::decode::{ImageError, PictureFormat, undecodable};
use super::limits::DecodeOptions;
use super::tiff::Directory;
pub(super) use jpeg::scans as jpeg_scans;

/// What a picture's headers claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The encoding.
    pub format: PictureFormat,
    /// Width in pixels, as stored.
    pub width: u32,
    /// Height in pixels, as stored.
    pub height: u32,
    /// Most bytes that decoding takes at one time, the file's own not counted: what the decoder keeps, the pixels, and
    /// the copies made on the way to upright RGB.
    pub memory: u64,
}

/// A format's claims, before limits are looked at.
struct Claims {
    width: u32,
    height: u32,
    memory: u64,
}

impl Header {
    /// Reads a picture's headers and holds them against the limits.
    ///
    /// # Errors
    /// [`ImageError`]: an unknown format, headers that end too early, or more of anything than allowed.
    pub fn read(bytes: &[u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        let format = format_of(bytes)?;
        let claims = match format {
            PictureFormat::Jpeg => jpeg::claims(bytes)?,
            PictureFormat::Png => png::claims(bytes)?,
            PictureFormat::Gif => gif::claims(bytes)?,
            PictureFormat::WebP => webp::claims(bytes)?,
            PictureFormat::Bmp => bmp::claims(bytes)?,
            PictureFormat::Tiff => tiff::claims(bytes, options)?,
            PictureFormat::Avif => avif::claims(bytes, options)?,
        };
        let Some(Claims { width, height, memory }) = claims else {
            return Err(undecodable(format, "it ends within its header"));
        };
        options.check_size(width.into(), height.into())?;
        if width == 0 || height == 0 {
            return Err(undecodable(format, "it has no pixels"));
        }
        options.check_memory(memory)?;
        Ok(Self { format, width, height, memory })
    }
}

/// By the first bytes, never by a name.
fn format_of(bytes: &[u8]) -> Result<PictureFormat, ImageError> {
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
        _ if Directory::begins(bytes) => match names::raw_of_tiff(bytes) {
            Some(name) => Err(ImageError::UnsupportedFormat { name }),
            None => Ok(PictureFormat::Tiff),
        },
        _ => {
            Err(names::name_of(bytes).map_or(ImageError::UnknownFormat, |name| ImageError::UnsupportedFormat { name }))
        }
    }
}

/// `N` bytes at a place, where there are that many.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}
