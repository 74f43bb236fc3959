//! A BMP file's headers and palette.

use std::iter;

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::transparency::Palette;

const FILE_HEADER: usize = 14;
/// The oldest header, with 16-bit sides and a palette of three bytes a colour.
const CORE_HEADER: u32 = 12;
/// Windows 3 to 5 and OS/2 2: all begin alike.
const LATER_HEADERS: [u32; 6] = [40, 52, 56, 64, 108, 124];
/// Headers from this size on hold colour masks; from the next one on, one for opacity too.
const HEADER_WITH_MASKS: u32 = 52;
const HEADER_WITH_ALPHA_MASK: u32 = 56;
const MASKS: usize = 40;
const MOST_COLOURS: usize = 256;
/// The header may state more, as long as they are shades of gray in their order.
const MOST_STATED_COLOURS: usize = 1 << 16;

/// Where a pixel's channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    /// Indices of this many bits.
    Indices(usize),
    /// Five bits each, or six of green.
    Rgb555,
    Rgb565,
    /// Bytes: the size of a pixel, the places of red, green and blue, and of opacity if it has one.
    Bytes(usize, [usize; 3], Option<usize>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Rows,
    Runs { of_nibbles: bool },
}

/// A file's pixels and how to read them.
pub(super) struct Bitmap<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) is_top_down: bool,
    pub(super) channels: Channels,
    pub(super) packing: Packing,
    /// Bytes from one row to the next.
    pub(super) stride: usize,
    /// Over white, though BMP palettes have no opacity.
    pub(super) palette: [[u8; 3]; 256],
    /// From the first row to the file's end.
    pub(super) data: &'a [u8],
    /// Whether the data begin at an odd offset in the file: runs are aligned by the file's offsets.
    pub(super) is_odd: bool,
}

impl Bitmap<'_> {
    /// The picture's rows in their order in the file.
    pub(super) fn lines(&self) -> impl Iterator<Item = u32> {
        let (height, is_top_down) = (self.height, self.is_top_down);
        (0..height).map(move |line| if is_top_down { line } else { height - 1 - line })
    }
}

fn u16_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?.first_chunk().map(|bytes| u16::from_le_bytes(*bytes).into())
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    file.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// Width, height, and whether rows go from top to bottom.
pub(in super::super) fn sides(file: &[u8]) -> Option<(u32, u32, bool)> {
    if u32_at(file, FILE_HEADER)? == CORE_HEADER {
        return Some((u16_at(file, 18)?, u16_at(file, 20)?, false));
    }
    let height = u32_at(file, 22)?;
    // Pillow takes a height for negative by its highest byte.
    let is_top_down = height >> 24 == 0xff;
    Some((u32_at(file, 18)?, if is_top_down { height.wrapping_neg() } else { height }, is_top_down))
}

impl<'a> Bitmap<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, ImageError> {
        let early = || undecodable(PictureFormat::Bmp, "it ends within its header");
        let unsupported = |what: String| ImageError::Unsupported { what };
        let (width, height, is_top_down) = sides(file).ok_or_else(early)?;
        let header_size = u32_at(file, FILE_HEADER).ok_or_else(early)?;
        let is_core = header_size == CORE_HEADER;
        if !is_core && !LATER_HEADERS.contains(&header_size) {
            return Err(unsupported(format!("a BMP header of {header_size} bytes")));
        }
        let behind_header = FILE_HEADER + header_size as usize;
        let header = file.get(..behind_header).ok_or_else(early)?;
        let bits = u16_at(header, if is_core { 24 } else { 28 }).ok_or_else(early)?;
        let compression = if is_core { 0 } else { u32_at(header, 30).ok_or_else(early)? };
        let no_depth = || unsupported(format!("BMP of {bits} bits a pixel"));
        let mut channels = without_masks(bits).ok_or_else(no_depth)?;
        let (mut behind, mut packing) = (behind_header, Packing::Rows);
        match compression {
            0 => {}
            1 | 2 if bits > 8 => return Err(unsupported(format!("run-length encoded BMP of {bits} bits a pixel"))),
            1 | 2 => packing = Packing::Runs { of_nibbles: compression == 2 },
            3 => {
                let masks;
                (masks, behind) = read_masks(file, header_size).ok_or_else(early)?;
                let no_masks = || unsupported("BMP with these colour masks".to_owned());
                channels = of_masks(bits, masks).ok_or_else(no_masks)?;
            }
            4 => return Err(unsupported("JPEG within BMP".to_owned())),
            5 => return Err(unsupported("PNG within BMP".to_owned())),
            _ => return Err(unsupported(format!("BMP compression {compression}"))),
        }
        let mut start = u32_at(file, 10).ok_or_else(early)? as usize;
        let mut colours = Colours { palette: Palette::gray(), index_bits: bits as usize };
        if let Channels::Indices(_) = channels {
            let entry = if is_core { 3 } else { 4 };
            let stated = if is_core { 0 } else { u32_at(header, 46).ok_or_else(early)? };
            let count = if stated == 0 { 1 << bits } else { stated as usize };
            if start == behind_header {
                start = start.saturating_add(count.saturating_mul(entry));
            }
            let rest = file.get(behind..).unwrap_or_default();
            let stored = &rest[..rest.len().min(count.saturating_mul(entry))];
            behind += stored.len();
            colours = Colours::read(stored, count, entry, bits as usize)?;
            channels = Channels::Indices(colours.index_bits);
        }
        let start = if start == 0 { behind } else { start };
        let data = file.get(start..).unwrap_or_default();
        let stride = (u64::from(width) * u64::from(bits)).div_ceil(32) as usize * 4;
        let palette = colours.palette.on_white();
        Ok(Self { width, height, is_top_down, channels, packing, stride, palette, data, is_odd: start % 2 == 1 })
    }
}

fn without_masks(bits: u32) -> Option<Channels> {
    Some(match bits {
        1 | 4 | 8 => Channels::Indices(bits as usize),
        16 => Channels::Rgb555,
        24 => Channels::Bytes(3, [2, 1, 0], None),
        32 => Channels::Bytes(4, [2, 1, 0], None),
        _ => return None,
    })
}

/// Masks of red, green, blue and, if the header has one, opacity; and the offset behind them and the header.
fn read_masks(file: &[u8], header_size: u32) -> Option<([u32; 4], usize)> {
    let behind_header = FILE_HEADER + header_size as usize;
    let (at, count, behind) = match header_size {
        HEADER_WITH_ALPHA_MASK.. => (FILE_HEADER + MASKS, 4, behind_header),
        HEADER_WITH_MASKS.. => (FILE_HEADER + MASKS, 3, behind_header),
        _ => (behind_header, 3, behind_header + 3 * 4),
    };
    let mut masks = [0; 4];
    for (mask, at) in masks.iter_mut().take(count).zip((at..).step_by(4)) {
        *mask = u32_at(file, at)?;
    }
    Some((masks, behind))
}

/// What indices stand for.
struct Colours {
    palette: Palette,
    index_bits: usize,
}

impl Colours {
    /// Pillow drops a palette of gray shades in their order and reads the pixels by the number of shades: bits where
    /// there are two, else bytes, whatever the header says of their size.
    fn read(stored: &[u8], count: usize, entry: usize, bits: usize) -> Result<Self, ImageError> {
        let broken = |fault: &str| undecodable(PictureFormat::Bmp, fault);
        if count > MOST_STATED_COLOURS {
            return Err(broken("its palette has more than 65536 colours"));
        }
        let entries = || stored.chunks_exact(entry).map(|colour| [colour[2], colour[1], colour[0]]);
        let (black, white) = ([0; 3], [255; 3]);
        // Of run-length encoded bytes, all but zero are white.
        let black_and_white = || Palette::new(iter::once(black).chain(iter::repeat(white)));
        Ok(match count {
            1 if entries().eq([black]) => Self { palette: black_and_white(), index_bits: 1 },
            2 if entries().eq([black, white]) => Self { palette: black_and_white(), index_bits: 1 },
            3.. if entries().eq((0..count).map(|shade| [shade as u8; 3])) => {
                Self { palette: Palette::gray(), index_bits: 8 }
            }
            _ if count > MOST_COLOURS && stored.len() / entry > MOST_COLOURS => {
                return Err(broken("its palette has more than 256 colours"));
            }
            _ => Self { palette: Palette::new(entries()), index_bits: bits },
        })
    }
}

/// The sets of masks that Pillow knows: red, green, blue, opacity.
fn of_masks(bits: u32, masks: [u32; 4]) -> Option<Channels> {
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
