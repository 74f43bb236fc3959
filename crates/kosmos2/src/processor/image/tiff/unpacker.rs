//! Converts stored samples to the bytes of a mode.

use super::modes::{Mode, RawMode};

/// Converts rows of stored samples to rows of bytes of a mode: Pillow's unpacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unpacker {
    /// Bits of a stored pixel.
    pub(super) bits: usize,
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Samples of one, two or four bits, multiplied by `factor` and XORed with `invert`.
    Bits { depth: u32, factor: u8, invert: u8, is_bit_reversed: bool },
    /// A byte, XORed with `invert`.
    Byte { invert: u8, is_bit_reversed: bool },
    /// Twelve bits, clipped to 255.
    TwelveBits,
    /// Integers of two or four bytes, clipped to 255.
    Clipped { bytes: usize, is_big_endian: bool, is_signed: bool, is_bit_reversed: bool },
    /// 32-bit floating-point numbers, clipped to 255.
    Float { is_big_endian: bool },
    /// Several samples per pixel. One byte of each is used: in the first sample of the pixel, the one at `offset`.
    Bytes {
        offset: usize,
        /// Bytes per sample.
        sample_bytes: usize,
        /// Bytes per pixel.
        pixel_bytes: usize,
        /// Whether colours are divided by alpha.
        is_premultiplied: bool,
        is_bit_reversed: bool,
    },
    /// One sample per pixel, for one band of the mode. The byte at `offset` is used.
    Plane { band: usize, offset: usize, sample_bytes: usize },
}

impl Unpacker {
    /// The unpacker for a raw mode; `None` if Pillow has none.
    pub(super) fn new(raw_mode: RawMode) -> Option<Self> {
        let (letters, flags) = raw_mode.name.split_once(';').unwrap_or((raw_mode.name, ""));
        let (is_bit_reversed, invert) = (flags.contains('R'), if flags.contains('I') { 255 } else { 0 });
        let bits = |depth, factor| Encoding::Bits { depth, factor, invert, is_bit_reversed };
        let is_big_endian = flags.contains('B');
        let clipped = |bytes, is_signed| Encoding::Clipped { bytes, is_big_endian, is_signed, is_bit_reversed };
        let (bits, encoding) = match (letters, flags.trim_end_matches(['I', 'R'])) {
            ("1", _) => (1, bits(1, 255)),
            ("L", "2") => (2, bits(2, 0x55)),
            ("L", "4") => (4, bits(4, 0x11)),
            // Pillow opens these but cannot decode them.
            ("P", "1" | "2" | "4") if is_bit_reversed => return None,
            ("L", "") if is_bit_reversed && invert != 0 => return None,
            ("P", "1") => (1, bits(1, 1)),
            ("P", "2") => (2, bits(2, 1)),
            ("P", "4") => (4, bits(4, 1)),
            ("L" | "P", _) => (8, Encoding::Byte { invert, is_bit_reversed }),
            ("I", "12") => (12, Encoding::TwelveBits),
            ("I", "16" | "16B") => (16, clipped(2, false)),
            ("I", "16S" | "16BS") => (16, clipped(2, true)),
            // Pillow's mode I is signed, whatever the sample format.
            ("I", _) => (32, clipped(4, true)),
            ("F", _) => (32, Encoding::Float { is_big_endian }),
            (letters, _) => {
                let sample_bytes = if flags.starts_with("16") { 2 } else { 1 };
                let offset = usize::from(flags == "16L");
                let samples = if letters == "YCbCr" { 3 } else { letters.len() };
                let pixel_bytes = samples * sample_bytes;
                let is_premultiplied = letters.contains('a');
                let encoding = Encoding::Bytes { offset, sample_bytes, pixel_bytes, is_premultiplied, is_bit_reversed };
                (pixel_bytes * 8, encoding)
            }
        };
        Some(Self { bits, encoding })
    }

    /// The unpacker for an uncompressed plane: Pillow uses the raw mode named by one letter, of 8 bits per sample.
    pub(super) fn for_uncompressed_plane(raw_mode: RawMode, plane: usize) -> Option<Self> {
        let letter = raw_mode.name.chars().nth(plane)?;
        let band = |band| Self { bits: 8, encoding: Encoding::Plane { band, offset: 0, sample_bytes: 1 } };
        match (raw_mode.mode, letter) {
            (Mode::Gray, '1') => Self::new(RawMode { name: "1", ..raw_mode }),
            (Mode::Gray, 'L') if raw_mode.name.starts_with('L') => Self::new(RawMode { name: "L", ..raw_mode }),
            (Mode::Gray, 'I') if !matches!(raw_mode.name, "I;12" | "I;16" | "I;16B" | "I;16R") => {
                Self::new(RawMode { name: "I;32S", ..raw_mode })
            }
            (Mode::Gray, 'F') => Self::new(RawMode { name: "F;32F", ..raw_mode }),
            (Mode::Palette, 'P') => Self::new(RawMode { name: "P", ..raw_mode }),
            (Mode::Rgb | Mode::Rgba, 'R') | (Mode::Cmyk, 'C') => Some(band(0)),
            (Mode::Rgb | Mode::Rgba, 'G') | (Mode::Cmyk, 'M') => Some(band(1)),
            (Mode::Rgb | Mode::Rgba, 'B') | (Mode::Cmyk, 'Y') => Some(band(2)),
            (Mode::Rgba, 'A') | (Mode::Cmyk, 'K') => Some(band(3)),
            _ => None,
        }
    }

    /// The unpacker for a decompressed plane, of 8 bits per sample or of 16 in little-endian order.
    pub(super) fn for_decompressed_plane(band: usize, bits: usize) -> Self {
        Self { bits, encoding: Encoding::Plane { band, offset: bits / 8 - 1, sample_bytes: bits / 8 } }
    }

    /// Unpacks a row. Pixels without bytes in `from` are not changed.
    pub(super) fn run(&self, from: &[u8], to: &mut [u8], mode: Mode) {
        let in_bit_order = |byte: u8, is_bit_reversed| if is_bit_reversed { byte.reverse_bits() } else { byte };
        let bands = mode.bytes();
        match self.encoding {
            Encoding::Bits { depth, factor, invert, is_bit_reversed } => {
                let per_byte = 8 / depth as usize;
                for (to, byte) in to.chunks_mut(per_byte).zip(from) {
                    let mut byte = in_bit_order(*byte, is_bit_reversed);
                    for to in to {
                        *to = (byte >> (8 - depth)).wrapping_mul(factor) ^ invert;
                        byte <<= depth;
                    }
                }
            }
            Encoding::Byte { invert, is_bit_reversed } => {
                to.iter_mut().zip(from).for_each(|(to, byte)| *to = in_bit_order(*byte, is_bit_reversed) ^ invert);
            }
            Encoding::TwelveBits => {
                for (to, from) in to.chunks_mut(2).zip(from.chunks(3)) {
                    let byte = |at: usize| u16::from(from.get(at).copied().unwrap_or_default());
                    let samples = [byte(0) << 4 | byte(1) >> 4, (byte(1) & 15) << 8 | byte(2)];
                    to.iter_mut().zip(samples).for_each(|(to, sample)| *to = sample.min(255) as u8);
                }
            }
            Encoding::Clipped { bytes, is_big_endian, is_signed, is_bit_reversed } => {
                for (to, from) in to.iter_mut().zip(from.chunks_exact(bytes)) {
                    let join = |number: u32, byte: &u8| number << 8 | u32::from(in_bit_order(*byte, is_bit_reversed));
                    let number =
                        if is_big_endian { from.iter().fold(0, join) } else { from.iter().rev().fold(0, join) };
                    let is_negative = is_signed && number >> (bytes * 8 - 1) == 1;
                    *to = if is_negative { 0 } else { number.min(255) as u8 };
                }
            }
            Encoding::Float { is_big_endian } => {
                for (to, from) in to.iter_mut().zip(from.as_chunks::<4>().0) {
                    let number = if is_big_endian { f32::from_be_bytes(*from) } else { f32::from_le_bytes(*from) };
                    *to = number.clamp(0.0, 255.0) as u8;
                }
            }
            Encoding::Bytes { offset, sample_bytes, pixel_bytes, is_premultiplied, is_bit_reversed } => {
                for (to, from) in to.chunks_exact_mut(bands).zip(from.chunks_exact(pixel_bytes)) {
                    let samples = from.iter().skip(offset).step_by(sample_bytes);
                    to.iter_mut().zip(samples).for_each(|(to, byte)| *to = in_bit_order(*byte, is_bit_reversed));
                    if let ([red, green, blue, alpha], true) = (to, is_premultiplied) {
                        [red, green, blue].into_iter().for_each(|colour| *colour = unpremultiply(*colour, *alpha));
                    }
                }
            }
            Encoding::Plane { band, offset, sample_bytes } => {
                // Pillow does not read an alpha plane of gray or palette images; their alpha stays 0.
                let is_ignored = matches!(mode, Mode::GrayAlpha | Mode::PaletteAlpha) && band == 1;
                let samples = from.iter().skip(offset).step_by(sample_bytes);
                for (to, byte) in to.chunks_exact_mut(bands).zip(samples) {
                    if let Some(to) = to.get_mut(band).filter(|_| !is_ignored) {
                        *to = *byte;
                    }
                }
            }
        }
    }
}

/// Divides a premultiplied colour by its alpha, as Pillow does.
pub(super) fn unpremultiply(colour: u8, alpha: u8) -> u8 {
    match alpha {
        0 => 0,
        255 => colour,
        _ => (u32::from(colour) * 255 / u32::from(alpha)).min(255) as u8,
    }
}
