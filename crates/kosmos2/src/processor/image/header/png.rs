//! PNG: the IHDR chunk states the size; the other chunks are counted.

use super::super::bytes::bytes_at;
use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::limits::{MAX_FRAMES, MAX_PARTS, PNG_METADATA, check_count};
use super::estimate::{Estimate, product};

const SIGNATURE: usize = 8;
/// Length, type and CRC.
const CHUNK_OVERHEAD: usize = 12;
/// RGBA samples and RGB pixels. No other colour type takes more, and neither does a rotated copy.
const BYTES_PER_PIXEL: u64 = 4 + 3;
const BYTES_PER_16_BIT_PIXEL: u64 = 8 + 3;
/// Filter byte and padding bits of a scanline; an interlaced picture has nearly twice as many scanlines as rows.
const BYTES_PER_ROW: u64 = 2 * 2;

pub(super) fn estimate(file: &[u8]) -> Result<Option<Estimate>, ImageError> {
    if chunk(file, SIGNATURE).is_some_and(|(_, chunk_type)| &chunk_type != b"IHDR") {
        return Err(undecodable(PictureFormat::Png, "its first chunk is not IHDR"));
    }
    let (mut frames, mut parts, mut at) = (0, 0, SIGNATURE);
    while let Some((length, chunk_type)) = chunk(file, at) {
        match &chunk_type {
            b"IEND" => break,
            b"IDAT" | b"fdAT" => {}
            b"fcTL" => frames += 1,
            _ => parts += 1,
        }
        at = at.saturating_add(CHUNK_OVERHEAD).saturating_add(length);
    }
    check_count(PictureFormat::Png, "frames", frames, MAX_FRAMES)?;
    check_count(PictureFormat::Png, "chunks", parts, MAX_PARTS)?;
    Ok(from_ihdr(file))
}

fn chunk(file: &[u8], at: usize) -> Option<(usize, [u8; 4])> {
    let length = u32::from_be_bytes(bytes_at(file, at)?) as usize;
    Some((length, bytes_at(file, at + 4)?))
}

/// The estimate from the first chunk, which has to be IHDR.
fn from_ihdr(file: &[u8]) -> Option<Estimate> {
    let side = |at| Some(u32::from_be_bytes(bytes_at(file, at)?));
    let (width, height) = (side(16)?, side(20)?);
    let [depth] = bytes_at(file, 24)?;
    let per_pixel = if depth > 8 { BYTES_PER_16_BIT_PIXEL } else { BYTES_PER_PIXEL };
    let pixels = product(&[width.into(), height.into(), per_pixel]);
    let rows = product(&[height.into(), BYTES_PER_ROW]);
    Some(Estimate { width, height, memory: pixels.saturating_add(rows).saturating_add(PNG_METADATA) })
}
