//! The chunks of a PNG file that make its picture, and those that tell its orientation.
//!
//! Follows Pillow 13 in what it forgives: chunks up to the pixels have to be whole and their checksums right; behind
//! the pixels, a chunk has to be whole, its checksum is not looked at, and the end chunk may be missing.

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::DecodeOptions;
use super::layout::{Colours, Layout};
use super::metadata::Metadata;

const SIGNATURE: usize = 8;
/// Length and kind.
const CHUNK_HEADER: usize = 8;
const CHECKSUM: usize = 4;
const MOST_COLOURS: usize = 256;
/// An animation of more frames is none.
const MOST_FRAMES: u32 = 1 << 31;

/// What a file's chunks hold.
pub(super) struct Chunks<'a> {
    pub(super) layout: Layout,
    /// Three bytes for each colour.
    pub(super) palette: &'a [u8],
    pub(super) transparency: Option<&'a [u8]>,
    /// From the first chunk of packed pixels on.
    pixels: Pieces<'a>,
    pub(super) metadata: Metadata<'a>,
    /// Frames that an animation header announces.
    frames: u32,
    /// Whether the picture is one of them.
    is_frame: bool,
}

struct Chunk<'a> {
    kind: [u8; 4],
    /// Up to the file's end, if that comes first.
    data: &'a [u8],
    is_whole: bool,
    checksum: Option<u32>,
    /// Offset behind the chunk.
    end: usize,
}

impl<'a> Chunk<'a> {
    /// The chunk at an offset. `None` where the file ends or what follows is no chunk.
    fn read(file: &'a [u8], at: usize) -> Option<Self> {
        let length = u32::from_be_bytes(*file.get(at..)?.first_chunk()?) as usize;
        let kind: [u8; 4] = *file.get(at + 4..)?.first_chunk()?;
        if !kind.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        let rest = file.get(at + CHUNK_HEADER..)?;
        let data = &rest[..length.min(rest.len())];
        let checksum = rest.get(length..).and_then(|rest| rest.first_chunk()).map(|sum| u32::from_be_bytes(*sum));
        let end = (at + CHUNK_HEADER).saturating_add(length).saturating_add(CHECKSUM);
        Some(Self { kind, data, is_whole: data.len() == length, checksum, end })
    }

    fn has_right_checksum(&self) -> bool {
        let mut sum = flate2::Crc::new();
        sum.update(&self.kind);
        sum.update(self.data);
        self.checksum == Some(sum.sum())
    }

    fn broken(&self, fault: &str) -> ImageError {
        undecodable(PictureFormat::Png, format_args!("its {} chunk {fault}", self.kind.escape_ascii()))
    }
}

/// The data of chunks of packed pixels that follow each other.
#[derive(Clone, Copy)]
pub(super) struct Pieces<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = Chunk::read(self.file, self.at).filter(|chunk| &chunk.kind == b"IDAT")?;
        self.at = chunk.end;
        Some(chunk.data)
    }
}

impl<'a> Chunks<'a> {
    pub(super) fn read(file: &'a [u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        let broken = |fault: &str| undecodable(PictureFormat::Png, fault);
        let header = Chunk::read(file, SIGNATURE).filter(|chunk| &chunk.kind == b"IHDR" && chunk.has_right_checksum());
        let header = header.ok_or_else(|| broken("its header is damaged"))?;
        let layout = Layout::read(header.data)?;
        let (palette, transparency) = (Default::default(), None);
        let (pixels, metadata) = (Pieces { file, at: header.end }, Metadata::default());
        let mut chunks = Self { layout, palette, transparency, pixels, metadata, frames: 0, is_frame: false };
        let mut at = header.end;
        let next = |at: &mut usize| -> Result<Option<Chunk<'a>>, ImageError> {
            options.check_time()?;
            let chunk = Chunk::read(file, *at);
            *at = chunk.as_ref().map_or(*at, |chunk| chunk.end);
            Ok(chunk)
        };
        // Up to the pixels.
        let mut chunk = loop {
            chunks.pixels.at = at;
            let chunk = next(&mut at)?.ok_or_else(|| broken("it ends before its pixels"))?;
            match &chunk.kind {
                b"IDAT" => break Some(chunk),
                b"IEND" => return Err(broken("it has no pixels")),
                b"IHDR" if chunk.data != header.data => return Err(broken("it has two headers")),
                _ if !chunk.is_whole => return Err(chunk.broken("ends early")),
                _ if !chunk.has_right_checksum() => return Err(chunk.broken("has a wrong checksum")),
                b"PLTE" => chunks.set_palette(&chunk)?,
                b"fcTL" => {
                    chunks.layout.set_frame(chunk.data)?;
                    chunks.is_frame = true;
                }
                _ => chunks.take(&chunk)?,
            }
        };
        // Pixels.
        while chunk.as_ref().is_some_and(|chunk| &chunk.kind == b"IDAT") {
            chunk = next(&mut at)?;
        }
        // Behind them.
        while let Some(behind) = chunk {
            match &behind.kind {
                b"IEND" => break,
                // The next frame of an animation.
                b"fcTL" if chunks.frames > u32::from(chunks.is_frame) => break,
                _ if !behind.is_whole => return Err(behind.broken("ends early")),
                _ => chunks.take(&behind)?,
            }
            chunk = next(&mut at)?;
        }
        Ok(chunks)
    }

    /// The packed pixels, one piece for each chunk.
    pub(super) fn pixels(&self) -> Pieces<'a> {
        self.pixels
    }

    fn set_palette(&mut self, chunk: &Chunk<'a>) -> Result<(), ImageError> {
        if self.layout.colours == Colours::Palette && chunk.data.len() / 3 > MOST_COLOURS {
            return Err(chunk.broken("has more than 256 colours"));
        }
        self.palette = chunk.data;
        Ok(())
    }

    fn take(&mut self, chunk: &Chunk<'a>) -> Result<(), ImageError> {
        let data = chunk.data;
        match &chunk.kind {
            b"tRNS" => {
                if data.len() < self.layout.shortest_transparency() {
                    return Err(chunk.broken("ends early"));
                }
                self.transparency = Some(data);
            }
            b"acTL" => {
                let frames = data.first_chunk().map(|count| u32::from_be_bytes(*count));
                let frames = frames.filter(|&frames| frames <= MOST_FRAMES);
                // A second header, or one of no frames, makes the file a still picture.
                self.frames = if self.frames == 0 { frames.unwrap_or_default() } else { 0 };
            }
            _ => return self.metadata.take(&chunk.kind, data),
        }
        Ok(())
    }
}
