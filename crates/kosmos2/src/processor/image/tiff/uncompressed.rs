//! Uncompressed chunks, which Pillow decodes itself.

use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::canvas::Canvas;
use super::error::{damaged, unsupported};
use super::layout::Layout;
use super::unpacker::Unpacker;

/// Rows between two checks of the deadline.
const ROWS: usize = 256;

/// Decodes uncompressed chunks. Like Pillow, reads each from its offset on and ignores the byte counts.
pub(super) fn decode(
    file: &[u8],
    layout: &Layout,
    canvas: &mut Canvas,
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let mode = canvas.mode;
    let (across, down, _) = layout.chunks();
    let (across, chunks_per_plane) = (across as usize, across as usize * down as usize);
    let (chunk_width, chunk_height) = (layout.grid.width as usize, layout.grid.height as usize);
    // If one chunk is the whole image, Pillow decodes only the last one that the file lists.
    let is_single_chunk = (chunk_width, chunk_height) == (canvas.width, canvas.height) && !layout.is_planar;
    let first = if is_single_chunk { layout.offsets.len() - 1 } else { 0 };
    let mut chunks = Vec::new();
    for index in first..layout.offsets.len() {
        let start = layout.offsets.get(index).and_then(|start| usize::try_from(start).ok());
        let start = start.ok_or_else(|| damaged("a strip or tile extends beyond its end"))?;
        chunks.push((start, index - first));
    }
    // Pillow decodes in the order of offsets; of several chunks for one position, the last one remains.
    chunks.sort_by_key(|(start, _)| *start);
    for (start, index) in chunks {
        let (plane, position) = (index / chunks_per_plane, index % chunks_per_plane);
        let (x, y) = (position % across * chunk_width, position / across * chunk_height);
        let unpacker = if layout.is_planar {
            Unpacker::for_uncompressed_plane(layout.raw_mode, plane)
        } else {
            Unpacker::new(layout.raw_mode)
        };
        let unpacker = unpacker.ok_or_else(|| unsupported("with uncompressed planes of this pixel format"))?;
        let (width, rows) = (chunk_width.min(canvas.width - x), chunk_height.min(canvas.height - y));
        let row_bytes = (width * unpacker.bits).div_ceil(8);
        // Only in tiles that extend beyond the right edge do other bytes follow a row.
        let stride = if x + chunk_width > canvas.width { stride(layout, chunk_width) } else { row_bytes };
        let skip = stride.checked_sub(row_bytes).ok_or_else(|| damaged("its tile rows are too short"))?;
        let bytes = file.get(start..).filter(|rest| rest.len() >= rows * row_bytes + (rows - 1) * skip);
        let bytes = bytes.ok_or_else(|| damaged("its pixel data ends early"))?;
        for (row, bytes) in bytes.chunks(stride).take(rows).enumerate() {
            if row % ROWS == 0 {
                options.check_deadline()?;
            }
            unpacker.run(bytes.get(..row_bytes).unwrap_or(bytes), canvas.row(x, y + row, width), mode);
        }
    }
    Ok(())
}

/// Bytes of a tile's row as Pillow computes them.
fn stride(layout: &Layout, width: usize) -> usize {
    let (bits, samples) = layout.bits_and_samples_for_stride;
    width * bits / 8 / if layout.is_planar { samples } else { 1 }
}
