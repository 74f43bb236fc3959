//! The chunks of a PNG file that describe its pixels and its orientation.
//!
//! Tolerates the same errors as Pillow 13: chunks before the first IDAT must be complete and have a correct CRC; chunks
//! after the last IDAT must be complete, but their CRC is not checked, and IEND may be missing.

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::limits::DecodeOptions;
use super::layout::{ColourType, Layout};
use super::metadata::Metadata;

const SIGNATURE: usize = 8;
/// Length and type.
const CHUNK_HEADER: usize = 8;
const CRC: usize = 4;
const MAX_COLOURS: usize = 256;
/// Pillow ignores an acTL chunk that states more frames.
const MAX_FRAMES: u32 = 1 << 31;

/// The relevant content of a file's chunks.
pub(super) struct Chunks<'a> {
    pub(super) layout: Layout,
    /// PLTE: three bytes per colour.
    pub(super) palette: &'a [u8],
    /// tRNS.
    pub(super) transparency: Option<&'a [u8]>,
    idat: IdatChunks<'a>,
    pub(super) metadata: Metadata<'a>,
    /// Number of frames that acTL states.
    frames: u32,
    /// Whether the default image is one of them.
    is_frame: bool,
}

struct Chunk<'a> {
    chunk_type: [u8; 4],
    /// Truncated where the file ends.
    data: &'a [u8],
    is_complete: bool,
    crc: Option<u32>,
    /// Offset after the chunk.
    end: usize,
}

impl<'a> Chunk<'a> {
    /// The chunk at an offset; `None` if the file ends there or the chunk type has other characters than Pillow
    /// accepts.
    fn read(file: &'a [u8], at: usize) -> Option<Self> {
        let length = u32::from_be_bytes(*file.get(at..)?.first_chunk()?) as usize;
        let chunk_type: [u8; 4] = *file.get(at + 4..)?.first_chunk()?;
        if !chunk_type.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return None;
        }
        let rest = file.get(at + CHUNK_HEADER..)?;
        let data = &rest[..length.min(rest.len())];
        let crc = rest.get(length..).and_then(|rest| rest.first_chunk()).map(|crc| u32::from_be_bytes(*crc));
        let end = (at + CHUNK_HEADER).saturating_add(length).saturating_add(CRC);
        Some(Self { chunk_type, data, is_complete: data.len() == length, crc, end })
    }

    fn is_crc_correct(&self) -> bool {
        let mut crc = flate2::Crc::new();
        crc.update(&self.chunk_type);
        crc.update(self.data);
        self.crc == Some(crc.sum())
    }

    fn damaged(&self, reason: &str) -> ImageError {
        undecodable(PictureFormat::Png, format_args!("its {} chunk {reason}", self.chunk_type.escape_ascii()))
    }
}

/// The data of consecutive IDAT chunks.
#[derive(Clone, Copy)]
pub(super) struct IdatChunks<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Iterator for IdatChunks<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let chunk = Chunk::read(self.file, self.at).filter(|chunk| &chunk.chunk_type == b"IDAT")?;
        self.at = chunk.end;
        Some(chunk.data)
    }
}

impl<'a> Chunks<'a> {
    pub(super) fn read(file: &'a [u8], options: &DecodeOptions) -> Result<Self, ImageError> {
        let damaged = |reason: &str| undecodable(PictureFormat::Png, reason);
        let header =
            Chunk::read(file, SIGNATURE).filter(|chunk| &chunk.chunk_type == b"IHDR" && chunk.is_crc_correct());
        let header = header.ok_or_else(|| damaged("its IHDR chunk is damaged"))?;
        let layout = Layout::read(header.data)?;
        let (palette, transparency) = (Default::default(), None);
        let (idat, metadata) = (IdatChunks { file, at: header.end }, Metadata::default());
        let mut chunks = Self { layout, palette, transparency, idat, metadata, frames: 0, is_frame: false };
        let mut at = header.end;
        let next = |at: &mut usize| -> Result<Option<Chunk<'a>>, ImageError> {
            options.check_deadline()?;
            let chunk = Chunk::read(file, *at);
            *at = chunk.as_ref().map_or(*at, |chunk| chunk.end);
            Ok(chunk)
        };
        // Up to the first IDAT chunk.
        let mut chunk = loop {
            chunks.idat.at = at;
            let chunk = next(&mut at)?.ok_or_else(|| damaged("it ends before its first IDAT chunk"))?;
            match &chunk.chunk_type {
                b"IDAT" => break Some(chunk),
                b"IEND" => return Err(damaged("it has no IDAT chunk")),
                b"IHDR" if chunk.data != header.data => return Err(damaged("it has two IHDR chunks that differ")),
                _ if !chunk.is_complete => return Err(chunk.damaged("is incomplete")),
                _ if !chunk.is_crc_correct() => return Err(chunk.damaged("has a wrong CRC")),
                b"PLTE" => chunks.set_palette(&chunk)?,
                b"fcTL" => {
                    chunks.layout.set_frame(chunk.data)?;
                    chunks.is_frame = true;
                }
                _ => chunks.add(&chunk)?,
            }
        };
        // The IDAT chunks.
        while chunk.as_ref().is_some_and(|chunk| &chunk.chunk_type == b"IDAT") {
            chunk = next(&mut at)?;
        }
        // After the last IDAT chunk.
        while let Some(trailing) = chunk {
            match &trailing.chunk_type {
                b"IEND" => break,
                // The next frame of an animation.
                b"fcTL" if chunks.frames > u32::from(chunks.is_frame) => break,
                _ if !trailing.is_complete => return Err(trailing.damaged("is incomplete")),
                _ => chunks.add(&trailing)?,
            }
            chunk = next(&mut at)?;
        }
        Ok(chunks)
    }

    /// The compressed pixels.
    pub(super) fn idat(&self) -> IdatChunks<'a> {
        self.idat
    }

    fn set_palette(&mut self, chunk: &Chunk<'a>) -> Result<(), ImageError> {
        if self.layout.colour_type == ColourType::Palette && chunk.data.len() / 3 > MAX_COLOURS {
            return Err(chunk.damaged("has more than 256 colours"));
        }
        self.palette = chunk.data;
        Ok(())
    }

    fn add(&mut self, chunk: &Chunk<'a>) -> Result<(), ImageError> {
        let data = chunk.data;
        match &chunk.chunk_type {
            b"tRNS" => {
                if data.len() < self.layout.min_transparency_bytes() {
                    return Err(chunk.damaged("is too short"));
                }
                self.transparency = Some(data);
            }
            b"acTL" => {
                let frames = data.first_chunk().map(|count| u32::from_be_bytes(*count));
                let frames = frames.filter(|&frames| frames <= MAX_FRAMES);
                // Like Pillow, a second acTL chunk, or one without frames, makes the file a still picture.
                self.frames = if self.frames == 0 { frames.unwrap_or_default() } else { 0 };
            }
            _ => return self.metadata.add(&chunk.chunk_type, data),
        }
        Ok(())
    }
}
