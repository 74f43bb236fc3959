//! Pictures encoded for the page.

use std::borrow::Cow;
use std::fmt::{Debug, Formatter};
use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::{jpeg::JpegEncoder, png::PngEncoder};
use image::imageops::{FilterType, resize};
use image::{ImageError, ImageReader, Limits, RgbImage};
use maud::Render;

use crate::html::Text;

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

/// The longest side of a thumbnail, in pixels.
const THUMBNAIL: u32 = 640;

/// Most bytes of a thumbnail, before base64.
const THUMBNAIL_BYTES: usize = 64 * 1024;

/// The qualities that are tried for a thumbnail, and the divisors of its size.
const THUMBNAIL_TRIES: [(u8, u32); 5] = [(80, 1), (60, 1), (40, 1), (40, 2), (40, 4)];

/// A picture for the page: embedded, or a link.
///
/// An embedded picture has at most 1000 pixels on its longer side (a thumbnail 640), no metadata such as the place where
/// it was taken, and only its first frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Picture {
    source: Source,
    width: u32,
    height: u32,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    Embedded { media_type: &'static str, bytes: Vec<u8> },
    Linked { address: String },
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

    /// Encodes pixels. Takes about 100 kB.
    ///
    /// # Errors
    /// [`PictureError`]: there are no pixels, or the encoder fails.
    pub fn new(pixels: &RgbImage) -> Result<Self, PictureError> {
        let (width, height) = pixels.dimensions();
        if width == 0 || height == 0 {
            return Err(PictureError::Empty { width, height });
        }
        if width.max(height) > EXACT {
            return jpeg(&shrunk(pixels, LONGEST), QUALITY);
        }
        let mut bytes = Vec::new();
        pixels.write_with_encoder(PngEncoder::new(&mut bytes)).map_err(PictureError::Unwritable)?;
        Ok(Self { source: Source::Embedded { media_type: "image/png", bytes }, width, height })
    }

    /// Encodes pixels as a JPEG of at most 64 KiB and 640 pixels on the longer side.
    ///
    /// # Errors
    /// [`PictureError`]: there are no pixels, or the encoder fails.
    pub fn thumbnail(pixels: &RgbImage) -> Result<Self, PictureError> {
        let (width, height) = pixels.dimensions();
        if width == 0 || height == 0 {
            return Err(PictureError::Empty { width, height });
        }
        let pixels = shrunk(pixels, THUMBNAIL);
        let mut last = None;
        for (quality, divisor) in THUMBNAIL_TRIES {
            let made = jpeg(&shrunk(&pixels, THUMBNAIL / divisor), quality)?;
            let fits = made.embedded_bytes() <= THUMBNAIL_BYTES;
            last = Some(made);
            if fits {
                break;
            }
        }
        last.ok_or(PictureError::Empty { width, height })
    }

    /// A picture that the browser loads from an `https://` or `http://` address. The size is that of the picture in
    /// pixels, upright.
    pub fn linked(address: String, width: u32, height: u32) -> Self {
        Self { source: Source::Linked { address }, width: width.max(1), height: height.max(1) }
    }

    /// The size of the embedded file; 0 for a link.
    pub fn embedded_bytes(&self) -> usize {
        match &self.source {
            Source::Embedded { bytes, .. } => bytes.len(),
            Source::Linked { .. } => 0,
        }
    }

    /// Scheme, host and port of a linked picture, as a content security policy names them. `None` for an embedded one,
    /// and for an address whose host has characters that it cannot have.
    pub(super) fn origin(&self) -> Option<&str> {
        let Source::Linked { address } = &self.source else { return None };
        let (scheme, rest) = address.split_once("://")?;
        let host = rest.split(['/', '?', '#']).next()?;
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        let is_valid = matches!(scheme, "http" | "https") && !host.is_empty() && host.chars().all(is_host);
        if is_valid { address.get(..scheme.len() + 3 + host.len()) } else { None }
    }

    /// Width and height in pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    /// The picture as a `data:` URL, or its address.
    pub(super) fn address(&self) -> impl Render {
        Address(self)
    }
}

impl Debug for Picture {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (width, height) = (self.width, self.height);
        match &self.source {
            Source::Embedded { media_type, bytes } => {
                write!(f, "Picture({media_type} {width}x{height}, {} bytes)", bytes.len())
            }
            // An address may contain a signature.
            Source::Linked { .. } => write!(f, "Picture(link {width}x{height})"),
        }
    }
}

struct Address<'a>(&'a Picture);

impl Render for Address<'_> {
    fn render_to(&self, buffer: &mut String) {
        match &self.0.source {
            Source::Embedded { media_type, bytes } => {
                for part in ["data:", media_type, ";base64,"] {
                    buffer.push_str(part);
                }
                STANDARD.encode_string(bytes, buffer);
            }
            Source::Linked { address } => Text(address).render_to(buffer),
        }
    }
}

fn jpeg(pixels: &RgbImage, quality: u8) -> Result<Picture, PictureError> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    pixels.write_with_encoder(encoder).map_err(PictureError::Unwritable)?;
    let source = Source::Embedded { media_type: "image/jpeg", bytes };
    Ok(Picture { source, width: pixels.width(), height: pixels.height() })
}

/// The pixels, with at most `most` on the longer side.
fn shrunk(pixels: &RgbImage, most: u32) -> Cow<'_, RgbImage> {
    let (width, height) = pixels.dimensions();
    let longest = width.max(height);
    if longest <= most {
        return Cow::Borrowed(pixels);
    }
    let shrunk = |side: u32| (u64::from(side) * u64::from(most) / u64::from(longest)).max(1) as u32;
    Cow::Owned(resize(pixels, shrunk(width), shrunk(height), FilterType::Triangle))
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
        let Source::Embedded { bytes, .. } = &kept.source else { panic!("not embedded") };
        assert_eq!(image::load_from_memory(bytes).unwrap().to_rgb8(), noise);
        assert!(kept.address().render().into_string().starts_with("data:image/png;base64,iVBOR"));
    }

    #[test]
    fn files_are_read_and_what_is_none_is_an_error() {
        let mut file = Cursor::new(Vec::new());
        RgbImage::from_pixel(300, 200, Rgb([200, 30, 30])).write_to(&mut file, ImageFormat::WebP).unwrap();
        let read = Picture::read(file.get_ref()).unwrap();
        assert_eq!(read.size(), (300, 200));
        assert!(read.address().render().into_string().starts_with("data:image/jpeg;base64,"));
        for broken in [&b""[..], b"<html>", &file.get_ref()[..40]] {
            assert!(matches!(Picture::read(broken), Err(PictureError::Unreadable(_))));
        }
        assert!(matches!(Picture::new(&RgbImage::new(0, 5)), Err(PictureError::Empty { .. })));
    }
    #[test]
    fn a_thumbnail_is_small_whatever_the_picture_is() {
        let noise = |w, h| {
            RgbImage::from_fn(w, h, |x, y| {
                let mixed = (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).wrapping_mul(2_246_822_519);
                Rgb(mixed.to_be_bytes()[..3].try_into().unwrap())
            })
        };
        for (w, h) in [(2000, 1500), (640, 640), (1, 1), (9000, 3)] {
            let made = Picture::thumbnail(&noise(w, h)).unwrap();
            let (width, height) = made.size();
            assert!(made.embedded_bytes() <= THUMBNAIL_BYTES && width.max(height) <= THUMBNAIL, "{made:?}");
            assert!(w.max(h) <= THUMBNAIL || width.max(height) >= THUMBNAIL / 4, "{made:?}");
        }
        assert!(matches!(Picture::thumbnail(&RgbImage::new(5, 0)), Err(PictureError::Empty { .. })));
    }

    #[test]
    fn only_the_origin_of_a_plain_address_gets_into_the_policy() {
        let origin = |address: &str| Picture::linked(address.into(), 4, 3).origin().map(str::to_owned);
        assert_eq!(origin("https://b.s3.example.com/k?X-Amz=1&b=2").unwrap(), "https://b.s3.example.com");
        assert_eq!(origin("http://127.0.0.1:8333/b/k").unwrap(), "http://127.0.0.1:8333");
        for bad in ["javascript:alert(1)", "ftp://h/k", "https://a b/k", "https://a;script-src */k", "https://", "x"] {
            assert_eq!(origin(bad), None, "{bad}");
        }
        let address = Picture::linked("https://h/\"><script>".into(), 0, 0);
        assert_eq!(address.address().render().into_string(), "https://h/&quot;&gt;&lt;script&gt;");
        assert!(!format!("{:?}", Picture::linked("https://h/?sig=s".into(), 1, 1)).contains("sig"));
    }
}
