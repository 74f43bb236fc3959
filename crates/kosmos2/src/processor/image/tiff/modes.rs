//! Pillow's modes, which name what a pixel is, and raw modes, which name how it is stored.

/// What a pixel is made of: Pillow's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Gray of any depth; samples of more than 8 bits are clipped to 255, as Pillow's conversion to RGB does.
    Gray,
    /// Gray and alpha.
    GrayAlpha,
    /// An index into the colour map.
    Palette,
    /// An index into the colour map, and alpha.
    PaletteAlpha,
    /// Red, green and blue.
    Rgb,
    /// Red, green, blue and alpha.
    Rgba,
    /// Four inks.
    Cmyk,
    /// Luma and chroma without subsampling.
    YCbCr,
}

impl Mode {
    /// Bytes of a pixel.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Gray | Self::Palette => 1,
            Self::GrayAlpha | Self::PaletteAlpha => 2,
            Self::Rgb | Self::YCbCr => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }
}

/// How pixels are stored. Pillow reads uncompressed planes with one letter of the raw mode's name per plane, which for
/// some modes is not what the file means; this is reproduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RawMode {
    /// Pillow's name.
    pub(super) name: &'static str,
    pub(super) mode: Mode,
}

impl RawMode {
    /// The raw mode that Pillow uses after libtiff has made samples little-endian. Pillow does not change it for signed
    /// and floating-point samples, although libtiff has reversed their bytes too.
    pub(super) fn decompressed(self) -> Self {
        let name = match self.name {
            "I;16B" => "I;16",
            "RGB;16B" => "RGB;16L",
            "RGBA;16B" => "RGBA;16L",
            "RGBX;16B" => "RGBX;16L",
            "RGBa;16B" => "RGBa;16L",
            "CMYK;16B" => "CMYK;16L",
            same => same,
        };
        Self { name, ..self }
    }

    /// Plain RGB.
    pub(super) fn as_rgb(self) -> Self {
        Self { name: "RGB", mode: Mode::Rgb }
    }
}
