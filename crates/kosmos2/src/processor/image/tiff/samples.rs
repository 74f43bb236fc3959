//! How samples lie in a TIFF and what they become, as Pillow names it: modes and raw modes.

/// What a picture holds, in Pillow's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Gray of any depth; more than 8 bits are clipped to 255, not scaled.
    Gray,
    /// Gray with opacity.
    GrayAlpha,
    /// An index into the colour map.
    Palette,
    /// An index with opacity.
    PaletteAlpha,
    /// Red, green and blue.
    Rgb,
    /// The same with opacity.
    Rgba,
    /// Four inks.
    Cmyk,
    /// Luma and chroma, not subsampled.
    YCbCr,
}

impl Mode {
    /// Bytes that a pixel takes until it becomes RGB.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Gray | Self::Palette => 1,
            Self::GrayAlpha | Self::PaletteAlpha => 2,
            Self::Rgb | Self::YCbCr => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }
}

/// What the fields say of the samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) is_big_endian: bool,
    pub(super) photometric: u64,
    pub(super) format: u64,
    pub(super) is_reversed: bool,
    pub(super) bits: Vec<u64>,
    pub(super) extra: Vec<u64>,
}

/// How samples lie in their bytes. The letters are Pillow's raw mode: what lies in separate planes is read by one
/// letter a plane, which for some kinds makes another picture than the file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) letters: &'static str,
    pub(super) mode: Mode,
}

impl Kind {
    /// The kinds that Pillow opens and that can become RGB.
    pub(super) fn raw(&self) -> Option<Raw> {
        let (big, reversed) = (self.is_big_endian, self.is_reversed);
        let raw = |mode, letters| Some(Raw { letters, mode });
        let pick = |plain, flipped| if reversed { flipped } else { plain };
        let end = |little, large| if big { large } else { little };
        match (self.photometric, self.format, self.bits.as_slice(), self.extra.as_slice()) {
            (0, 1, [1], []) => raw(Mode::Gray, pick("1;I", "1;IR")),
            (1, 1, [1], []) => raw(Mode::Gray, pick("1", "1;R")),
            (0, 1, [2], []) => raw(Mode::Gray, pick("L;2I", "L;2IR")),
            (1, 1, [2], []) => raw(Mode::Gray, pick("L;2", "L;2R")),
            (0, 1, [4], []) => raw(Mode::Gray, pick("L;4I", "L;4IR")),
            (1, 1, [4], []) => raw(Mode::Gray, pick("L;4", "L;4R")),
            (0, 1, [8], []) => raw(Mode::Gray, pick("L;I", "L;IR")),
            (1, 1, [8], []) => raw(Mode::Gray, pick("L", "L;R")),
            (1, 2, [8], []) if !reversed => raw(Mode::Gray, "L"),
            (1, 1, [12], []) if !reversed && !big => raw(Mode::Gray, "I;12"),
            (0, 1, [16], []) if !reversed && !big => raw(Mode::Gray, "I;16"),
            (1, 1, [16], []) if reversed && !big => raw(Mode::Gray, "I;16R"),
            (1, 1, [16], []) if !reversed => raw(Mode::Gray, end("I;16", "I;16B")),
            (1, 2, [16], []) if !reversed => raw(Mode::Gray, end("I;16S", "I;16BS")),
            (1, 1, [32], []) if !reversed && !big => raw(Mode::Gray, "I;32N"),
            (1, 2, [32], []) if !reversed => raw(Mode::Gray, end("I;32S", "I;32BS")),
            (0 | 1, 3, [32], []) if !reversed => raw(Mode::Gray, end("F;32F", "F;32BF")),
            (1, 1, [8, 8], [2]) if !reversed => raw(Mode::GrayAlpha, "LA"),
            (2, 1, [8, 8, 8], []) => raw(Mode::Rgb, pick("RGB", "RGB;R")),
            (3, 1, [1], []) => raw(Mode::Palette, pick("P;1", "P;1R")),
            (3, 1, [2], []) => raw(Mode::Palette, pick("P;2", "P;2R")),
            (3, 1, [4], []) => raw(Mode::Palette, pick("P;4", "P;4R")),
            (3, 1, [8], []) => raw(Mode::Palette, pick("P", "P;R")),
            (6, 1, [8], []) if !reversed => raw(Mode::Gray, "L"),
            (6, 1, [8, 8, 8], []) if !reversed => raw(Mode::YCbCr, "YCbCr"),
            (_, 1, _, _) if !reversed => self.raw_of_bytes(),
            _ => None,
        }
    }

    /// More of those with samples of whole bytes.
    fn raw_of_bytes(&self) -> Option<Raw> {
        let raw = |mode, letters| Some(Raw { letters, mode });
        let end = |little, large| if self.is_big_endian { large } else { little };
        match (self.photometric, self.bits.as_slice(), self.extra.as_slice()) {
            (1, [8, 8], [0]) => raw(Mode::Gray, "LX"),
            (3, [8, 8], [0]) => raw(Mode::Palette, "PX"),
            (3, [8, 8], [2]) => raw(Mode::PaletteAlpha, "PA"),
            // 999 is what CorelDRAW 10 writes.
            (2, [8, 8, 8, 8], [] | [2] | [999]) => raw(Mode::Rgba, "RGBA"),
            (2, [8, 8, 8, 8], [0]) => raw(Mode::Rgb, "RGBX"),
            (2, [8, 8, 8, 8], [1]) => raw(Mode::Rgba, "RGBa"),
            (2, [8, 8, 8, 8, 8], [0, 0]) => raw(Mode::Rgb, "RGBXX"),
            (2, [8, 8, 8, 8, 8], [1, 0]) => raw(Mode::Rgba, "RGBaX"),
            (2, [8, 8, 8, 8, 8], [2, 0]) => raw(Mode::Rgba, "RGBAX"),
            (2, [8, 8, 8, 8, 8, 8], [0, 0, 0]) => raw(Mode::Rgb, "RGBXXX"),
            (2, [8, 8, 8, 8, 8, 8], [1, 0, 0]) => raw(Mode::Rgba, "RGBaXX"),
            (2, [8, 8, 8, 8, 8, 8], [2, 0, 0]) => raw(Mode::Rgba, "RGBAXX"),
            (2, [16, 16, 16], []) => raw(Mode::Rgb, end("RGB;16L", "RGB;16B")),
            (2, [16, 16, 16, 16], [] | [2]) => raw(Mode::Rgba, end("RGBA;16L", "RGBA;16B")),
            (2, [16, 16, 16, 16], [0]) => raw(Mode::Rgb, end("RGBX;16L", "RGBX;16B")),
            (2, [16, 16, 16, 16], [1]) => raw(Mode::Rgba, end("RGBa;16L", "RGBa;16B")),
            (5, [8, 8, 8, 8], []) => raw(Mode::Cmyk, "CMYK"),
            (5, [8, 8, 8, 8, 8], [0]) => raw(Mode::Cmyk, "CMYKX"),
            (5, [8, 8, 8, 8, 8, 8], [0, 0]) => raw(Mode::Cmyk, "CMYKXX"),
            (5, [16, 16, 16, 16], []) => raw(Mode::Cmyk, end("CMYK;16L", "CMYK;16B")),
            _ => None,
        }
    }
}

impl Raw {
    /// The same with samples that have their low byte first, which libtiff makes of all but signed and floating-point
    /// ones: those Pillow reads as the file says, though libtiff has turned them.
    pub(super) fn swapped(self) -> Self {
        let letters = match self.letters {
            "I;16B" => "I;16",
            "RGB;16B" => "RGB;16L",
            "RGBA;16B" => "RGBA;16L",
            "RGBX;16B" => "RGBX;16L",
            "RGBa;16B" => "RGBa;16L",
            "CMYK;16B" => "CMYK;16L",
            same => same,
        };
        Self { letters, ..self }
    }

    /// Three bytes of red, green and blue.
    pub(super) fn as_rgb(self) -> Self {
        Self { letters: "RGB", mode: Mode::Rgb }
    }
}

/// Turns rows of samples into bytes of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unpacker {
    /// Bits of a pixel as it is stored.
    pub(super) bits: usize,
    way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Samples of one, two or four bits, times a factor, perhaps inverted.
    Packed {
        depth: u32,
        factor: u8,
        invert: u8,
        is_reversed: bool,
    },
    Byte {
        invert: u8,
        is_reversed: bool,
    },
    Twelve,
    /// Whole numbers of two or four bytes, clipped to 255.
    Clipped {
        bytes: usize,
        is_big_endian: bool,
        is_signed: bool,
        is_reversed: bool,
    },
    Float {
        is_big_endian: bool,
    },
    /// The first byte of every sample from `first` on, `step` bytes a pixel, `stride` bytes a sample.
    Bytes {
        first: usize,
        stride: usize,
        step: usize,
        is_multiplied: bool,
        is_reversed: bool,
    },
    /// The same of one plane.
    Plane {
        band: usize,
        first: usize,
        step: usize,
    },
}

impl Unpacker {
    /// For all samples of a pixel together.
    pub(super) fn new(raw: Raw) -> Option<Self> {
        let (letters, flags) = raw.letters.split_once(';').unwrap_or((raw.letters, ""));
        let (is_reversed, invert) = (flags.contains('R'), if flags.contains('I') { 255 } else { 0 });
        let packed = |depth, factor| Way::Packed { depth, factor, invert, is_reversed };
        let is_big_endian = flags.contains('B');
        let clipped = |bytes, is_signed| Way::Clipped { bytes, is_big_endian, is_signed, is_reversed };
        let (bits, way) = match (letters, flags.trim_end_matches(['I', 'R'])) {
            ("1", _) => (1, packed(1, 255)),
            ("L", "2") => (2, packed(2, 0x55)),
            ("L", "4") => (4, packed(4, 0x11)),
            // Pillow opens these but has no way to read them.
            ("P", "1" | "2" | "4") if is_reversed => return None,
            ("L", "") if is_reversed && invert != 0 => return None,
            ("P", "1") => (1, packed(1, 1)),
            ("P", "2") => (2, packed(2, 1)),
            ("P", "4") => (4, packed(4, 1)),
            ("L" | "P", _) => (8, Way::Byte { invert, is_reversed }),
            ("I", "12") => (12, Way::Twelve),
            ("I", "16" | "16B") => (16, clipped(2, false)),
            ("I", "16S" | "16BS") => (16, clipped(2, true)),
            // A picture of 32 bits is signed whatever the file says.
            ("I", _) => (32, clipped(4, true)),
            ("F", _) => (32, Way::Float { is_big_endian }),
            (letters, _) => {
                let stride = if flags.starts_with("16") { 2 } else { 1 };
                let first = usize::from(flags == "16L");
                let samples = if letters == "YCbCr" { 3 } else { letters.len() };
                let step = samples * stride;
                let is_multiplied = letters.contains('a');
                (step * 8, Way::Bytes { first, stride, step, is_multiplied, is_reversed })
            }
        };
        Some(Self { bits, way })
    }

    /// For the samples of one plane where nothing is packed: Pillow's reading by one letter, 8 bits each.
    pub(super) fn letter(raw: Raw, plane: usize) -> Option<Self> {
        let letter = raw.letters.chars().nth(plane)?;
        let band = |band| Self { bits: 8, way: Way::Plane { band, first: 0, step: 1 } };
        match (raw.mode, letter) {
            (Mode::Gray, '1') => Self::new(Raw { letters: "1", ..raw }),
            (Mode::Gray, 'L') if raw.letters.starts_with('L') => Self::new(Raw { letters: "L", ..raw }),
            (Mode::Gray, 'I') if raw.letters != "I;12" && !matches!(raw.letters, "I;16" | "I;16B" | "I;16R") => {
                Self::new(Raw { letters: "I;32S", ..raw })
            }
            (Mode::Gray, 'F') => Self::new(Raw { letters: "F;32F", ..raw }),
            (Mode::Palette, 'P') => Self::new(Raw { letters: "P", ..raw }),
            (Mode::Rgb | Mode::Rgba, 'R') | (Mode::Cmyk, 'C') => Some(band(0)),
            (Mode::Rgb | Mode::Rgba, 'G') | (Mode::Cmyk, 'M') => Some(band(1)),
            (Mode::Rgb | Mode::Rgba, 'B') | (Mode::Cmyk, 'Y') => Some(band(2)),
            (Mode::Rgba, 'A') | (Mode::Cmyk, 'K') => Some(band(3)),
            _ => None,
        }
    }

    /// For the samples of one plane that was packed: 8 bits, or 16 of which the high byte comes second.
    pub(super) fn plane(band: usize, bits: usize) -> Self {
        Self { bits, way: Way::Plane { band, first: bits / 8 - 1, step: bits / 8 } }
    }

    /// Unpacks a row. Pixels for which there are no bytes stay as they are.
    pub(super) fn run(&self, from: &[u8], to: &mut [u8], mode: Mode) {
        let flip = |byte: u8, is_reversed| if is_reversed { byte.reverse_bits() } else { byte };
        let bands = mode.bytes();
        match self.way {
            Way::Packed { depth, factor, invert, is_reversed } => {
                let per_byte = 8 / depth as usize;
                for (to, byte) in to.chunks_mut(per_byte).zip(from) {
                    let mut byte = flip(*byte, is_reversed);
                    for to in to {
                        *to = (byte >> (8 - depth)).wrapping_mul(factor) ^ invert;
                        byte <<= depth;
                    }
                }
            }
            Way::Byte { invert, is_reversed } => {
                to.iter_mut().zip(from).for_each(|(to, byte)| *to = flip(*byte, is_reversed) ^ invert);
            }
            Way::Twelve => {
                for (to, from) in to.chunks_mut(2).zip(from.chunks(3)) {
                    let byte = |at: usize| u16::from(from.get(at).copied().unwrap_or_default());
                    let samples = [byte(0) << 4 | byte(1) >> 4, (byte(1) & 15) << 8 | byte(2)];
                    to.iter_mut().zip(samples).for_each(|(to, sample)| *to = sample.min(255) as u8);
                }
            }
            Way::Clipped { bytes, is_big_endian, is_signed, is_reversed } => {
                for (to, from) in to.iter_mut().zip(from.chunks_exact(bytes)) {
                    let join = |number: u32, byte: &u8| number << 8 | u32::from(flip(*byte, is_reversed));
                    let number =
                        if is_big_endian { from.iter().fold(0, join) } else { from.iter().rev().fold(0, join) };
                    let is_negative = is_signed && number >> (bytes * 8 - 1) == 1;
                    *to = if is_negative { 0 } else { number.min(255) as u8 };
                }
            }
            Way::Float { is_big_endian } => {
                for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                    let number = if is_big_endian { f32::from_be_bytes(*from) } else { f32::from_le_bytes(*from) };
                    *to = number.clamp(0.0, 255.0) as u8;
                }
            }
            Way::Bytes { first, stride, step, is_multiplied, is_reversed } => {
                for (to, from) in to.chunks_exact_mut(bands).zip(from.chunks_exact(step)) {
                    let samples = from.iter().skip(first).step_by(stride);
                    to.iter_mut().zip(samples).for_each(|(to, byte)| *to = flip(*byte, is_reversed));
                    if let ([red, green, blue, alpha], true) = (to, is_multiplied) {
                        [red, green, blue].into_iter().for_each(|colour| *colour = divided(*colour, *alpha));
                    }
                }
            }
            Way::Plane { band, first, step } => {
                // A second plane of gray is not its opacity to Pillow, which leaves that at nothing.
                let is_opacity = matches!(mode, Mode::GrayAlpha | Mode::PaletteAlpha) && band == 1;
                let samples = from.iter().skip(first).step_by(step);
                for (to, byte) in to.chunks_exact_mut(bands).zip(samples) {
                    if let Some(to) = to.get_mut(band).filter(|_| !is_opacity) {
                        *to = *byte;
                    }
                }
            }
        }
    }
}

/// A colour that was multiplied with its opacity, as it was before.
pub(super) fn divided(colour: u8, alpha: u8) -> u8 {
    match alpha {
        0 => 0,
        255 => colour,
        _ => (u32::from(colour) * 255 / u32::from(alpha)).min(255) as u8,
    }
}
