//! What one picture may cost: pixels, sides, memory, parts and time.

use std::io::{self, BufRead, Cursor, Read, Seek, SeekFrom};
use std::time::Instant;

use super::decode::{ImageError, PictureFormat};

/// Most scans of a JPEG. Encoders write about ten, and one for every coefficient would be 64; a file of a few
/// kilobytes can hold thousands, each of which goes over the whole picture.
pub(super) const MAX_SCANS: u64 = 100;
/// Most frames of an animation, though only the first one is decoded.
pub(super) const MAX_FRAMES: u64 = 10_000;
/// Most other parts: segments, chunks and blocks beside the picture itself. Decoders keep a record of each.
pub(super) const MAX_PARTS: u64 = 50_000;
/// What a PNG's texts may take when unpacked: three are kept, and one is being unpacked, of a MiB each.
pub(super) const PNG_METADATA: u64 = 8 << 20;

/// How to decode, and what a picture may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Turn the picture upright by the orientation that EXIF or XMP states, as the reference's `load_image` does.
    /// Without it pixels stay as they are stored, as with a picture object passed to the reference's processor; a TIFF
    /// is turned then too, since Pillow turns it as it opens it.
    pub apply_orientation: bool,
    /// Most pixels, width times height. The default is Pillow's limit against decompression bombs.
    pub max_pixels: u64,
    /// Longest side in pixels. The default is the longest that JPEG and GIF know.
    pub max_side: u32,
    /// Most bytes of memory that decoding may take by the picture's headers, see [`Header::memory`](super::Header).
    pub max_memory: u64,
    /// When to give up. Looked at whenever a decoder asks for more of the file and between steps, so that a step that
    /// reads nothing goes on to its end; such steps are bounded by the picture's pixels.
    pub deadline: Option<Instant>,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { apply_orientation: true, max_pixels: 178_956_970, max_side: 65_535, max_memory: 2 << 30, deadline: None }
    }
}

impl DecodeOptions {
    pub(super) fn check_size(&self, width: u64, height: u64) -> Result<(), ImageError> {
        match width.checked_mul(height) {
            Some(pixels) if pixels <= self.max_pixels => {}
            _ => return Err(ImageError::TooManyPixels { width, height, limit: self.max_pixels }),
        }
        let limit = self.max_side;
        if width.max(height) > limit.into() {
            return Err(ImageError::SideTooLong { width, height, limit });
        }
        Ok(())
    }

    pub(super) fn check_memory(&self, needed: u64) -> Result<(), ImageError> {
        let limit = self.max_memory;
        if needed > limit { Err(ImageError::TooMuchMemory { needed, limit }) } else { Ok(()) }
    }

    pub(super) fn check_time(&self) -> Result<(), ImageError> {
        if is_over(self.deadline) { Err(ImageError::TimedOut) } else { Ok(()) }
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

pub(super) fn check_count(format: PictureFormat, part: &'static str, count: u64, limit: u64) -> Result<(), ImageError> {
    if count > limit { Err(ImageError::TooManyParts { format, part, limit }) } else { Ok(()) }
}

/// A file handed out in small pieces, none after the deadline.
pub(super) struct Paced<'a> {
    file: Cursor<&'a [u8]>,
    piece: usize,
    deadline: Option<Instant>,
}

impl<'a> Paced<'a> {
    pub(super) fn new(file: &'a [u8], piece: usize, deadline: Option<Instant>) -> Self {
        Self { file: Cursor::new(file), piece, deadline }
    }

    fn check(&self) -> io::Result<()> {
        if is_over(self.deadline) { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Read for Paced<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let most = into.len().min(self.piece);
        self.file.read(&mut into[..most])
    }
}

impl BufRead for Paced<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        let rest = self.file.fill_buf()?;
        Ok(&rest[..rest.len().min(self.piece)])
    }

    fn consume(&mut self, amount: usize) {
        self.file.consume(amount);
    }
}

impl Seek for Paced<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
