//! Small whole pictures to begin with: fixtures of the decoders' own tests.

/// A whole picture.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// Its file name.
    pub name: &'static str,
    /// The file.
    pub bytes: &'static [u8],
}

macro_rules! base {
    ($name:literal) => {
        Base { name: $name, bytes: include_bytes!(concat!("../../../../tests/fixtures/images/", $name)) }
    };
}

/// Whole pictures of all formats.
pub const WHOLE: &[Base] = &[
    JPEG,
    PROGRESSIVE,
    base!("subsampled_422.jpg"),
    base!("odd_size_420.jpg"),
    PALETTE_PNG,
    base!("gray_alpha.png"),
    base!("gray_16bit.png"),
    GIF,
    base!("interlaced.gif"),
    LOSSY_WEBP,
    base!("alpha_lossy.webp"),
    LOSSLESS_WEBP,
    BMP,
    PALETTE_BMP,
    base!("bilevel.bmp"),
    base!("kinds/jpg_arith.jpg"),
    base!("kinds/webp_xmp6.webp"),
    base!("kinds/dump_packed.png"),
    base!("kinds/exif_over_xmp.png"),
    base!("kinds/masks_rgba_v5.bmp"),
    base!("kinds/runs_gray.bmp"),
    base!("kinds/interlaced_partial.gif"),
    base!("kinds/lossy_animated_blended.webp"),
];

/// Baseline, gray.
pub(super) const JPEG: Base = base!("gray.jpg");
/// In several scans.
pub(super) const PROGRESSIVE: Base = base!("progressive.jpg");
/// With a palette.
pub(super) const PALETTE_PNG: Base = base!("palette.png");
/// One frame with a transparent colour.
pub(super) const GIF: Base = base!("transparent.gif");
/// One lossy stream, nothing around it.
pub(super) const LOSSY_WEBP: Base = base!("lossy.webp");
/// One lossless stream with opacity.
pub(super) const LOSSLESS_WEBP: Base = base!("rgba_lossless.webp");
/// 24 bits a pixel.
pub(super) const BMP: Base = base!("small.bmp");
/// With a palette of 200 colours.
pub(super) const PALETTE_BMP: Base = base!("palette.bmp");
/// RGB in strips of LZW with a predictor, high bytes first.
pub(super) const LZW_TIFF: Base = base!("tiff/tiffcp_lzw_big_endian.tif");
/// Black and white, in Group 4.
pub(super) const FAX_TIFF: Base = base!("tiff/pillow_group4.tif");
/// RGB in tiles of JPEG.
pub(super) const JPEG_TIFF: Base = base!("tiff/tiffcp_jpeg_tiles.tif");
/// One stream, half the chroma.
pub(super) const AVIF: Base = base!("avif/pillow_420.avif");
