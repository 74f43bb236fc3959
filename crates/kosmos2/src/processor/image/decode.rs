//! Picture files to upright, opaque RGB, as Pillow and the reference's conversion give it.

use image::RgbImage;
use image::metadata::Orientation;

use super::header::Header;
use super::limits::DecodeOptions;
use super::{avif, bmp, gif, jpeg, orientation, png, tiff, webp};

/// A decoded picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// 8-bit RGB; transparent parts show white.
    pub rgb: RgbImage,
    /// What the file said of itself.
    pub facts: PictureFacts,
}

/// What a picture's file said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureFacts {
    /// The encoding.
    pub format: PictureFormat,
    /// Width in pixels, after the orientation where it was applied.
    pub width: u32,
    /// Height in pixels, after the orientation where it was applied.
    pub height: u32,
    /// Orientation that EXIF or, without it, XMP states, 1 to 8; 1 where neither does.
    pub orientation: u8,
    /// Whether the picture was turned by it.
    pub orientation_applied: bool,
}

/// The encodings that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    /// JPEG of 8 bits a sample, Huffman or arithmetic coded: gray, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// PNG of any depth and colour type; of an animated one, its still picture.
    Png,
    /// GIF: the first frame.
    Gif,
    /// WebP, lossy and lossless; of an animated one, the first frame.
    WebP,
    /// BMP, rows or run-length encoded.
    Bmp,
    /// TIFF: the first picture.
    Tiff,
    /// AVIF; of an animated one, the first picture.
    Avif,
}

impl PictureFormat {
    /// The format's name in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Gif => "gif",
            Self::WebP => "webp",
            Self::Bmp => "bmp",
            Self::Tiff => "tiff",
            Self::Avif => "avif",
        }
    }
}

/// Why a file gives no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the picture is empty: it has no bytes")]
    Empty,
    /// Not a format that is read.
    #[error("the picture is of no known format; JPEG, PNG, GIF, WebP, BMP, TIFF and AVIF are read")]
    UnknownFormat,
    /// A format that is known but not read.
    #[error("the picture is {name}, which is not read; convert it to JPEG, PNG, GIF, WebP, BMP, TIFF or AVIF")]
    UnsupportedFormat {
        /// The format, with its article.
        name: &'static str,
    },
    /// A kind of picture that is not read, though others of its format are.
    #[error("the picture cannot be read: {what} is not supported; convert it to another kind if it is to be read")]
    Unsupported {
        /// The kind.
        what: String,
    },
    /// A damaged or cut file.
    #[error("the picture is a damaged or incomplete {} file: {reason}", format.as_str())]
    Undecodable {
        /// What it began as.
        format: PictureFormat,
        /// The decoder's words.
        reason: String,
    },
    /// More pixels than allowed.
    #[error("the picture has {width}×{height} pixels, more than the limit of {limit}")]
    TooManyPixels {
        /// Width its header claims.
        width: u64,
        /// Height its header claims.
        height: u64,
        /// The limit on their product.
        limit: u64,
    },
    /// A longer side than allowed.
    #[error("the picture has {width}×{height} pixels, and a side may have at most {limit}")]
    SideTooLong {
        /// Width its header claims.
        width: u64,
        /// Height its header claims.
        height: u64,
        /// The limit on both.
        limit: u32,
    },
    /// More memory than allowed.
    #[error("the picture takes {needed} bytes of memory to decode, more than the limit of {limit}")]
    TooMuchMemory {
        /// What its headers come to.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// Metadata that take more memory than is left for them. How much they would take in all, nobody has looked.
    #[error(
        "the picture is a {} file whose metadata take more memory than is allowed for them; take them out if it is to be read",
        format.as_str()
    )]
    TooMuchMetadata {
        /// The encoding.
        format: PictureFormat,
    },
    /// More parts than any picture needs.
    #[error("the picture is a {} file of more than {limit} {part}, which only files made to cost much have", format.as_str())]
    TooManyParts {
        /// The encoding.
        format: PictureFormat,
        /// Scans, segments, chunks, blocks or frames.
        part: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The deadline came first.
    #[error("the picture was not decoded within the time allowed for it")]
    TimedOut,
}

/// A limit of [`DecodeOptions`] that callers can raise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeLimit {
    /// [`DecodeOptions::max_pixels`].
    Pixels,
    /// [`DecodeOptions::max_side`].
    Side,
    /// [`DecodeOptions::max_memory`].
    Memory,
}

impl ImageError {
    /// The limit that the picture exceeds, if a higher one would let it through.
    pub fn exceeded_limit(&self) -> Option<DecodeLimit> {
        match self {
            Self::TooManyPixels { .. } => Some(DecodeLimit::Pixels),
            Self::SideTooLong { .. } => Some(DecodeLimit::Side),
            Self::TooMuchMemory { .. } => Some(DecodeLimit::Memory),
            _ => None,
        }
    }
}

/// Decodes a picture file.
///
/// The format is told by the first bytes. Size and cost are held against the limits before room for pixels is made.
/// Pixels are those of Pillow followed by the reference's conversion to RGB: transparency of every kind is put on
/// white, 16-bit gray is clipped to 255 and not scaled, CMYK is converted without a colour profile. They come out byte
/// for byte, those of JPEG, lossy WebP and AVIF too. A picture is turned by the orientation that Pillow's `exif_transpose`
/// finds: EXIF's, else XMP's; metadata that cannot be read leave it as it is stored.
///
/// # Errors
/// [`ImageError`]. Decoders of other authors do the reading: where a hostile file must cost no more than itself, catch
/// panics too.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, ImageError> {
    options.check_time()?;
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
    // A decoder that is told of the deadline's end calls it a fault of the file.
    let (rgb, orientation) = decoded.map_err(|error| options.check_time().err().unwrap_or(error))?;
    options.check_time()?;
    if rgb.dimensions() != (header.width, header.height) {
        return Err(undecodable(format, "its headers contradict each other"));
    }
    // Pillow turns these as it opens them, before anyone can ask for the pixels as they are stored.
    let is_turned = options.apply_orientation || format == PictureFormat::Tiff;
    let rgb = if is_turned { orientation::apply(rgb, orientation) } else { rgb };
    let (width, height) = rgb.dimensions();
    let orientation = orientation.to_exif();
    let orientation_applied = is_turned && orientation != 1;
    Ok(Picture { rgb, facts: PictureFacts { format, width, height, orientation, orientation_applied } })
}

pub(super) fn undecodable(format: PictureFormat, error: impl std::fmt::Display) -> ImageError {
    ImageError::Undecodable { format, reason: error.to_string() }
}

/// A picture as it is stored, and how to turn it.
pub(super) type Decoded = (RgbImage, Orientation);
