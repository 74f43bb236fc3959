//! What the first directory of a TIFF states about its image: size, samples, and where the chunks are.
//!
//! A chunk is a strip or a tile.

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::limits::DecodeOptions;
use super::compression::Compression;
use super::directory::{Directory, DirectoryError, MAX_FIELDS, Values};
use super::error::{damaged, unsupported};
use super::modes::{Mode, RawMode};
use super::sample_fields::Samples;
use super::tags::{
    COLOUR_MAP, COMPRESSION, HEIGHT, JPEG_TABLES, JPEG_XR_PIXELS, ORIENTATION, PREDICTOR, ROWS_PER_STRIP,
    STRIP_BYTE_COUNTS, STRIP_OFFSETS, TILE_BYTE_COUNTS, TILE_HEIGHT, TILE_OFFSETS, TILE_WIDTH, WIDTH, XMP,
};

/// YCbCr in the photometric interpretation field.
const YCBCR: u64 = 6;

/// The size of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Grid {
    /// Width of a chunk in pixels.
    pub(in super::super) width: u32,
    /// Height of a chunk in pixels; the last strip may be lower.
    pub(in super::super) height: u32,
    pub(in super::super) is_tiled: bool,
}

/// The first image of a file.
#[derive(Debug, Clone)]
pub(in super::super) struct Layout<'a> {
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(in super::super) compression: Compression,
    pub(in super::super) grid: Grid,
    pub(super) is_big_endian: bool,
    /// Whether each sample has its own plane.
    pub(super) is_planar: bool,
    pub(super) is_ycbcr: bool,
    /// Whether bytes have their least significant bit first (fill order 2).
    pub(super) is_bit_reversed: bool,
    pub(super) raw_mode: RawMode,
    /// Bits per sample.
    pub(super) bits: usize,
    /// Samples per pixel, including extra samples.
    pub(super) samples: usize,
    /// Bits per pixel and samples per pixel as Pillow counts them to compute the stride of uncompressed tiles.
    pub(super) bits_and_samples_for_stride: (usize, usize),
    /// Whether planes of colour are divided by the plane of alpha.
    pub(super) has_premultiplied_planes: bool,
    pub(super) predictor: u64,
    pub(super) offsets: Values<'a>,
    pub(super) byte_counts: Option<Values<'a>>,
    pub(super) colour_map: Option<Values<'a>>,
    pub(super) jpeg_tables: &'a [u8],
    pub(super) directory: Directory<'a>,
}

impl<'a> Layout<'a> {
    /// Reads the first directory and checks its sizes against the limits.
    pub(in super::super) fn read(file: &'a [u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        let directory = Directory::first(file).map_err(|error| match error {
            // Pillow reads big-endian BigTIFF as classic TIFF and fails.
            DirectoryError::Missing if file.starts_with(b"MM\0\x2b") => {
                unsupported("of type BigTIFF in big-endian order")
            }
            DirectoryError::Missing => damaged("it ends before its first directory"),
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
            None => Err(damaged(format!("it has no field for its {name}"))),
        };
        let (width, height) = (side(WIDTH, "width")?, side(HEIGHT, "height")?);
        options.check_size(width, height)?;
        let (width, height) = (width as u32, height as u32);
        if width == 0 || height == 0 {
            return Err(damaged("its width or height is 0"));
        }
        let compression = Compression::read(&directory, number(COMPRESSION, 1, "compression")?)?;
        let Samples { mut fields, stored: samples, is_planar } = Samples::read(&directory)?;
        let description = fields.describe();
        let refuse = || unsupported(format!("of {description}"));
        let mut raw_mode = fields.raw_mode().ok_or_else(refuse)?;
        let is_bit_reversed = fields.is_bit_reversed;
        if compression != Compression::None && is_bit_reversed {
            // The bits are reversed before the chunk is decompressed.
            fields.is_bit_reversed = false;
            raw_mode = fields.raw_mode().ok_or_else(refuse)?;
        }
        let bits = fields.bits.first().copied().unwrap_or(1) as usize;
        let grid = grid(&directory, width, height, compression, options)?;
        let offsets = if grid.is_tiled { TILE_OFFSETS } else { STRIP_OFFSETS };
        let counts = if grid.is_tiled { TILE_BYTE_COUNTS } else { STRIP_BYTE_COUNTS };
        let layout = Self {
            width,
            height,
            compression,
            grid,
            is_big_endian: fields.is_big_endian,
            is_planar,
            is_ycbcr: fields.photometric == YCBCR,
            is_bit_reversed,
            raw_mode,
            bits,
            samples,
            bits_and_samples_for_stride: fields.bits_and_samples(),
            has_premultiplied_planes: raw_mode.mode == Mode::Rgba && matches!(fields.extra.first(), None | Some(0 | 1)),
            predictor: number(PREDICTOR, 1, "predictor")?,
            offsets: directory.get(offsets).ok_or_else(|| damaged("it has no offsets of its strips or tiles"))?,
            byte_counts: directory.get(counts),
            colour_map: directory.get(COLOUR_MAP),
            jpeg_tables: directory.get(JPEG_TABLES).map(|tables| tables.bytes()).unwrap_or_default(),
            directory,
        };
        layout.check_chunks()?;
        Ok(layout)
    }

    /// Chunks across, chunks down, and planes.
    pub(super) fn chunks(&self) -> (u32, u32, usize) {
        let planes = if self.is_planar { self.samples } else { 1 };
        (self.width.div_ceil(self.grid.width), self.height.div_ceil(self.grid.height), planes)
    }

    /// Whether the image is one strip.
    pub(super) fn is_single_strip(&self) -> bool {
        !self.grid.is_tiled && self.chunks() == (1, 1, 1)
    }

    /// Bytes of a decompressed row of a chunk.
    pub(super) fn row_bytes(&self) -> usize {
        let samples = if self.is_planar { 1 } else { self.samples };
        (self.grid.width as usize * samples * self.bits).div_ceil(8)
    }

    /// Bytes of a decompressed chunk and of its decoder's state.
    pub(in super::super) fn chunk_bytes(&self) -> u64 {
        let rows = u64::from(if self.grid.is_tiled { self.grid.height } else { self.grid.height.min(self.height) });
        let padded = |side: u64, unit| side.next_multiple_of(unit);
        let samples = match (self.is_ycbcr, u64::from(self.grid.width)) {
            // A pair of chroma samples is shared by at most 4×4 pixels.
            (true, width) => padded(width, 4).saturating_mul(padded(rows, 4)).saturating_mul(3),
            (false, _) => rows.saturating_mul(self.row_bytes() as u64),
        };
        match self.compression {
            Compression::None => 0,
            // libjpeg keeps all coefficients of a JPEG with several scans, two bytes each, padded to MCUs of at most
            // 32×32 pixels.
            Compression::Jpeg => {
                let coefficients = padded(self.grid.width.into(), 32).saturating_mul(padded(rows, 32));
                // Two samples are decoded to planes first, in buffers that grow.
                let planes = if self.samples == 2 { 4 } else { 0 };
                samples.saturating_add(coefficients.saturating_mul(2 * self.samples as u64 + planes))
            }
            _ => samples,
        }
    }

    /// Number of chunks that the file lists.
    pub(in super::super) fn chunks_in_file(&self) -> u64 {
        self.offsets.len() as u64
    }

    /// Bytes of a pixel before it is converted to RGB.
    pub(in super::super) fn pixel_bytes(&self) -> usize {
        self.mode().bytes()
    }

    /// The mode of the decoded pixels. libtiff converts compressed YCbCr to RGB for Pillow.
    pub(super) fn mode(&self) -> Mode {
        if self.is_ycbcr && self.compression != Compression::None { Mode::Rgb } else { self.raw_mode.mode }
    }

    /// The value of the orientation field, and the XMP packet.
    pub(super) fn orientation(&self) -> (Option<u64>, Option<&'a [u8]>) {
        // A value that is not a whole number is not an orientation, but still takes precedence over XMP.
        let value = self.directory.get(ORIENTATION).map(|values| values.get(0).unwrap_or_default());
        (value, self.directory.get(XMP).map(|packet| packet.bytes()))
    }

    fn check_chunks(&self) -> Result<(), ImageError> {
        let (across, down, planes) = self.chunks();
        let needed = u64::from(across) * u64::from(down) * planes as u64;
        // Pillow decodes surplus uncompressed chunks from the top of the image again. Writers leave at most a few.
        let limit = needed.saturating_mul(2);
        if self.offsets.len() as u64 > limit && self.compression == Compression::None {
            return Err(ImageError::TooManyParts { format: PictureFormat::Tiff, part: "strips or tiles", limit });
        }
        let is_ccitt = matches!(
            self.compression,
            Compression::ModifiedHuffman { .. } | Compression::Group3 { .. } | Compression::Group4
        );
        if is_ccitt && (self.bits != 1 || (self.samples != 1 && !self.is_planar)) {
            let (samples, bits) = (self.samples, self.bits);
            return Err(unsupported(format!("with CCITT compression of {samples} samples of {bits} bits")));
        }
        if self.compression != Compression::None && self.byte_counts.is_none() && needed > planes as u64 {
            return Err(damaged("it has no byte counts of its strips or tiles"));
        }
        Ok(())
    }
}

/// The size of chunks. Tiles are checked against the limits too, because they may extend beyond the image.
fn grid(
    directory: &Directory,
    width: u32,
    height: u32,
    compression: Compression,
    options: &DecodeOptions,
) -> Result<Grid, ImageError> {
    let side = |tag| directory.number(tag, 0).filter(|side| *side > 0);
    let has = |tag| directory.get(tag).is_some();
    // Pillow, which decodes uncompressed pixels itself, and libtiff detect tiles by different fields.
    let is_tiled = if compression == Compression::None {
        !has(STRIP_OFFSETS) && has(TILE_OFFSETS)
    } else {
        has(TILE_WIDTH) && has(TILE_HEIGHT)
    };
    if !is_tiled {
        let rows = match directory.number(ROWS_PER_STRIP, u64::from(height)) {
            Some(0) => return Err(damaged("its number of rows per strip is 0")),
            None => return Err(damaged("its number of rows per strip is not a whole number")),
            Some(rows) => u32::try_from(rows).unwrap_or(u32::MAX).min(height),
        };
        return Ok(Grid { width, height: rows, is_tiled });
    }
    let (Some(tile_width), Some(tile_height)) = (side(TILE_WIDTH), side(TILE_HEIGHT)) else {
        return Err(damaged("its tile width or height is missing or 0"));
    };
    options.check_size(tile_width, tile_height)?;
    let padded = |side: u32, tile: u64| u64::from(side).next_multiple_of(tile);
    let (padded_width, padded_height) = (padded(width, tile_width), padded(height, tile_height));
    if padded_width.saturating_mul(padded_height) / 2 > options.max_pixels {
        let limit = options.max_pixels;
        return Err(ImageError::TooManyPixels { width: padded_width, height: padded_height, limit });
    }
    Ok(Grid { width: tile_width as u32, height: tile_height as u32, is_tiled })
}
