//! Pictures as they travel inside the page.

use base64::{display::Base64Display, engine::general_purpose::STANDARD};
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::imageops::{FilterType, resize};
use image::{ImageError, ImageReader, Limits, RgbImage};
use std::fmt::{Debug, Display, Formatter};
use std::io::Cursor;

/// The longest side of an embedded picture in pixels.
const LONGEST: u32 = 1000;

/// Up to this longest side a picture is kept exactly: JPEG's blocks would show where it is enlarged.
const EXACT: u32 = 256;

/// JPEG quality of 100; 85 is where its traces stop to be seen at the size of a page.
const QUALITY: u8 = 85;

/// Memory that reading one picture may take, in bytes: enough for 100 megapixels.
const MOST_MEMORY: u64 = 512 * 1024 * 1024;

/// Why a picture cannot be put into a page.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// The bytes are no picture of a known format, or a broken one, or one that takes over 512 MiB to read.
    #[error("the picture cannot be read: {0}; give a whole BMP, GIF, JPEG, PNG or WebP file")]
    Unreadable(#[source] ImageError),
    /// The picture has no pixels.
    #[error("the picture is {width}x{height} pixels; give one that has pixels")]
    Empty {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// The encoder failed.
    #[error("the picture cannot be encoded for the page: {0}")]
    Unwritable(#[source] ImageError),
}

/// A picture ready for the page: at most 1000 pixels on its longer side, and newly encoded, so that neither metadata
/// (where it was taken) nor anything but its first frame goes along. A hundred kilobytes or so.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    media_type: &'static str,
    bytes: Vec<u8>,
    width: u32,
    height: u32,
}

impl Picture {
    /// From the bytes of a picture file.
    ///
    /// The pixels are taken as stored, without regard to an EXIF orientation, as the boxes are fractions of these.
    pub fn read(file: &[u8]) -> Result<Self, PictureError> {
        let mut reader = ImageReader::new(Cursor::new(file));
        let mut limits = Limits::default();
        limits.max_alloc = Some(MOST_MEMORY);
        reader.limits(limits);
        let reader = reader.with_guessed_format().map_err(|error| PictureError::Unreadable(error.into()))?;
        Self::new(&reader.decode().map_err(PictureError::Unreadable)?.to_rgb8())
    }

    /// From pixels.
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

    /// Width and height in pixels as embedded.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The picture as a `data:` address, which needs no escaping in HTML.
    pub(super) fn address(&self) -> impl Display {
        Address(self)
    }
}

impl Debug for Picture {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} {}x{}, {} bytes)", self.media_type, self.width, self.height, self.bytes.len())
    }
}

struct Address<'a>(&'a Picture);

impl Display for Address<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Picture { media_type, bytes, .. } = self.0;
        write!(f, "data:{media_type};base64,{}", Base64Display::new(bytes, &STANDARD))
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
        assert!(kept.address().to_string().starts_with("data:image/png;base64,iVBOR"));
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
