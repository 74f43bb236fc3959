//! Picture files to upright, opaque RGB, as Pillow and the reference's conversion give it.

use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits, RgbImage};

use super::{jpeg, orientation};

/// How to decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Turn the picture upright by its EXIF orientation, as the reference's `load_image` does. Without it pixels stay
    /// as they are stored, as with a picture object passed to the reference's processor.
    pub apply_orientation: bool,
    /// Most pixels, width times height. The default is Pillow's limit against decompression bombs.
    pub max_pixels: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { apply_orientation: true, max_pixels: 178_956_970 }
    }
}

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
    #[error("the picture is of no known format; JPEG, PNG, GIF, WebP and BMP are read")]
    UnknownFormat,
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
}

/// Decodes a picture file.
///
/// The format is told by the first bytes. The size is checked against the limit before room for pixels is made.
/// Pixels are those of Pillow followed by the reference's conversion to RGB: transparency of every kind is put on
/// white, 16-bit gray is clipped to 255 and not scaled, CMYK is converted without a colour profile. They come out byte
/// for byte, those of JPEG and lossy WebP too.
///
/// # Errors
/// [`ImageError`]. Decoders of other authors do the reading: where a hostile file must cost no more than itself, catch
/// panics too.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<Picture, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let format = match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => PictureFormat::Jpeg,
        Ok(ImageFormat::Png) => PictureFormat::Png,
        Ok(ImageFormat::Gif) => PictureFormat::Gif,
        Ok(ImageFormat::WebP) => PictureFormat::WebP,
        Ok(ImageFormat::Bmp) => PictureFormat::Bmp,
        _ => return Err(ImageError::UnknownFormat),
    };
    let (rgb, exif) = match format {
        PictureFormat::Jpeg => jpeg::decode(bytes, options.max_pixels)?,
        _ => {
            let source = Cursor::new(bytes);
            let broken = |error| undecodable(format, error);
            match format {
                PictureFormat::Png => lossless(PngDecoder::new(source).map_err(broken)?, format, options.max_pixels)?,
                PictureFormat::Gif => lossless(GifDecoder::new(source).map_err(broken)?, format, options.max_pixels)?,
                PictureFormat::WebP => lossless(WebPDecoder::new(source).map_err(broken)?, format, options.max_pixels)?,
                _ => lossless(BmpDecoder::new(source).map_err(broken)?, format, options.max_pixels)?,
            }
        }
    };
    let orientation = orientation::of_exif(exif.as_deref());
    let rgb = if options.apply_orientation { orientation::apply(rgb, orientation) } else { rgb };
    let (width, height) = rgb.dimensions();
    let orientation = orientation.to_exif();
    let orientation_applied = options.apply_orientation && orientation != 1;
    Ok(Picture { rgb, facts: PictureFacts { format, width, height, orientation, orientation_applied } })
}

pub(super) fn undecodable(format: PictureFormat, error: impl std::fmt::Display) -> ImageError {
    ImageError::Undecodable { format, reason: error.to_string() }
}

pub(super) fn check_size((width, height): (u64, u64), limit: u64) -> Result<(), ImageError> {
    match width.checked_mul(height) {
        Some(pixels) if pixels <= limit => Ok(()),
        _ => Err(ImageError::TooManyPixels { width, height, limit }),
    }
}

pub(super) type Decoded = (RgbImage, Option<Vec<u8>>);

/// All but JPEG, by the decoders of the `image` crate.
fn lossless(mut decoder: impl ImageDecoder, format: PictureFormat, max_pixels: u64) -> Result<Decoded, ImageError> {
    let (width, height) = decoder.dimensions();
    check_size((width.into(), height.into()), max_pixels)?;
    if width == 0 || height == 0 {
        return Err(undecodable(format, "it has no pixels"));
    }
    let mut limits = Limits::no_limits();
    // 16-bit RGBA is the widest pixel; a decoder may hold the picture twice.
    limits.max_alloc = Some(max_pixels.saturating_mul(16));
    decoder.set_limits(limits).map_err(|error| undecodable(format, error))?;
    // Metadata that cannot be read make no difference to the pixels.
    let exif = decoder.exif_metadata().ok().flatten();
    let picture = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(format, error))?;
    Ok((opaque(picture), exif))
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
fn on_white(rgba: &image::RgbaImage) -> RgbImage {
    let blend = |byte: u8, alpha: u8| {
        let (byte, alpha) = (u32::from(byte), u32::from(alpha));
        let sum = (byte * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    };
    let (width, height) = rgba.dimensions();
    let bytes = rgba.pixels().flat_map(|pixel| {
        let [red, green, blue, alpha] = pixel.0;
        [blend(red, alpha), blend(green, alpha), blend(blue, alpha)]
    });
    RgbImage::from_raw(width, height, bytes.collect()).unwrap_or_default()
}
