//! The picture formats that are decoded.

/// The format of a picture file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    /// JPEG with 8 bits per sample, Huffman or arithmetic coded: gray, YCbCr, RGB, CMYK and YCCK.
    Jpeg,
    /// PNG of any bit depth and colour type; the default image of an animated PNG.
    Png,
    /// GIF: the first frame.
    Gif,
    /// WebP, lossy and lossless; the first frame of an animation.
    WebP,
    /// BMP, uncompressed or run-length encoded.
    Bmp,
    /// TIFF: the first image.
    Tiff,
    /// AVIF; the first frame of an image sequence.
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
