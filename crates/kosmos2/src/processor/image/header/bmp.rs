//! BMP: the old header of 12 bytes has 16-bit sides, all later ones begin alike.

use super::super::bmp;
use super::super::decode::ImageError;
use super::{Claims, product};

/// An index of what is run-length encoded, and RGB.
const BYTES_PER_PIXEL: u64 = 1 + 3;

pub(super) fn claims(file: &[u8]) -> Result<Option<Claims>, ImageError> {
    Ok(bmp::sides(file).map(|(width, height, _)| {
        let memory = product(&[width.into(), height.into(), BYTES_PER_PIXEL]);
        Claims { width, height, memory }
    }))
}
