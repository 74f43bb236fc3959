//! WebP: RIFF chunks. A lossy stream tells its own size, which may be another than the container's.

use std::ops::Range;

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::{MAX_FRAMES, MAX_PARTS, check_count};
use super::{Claims, bytes_at, product};

const RIFF_HEADER: usize = 12;
const CHUNK_HEADER: usize = 8;
/// Place, size, duration and flags of a frame, before its own chunks.
const FRAME_HEADER: usize = 16;
/// Of a still picture without opacity: planes of luma and chroma or ARGB, RGB, and a turned copy.
const STILL: u64 = 4 + 3 + 3;
/// Else: the stream's planes, those of opacity while it is unpacked, the frame, and the picture.
const LAYERED: u64 = 2 + 6 + 4 + 3;

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    let Some(first) = chunks(file, RIFF_HEADER..file.len()).next() else { return Ok(None) };
    let Some((width, height)) = size_of(file, &first) else { return Ok(None) };
    let mut pixels = product(&[width.into(), height.into()]);
    // The frame's stream is copied.
    let stream = file.len() as u64;
    if &first.kind != b"VP8X" {
        let memory = product(&[pixels, if is_opaque(file, &first) { STILL } else { LAYERED }]);
        return Ok(Some(Claims { width, height, memory: memory.saturating_add(stream) }));
    }
    let (mut frames, mut parts) = (0, 0);
    let mut count = |stream: &Chunk| {
        let (width, height) = size_of(file, stream).unwrap_or_default();
        pixels = pixels.max(product(&[width.into(), height.into()]));
    };
    for chunk in chunks(file, RIFF_HEADER..file.len()) {
        match &chunk.kind {
            b"ANMF" => {
                frames += 1;
                // Only the first frame is decoded: a chunk of opacity may come before its stream.
                if frames == 1 {
                    let inner = chunk.data.start.saturating_add(FRAME_HEADER)..chunk.data.end;
                    chunks(file, inner).take(2).for_each(|stream| count(&stream));
                }
            }
            _ => {
                parts += 1;
                count(&chunk);
            }
        }
    }
    check_count(PictureFormat::WebP, "frames", frames, MAX_FRAMES)?;
    check_count(PictureFormat::WebP, "chunks", parts, MAX_PARTS)?;
    Ok(Some(Claims { width, height, memory: product(&[pixels, LAYERED]).saturating_add(stream) }))
}

struct Chunk {
    kind: [u8; 4],
    /// As claimed, perhaps beyond the file's end.
    data: Range<usize>,
}

fn chunks(file: &[u8], within: Range<usize>) -> impl Iterator<Item = Chunk> {
    let mut at = within.start;
    std::iter::from_fn(move || {
        if at >= within.end {
            return None;
        }
        let length = u32::from_le_bytes(bytes_at(file, at + 4)?) as usize;
        let start = at + CHUNK_HEADER;
        let chunk = Chunk { kind: bytes_at(file, at)?, data: start..start.saturating_add(length) };
        at = chunk.data.end.saturating_add(length & 1);
        Some(chunk)
    })
}

/// Width and height that a chunk tells, if it is one that does.
fn size_of(file: &[u8], chunk: &Chunk) -> Option<(u32, u32)> {
    let at = chunk.data.start;
    match &chunk.kind {
        b"VP8 " => {
            let side = |at| Some(u32::from(u16::from_le_bytes(bytes_at(file, at)?)) & 0x3fff);
            Some((side(at + 6)?, side(at + 8)?))
        }
        b"VP8L" => {
            let bits = u32::from_le_bytes(bytes_at(file, at + 1)?);
            Some(((bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1))
        }
        b"VP8X" => {
            let side = |at| {
                let [low, middle, high] = bytes_at(file, at)?;
                Some(u32::from_le_bytes([low, middle, high, 0]) + 1)
            };
            Some((side(at + 4)?, side(at + 7)?))
        }
        _ => None,
    }
}

fn is_opaque(file: &[u8], chunk: &Chunk) -> bool {
    let has_alpha = |bits: [u8; 4]| u32::from_le_bytes(bits) >> 28 & 1 == 1;
    &chunk.kind != b"VP8L" || !bytes_at(file, chunk.data.start + 1).is_some_and(has_alpha)
}
