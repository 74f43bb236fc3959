//! TIFF's predictors, which store samples as differences, and the byte order of samples.

use super::super::error::ImageError;
use super::error::unsupported;
use super::layout::Layout;

/// Reverses the bytes of big-endian samples, as libtiff does on a little-endian machine.
pub(super) fn to_little_endian(layout: &Layout, chunk: &mut [u8]) {
    if layout.is_big_endian && layout.bits >= 16 {
        chunk.chunks_exact_mut(layout.bits / 8).for_each(<[u8]>::reverse);
    }
}

/// Undoes the predictor of a decompressed chunk (TIFF 6.0, section 14; floating point: Adobe's TIFF Technical Note 3).
/// Samples become little-endian.
pub(super) fn undo(layout: &Layout, chunk: &mut [u8]) -> Result<(), ImageError> {
    let step = if layout.is_planar { 1 } else { layout.samples };
    match (layout.predictor, layout.bits) {
        (1, _) => {
            to_little_endian(layout, chunk);
            Ok(())
        }
        (2, 8 | 16 | 32) => {
            to_little_endian(layout, chunk);
            let bytes = layout.bits / 8;
            for row in chunk.chunks_exact_mut(layout.row_bytes().max(1)) {
                add_left_samples(row, step, bytes);
            }
            Ok(())
        }
        (3, 32) if layout.raw_mode.name.starts_with('F') => {
            for row in chunk.chunks_exact_mut(layout.row_bytes().max(1)) {
                add_left_samples(row, step, 1);
                // A row has the most significant bytes of all samples first, then the next bytes of all, and so on.
                let (planes, samples) = (row.to_vec(), row.len() / 4);
                for (index, sample) in row.chunks_exact_mut(4).enumerate() {
                    (0..4).for_each(|byte| sample[3 - byte] = planes[byte * samples + index]);
                }
            }
            Ok(())
        }
        (predictor, bits) => Err(unsupported(format!("with predictor {predictor} and samples of {bits} bits"))),
    }
}

/// Adds to each little-endian sample of `bytes` bytes the one `step` samples before it.
fn add_left_samples(row: &mut [u8], step: usize, bytes: usize) {
    let stride = step * bytes;
    for at in (stride..row.len()).step_by(bytes) {
        let mut carry = 0;
        for byte in at..(at + bytes).min(row.len()) {
            let sum = u16::from(row[byte]) + u16::from(row[byte - stride]) + carry;
            row[byte] = sum as u8;
            carry = sum >> 8;
        }
    }
}
