//! Picture files to upright, opaque RGB, as Pillow and the reference's conversion give it.

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::error::ImageError as CodecError;
use image::{DynamicImage, ImageDecoder, Limits, RgbImage};

use super::header::Header;
use super::limits::{DecodeOptions, Paced};
use super::{header, jpeg, orientation, tiff};

/// How much of a file a decoder gets at a time. The most that deflate makes of it is 64 MiB of pixels, so that the
/// deadline is looked at several times a second.
const PIECE: usize = 64 << 10;

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
    /// EXIF orientation found, 1 to 8; 1 where there is none.
    pub orientation: u8,
    /// Whether the picture was turned by it.
    pub orientation_applied: bool,
}

/// The encodings that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    /// JPEG: gray, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// PNG of any depth and colour type; of an animated one, its still picture.
    Png,
    /// GIF: the first frame.
    Gif,
    /// WebP, lossy and lossless; of an animated one, the first frame.
    WebP,
    /// BMP.
    Bmp,
    /// TIFF: the first picture.
    Tiff,
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
    #[error("the picture is of no known format; JPEG, PNG, GIF, WebP, BMP and TIFF are read")]
    UnknownFormat,
    /// A format that is known but not read.
    #[error("the picture is {name}, which is not read; convert it to JPEG, PNG, GIF, WebP, BMP or TIFF")]
    UnsupportedFormat {
        /// The format, with its article.
        name: &'static str,
    },
    /// A kind of file that is not read, of a format of which others are.
    #[error("the picture is a {} file {kind}, which is not read; convert it to another kind or format", format.as_str())]
    UnsupportedKind {
        /// The format.
        format: PictureFormat,
        /// What sets the kind apart, to be read behind the word "file".
        kind: String,
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
    #[error(
        "the picture has {width}×{height} pixels, more than the limit of {limit}; raise the limit if it is to be read"
    )]
    TooManyPixels {
        /// Width its header claims.
        width: u64,
        /// Height its header claims.
        height: u64,
        /// The limit on their product.
        limit: u64,
    },
    /// A longer side than allowed.
    #[error(
        "the picture has {width}×{height} pixels, and a side may have {limit}; raise the limit if it is to be read"
    )]
    SideTooLong {
        /// Width its header claims.
        width: u64,
        /// Height its header claims.
        height: u64,
        /// The limit on both.
        limit: u32,
    },
    /// More memory than allowed.
    #[error(
        "the picture takes {needed} bytes of memory to decode, more than the limit of {limit}; raise the limit if it is to be read"
    )]
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

/// Decodes a picture file.
///
/// The format is told by the first bytes. Size and cost are held against the limits before room for pixels is made.
/// Pixels are those of Pillow followed by the reference's conversion to RGB: transparency of every kind is put on
/// white, 16-bit gray is clipped to 255 and not scaled, CMYK is converted without a colour profile. They come out byte
/// for byte, those of JPEG and lossy WebP too.
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
        PictureFormat::Tiff => tiff::decode(bytes, options).map(|found| (found.rgb, found.exif)),
        _ => lossless(bytes, &header, options),
    };
    // A decoder that is told of the deadline's end calls it a fault of the file.
    let (rgb, exif) = decoded.map_err(|error| options.check_time().err().unwrap_or(error))?;
    options.check_time()?;
    let orientation = orientation::of_exif(exif.as_deref());
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

pub(super) type Decoded = (RgbImage, Option<Vec<u8>>);

/// All but JPEG, by the decoders of the `image` crate.
fn lossless(bytes: &[u8], header: &Header, options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let source = Paced::new(bytes, PIECE, options.deadline);
    let format = header.format;
    let broken = |error| refused(error, format);
    match format {
        PictureFormat::Png => {
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(header::png_metadata_room(bytes));
            read_out(PngDecoder::with_limits(source, limits).map_err(broken)?, header, options)
        }
        PictureFormat::Gif => read_out(GifDecoder::new(source).map_err(broken)?, header, options),
        PictureFormat::WebP => read_out(WebPDecoder::new(source).map_err(broken)?, header, options),
        _ => read_out(BmpDecoder::new(source).map_err(broken)?, header, options),
    }
}

fn read_out(mut decoder: impl ImageDecoder, header: &Header, options: &DecodeOptions) -> Result<Decoded, ImageError> {
    let (width, height) = decoder.dimensions();
    if (width, height) != (header.width, header.height) || decoder.total_bytes() > header.memory {
        return Err(undecodable(header.format, "its headers contradict each other"));
    }
    let broken = |error| refused(error, header.format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(header.memory);
    decoder.set_limits(limits).map_err(broken)?;
    // Metadata that cannot be read make no difference to the pixels.
    let exif = decoder.exif_metadata().ok().flatten();
    let picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    options.check_time()?;
    Ok((opaque(picture), exif))
}

fn refused(error: CodecError, format: PictureFormat) -> ImageError {
    match error {
        // Only metadata can still be larger than what the header was let through with.
        CodecError::Limits(_) => ImageError::TooMuchMetadata { format },
        error => undecodable(format, error),
    }
}

/// 8-bit RGB of any kind of picture, transparency on white.
fn opaque(picture: DynamicImage) -> RgbImage {
    match picture {
        DynamicImage::ImageRgb8(rgb) => rgb,
        // Pillow keeps 16-bit gray as it is and clips it on the way to 8 bits.
        DynamicImage::ImageLuma16(gray) => {
            let (width, height) = gray.dimensions();
            RgbImage::from_fn(width, height, |x, y| image::Rgb([gray.get_pixel(x, y).0[0].min(255) as u8; 3]))
        }
        DynamicImage::ImageLumaA8(_) | DynamicImage::ImageRgba8(_) => on_white(&picture.into_rgba8()),
        // Of other 16-bit samples Pillow takes the high byte.
        DynamicImage::ImageRgb16(rgb) => {
            let bytes = rgb.as_raw().iter().map(|sample| (sample >> 8) as u8).collect();
            RgbImage::from_raw(rgb.width(), rgb.height(), bytes).unwrap_or_default()
        }
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => {
            let rgba = picture.into_rgba16();
            let bytes = rgba.as_raw().iter().map(|sample| (sample >> 8) as u8).collect();
            on_white(&image::RgbaImage::from_raw(rgba.width(), rgba.height(), bytes).unwrap_or_default())
        }
        other => other.into_rgb8(),
    }
}

/// Pillow's `alpha_composite` over opaque white, in its fixed point.
pub(super) fn on_white(rgba: &image::RgbaImage) -> RgbImage {
    let blend = |byte: u8, alpha: u8| {
        let (byte, alpha) = (u32::from(byte), u32::from(alpha));
        let sum = (byte * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    };
    let (width, height) = rgba.dimensions();
    let mut rgb = RgbImage::new(width, height);
    let (from, to) = (rgba.as_raw().as_chunks::<4>().0, rgb.as_chunks_mut::<3>().0);
    for (&[red, green, blue, alpha], to) in from.iter().zip(to) {
        *to = [blend(red, alpha), blend(green, alpha), blend(blue, alpha)];
    }
    rgb
}
