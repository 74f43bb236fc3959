//! A BMP file's headers and palette.

use std::iter;

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::transparency::Palette;

const FILE_HEADER: usize = 14;
/// Size of the oldest DIB header (BITMAPCOREHEADER), with a 16-bit width and height and palette entries of three bytes.
const CORE_HEADER: u32 = 12;
/// Sizes of the headers of Windows 3 to 5 and OS/2 2, which share their first fields.
const LATER_HEADERS: [u32; 6] = [40, 52, 56, 64, 108, 124];
/// Headers of at least this size have masks of red, green and blue; from the next constant on, of alpha too.
const HEADER_WITH_MASKS: u32 = 52;
const HEADER_WITH_ALPHA_MASK: u32 = 56;
/// Offset of the masks in the header.
const MASKS: usize = 40;
const MAX_COLOURS: usize = 256;
/// The header may state more than [`MAX_COLOURS`] if the palette is a gray ramp.
const MAX_STATED_COLOURS: usize = 1 << 16;

/// How a pixel's channels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    /// Palette indices of this many bits.
    Indices(usize),
    /// Five bits per channel.
    Rgb555,
    /// Five bits of red and blue, six of green.
    Rgb565,
    /// Bytes: the size of a pixel, the offsets of red, green and blue in it, and of alpha if it has one.
    Bytes(usize, [usize; 3], Option<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    /// Run-length encoding of 8-bit or 4-bit indices.
    Rle {
        is_4_bit: bool,
    },
}

/// A file's pixels and how to read them.
pub(super) struct Bitmap<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_top_down: bool,
    pub(super) channels: Channels,
    pub(super) compression: Compression,
    /// Bytes from the start of one row to the next.
    pub(super) stride: usize,
    /// The palette, composited over white (although a BMP palette has no alpha).
    pub(super) palette: [[u8; 3]; 256],
    /// From the first row to the end of the file.
    pub(super) data: &'a [u8],
    /// Whether the data begins at an odd offset in the file: Pillow aligns runs to even file offsets.
    pub(super) starts_at_odd_offset: bool,
}

impl Bitmap<'_> {
    /// The row numbers of the picture in the order of the file.
    pub(super) fn row_order(&self) -> impl Iterator<Item = u32> {
        let (height, is_top_down) = (self.height, self.is_top_down);
        (0..height).map(move |row| if is_top_down { row } else { height - 1 - row })
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes).into())
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Width, height, and whether rows are stored from top to bottom.
pub(in super::super) fn dimensions(file: &[u8]) -> Option<(u32, u32, bool)> {
    if u32_at(file, FILE_HEADER)? == CORE_HEADER {
        return Some((u16_at(file, 18)?, u16_at(file, 20)?, false));
    }
    let height = u32_at(file, 22)?;
    // A negative height. Pillow checks only its highest byte.
    let is_top_down = height >> 24 == 0xff;
    Some((u32_at(file, 18)?, if is_top_down { height.wrapping_neg() } else { height }, is_top_down))
}

impl<'a> Bitmap<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, ImageError> {
        let incomplete = || undecodable(PictureFormat::Bmp, "its header is incomplete");
        let unsupported = |what: String| ImageError::Unsupported { what };
        let (width, height, is_top_down) = dimensions(file).ok_or_else(incomplete)?;
        let header_size = u32_at(file, FILE_HEADER).ok_or_else(incomplete)?;
        let is_core = header_size == CORE_HEADER;
        if !is_core && !LATER_HEADERS.contains(&header_size) {
            return Err(unsupported(format!("BMP with a header of {header_size} bytes")));
        }
        let header_end = FILE_HEADER + header_size as usize;
        let header = file.get(..header_end).ok_or_else(incomplete)?;
        let bits = u16_at(header, if is_core { 24 } else { 28 }).ok_or_else(incomplete)?;
        let compression = if is_core { 0 } else { u32_at(header, 30).ok_or_else(incomplete)? };
        let unknown_depth = || unsupported(format!("BMP with {bits} bits per pixel"));
        let mut channels = default_channels(bits).ok_or_else(unknown_depth)?;
        let (mut end, mut scheme) = (header_end, Compression::None);
        match compression {
            0 => {}
            1 | 2 if bits > 8 => return Err(unsupported(format!("run-length encoded BMP with {bits} bits per pixel"))),
            1 | 2 => scheme = Compression::Rle { is_4_bit: compression == 2 },
            3 => {
                let masks;
                (masks, end) = read_masks(file, header_size).ok_or_else(incomplete)?;
                let unknown_masks = || unsupported("BMP with these colour masks".to_owned());
                channels = channels_of_masks(bits, masks).ok_or_else(unknown_masks)?;
            }
            4 => return Err(unsupported("BMP that contains a JPEG".to_owned())),
            5 => return Err(unsupported("BMP that contains a PNG".to_owned())),
            _ => return Err(unsupported(format!("BMP with compression {compression}"))),
        }
        let mut start = u32_at(file, 10).ok_or_else(incomplete)? as usize;
        let mut indexed = IndexedPalette { palette: Palette::gray(), index_bits: bits as usize };
        if let Channels::Indices(_) = channels {
            let entry = if is_core { 3 } else { 4 };
            let stated = if is_core { 0 } else { u32_at(header, 46).ok_or_else(incomplete)? };
            let count = if stated == 0 { 1 << bits } else { stated as usize };
            if start == header_end {
                start = start.saturating_add(count.saturating_mul(entry));
            }
            let rest = file.get(end..).unwrap_or_default();
            let stored = &rest[..rest.len().min(count.saturating_mul(entry))];
            end += stored.len();
            indexed = IndexedPalette::read(stored, count, entry, bits as usize)?;
            channels = Channels::Indices(indexed.index_bits);
        }
        let start = if start == 0 { end } else { start };
        let data = file.get(start..).unwrap_or_default();
        let stride = (u64::from(width) * u64::from(bits)).div_ceil(32) as usize * 4;
        let palette = indexed.palette.on_white();
        Ok(Self {
            width,
            height,
            is_top_down,
            channels,
            compression: scheme,
            stride,
            palette,
            data,
            starts_at_odd_offset: start % 2 == 1,
        })
    }
}

/// The channels of a depth when the file has no masks.
fn default_channels(bits: u32) -> Option<Channels> {
    Some(match bits {
        1 | 4 | 8 => Channels::Indices(bits as usize),
        16 => Channels::Rgb555,
        24 => Channels::Bytes(3, [2, 1, 0], None),
        32 => Channels::Bytes(4, [2, 1, 0], None),
        _ => return None,
    })
}

/// The masks of red, green, blue and, if the header has one, alpha; and the offset after the header and the masks.
fn read_masks(file: &[u8], header_size: u32) -> Option<([u32; 4], usize)> {
    let header_end = FILE_HEADER + header_size as usize;
    let (at, count, end) = match header_size {
        HEADER_WITH_ALPHA_MASK.. => (FILE_HEADER + MASKS, 4, header_end),
        HEADER_WITH_MASKS.. => (FILE_HEADER + MASKS, 3, header_end),
        _ => (header_end, 3, header_end + 3 * 4),
    };
    let mut masks = [0; 4];
    for (mask, at) in masks.iter_mut().take(count).zip((at..).step_by(4)) {
        *mask = u32_at(file, at)?;
    }
    Some((masks, end))
}

/// The palette, and the size of the indices into it.
struct IndexedPalette {
    palette: Palette,
    index_bits: usize,
}

impl IndexedPalette {
    /// Pillow ignores a palette that is a gray ramp and then reads indices of one bit if it has at most two shades, or
    /// of eight bits otherwise, whatever size the header states.
    fn read(stored: &[u8], count: usize, entry: usize, bits: usize) -> Result<Self, ImageError> {
        let damaged = |reason: &str| undecodable(PictureFormat::Bmp, reason);
        if count > MAX_STATED_COLOURS {
            return Err(damaged("its palette has more than 65536 colours"));
        }
        let entries = || stored.chunks_exact(entry).map(|colour| [colour[2], colour[1], colour[0]]);
        let (black, white) = ([0; 3], [255; 3]);
        // Run-length encoded indices are bytes; all but 0 are white.
        let black_and_white = || Palette::new(iter::once(black).chain(iter::repeat(white)));
        Ok(match count {
            1 if entries().eq([black]) => Self { palette: black_and_white(), index_bits: 1 },
            2 if entries().eq([black, white]) => Self { palette: black_and_white(), index_bits: 1 },
            3.. if entries().eq((0..count).map(|shade| [shade as u8; 3])) => {
                Self { palette: Palette::gray(), index_bits: 8 }
            }
            _ if count > MAX_COLOURS && stored.len() / entry > MAX_COLOURS => {
                return Err(damaged("its palette has more than 256 colours"));
            }
            _ => Self { palette: Palette::new(entries()), index_bits: bits },
        })
    }
}

/// The channels for masks of red, green, blue and alpha; `None` for combinations that Pillow does not support.
fn channels_of_masks(bits: u32, masks: [u32; 4]) -> Option<Channels> {
    const LOW: u32 = 0xff;
    const SECOND: u32 = 0xff00;
    const THIRD: u32 = 0xff_0000;
    const HIGH: u32 = 0xff00_0000;
    let [red, green, blue, _] = masks;
    Some(match (bits, masks) {
        (32, [THIRD, SECOND, LOW, 0]) => Channels::Bytes(4, [2, 1, 0], None),
        (32, [HIGH, THIRD, SECOND, 0]) => Channels::Bytes(4, [3, 2, 1], None),
        (32, [HIGH, SECOND, LOW, 0]) => Channels::Bytes(4, [3, 1, 0], None),
        (32, [HIGH, THIRD, SECOND, LOW]) => Channels::Bytes(4, [3, 2, 1], Some(0)),
        (32, [LOW, SECOND, THIRD, HIGH]) => Channels::Bytes(4, [0, 1, 2], Some(3)),
        (32, [THIRD, SECOND, LOW, HIGH] | [0, 0, 0, 0]) => Channels::Bytes(4, [2, 1, 0], Some(3)),
        (32, [HIGH, SECOND, LOW, THIRD]) => Channels::Bytes(4, [3, 1, 0], Some(2)),
        (24, _) if [red, green, blue] == [THIRD, SECOND, LOW] => Channels::Bytes(3, [2, 1, 0], None),
        (16, _) if [red, green, blue] == [0xf800, 0x7e0, 0x1f] => Channels::Rgb565,
        (16, _) if [red, green, blue] == [0x7c00, 0x3e0, 0x1f] => Channels::Rgb555,
        _ => return None,
    })
}
