//! Pictures encoded for the page.

use std::fmt::{Debug, Formatter};
use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::imageops::{FilterType, resize};
use image::{ImageError, ImageReader, Limits, RgbImage};
use maud::Render;

/// The longest side of an embedded picture, in pixels.
const LONGEST: u32 = 1000;

/// Pictures up to this longest side, in pixels, are embedded without loss: when they are enlarged, the blocks of JPEG
/// would be visible.
const EXACT: u32 = 256;

/// JPEG quality, from 1 to 100. At 85, artefacts are not visible at the size of the page.
const QUALITY: u8 = 85;

/// Most memory for decoding one picture, in bytes: enough for 100 megapixels.
const MAX_MEMORY: u64 = 512 * 1024 * 1024;

/// Why a picture cannot be put into a page.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The format is unknown, the file is damaged, or decoding it takes over 512 MiB.
    #[error("the picture cannot be read: {0}; expected an intact BMP, GIF, JPEG, PNG or WebP file")]
    Unreadable(ImageError),
    /// The picture has no pixels.
    #[error("the picture is empty: {width}x{height} pixels")]
    Empty {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// The encoder failed.
    #[error("the picture cannot be encoded for the page: {0}")]
    Unwritable(ImageError),
}

/// A picture encoded for the page: at most 1000 pixels on its longer side, without metadata such as the place where it
/// was taken, and only its first frame. About 100 kB.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    media_type: &'static str,
    bytes: Vec<u8>,
    width: u32,
    height: u32,
}

impl Picture {
    /// Decodes a picture file.
    ///
    /// The pixels are taken as stored: an EXIF orientation is ignored. Boxes are fractions of these pixels.
    ///
    /// # Errors
    /// [`PictureError`]: the file cannot be decoded, or the picture cannot be encoded.
    pub fn read(file: &[u8]) -> Result<Self, PictureError> {
        let mut reader = ImageReader::new(Cursor::new(file));
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_MEMORY);
        reader.limits(limits);
        let reader = reader.with_guessed_format().map_err(|error| PictureError::Unreadable(error.into()))?;
        Self::new(&reader.decode().map_err(PictureError::Unreadable)?.to_rgb8())
    }

    /// Encodes pixels.
    ///
    /// # Errors
    /// [`PictureError`]: there are no pixels, or the encoder fails.
    pub fn new(pixels: &RgbImage) -> Result<Self, PictureError> {
        let (width, height) = pixels.dimensions();
        if width == 0 || height == 0 {
            return Err(PictureError::Empty { width, height });
        }
        let longest = width.max(height);
        let small;
        let pixels = if longest > LONGEST {
            let shrunk = |side: u32| (u64::from(side) * u64::from(LONGEST) / u64::from(longest)).max(1) as u32;
            small = resize(pixels, shrunk(width), shrunk(height), FilterType::Triangle);
            &small
        } else {
            pixels
        };
        let mut bytes = Vec::new();
        let exact = longest <= EXACT;
        let written = if exact {
            pixels.write_with_encoder(PngEncoder::new(&mut bytes))
        } else {
            pixels.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, QUALITY))
        };
        written.map_err(PictureError::Unwritable)?;
        let media_type = if exact { "image/png" } else { "image/jpeg" };
        Ok(Self { media_type, bytes, width: pixels.width(), height: pixels.height() })
    }

    /// Width and height of the embedded picture, in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The picture as a `data:` URL.
    pub(super) fn address(&self) -> impl Render {
        Address(self)
    }
}

impl Debug for Picture {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} {}x{}, {} bytes)", self.media_type, self.width, self.height, self.bytes.len())
    }
}

struct Address<'a>(&'a Picture);

impl Render for Address<'_> {
    fn render_to(&self, buffer: &mut String) {
        let Picture { media_type, bytes, .. } = self.0;
        for part in ["data:", media_type, ";base64,"] {
            buffer.push_str(part);
        }
        STANDARD.encode_string(bytes, buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb};

    #[test]
    fn large_pictures_shrink_and_small_ones_stay_exact() {
        let sizes = [(4000, 3000), (3, 9000), (800, 600), (97, 61)];
        let embedded = sizes.map(|(w, h)| Picture::new(&RgbImage::new(w, h)).unwrap());
        assert_eq!(embedded.each_ref().map(Picture::size), [(1000, 750), (1, 1000), (800, 600), (97, 61)]);
        let noise = RgbImage::from_fn(97, 61, |x, y| Rgb([(x * 37 + y) as u8, (y * 91) as u8, (x ^ y) as u8]));
        let kept = Picture::new(&noise).unwrap();
        assert_eq!(image::load_from_memory(&kept.bytes).unwrap().to_rgb8(), noise);
        assert!(kept.address().render().into_string().starts_with("data:image/png;base64,iVBOR"));
    }

    #[test]
    fn files_are_read_and_what_is_none_is_an_error() {
        let mut file = Cursor::new(Vec::new());
        RgbImage::from_pixel(300, 200, Rgb([200, 30, 30])).write_to(&mut file, ImageFormat::WebP).unwrap();
        let read = Picture::read(file.get_ref()).unwrap();
        assert_eq!((read.size(), read.media_type), ((300, 200), "image/jpeg"));
        for broken in [&b""[..], b"<html>", &file.get_ref()[..40]] {
            assert!(matches!(Picture::read(broken), Err(PictureError::Unreadable(_))));
        }
        assert!(matches!(Picture::new(&RgbImage::new(0, 5)), Err(PictureError::Empty { .. })));
    }
}
