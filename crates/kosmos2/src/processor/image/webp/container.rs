//! The chunks of a WebP file, validated like libwebp's demuxer, which Pillow uses.

use std::ops::Range;

const RIFF_HEADER: usize = 8;
const CHUNK_HEADER: usize = 8;
const EXTENDED_HEADER: usize = 10;
const FRAME_HEADER: usize = 16;
const ANIMATION_HEADER: usize = 6;
const XMP_FLAG: u8 = 0x04;
const EXIF_FLAG: u8 = 0x08;
const ANIMATION_FLAG: u8 = 0x02;
const ALPHA_FLAG: u8 = 0x10;
const KNOWN_FLAGS: u8 = 0x3e;
/// The product of width and height must be below this (libwebp's `MAX_IMAGE_AREA`).
const MAX_IMAGE_AREA: u64 = 1 << 32;

/// The reason why a file is damaged.
type Reason = &'static str;

const INCOMPLETE: Reason = "it is incomplete";
const TOO_SHORT: Reason = "a chunk is too short";
const INVALID_BITSTREAM: Reason = "the header of a frame's bitstream is invalid";
const NO_FRAME: Reason = "it has no frame";
const MISPLACED: Reason = "its chunks are not in the required order";

/// The relevant content of a file's chunks.
pub(super) struct Container<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Whether alpha is used. If not, it is ignored.
    pub(super) has_alpha: bool,
    /// The first frame.
    pub(super) frame: Frame,
    /// Metadata chunks are ignored unless the flags announce them.
    pub(super) exif: Option<&'a [u8]>,
    pub(super) xmp: Option<&'a [u8]>,
}

/// A frame's position on the canvas, and the ranges of its data in the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) alpha: Option<Range<usize>>,
    pub(super) bitstream: Range<usize>,
    pub(super) is_lossless: bool,
    /// The alpha bit of a lossless bitstream.
    has_alpha_bit: bool,
}

impl Frame {
    /// Checks that an ALPH chunk precedes the bitstream.
    fn check_order(&self) -> Result<(), Reason> {
        let is_late = self.alpha.as_ref().is_some_and(|alpha| alpha.start > self.bitstream.start);
        if is_late { Err(MISPLACED) } else { Ok(()) }
    }
}

/// Reads chunks up to the size that the RIFF header states.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

struct Chunk {
    fourcc: [u8; 4],
    data: Range<usize>,
    /// Offset after the chunk and its padding.
    end: usize,
}

impl<'a> Reader<'a> {
    /// The next chunk; `None` at the end, an error if it is incomplete.
    fn peek(&self) -> Result<Option<Chunk>, Reason> {
        if self.at == self.file.len() {
            return Ok(None);
        }
        let header: [u8; CHUNK_HEADER] =
            *self.file.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(INCOMPLETE)?;
        let [a, b, c, d, length @ ..] = header;
        let length = u32::from_le_bytes(length) as usize;
        let start = self.at + CHUNK_HEADER;
        let end = start.saturating_add(length).saturating_add(length & 1);
        if end > self.file.len() {
            return Err(INCOMPLETE);
        }
        Ok(Some(Chunk { fourcc: [a, b, c, d], data: start..start + length, end }))
    }

    fn data(&self, chunk: &Chunk) -> &'a [u8] {
        self.file.get(chunk.data.clone()).unwrap_or_default()
    }
}

/// A little-endian number of three bytes; missing bytes are 0.
fn u24(bytes: &[u8], at: usize) -> u32 {
    let byte = |at: usize| bytes.get(at).copied().map_or(0, u32::from);
    byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16
}

impl<'a> Container<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, Reason> {
        let size = file.get(4..).and_then(|rest| rest.first_chunk()).map(|size| u32::from_le_bytes(*size));
        let end = (size.ok_or(INCOMPLETE)? as usize).saturating_add(RIFF_HEADER);
        // Bytes after the RIFF container are ignored.
        let file = file.get(..end).ok_or(INCOMPLETE)?;
        let mut reader = Reader { file, at: RIFF_HEADER + 4 };
        let first = reader.peek()?.ok_or(NO_FRAME)?;
        if &first.fourcc == b"VP8X" {
            reader.at = first.end;
            return Self::read_extended(reader, file.get(first.data).unwrap_or_default());
        }
        let mut frame = read_frame(&mut reader)?.ok_or(NO_FRAME)?;
        // ALPH is valid only in an extended file.
        frame.alpha = None;
        let (width, height, has_alpha) = (frame.width, frame.height, frame.has_alpha_bit);
        Ok(Self { width, height, has_alpha, frame, exif: None, xmp: None })
    }

    fn read_extended(mut reader: Reader<'a>, header: &[u8]) -> Result<Self, Reason> {
        let flags = header.get(..EXTENDED_HEADER).and_then(|header| header.first().copied()).ok_or(TOO_SHORT)?;
        let (width, height) = (u24(header, 4) + 1, u24(header, 7) + 1);
        if u64::from(width) * u64::from(height) >= MAX_IMAGE_AREA || flags & !KNOWN_FLAGS != 0 {
            return Err("its VP8X chunk is invalid");
        }
        let is_animated = flags & ANIMATION_FLAG != 0;
        let (mut exif, mut xmp, mut first, mut has_animation) = (None, None, None, false);
        while let Some(chunk) = reader.peek()? {
            let data = Some(reader.data(&chunk)).filter(|data| !data.is_empty());
            match &chunk.fourcc {
                b"ALPH" | b"VP8 " | b"VP8L" => {
                    if is_animated || has_animation || first.is_some() {
                        return Err(MISPLACED);
                    }
                    let mut frame = read_frame(&mut reader)?.ok_or(INVALID_BITSTREAM)?;
                    if flags & ALPHA_FLAG == 0 {
                        frame.alpha = None;
                    }
                    frame.check_order()?;
                    if (frame.width, frame.height) != (width, height) {
                        return Err("its frame and its canvas have different sizes");
                    }
                    first = Some(frame);
                    continue;
                }
                b"ANMF" => {
                    if !has_animation {
                        return Err(MISPLACED);
                    }
                    let frame = read_animation_frame(&mut reader, &chunk)?;
                    if let Some(frame) = frame.filter(|_| is_animated) {
                        frame.check_order()?;
                        if frame.x + frame.width > width || frame.y + frame.height > height {
                            return Err("a frame extends beyond the canvas");
                        }
                        first.get_or_insert(frame);
                    }
                    continue;
                }
                b"VP8X" => return Err(MISPLACED),
                b"ANIM" if chunk.data.len() < ANIMATION_HEADER => return Err(TOO_SHORT),
                b"ANIM" => has_animation = true,
                b"EXIF" if flags & EXIF_FLAG != 0 => exif = exif.or(Some(data)),
                b"XMP " if flags & XMP_FLAG != 0 => xmp = xmp.or(Some(data)),
                _ => {}
            }
            reader.at = chunk.end;
        }
        let frame = first.ok_or(NO_FRAME)?;
        let has_alpha = match (is_animated, frame.is_lossless) {
            (true, _) => flags & ALPHA_FLAG != 0,
            (false, true) => frame.has_alpha_bit,
            (false, false) => frame.alpha.is_some(),
        };
        Ok(Self { width, height, has_alpha, frame, exif: exif.flatten(), xmp: xmp.flatten() })
    }
}

/// Reads an ANMF chunk and the chunks in it; `None` if none of them is a bitstream.
fn read_animation_frame(reader: &mut Reader, chunk: &Chunk) -> Result<Option<Frame>, Reason> {
    let header = reader.data(chunk);
    if header.len() < FRAME_HEADER {
        return Err(TOO_SHORT);
    }
    reader.at = chunk.data.start + FRAME_HEADER;
    let frame = read_frame(reader)?.map(|frame| Frame { x: 2 * u24(header, 0), y: 2 * u24(header, 3), ..frame });
    if reader.at > chunk.end {
        return Err(INCOMPLETE);
    }
    Ok(frame)
}

/// Reads a frame: an optional ALPH chunk and a bitstream. Any other chunk ends it.
fn read_frame(reader: &mut Reader) -> Result<Option<Frame>, Reason> {
    let mut alpha = None;
    let mut frame: Option<Frame> = None;
    while let Some(chunk) = reader.peek()? {
        match &chunk.fourcc {
            b"ALPH" if alpha.is_none() => alpha = Some(chunk.data),
            b"VP8L" if alpha.is_some() => return Err(MISPLACED),
            b"VP8L" if frame.is_none() => frame = Some(lossless(reader, &chunk)?),
            b"VP8 " if frame.is_none() => frame = Some(lossy(reader, &chunk)?),
            _ => break,
        }
        reader.at = chunk.end;
    }
    if alpha.is_some() && frame.is_none() {
        return Err(NO_FRAME);
    }
    Ok(frame.map(|frame| Frame { alpha, ..frame }))
}

/// The header of a VP8 bitstream (RFC 6386, 9.1): frame tag of three bytes, start code, 14-bit width and height.
fn lossy(reader: &Reader, chunk: &Chunk) -> Result<Frame, Reason> {
    let header: &[u8; 10] = reader.data(chunk).first_chunk().ok_or(INVALID_BITSTREAM)?;
    let tag = u24(header, 0);
    let (is_key_frame, version, is_shown, first_partition) = (tag & 1 == 0, tag >> 1 & 7, tag >> 4 & 1 == 1, tag >> 5);
    let (width, height) = (u24(header, 6) & 0x3fff, u24(header, 8) & 0x3fff);
    let has_start_code = header[3..6] == [0x9d, 0x01, 0x2a];
    let fits = (first_partition as usize) < chunk.data.len();
    if !is_key_frame || version > 3 || !is_shown || !has_start_code || !fits || width == 0 || height == 0 {
        return Err(INVALID_BITSTREAM);
    }
    Ok(Frame { width, height, bitstream: chunk.data.clone(), ..Frame::default() })
}

/// The header of a VP8L bitstream: signature, 14-bit width and height, alpha bit, version.
fn lossless(reader: &Reader, chunk: &Chunk) -> Result<Frame, Reason> {
    let &[signature, ref bits @ ..] = reader.data(chunk).first_chunk::<5>().ok_or(INVALID_BITSTREAM)?;
    let bits = u32::from_le_bytes(*bits);
    if signature != 0x2f || bits >> 29 != 0 {
        return Err(INVALID_BITSTREAM);
    }
    let (width, height) = ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
    let has_alpha_bit = bits >> 28 & 1 == 1;
    Ok(Frame { width, height, bitstream: chunk.data.clone(), is_lossless: true, has_alpha_bit, ..Frame::default() })
}
