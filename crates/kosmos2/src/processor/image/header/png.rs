//! PNG: chunks of length, kind, data and checksum.

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::{MAX_FRAMES, MAX_PARTS, PNG_METADATA, check_count};
use super::{Claims, bytes_at, product};

const SIGNATURE: usize = 8;
/// Length, kind and checksum.
const CHUNK_FRAME: usize = 12;
/// RGBA and RGB. No other kind takes more, nor does a turned copy.
const BYTES_PER_PIXEL: u64 = 4 + 3;
const BYTES_PER_DEEP_PIXEL: u64 = 8 + 3;
/// Filters and the last bits of rows; of an interlaced picture there are nearly twice as many rows.
const BYTES_PER_ROW: u64 = 2 * 2;

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
    let rows = product(&[height.into(), BYTES_PER_ROW]);
    Some(Claims { width, height, memory: pixels.saturating_add(rows).saturating_add(PNG_METADATA) })
}
