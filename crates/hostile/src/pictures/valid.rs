//! Small valid pictures, from which bad ones are made: fixtures of the decoder's tests.

/// A valid picture.
#[derive(Debug, Clone, Copy)]
pub struct ValidPicture {
    /// The file name.
    pub name: &'static str,
    /// The content of the file.
    pub bytes: &'static [u8],
}

macro_rules! fixture {
    ($name:literal) => {
        ValidPicture { name: $name, bytes: include_bytes!(concat!("../../../../tests/fixtures/images/", $name)) }
    };
}

/// Valid pictures of JPEG, PNG, GIF, WebP and BMP.
pub const VALID: &[ValidPicture] = &[
    JPEG,
    PROGRESSIVE,
    fixture!("subsampled_422.jpg"),
    fixture!("odd_size_420.jpg"),
    PALETTE_PNG,
    fixture!("gray_alpha.png"),
    fixture!("gray_16bit.png"),
    GIF,
    fixture!("interlaced.gif"),
    LOSSY_WEBP,
    fixture!("alpha_lossy.webp"),
    LOSSLESS_WEBP,
    BMP,
    PALETTE_BMP,
    fixture!("bilevel.bmp"),
    fixture!("kinds/jpg_arith.jpg"),
    fixture!("kinds/webp_xmp6.webp"),
    fixture!("kinds/dump_packed.png"),
    fixture!("kinds/exif_over_xmp.png"),
    fixture!("kinds/masks_rgba_v5.bmp"),
    fixture!("kinds/runs_gray.bmp"),
    fixture!("kinds/interlaced_partial.gif"),
    fixture!("kinds/lossy_animated_blended.webp"),
];

/// Baseline JPEG, gray.
pub(super) const JPEG: ValidPicture = fixture!("gray.jpg");
/// Progressive JPEG.
pub(super) const PROGRESSIVE: ValidPicture = fixture!("progressive.jpg");
/// PNG with a palette.
pub(super) const PALETTE_PNG: ValidPicture = fixture!("palette.png");
/// GIF of one frame with a transparent colour.
pub(super) const GIF: ValidPicture = fixture!("transparent.gif");
/// Lossy WebP without a VP8X chunk.
pub(super) const LOSSY_WEBP: ValidPicture = fixture!("lossy.webp");
/// Lossless WebP with alpha.
pub(super) const LOSSLESS_WEBP: ValidPicture = fixture!("rgba_lossless.webp");
/// BMP with 24 bits per pixel.
pub(super) const BMP: ValidPicture = fixture!("small.bmp");
/// BMP with a palette of 200 colours.
pub(super) const PALETTE_BMP: ValidPicture = fixture!("palette.bmp");
/// Big-endian TIFF: RGB in LZW strips with a predictor.
pub(super) const LZW_TIFF: ValidPicture = fixture!("tiff/tiffcp_lzw_big_endian.tif");
/// TIFF: bilevel, CCITT Group 4.
pub(super) const FAX_TIFF: ValidPicture = fixture!("tiff/pillow_group4.tif");
/// TIFF: RGB in JPEG tiles.
pub(super) const JPEG_TIFF: ValidPicture = fixture!("tiff/tiffcp_jpeg_tiles.tif");
/// AVIF: one item, 4:2:0.
pub(super) const AVIF: ValidPicture = fixture!("avif/pillow_420.avif");
