//! BMP: the dimensions are in the DIB header.

use super::super::bmp;
use super::super::error::ImageError;
use super::estimate::{Estimate, product};

/// The index of a run-length encoded pixel, and RGB.
const BYTES_PER_PIXEL: u64 = 1 + 3;

pub(super) fn estimate(file: &[u8]) -> Result<Option<Estimate>, ImageError> {
    Ok(bmp::dimensions(file).map(|(width, height, _)| {
        let memory = product(&[width.into(), height.into(), BYTES_PER_PIXEL]);
        Estimate { width, height, memory }
    }))
}
