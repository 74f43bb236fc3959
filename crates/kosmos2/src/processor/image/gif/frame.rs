//! The first frame of a GIF file, and the blocks before it that describe it.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;

/// Size of the signature and the logical screen descriptor.
const HEADER: usize = 13;
const HAS_PALETTE: u8 = 0x80;
const GRAPHIC_CONTROL: u8 = 0xf9;
const COMMENT: u8 = 0xfe;
const APPLICATION: u8 = 0xff;
const EXTENSION: u8 = 0x21;
const IMAGE_DESCRIPTOR: u8 = 0x2c;
const TRAILER: u8 = 0x3b;

/// The first frame.
pub(in super::super) struct Frame<'a> {
    /// Width and height of the picture: the logical screen, enlarged if the frame exceeds it.
    pub(in super::super) size: (u32, u32),
    /// Left, top, width and height of the frame.
    pub(super) area: [usize; 4],
    /// The colour table, three bytes per colour; `None` if indices are shades of gray.
    pub(super) palette: Option<&'a [u8]>,
    /// Index of the transparent colour.
    pub(super) transparency: Option<u8>,
    pub(super) is_interlaced: bool,
    /// LZW minimum code size in bits.
    pub(super) min_code_size: u8,
    /// Data sub-blocks with LZW codes, and everything after them.
    pub(super) data: &'a [u8],
}

/// Reads fields one after the other.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.file.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).and_then(|bytes| bytes.first().copied())
    }

    /// The next data sub-block; `None` for an empty one, which ends a series, and at the end of the file.
    fn sub_block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|&length| length > 0)?;
        let rest = self.file.get(self.at..)?;
        let sub_block = &rest[..rest.len().min(length.into())];
        self.at += sub_block.len();
        Some(sub_block)
    }

    fn skip_sub_blocks(&mut self) {
        while self.sub_block().is_some() {}
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).map(|bytes| usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
    }

    /// A colour table, if the flags announce one; `None` if the file ends within it.
    fn palette(&mut self, flags: u8) -> Option<Option<&'a [u8]>> {
        if flags & HAS_PALETTE == 0 {
            return Some(None);
        }
        self.take(6 << (flags & 7)).map(Some)
    }
}

/// Whether a palette is anything but a gray ramp. Like Pillow, a gray ramp is treated as no palette: indices beyond its
/// end are shades of gray too, and the global colour table takes the place of a local one.
fn is_not_gray_ramp(palette: &&[u8]) -> bool {
    palette.as_chunks().0.iter().zip(0..=255).any(|(colour, index)| *colour != [index; 3])
}

impl<'a> Frame<'a> {
    /// Reads the blocks up to the first frame.
    pub(in super::super) fn read(file: &'a [u8]) -> Result<Self, ImageError> {
        Self::read_blocks(file).ok_or_else(|| undecodable(PictureFormat::Gif, "it ends before its first frame"))
    }

    fn read_blocks(file: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { file, at: 6 };
        let (screen_width, screen_height, flags) = (reader.u16()?, reader.u16()?, reader.byte()?);
        reader.at = HEADER;
        let global_palette = reader.palette(flags)?.filter(is_not_gray_ramp);
        let mut transparency = None;
        loop {
            match reader.byte()? {
                TRAILER => return None,
                EXTENSION => {
                    let label = reader.byte()?;
                    let first = reader.sub_block();
                    match (label, first) {
                        (GRAPHIC_CONTROL, Some(&[flags, ref rest @ ..])) if flags & 1 == 1 => {
                            transparency = Some(*rest.get(2)?);
                        }
                        (COMMENT, None) => continue,
                        (APPLICATION, Some(identifier)) if identifier.starts_with(b"NETSCAPE2.0") => {
                            reader.sub_block();
                        }
                        _ => {}
                    }
                    // Like Pillow, even if the series was empty or has already ended.
                    reader.skip_sub_blocks();
                }
                IMAGE_DESCRIPTOR => {
                    let [left, top] = [reader.u16()?, reader.u16()?];
                    let [width, height] = [reader.u16()?, reader.u16()?];
                    let flags = reader.byte()?;
                    let palette = reader.palette(flags)?.filter(is_not_gray_ramp).or(global_palette);
                    let min_code_size = reader.byte()?;
                    let size = ((left + width).max(screen_width) as u32, (top + height).max(screen_height) as u32);
                    let data = file.get(reader.at..)?;
                    let (area, is_interlaced) = ([left, top, width, height], flags & 0x40 != 0);
                    return Some(Self { size, area, palette, transparency, is_interlaced, min_code_size, data });
                }
                // Like Pillow, skips other bytes between blocks.
                _ => {}
            }
        }
    }
}
