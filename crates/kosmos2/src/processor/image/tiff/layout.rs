//! What the first directory of a TIFF says of its picture: size, samples, and where the pieces lie.

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::{DecodeOptions, MAX_PARTS};
use super::directory::{Directory, DirectoryError, MAX_FIELDS, Values};
use super::samples::{Kind, Mode, Raw};

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS_PER_SAMPLE: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const STRIP_OFFSETS: u16 = 273;
const ORIENTATION: u16 = 274;
const SAMPLES_PER_PIXEL: u16 = 277;
const ROWS_PER_STRIP: u16 = 278;
const STRIP_BYTE_COUNTS: u16 = 279;
const PLANAR_CONFIGURATION: u16 = 284;
const GROUP3_OPTIONS: u16 = 292;
const PREDICTOR: u16 = 317;
const COLOUR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTE_COUNTS: u16 = 325;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const JPEG_TABLES: u16 = 347;
const XMP: u16 = 700;
/// Stands in JPEG XR, which begins nearly like a TIFF.
const JPEG_XR_PIXELS: u16 = 0xbc01;

/// Most samples of a pixel, as in Pillow.
const MAX_SAMPLES: usize = 6;
const YCBCR: u64 = 6;

/// How pixels are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Packing {
    /// Not at all.
    None,
    /// CCITT modified Huffman: rows end at whole bytes, or at whole pairs of them.
    Huffman {
        row_end: usize,
    },
    /// CCITT Group 3, of one or two dimensions.
    Group3 {
        is_two_dimensional: bool,
    },
    /// CCITT Group 4.
    Group4,
    Lzw,
    Jpeg,
    Deflate,
    PackBits,
}

/// Strips or tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Grid {
    /// Size of a whole piece.
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(in super::super) is_tiled: bool,
}

/// Everything about the first picture of a file.
#[derive(Debug, Clone)]
pub(in super::super) struct Layout<'a> {
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(in super::super) packing: Packing,
    pub(in super::super) grid: Grid,
    pub(super) is_big_endian: bool,
    /// Whether samples lie in separate planes.
    pub(super) is_planar: bool,
    pub(super) is_ycbcr: bool,
    pub(super) is_reversed: bool,
    pub(super) raw: Raw,
    /// Bits of a sample, and samples of a pixel with those that are not shown.
    pub(super) bits: usize,
    pub(super) samples: usize,
    /// Bits of all samples of a pixel and their number, as Pillow counts them.
    pub(super) counted: (usize, usize),
    pub(super) is_premultiplied_plane: bool,
    pub(super) predictor: u64,
    pub(super) offsets: Values<'a>,
    pub(super) byte_counts: Option<Values<'a>>,
    pub(super) colour_map: Option<Values<'a>>,
    pub(super) jpeg_tables: &'a [u8],
    pub(super) directory: Directory<'a>,
}

impl<'a> Layout<'a> {
    /// Reads the first directory and holds its sizes against the limits.
    pub(in super::super) fn read(file: &'a [u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        let directory = Directory::first(file).map_err(|error| match error {
            // Pillow takes these for a file of the other kind, and opens none.
            DirectoryError::Cut if file.starts_with(b"MM\0\x2b") => {
                unsupported("of the big kind (BigTIFF) with high bytes first")
            }
            DirectoryError::Cut => damaged("it ends before its first directory"),
            DirectoryError::TooManyFields => {
                ImageError::TooManyParts { format: PictureFormat::Tiff, part: "fields", limit: MAX_FIELDS }
            }
        })?;
        let number = |tag, default, name: &str| {
            directory.number(tag, default).ok_or_else(|| damaged(format!("its {name} is not a whole number")))
        };
        if directory.get(JPEG_XR_PIXELS).is_some() {
            return Err(ImageError::UnsupportedFormat { name: "a JPEG XR file" });
        }
        let side = |tag, name: &str| match directory.get(tag) {
            Some(_) => number(tag, 0, name),
            None => Err(damaged(format!("it tells no {name}"))),
        };
        let (width, height) = (side(WIDTH, "width")?, side(HEIGHT, "height")?);
        options.check_size(width, height)?;
        let (width, height) = (width as u32, height as u32);
        if width == 0 || height == 0 {
            return Err(damaged("it has no pixels"));
        }
        let packing = packing(&directory, number(COMPRESSION, 1, "compression")?)?;
        let (mut kind, samples, is_planar) = kind(&directory)?;
        let unread = kind.clone();
        let refuse = || unsupported(format!("of {}", describe(&unread)));
        let mut raw = kind.raw().ok_or_else(refuse)?;
        let is_reversed = kind.is_reversed;
        if packing != Packing::None && is_reversed {
            // Bits are put in order before they are unpacked.
            kind.is_reversed = false;
            raw = kind.raw().ok_or_else(refuse)?;
        }
        let bits = kind.bits.first().copied().unwrap_or(1) as usize;
        let grid = grid(&directory, width, height, packing, options)?;
        let pieces = if grid.is_tiled { TILE_OFFSETS } else { STRIP_OFFSETS };
        let counts = if grid.is_tiled { TILE_BYTE_COUNTS } else { STRIP_BYTE_COUNTS };
        let layout = Self {
            width,
            height,
            packing,
            grid,
            is_big_endian: kind.is_big_endian,
            is_planar,
            is_ycbcr: kind.photometric == YCBCR,
            is_reversed,
            raw,
            bits,
            samples,
            counted: (kind.bits.iter().sum::<u64>() as usize, colours(kind.photometric) + kind.extra.len()),
            is_premultiplied_plane: raw.mode == Mode::Rgba && matches!(kind.extra.first(), None | Some(0 | 1)),
            predictor: number(PREDICTOR, 1, "predictor")?,
            offsets: directory.get(pieces).ok_or_else(|| damaged("it does not tell where its pixels are"))?,
            byte_counts: directory.get(counts),
            colour_map: directory.get(COLOUR_MAP),
            jpeg_tables: directory.get(JPEG_TABLES).map(|tables| tables.bytes()).unwrap_or_default(),
            directory,
        };
        layout.check_pieces()?;
        Ok(layout)
    }

    /// Pieces across, pieces down, and planes.
    pub(super) fn pieces(&self) -> (u32, u32, usize) {
        let planes = if self.is_planar { self.samples } else { 1 };
        (self.width.div_ceil(self.grid.width), self.height.div_ceil(self.grid.height), planes)
    }

    /// Whether there is one strip in all.
    pub(super) fn is_one_strip(&self) -> bool {
        !self.grid.is_tiled && self.pieces() == (1, 1, 1)
    }

    /// Bytes of a row of a whole piece when it is unpacked.
    pub(super) fn row_bytes(&self) -> usize {
        let samples = if self.is_planar { 1 } else { self.samples };
        (self.grid.width as usize * samples * self.bits).div_ceil(8)
    }

    /// Bytes of one whole piece when it is unpacked, with what its decoder keeps.
    pub(in super::super) fn piece_bytes(&self) -> u64 {
        let rows = u64::from(if self.grid.is_tiled { self.grid.height } else { self.grid.height.min(self.height) });
        let filled = |side: u64, unit| side.next_multiple_of(unit);
        let plain = match (self.is_ycbcr, u64::from(self.grid.width)) {
            // Chroma comes in blocks of at most four by four.
            (true, width) => filled(width, 4).saturating_mul(filled(rows, 4)).saturating_mul(3),
            (false, _) => rows.saturating_mul(self.row_bytes() as u64),
        };
        match self.packing {
            Packing::None => 0,
            // A JPEG of several scans keeps all coefficients, of two bytes each, in blocks that fill whole units of at
            // most 32 by 32.
            Packing::Jpeg => {
                let units = filled(self.grid.width.into(), 32).saturating_mul(filled(rows, 32));
                // Two samples come in planes first, which grow as they are filled.
                let planes = if self.samples == 2 { 4 } else { 0 };
                plain.saturating_add(units.saturating_mul(2 * self.samples as u64 + planes))
            }
            _ => plain,
        }
    }

    /// Strips or tiles that the file tells of.
    pub(in super::super) fn pieces_in_file(&self) -> u64 {
        self.offsets.len() as u64
    }

    /// Bytes of a pixel until the picture is RGB.
    pub(in super::super) fn pixel_bytes(&self) -> usize {
        self.mode().bytes()
    }

    /// What the pixels are once they are unpacked.
    pub(super) fn mode(&self) -> Mode {
        if self.is_ycbcr && self.packing != Packing::None { Mode::Rgb } else { self.raw.mode }
    }

    /// The value of the orientation field, and the XMP packet.
    pub(super) fn orientation(&self) -> (Option<u64>, Option<&'a [u8]>) {
        // What is no whole number is no orientation, but hides that of the packet all the same.
        let value = self.directory.get(ORIENTATION).map(|values| values.get(0).unwrap_or_default());
        (value, self.directory.get(XMP).map(|packet| packet.bytes()))
    }

    fn check_pieces(&self) -> Result<(), ImageError> {
        let (across, down, planes) = self.pieces();
        let needed = u64::from(across) * u64::from(down) * planes as u64;
        // Pillow lets further strips of unpacked pixels begin again at the top; no writer makes whole pictures of them.
        let limit = needed.saturating_mul(2);
        if self.offsets.len() as u64 > limit && self.packing == Packing::None {
            return Err(ImageError::TooManyParts { format: PictureFormat::Tiff, part: "strips or tiles", limit });
        }
        let is_fax = matches!(self.packing, Packing::Huffman { .. } | Packing::Group3 { .. } | Packing::Group4);
        if is_fax && (self.bits != 1 || (self.samples != 1 && !self.is_planar)) {
            return Err(unsupported(format!("with fax codes of {} samples of {} bits", self.samples, self.bits)));
        }
        if self.packing != Packing::None && self.byte_counts.is_none() && needed > planes as u64 {
            return Err(damaged("it does not tell how long its strips or tiles are"));
        }
        Ok(())
    }
}

/// Size of the pieces. Those of tiles are held against the limits too: the last ones reach beyond the picture.
fn grid(
    directory: &Directory,
    width: u32,
    height: u32,
    packing: Packing,
    options: &DecodeOptions,
) -> Result<Grid, ImageError> {
    let side = |tag| directory.number(tag, 0).filter(|side| *side > 0);
    let has = |tag| directory.get(tag).is_some();
    // Pillow and libtiff tell tiles by different fields.
    let is_tiled = if packing == Packing::None {
        !has(STRIP_OFFSETS) && has(TILE_OFFSETS)
    } else {
        has(TILE_WIDTH) && has(TILE_HEIGHT)
    };
    if !is_tiled {
        let rows = match directory.number(ROWS_PER_STRIP, u64::from(height)) {
            Some(0) => return Err(damaged("its strips have no rows")),
            None => return Err(damaged("its number of rows per strip is not a whole number")),
            Some(rows) => u32::try_from(rows).unwrap_or(u32::MAX).min(height),
        };
        return Ok(Grid { width, height: rows, is_tiled });
    }
    let (Some(tile_width), Some(tile_height)) = (side(TILE_WIDTH), side(TILE_HEIGHT)) else {
        return Err(damaged("its tiles have no size"));
    };
    options.check_size(tile_width, tile_height)?;
    let filled = |side: u32, tile: u64| u64::from(side).next_multiple_of(tile);
    let (filled_width, filled_height) = (filled(width, tile_width), filled(height, tile_height));
    if filled_width.saturating_mul(filled_height) / 2 > options.max_pixels {
        let limit = options.max_pixels;
        return Err(ImageError::TooManyPixels { width: filled_width, height: filled_height, limit });
    }
    Ok(Grid { width: tile_width as u32, height: tile_height as u32, is_tiled })
}

fn packing(directory: &Directory, compression: u64) -> Result<Packing, ImageError> {
    let unread = |name: &str| Err(unsupported(format!("compressed by {name}")));
    match compression {
        1 => Ok(Packing::None),
        2 => Ok(Packing::Huffman { row_end: 1 }),
        32_771 => Ok(Packing::Huffman { row_end: 2 }),
        3 => {
            let options = directory.number(GROUP3_OPTIONS, 0).unwrap_or_default();
            Ok(Packing::Group3 { is_two_dimensional: options & 1 == 1 })
        }
        4 => Ok(Packing::Group4),
        5 => Ok(Packing::Lzw),
        6 => unread("the JPEG scheme of TIFF's old specification (6)"),
        7 => Ok(Packing::Jpeg),
        8 | 32_946 => Ok(Packing::Deflate),
        32_773 => Ok(Packing::PackBits),
        32_809 => unread("ThunderScan (32809)"),
        33_003 | 33_004 | 33_005 | 34_712 => unread("JPEG 2000"),
        34_676 | 34_677 => unread("SGI LogLuv (34676)"),
        34_925 => unread("LZMA (34925)"),
        50_000 => unread("Zstandard (50000)"),
        50_001 => unread("WebP (50001)"),
        number => unread(&format!("scheme {number}")),
    }
}

/// What the samples are, how many a pixel has in the file, and whether they lie in planes; put right as Pillow does.
fn kind(directory: &Directory) -> Result<(Kind, usize, bool), ImageError> {
    let list = |tag, default: &[u64]| match directory.get(tag) {
        Some(values) => values.list(MAX_PARTS as usize),
        None => Some(default.to_vec()),
    };
    let wrong = || damaged("its samples are not described by whole numbers");
    let mut formats = list(SAMPLE_FORMAT, &[1]).ok_or_else(wrong)?;
    formats.dedup();
    let mut bits = list(BITS_PER_SAMPLE, &[1]).ok_or_else(wrong)?;
    let mut extra = list(EXTRA_SAMPLES, &[]).ok_or_else(wrong)?;
    let stored = directory.number(SAMPLES_PER_PIXEL, 1).ok_or_else(wrong)? as usize;
    let is_planar = directory.number(PLANAR_CONFIGURATION, 1).ok_or_else(wrong)? == 2;
    let mut samples = stored;
    if is_planar && !extra.is_empty() && extra.iter().all(|kind| *kind == 0) {
        // Planes that mean nothing can be left out.
        bits.truncate(bits.len().saturating_sub(extra.len()));
        samples = samples.saturating_sub(extra.len());
        extra.clear();
    }
    if stored > 4 * MAX_SAMPLES || samples > MAX_SAMPLES {
        return Err(unsupported(format!("of {stored} samples a pixel")));
    }
    match bits.as_slice() {
        [one] => bits = vec![*one; samples],
        _ => bits.truncate(samples),
    }
    let photometric = match directory.get(PHOTOMETRIC) {
        // Several values count as none.
        Some(values) if values.len() > 1 => 0,
        _ => directory.number(PHOTOMETRIC, 0).ok_or_else(wrong)?,
    };
    if bits.len() != samples || samples == 0 {
        return Err(damaged("its numbers of samples contradict each other"));
    }
    let [format] = formats.as_slice() else { return Err(unsupported("of samples of different kinds")) };
    let is_reversed = match directory.number(FILL_ORDER, 1) {
        Some(1) => false,
        Some(2) => true,
        _ => return Err(damaged("its fill order is neither 1 nor 2")),
    };
    let is_big_endian = directory.is_big_endian();
    Ok((Kind { is_big_endian, photometric, format: *format, is_reversed, bits, extra }, stored, is_planar))
}

/// Samples that make a colour.
fn colours(photometric: u64) -> usize {
    match photometric {
        2 | 6 => 3,
        5 => 4,
        _ => 1,
    }
}

/// The kind in the words of an error.
fn describe(kind: &Kind) -> String {
    let colours = match kind.photometric {
        0 | 1 => "gray".into(),
        2 => "RGB".into(),
        3 => "palette".into(),
        4 => "mask".into(),
        5 => "CMYK".into(),
        6 => "YCbCr".into(),
        8 | 9 => "CIE L*a*b*".into(),
        32_803 => "raw camera".into(),
        32_844 | 32_845 => "LogLuv".into(),
        34_892 => "linear raw camera".into(),
        number => format!("photometric {number}"),
    };
    let formats = ["", " unsigned", " signed", " floating-point", " untyped"];
    let format = formats.get(kind.format as usize).copied().unwrap_or_default();
    let bits: Vec<String> = kind.bits.iter().map(u64::to_string).collect();
    format!("{colours} with{format} samples of {} bits", bits.join("+"))
}

pub(super) fn damaged(reason: impl std::fmt::Display) -> ImageError {
    undecodable(PictureFormat::Tiff, reason)
}

pub(super) fn unsupported(what: impl Into<String>) -> ImageError {
    ImageError::Unsupported { what: format!("TIFF {}", what.into()) }
}
