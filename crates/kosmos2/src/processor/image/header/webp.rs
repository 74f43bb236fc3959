//! WebP: the container and its VP8 and VP8L bitstreams each state a size; the decoder may allocate any of them.

use std::ops::Range;

use super::super::bytes::bytes_at;
use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::limits::{MAX_FRAMES, MAX_PARTS, check_count};
use super::estimate::{Estimate, product};

const RIFF_HEADER: usize = 12;
const CHUNK_HEADER: usize = 8;
/// Position, size, duration and flags of an ANMF chunk, before the frame's own chunks.
const FRAME_HEADER: usize = 16;
/// Bytes per pixel of a still picture without alpha: YUV planes or ARGB, RGB, and a rotated copy.
const STILL: u64 = 4 + 3 + 3;
/// Bytes per pixel otherwise: YUV planes, buffers of the alpha decoder, the RGBA frame, and the RGB picture.
const LAYERED: u64 = 2 + 6 + 4 + 3;

pub(super) fn estimate(file: &[u8]) -> Result<Option<Estimate>, ImageError> {
    let Some(first) = chunks(file, RIFF_HEADER..file.len()).next() else { return Ok(None) };
    let Some((width, height)) = size_of(file, &first) else { return Ok(None) };
    let mut pixels = product(&[width.into(), height.into()]);
    // The frame's bitstream is copied.
    let copy = file.len() as u64;
    if &first.fourcc != b"VP8X" {
        let memory = product(&[pixels, if is_opaque(file, &first) { STILL } else { LAYERED }]);
        return Ok(Some(Estimate { width, height, memory: memory.saturating_add(copy) }));
    }
    let (mut frames, mut parts) = (0, 0);
    let mut include = |chunk: &Chunk| {
        let (width, height) = size_of(file, chunk).unwrap_or_default();
        pixels = pixels.max(product(&[width.into(), height.into()]));
    };
    for chunk in chunks(file, RIFF_HEADER..file.len()) {
        match &chunk.fourcc {
            b"ANMF" => {
                frames += 1;
                // Only the first frame is decoded. An ALPH chunk may precede its bitstream.
                if frames == 1 {
                    let inner = chunk.data.start.saturating_add(FRAME_HEADER)..chunk.data.end;
                    chunks(file, inner).take(2).for_each(|chunk| include(&chunk));
                }
            }
            _ => {
                parts += 1;
                include(&chunk);
            }
        }
    }
    check_count(PictureFormat::WebP, "frames", frames, MAX_FRAMES)?;
    check_count(PictureFormat::WebP, "chunks", parts, MAX_PARTS)?;
    Ok(Some(Estimate { width, height, memory: product(&[pixels, LAYERED]).saturating_add(copy) }))
}

struct Chunk {
    fourcc: [u8; 4],
    /// As stated; may extend beyond the end of the file.
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
        let chunk = Chunk { fourcc: bytes_at(file, at)?, data: start..start.saturating_add(length) };
        at = chunk.data.end.saturating_add(length & 1);
        Some(chunk)
    })
}

/// Width and height from the header of a VP8, VP8L or VP8X chunk; `None` for other chunks.
fn size_of(file: &[u8], chunk: &Chunk) -> Option<(u32, u32)> {
    let at = chunk.data.start;
    match &chunk.fourcc {
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
    &chunk.fourcc != b"VP8L" || !bytes_at(file, chunk.data.start + 1).is_some_and(has_alpha)
}
