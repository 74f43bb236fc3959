//! The chunks of a WebP file, checked as libwebp's demuxer checks them.

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
/// Most pixels, which not even the sides of a stream allow.
const MOST_PIXELS: u64 = 1 << 32;

type Fault = &'static str;

const EARLY: Fault = "it ends early";
const TOO_SHORT: Fault = "a chunk is too short";
const BROKEN_STREAM: Fault = "a frame's stream does not begin as one";
const NO_FRAME: Fault = "it has no frame";
const MISPLACED: Fault = "a chunk is where it may not be";

/// What a file's chunks hold.
pub(super) struct Container<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Whether opacity counts. If not, transparent parts show their colour.
    pub(super) has_alpha: bool,
    /// The first one.
    pub(super) frame: Frame,
    /// Of metadata chunks only those that the flags announce.
    pub(super) exif: Option<&'a [u8]>,
    pub(super) xmp: Option<&'a [u8]>,
}

/// A frame's place on the canvas, and where its data are in the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) alpha: Option<Range<usize>>,
    pub(super) stream: Range<usize>,
    pub(super) is_lossless: bool,
    /// Whether a lossless stream says that it uses opacity.
    says_alpha: bool,
}

impl Frame {
    /// Opacity has to stand before the stream.
    fn check_order(&self) -> Result<(), Fault> {
        let is_behind = self.alpha.as_ref().is_some_and(|alpha| alpha.start > self.stream.start);
        if is_behind { Err(MISPLACED) } else { Ok(()) }
    }
}

/// Reads chunks up to the end that the file's header states.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

struct Chunk {
    kind: [u8; 4],
    data: Range<usize>,
    /// Offset behind the chunk and its padding.
    end: usize,
}

impl<'a> Reader<'a> {
    /// `None` at the end; an error where only a part of a chunk is left.
    fn peek(&self) -> Result<Option<Chunk>, Fault> {
        if self.at == self.file.len() {
            return Ok(None);
        }
        let header: [u8; CHUNK_HEADER] = *self.file.get(self.at..).and_then(|rest| rest.first_chunk()).ok_or(EARLY)?;
        let [a, b, c, d, length @ ..] = header;
        let length = u32::from_le_bytes(length) as usize;
        let start = self.at + CHUNK_HEADER;
        let end = start.saturating_add(length).saturating_add(length & 1);
        if end > self.file.len() {
            return Err(EARLY);
        }
        Ok(Some(Chunk { kind: [a, b, c, d], data: start..start + length, end }))
    }

    fn data(&self, chunk: &Chunk) -> &'a [u8] {
        self.file.get(chunk.data.clone()).unwrap_or_default()
    }
}

/// A number of three bytes.
fn u24(bytes: &[u8], at: usize) -> u32 {
    let byte = |at: usize| bytes.get(at).copied().map_or(0, u32::from);
    byte(at) | byte(at + 1) << 8 | byte(at + 2) << 16
}

impl<'a> Container<'a> {
    pub(super) fn read(file: &'a [u8]) -> Result<Self, Fault> {
        let size = file.get(4..).and_then(|rest| rest.first_chunk()).map(|size| u32::from_le_bytes(*size));
        let end = (size.ok_or(EARLY)? as usize).saturating_add(RIFF_HEADER);
        // What follows the container is not looked at.
        let file = file.get(..end).ok_or(EARLY)?;
        let mut reader = Reader { file, at: RIFF_HEADER + 4 };
        let first = reader.peek()?.ok_or(NO_FRAME)?;
        if &first.kind == b"VP8X" {
            reader.at = first.end;
            return Self::read_extended(reader, file.get(first.data).unwrap_or_default());
        }
        let mut frame = read_frame(&mut reader)?.ok_or(NO_FRAME)?;
        // Only an extended file has a chunk of opacity.
        frame.alpha = None;
        let (width, height, has_alpha) = (frame.width, frame.height, frame.says_alpha);
        Ok(Self { width, height, has_alpha, frame, exif: None, xmp: None })
    }

    fn read_extended(mut reader: Reader<'a>, header: &[u8]) -> Result<Self, Fault> {
        let flags = header.get(..EXTENDED_HEADER).and_then(|header| header.first().copied()).ok_or(TOO_SHORT)?;
        let (width, height) = (u24(header, 4) + 1, u24(header, 7) + 1);
        if u64::from(width) * u64::from(height) >= MOST_PIXELS || flags & !KNOWN_FLAGS != 0 {
            return Err("its header is damaged");
        }
        let is_animated = flags & ANIMATION_FLAG != 0;
        let (mut exif, mut xmp, mut first, mut has_animation) = (None, None, None, false);
        while let Some(chunk) = reader.peek()? {
            let data = Some(reader.data(&chunk)).filter(|data| !data.is_empty());
            match &chunk.kind {
                b"ALPH" | b"VP8 " | b"VP8L" => {
                    if is_animated || has_animation || first.is_some() {
                        return Err(MISPLACED);
                    }
                    let mut frame = read_frame(&mut reader)?.ok_or(BROKEN_STREAM)?;
                    if flags & ALPHA_FLAG == 0 {
                        frame.alpha = None;
                    }
                    frame.check_order()?;
                    if (frame.width, frame.height) != (width, height) {
                        return Err("its frame has another size than its canvas");
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
                            return Err("a frame goes beyond its canvas");
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
            (false, true) => frame.says_alpha,
            (false, false) => frame.alpha.is_some(),
        };
        Ok(Self { width, height, has_alpha, frame, exif: exif.flatten(), xmp: xmp.flatten() })
    }
}

/// A frame of an animation, and the chunks within it. `None` if none of them holds pixels.
fn read_animation_frame(reader: &mut Reader, chunk: &Chunk) -> Result<Option<Frame>, Fault> {
    let header = reader.data(chunk);
    if header.len() < FRAME_HEADER {
        return Err(TOO_SHORT);
    }
    reader.at = chunk.data.start + FRAME_HEADER;
    let frame = read_frame(reader)?.map(|frame| Frame { x: 2 * u24(header, 0), y: 2 * u24(header, 3), ..frame });
    if reader.at > chunk.end {
        return Err(EARLY);
    }
    Ok(frame)
}

/// A chunk of opacity, if there is one, and a stream; whatever else follows ends the frame.
fn read_frame(reader: &mut Reader) -> Result<Option<Frame>, Fault> {
    let mut alpha = None;
    let mut frame: Option<Frame> = None;
    while let Some(chunk) = reader.peek()? {
        match &chunk.kind {
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

/// Tag of three bytes, signature, 14-bit sides.
fn lossy(reader: &Reader, chunk: &Chunk) -> Result<Frame, Fault> {
    let header: &[u8; 10] = reader.data(chunk).first_chunk().ok_or(BROKEN_STREAM)?;
    let tag = u24(header, 0);
    let (is_key_frame, profile, is_shown, first_part) = (tag & 1 == 0, tag >> 1 & 7, tag >> 4 & 1 == 1, tag >> 5);
    let (width, height) = (u24(header, 6) & 0x3fff, u24(header, 8) & 0x3fff);
    let is_signed = header[3..6] == [0x9d, 0x01, 0x2a];
    let fits = (first_part as usize) < chunk.data.len();
    if !is_key_frame || profile > 3 || !is_shown || !is_signed || !fits || width == 0 || height == 0 {
        return Err(BROKEN_STREAM);
    }
    Ok(Frame { width, height, stream: chunk.data.clone(), ..Frame::default() })
}

/// Signature, two 14-bit sides, whether opacity is used, version.
fn lossless(reader: &Reader, chunk: &Chunk) -> Result<Frame, Fault> {
    let &[signature, ref bits @ ..] = reader.data(chunk).first_chunk::<5>().ok_or(BROKEN_STREAM)?;
    let bits = u32::from_le_bytes(*bits);
    if signature != 0x2f || bits >> 29 != 0 {
        return Err(BROKEN_STREAM);
    }
    let (width, height) = ((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1);
    let says_alpha = bits >> 28 & 1 == 1;
    Ok(Frame { width, height, stream: chunk.data.clone(), is_lossless: true, says_alpha, ..Frame::default() })
}
