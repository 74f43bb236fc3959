//! The fields that describe samples, and the raw mode that Pillow reads them with.

use super::super::error::ImageError;
use super::super::limits::MAX_PARTS;
use super::directory::Directory;
use super::error::{damaged, unsupported};
use super::modes::{Mode, RawMode};
use super::tags::{
    BITS_PER_SAMPLE, EXTRA_SAMPLES, FILL_ORDER, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT, SAMPLES_PER_PIXEL,
};

/// Maximum samples per pixel: Pillow's `MAX_SAMPLESPERPIXEL`.
const MAX_SAMPLES: usize = 6;

/// The values by which Pillow chooses a raw mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SampleFields {
    pub(super) is_big_endian: bool,
    /// Photometric interpretation.
    pub(super) photometric: u64,
    /// Sample format.
    pub(super) format: u64,
    /// Whether bytes have their least significant bit first.
    pub(super) is_bit_reversed: bool,
    /// Bits of each sample.
    pub(super) bits: Vec<u64>,
    /// Meaning of each extra sample.
    pub(super) extra: Vec<u64>,
}

impl SampleFields {
    /// The raw mode, as in Pillow's `OPEN_INFO`; `None` if Pillow cannot open the image or convert it to RGB.
    pub(super) fn raw_mode(&self) -> Option<RawMode> {
        let (big, reversed) = (self.is_big_endian, self.is_bit_reversed);
        let raw = |mode, name| Some(RawMode { name, mode });
        let by_bit_order = |normal, reversed_name| if reversed { reversed_name } else { normal };
        let by_byte_order = |little, large| if big { large } else { little };
        match (self.photometric, self.format, self.bits.as_slice(), self.extra.as_slice()) {
            (0, 1, [1], []) => raw(Mode::Gray, by_bit_order("1;I", "1;IR")),
            (1, 1, [1], []) => raw(Mode::Gray, by_bit_order("1", "1;R")),
            (0, 1, [2], []) => raw(Mode::Gray, by_bit_order("L;2I", "L;2IR")),
            (1, 1, [2], []) => raw(Mode::Gray, by_bit_order("L;2", "L;2R")),
            (0, 1, [4], []) => raw(Mode::Gray, by_bit_order("L;4I", "L;4IR")),
            (1, 1, [4], []) => raw(Mode::Gray, by_bit_order("L;4", "L;4R")),
            (0, 1, [8], []) => raw(Mode::Gray, by_bit_order("L;I", "L;IR")),
            (1, 1, [8], []) => raw(Mode::Gray, by_bit_order("L", "L;R")),
            (1, 2, [8], []) if !reversed => raw(Mode::Gray, "L"),
            (1, 1, [12], []) if !reversed && !big => raw(Mode::Gray, "I;12"),
            (0, 1, [16], []) if !reversed && !big => raw(Mode::Gray, "I;16"),
            (1, 1, [16], []) if reversed && !big => raw(Mode::Gray, "I;16R"),
            (1, 1, [16], []) if !reversed => raw(Mode::Gray, by_byte_order("I;16", "I;16B")),
            (1, 2, [16], []) if !reversed => raw(Mode::Gray, by_byte_order("I;16S", "I;16BS")),
            (1, 1, [32], []) if !reversed && !big => raw(Mode::Gray, "I;32N"),
            (1, 2, [32], []) if !reversed => raw(Mode::Gray, by_byte_order("I;32S", "I;32BS")),
            (0 | 1, 3, [32], []) if !reversed => raw(Mode::Gray, by_byte_order("F;32F", "F;32BF")),
            (1, 1, [8, 8], [2]) if !reversed => raw(Mode::GrayAlpha, "LA"),
            (2, 1, [8, 8, 8], []) => raw(Mode::Rgb, by_bit_order("RGB", "RGB;R")),
            (3, 1, [1], []) => raw(Mode::Palette, by_bit_order("P;1", "P;1R")),
            (3, 1, [2], []) => raw(Mode::Palette, by_bit_order("P;2", "P;2R")),
            (3, 1, [4], []) => raw(Mode::Palette, by_bit_order("P;4", "P;4R")),
            (3, 1, [8], []) => raw(Mode::Palette, by_bit_order("P", "P;R")),
            (6, 1, [8], []) if !reversed => raw(Mode::Gray, "L"),
            (6, 1, [8, 8, 8], []) if !reversed => raw(Mode::YCbCr, "YCbCr"),
            (_, 1, _, _) if !reversed => self.raw_mode_of_bytes(),
            _ => None,
        }
    }

    /// Further raw modes of samples that are whole bytes.
    fn raw_mode_of_bytes(&self) -> Option<RawMode> {
        let raw = |mode, name| Some(RawMode { name, mode });
        let by_byte_order = |little, large| if self.is_big_endian { large } else { little };
        match (self.photometric, self.bits.as_slice(), self.extra.as_slice()) {
            (1, [8, 8], [0]) => raw(Mode::Gray, "LX"),
            (3, [8, 8], [0]) => raw(Mode::Palette, "PX"),
            (3, [8, 8], [2]) => raw(Mode::PaletteAlpha, "PA"),
            // CorelDRAW 10 writes 999.
            (2, [8, 8, 8, 8], [] | [2] | [999]) => raw(Mode::Rgba, "RGBA"),
            (2, [8, 8, 8, 8], [0]) => raw(Mode::Rgb, "RGBX"),
            (2, [8, 8, 8, 8], [1]) => raw(Mode::Rgba, "RGBa"),
            (2, [8, 8, 8, 8, 8], [0, 0]) => raw(Mode::Rgb, "RGBXX"),
            (2, [8, 8, 8, 8, 8], [1, 0]) => raw(Mode::Rgba, "RGBaX"),
            (2, [8, 8, 8, 8, 8], [2, 0]) => raw(Mode::Rgba, "RGBAX"),
            (2, [8, 8, 8, 8, 8, 8], [0, 0, 0]) => raw(Mode::Rgb, "RGBXXX"),
            (2, [8, 8, 8, 8, 8, 8], [1, 0, 0]) => raw(Mode::Rgba, "RGBaXX"),
            (2, [8, 8, 8, 8, 8, 8], [2, 0, 0]) => raw(Mode::Rgba, "RGBAXX"),
            (2, [16, 16, 16], []) => raw(Mode::Rgb, by_byte_order("RGB;16L", "RGB;16B")),
            (2, [16, 16, 16, 16], [] | [2]) => raw(Mode::Rgba, by_byte_order("RGBA;16L", "RGBA;16B")),
            (2, [16, 16, 16, 16], [0]) => raw(Mode::Rgb, by_byte_order("RGBX;16L", "RGBX;16B")),
            (2, [16, 16, 16, 16], [1]) => raw(Mode::Rgba, by_byte_order("RGBa;16L", "RGBa;16B")),
            (5, [8, 8, 8, 8], []) => raw(Mode::Cmyk, "CMYK"),
            (5, [8, 8, 8, 8, 8], [0]) => raw(Mode::Cmyk, "CMYKX"),
            (5, [8, 8, 8, 8, 8, 8], [0, 0]) => raw(Mode::Cmyk, "CMYKXX"),
            (5, [16, 16, 16, 16], []) => raw(Mode::Cmyk, by_byte_order("CMYK;16L", "CMYK;16B")),
            _ => None,
        }
    }
}

/// The samples of an image.
pub(super) struct Samples {
    pub(super) fields: SampleFields,
    /// Samples per pixel in the file.
    pub(super) stored: usize,
    /// Whether each sample has its own plane.
    pub(super) is_planar: bool,
}

impl Samples {
    /// Reads the fields and corrects their values as Pillow does.
    pub(super) fn read(directory: &Directory) -> Result<Self, ImageError> {
        let list = |tag, default: &[u64]| match directory.get(tag) {
            Some(values) => values.list(MAX_PARTS as usize),
            None => Some(default.to_vec()),
        };
        let not_integer = || damaged("a field that describes its samples is not a whole number");
        let mut formats = list(SAMPLE_FORMAT, &[1]).ok_or_else(not_integer)?;
        formats.dedup();
        let mut bits = list(BITS_PER_SAMPLE, &[1]).ok_or_else(not_integer)?;
        let mut extra = list(EXTRA_SAMPLES, &[]).ok_or_else(not_integer)?;
        let stored = directory.number(SAMPLES_PER_PIXEL, 1).ok_or_else(not_integer)? as usize;
        let is_planar = directory.number(PLANAR_CONFIGURATION, 1).ok_or_else(not_integer)? == 2;
        let mut samples = stored;
        if is_planar && !extra.is_empty() && extra.iter().all(|meaning| *meaning == 0) {
            // Planes of unspecified meaning are not read.
            bits.truncate(bits.len().saturating_sub(extra.len()));
            samples = samples.saturating_sub(extra.len());
            extra.clear();
        }
        if stored > 4 * MAX_SAMPLES || samples > MAX_SAMPLES {
            return Err(unsupported(format!("with {stored} samples per pixel")));
        }
        match bits.as_slice() {
            [one] => bits = vec![*one; samples],
            _ => bits.truncate(samples),
        }
        let photometric = match directory.get(PHOTOMETRIC) {
            // Several values are treated as 0.
            Some(values) if values.len() > 1 => 0,
            _ => directory.number(PHOTOMETRIC, 0).ok_or_else(not_integer)?,
        };
        if bits.len() != samples || samples == 0 {
            return Err(damaged("its fields state different numbers of samples"));
        }
        let [format] = formats.as_slice() else { return Err(unsupported("with samples of different formats")) };
        let is_bit_reversed = match directory.number(FILL_ORDER, 1) {
            Some(1) => false,
            Some(2) => true,
            _ => return Err(damaged("its fill order is neither 1 nor 2")),
        };
        let is_big_endian = directory.is_big_endian();
        let fields = SampleFields { is_big_endian, photometric, format: *format, is_bit_reversed, bits, extra };
        Ok(Self { fields, stored, is_planar })
    }
}

impl SampleFields {
    /// Bits per pixel and samples per pixel as Pillow counts them.
    pub(super) fn bits_and_samples(&self) -> (usize, usize) {
        let colours = match self.photometric {
            2 | 6 => 3,
            5 => 4,
            _ => 1,
        };
        (self.bits.iter().sum::<u64>() as usize, colours + self.extra.len())
    }

    /// A description for error messages.
    pub(super) fn describe(&self) -> String {
        let colours = match self.photometric {
            0 | 1 => "gray".into(),
            2 => "RGB".into(),
            3 => "palette".into(),
            4 => "transparency mask".into(),
            5 => "CMYK".into(),
            6 => "YCbCr".into(),
            8 | 9 => "CIE L*a*b*".into(),
            32_803 => "colour filter array".into(),
            32_844 | 32_845 => "LogLuv".into(),
            34_892 => "linear raw".into(),
            number => format!("photometric interpretation {number}"),
        };
        let formats = ["", " unsigned", " signed", " floating-point", " untyped"];
        let format = formats.get(self.format as usize).copied().unwrap_or_default();
        let bits: Vec<String> = self.bits.iter().map(u64::to_string).collect();
        format!("{colours} with{format} samples of {} bits", bits.join("+"))
    }
}
