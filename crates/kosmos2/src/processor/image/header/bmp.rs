//! BMP: the old header of 12 bytes has 16-bit sides, all later ones begin alike.

use super::super::decode::ImageError;
use super::{Claims, bytes_at, product};

const OLD_HEADER: u32 = 12;
/// The decoder's four, RGB without opacity, and a turned copy of that.
const BYTES_PER_PIXEL: u64 = 4 + 3 + 3;

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    Ok(sides(file).map(|(width, height)| {
        let memory = product(&[width.into(), height.into(), BYTES_PER_PIXEL]);
        Claims { width, height, memory }
    }))
}

fn sides(file: &[u8]) -> Option<(u32, u32)> {
    if u32::from_le_bytes(bytes_at(file, 14)?) == OLD_HEADER {
        let side = |at| Some(u32::from(u16::from_le_bytes(bytes_at(file, at)?)));
        return Some((side(18)?, side(20)?));
    }
    // A negative height means rows from top to bottom.
    let side = |at| Some(i32::from_le_bytes(bytes_at(file, at)?).unsigned_abs());
    Some((side(18)?, side(22)?))
}
