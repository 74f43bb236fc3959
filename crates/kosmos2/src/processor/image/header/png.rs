//! PNG: chunks of length, kind, data and checksum.

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::{MAX_FRAMES, MAX_PARTS, PNG_METADATA, check_count};
use super::{Claims, bytes_at, product};

const SIGNATURE: usize = 8;
/// Length, kind and checksum.
const CHUNK_FRAME: usize = 12;
/// 8-bit: gray with opacity, as RGBA, as RGB. No other kind takes more.
const BYTES_PER_PIXEL: u64 = 2 + 4 + 3;
/// 16-bit: with opacity, its high bytes, RGB; for gray it is the same sum.
const BYTES_PER_DEEP_PIXEL: u64 = 8 + 4 + 4;

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    if chunk(file, SIGNATURE).is_some_and(|(_, kind)| &kind != b"IHDR") {
        return Err(undecodable(PictureFormat::Png, "it does not begin with its header"));
    }
    let (mut frames, mut parts, mut at) = (0, 0, SIGNATURE);
    while let Some((length, kind)) = chunk(file, at) {
        match &kind {
            b"IEND" => break,
            b"IDAT" | b"fdAT" => {}
            b"fcTL" => frames += 1,
            _ => parts += 1,
        }
        at = at.saturating_add(CHUNK_FRAME).saturating_add(length);
    }
    check_count(PictureFormat::Png, "frames", frames, MAX_FRAMES)?;
    check_count(PictureFormat::Png, "chunks", parts, MAX_PARTS)?;
    Ok(shape(file))
}

fn chunk(file: &[u8], at: usize) -> Option<(usize, [u8; 4])> {
    let length = u32::from_be_bytes(bytes_at(file, at)?) as usize;
    Some((length, bytes_at(file, at + 4)?))
}

/// From the first chunk, which has to be the header.
fn shape(file: &[u8]) -> Option<Claims> {
    let side = |at| Some(u32::from_be_bytes(bytes_at(file, at)?));
    let (width, height) = (side(16)?, side(20)?);
    let [depth] = bytes_at(file, 24)?;
    let per_pixel = if depth > 8 { BYTES_PER_DEEP_PIXEL } else { BYTES_PER_PIXEL };
    let pixels = product(&[width.into(), height.into(), per_pixel]);
    Some(Claims { width, height, memory: pixels.saturating_add(metadata_room(file)) })
}

/// What the decoder may take for chunks, texts and the unpacked colour profile.
pub(in super::super) fn metadata_room(file: &[u8]) -> u64 {
    PNG_METADATA + file.len() as u64
}
