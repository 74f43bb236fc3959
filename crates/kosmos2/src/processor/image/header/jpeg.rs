//! JPEG: the frame header states the size, and the number of scans decides what the decoder keeps.

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::jpeg::{FrameHeader, Markers};
use super::super::limits::{MAX_PARTS, MAX_SCANS, check_count};
use super::estimate::{Estimate, product};

/// Bytes of a block: 64 coefficients of two bytes.
const BLOCK: u64 = 128;

pub(super) fn estimate(file: &[u8]) -> Result<Option<Estimate>, ImageError> {
    let markers = Markers::read(file);
    check_count(PictureFormat::Jpeg, "scans", markers.scans, MAX_SCANS)?;
    check_count(PictureFormat::Jpeg, "segments", markers.segments, MAX_PARTS)?;
    Ok(markers.frame.map(|frame| {
        let pixels = product(&[frame.width.into(), frame.height.into()]);
        let components = frame.sampling_factors.len();
        let channels: u64 = if components == 4 { 4 } else { 3 };
        // If the components are spread over several scans, libjpeg keeps all coefficients until the last scan is read.
        let is_multiscan = frame.is_progressive || markers.first_scan_components < components;
        let coefficients = if is_multiscan { coefficient_bytes(&frame) } else { 0 };
        let decoding = coefficients.saturating_add(product(&[pixels, channels]));
        // After decoding, CMYK is converted to RGB or the picture is rotated. EXIF segments are copied.
        let memory = decoding.max(product(&[pixels, channels + 3])).saturating_add(file.len() as u64);
        Estimate { width: frame.width, height: frame.height, memory }
    }))
}

/// Bytes of all coefficients, each component padded to whole minimum coded units (MCUs).
fn coefficient_bytes(frame: &FrameHeader) -> u64 {
    let max_factor = |factor: fn(&(u64, u64)) -> u64| frame.sampling_factors.iter().map(factor).max().unwrap_or(1);
    let mcus_across = u64::from(frame.width).div_ceil(8 * max_factor(|factors| factors.0));
    let mcus_down = u64::from(frame.height).div_ceil(8 * max_factor(|factors| factors.1));
    let bytes = |(across, down): &(u64, u64)| product(&[mcus_across, *across, mcus_down, *down, BLOCK]);
    frame.sampling_factors.iter().map(bytes).fold(0, u64::saturating_add)
}
