//! Where a GIF file's first frame is, and what the blocks before it say of it.

use super::super::decode::{ImageError, PictureFormat, undecodable};

const SCREEN: usize = 13;
const HAS_PALETTE: u8 = 0x80;
const GRAPHIC_CONTROL: u8 = 0xf9;
const COMMENT: u8 = 0xfe;
const APPLICATION: u8 = 0xff;
/// Beside these two kinds of blocks, bytes between blocks are passed over.
const EXTENSION: u8 = 0x21;
const PICTURE: u8 = 0x2c;
const END: u8 = 0x3b;

/// The first frame.
pub(in super::super) struct Frame<'a> {
    /// Width and height of the picture: the screen, or more where the frame goes beyond it.
    pub(in super::super) size: (u32, u32),
    /// Of the frame: left, top, width, height.
    pub(super) area: [usize; 4],
    /// Three bytes for each colour; `None` where indices are shades of gray.
    pub(super) palette: Option<&'a [u8]>,
    pub(super) transparency: Option<u8>,
    pub(super) is_interlaced: bool,
    /// Bits of the first codes, less one.
    pub(super) code_bits: u8,
    /// Blocks of codes, up to the file's end.
    pub(super) data: &'a [u8],
}

/// Reads a file from its start.
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

    /// The next data block; `None` for an empty one, which ends a series, and at the file's end.
    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|&length| length > 0)?;
        let rest = self.file.get(self.at..)?;
        let block = &rest[..rest.len().min(length.into())];
        self.at += block.len();
        Some(block)
    }

    fn pass_blocks(&mut self) {
        while self.block().is_some() {}
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2).map(|bytes| usize::from(bytes[0]) | usize::from(bytes[1]) << 8)
    }

    /// A palette, if the flags announce one.
    fn palette(&mut self, flags: u8) -> Option<Option<&'a [u8]>> {
        if flags & HAS_PALETTE == 0 {
            return Some(None);
        }
        self.take(6 << (flags & 7)).map(Some)
    }
}

/// A palette of shades of gray in their order counts as none, which matters for indices beyond it, and where the file
/// has another one.
fn is_needed(palette: &&[u8]) -> bool {
    palette.as_chunks().0.iter().zip(0..=255).any(|(colour, index)| *colour != [index; 3])
}

impl<'a> Frame<'a> {
    pub(in super::super) fn find(file: &'a [u8]) -> Result<Self, ImageError> {
        Self::read(file).ok_or_else(|| undecodable(PictureFormat::Gif, "it ends before its first frame"))
    }

    fn read(file: &'a [u8]) -> Option<Self> {
        let mut reader = Reader { file, at: 6 };
        let (screen_width, screen_height, flags) = (reader.u16()?, reader.u16()?, reader.byte()?);
        reader.at = SCREEN;
        let shared_palette = reader.palette(flags)?.filter(is_needed);
        let mut transparency = None;
        loop {
            match reader.byte()? {
                END => return None,
                EXTENSION => {
                    let kind = reader.byte()?;
                    let first = reader.block();
                    match (kind, first) {
                        (GRAPHIC_CONTROL, Some(&[flags, ref rest @ ..])) if flags & 1 == 1 => {
                            transparency = Some(*rest.get(2)?);
                        }
                        (COMMENT, None) => continue,
                        (APPLICATION, Some(block)) if block.starts_with(b"NETSCAPE2.0") => {
                            reader.block();
                        }
                        _ => {}
                    }
                    // As in Pillow, also behind a series that was empty or has ended.
                    reader.pass_blocks();
                }
                PICTURE => {
                    let [left, top] = [reader.u16()?, reader.u16()?];
                    let [width, height] = [reader.u16()?, reader.u16()?];
                    let flags = reader.byte()?;
                    let palette = reader.palette(flags)?.filter(is_needed).or(shared_palette);
                    let code_bits = reader.byte()?;
                    let size = ((left + width).max(screen_width) as u32, (top + height).max(screen_height) as u32);
                    let data = file.get(reader.at..)?;
                    let (area, is_interlaced) = ([left, top, width, height], flags & 0x40 != 0);
                    return Some(Self { size, area, palette, transparency, is_interlaced, code_bits, data });
                }
                _ => {}
            }
        }
    }
}
