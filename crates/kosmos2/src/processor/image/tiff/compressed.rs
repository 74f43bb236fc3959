//! Compressed chunks, which Pillow decodes with libtiff.

use super::super::error::ImageError;
use super::super::limits::DecodeOptions;
use super::canvas::Canvas;
use super::decompress::{compressed, decompress};
use super::error::unsupported;
use super::layout::Layout;
use super::modes::Mode;
use super::unpacker::{Unpacker, unpremultiply};
use super::ycbcr::YCbCr;

/// Decodes chunks of samples that libtiff does not convert.
pub(super) fn decode(
    file: &[u8],
    layout: &Layout,
    canvas: &mut Canvas,
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let mode = canvas.mode;
    let is_by_plane = layout.is_planar && !matches!(mode, Mode::Gray | Mode::Palette);
    let refuse = || unsupported("with planes that Pillow cannot read");
    let raw_mode = if layout.is_ycbcr { layout.raw_mode.as_rgb() } else { layout.raw_mode.decompressed() };
    let unpacker = Unpacker::new(raw_mode).ok_or_else(refuse)?;
    let planes = if is_by_plane { mode.bytes() } else { 1 };
    if is_by_plane && !matches!(layout.bits, 8 | 16) {
        return Err(refuse());
    }
    // Pillow refuses chunks if its own size of a row or a tile does not match libtiff's.
    let (row_bytes, chunk_width) = (layout.row_bytes(), layout.grid.width as usize);
    if (chunk_width * unpacker.bits / planes).div_ceil(8) != row_bytes {
        return Err(refuse());
    }
    let chunk_height = layout.grid.height as usize;
    let tile_bytes = (chunk_height * unpacker.bits / planes).div_ceil(8) * chunk_width;
    if layout.grid.is_tiled && row_bytes * chunk_height > tile_bytes {
        return Err(unsupported("with tiles of a size that Pillow cannot read"));
    }
    for_each_chunk(
        file,
        layout,
        planes,
        |rows| rows * row_bytes,
        options,
        |plane, (x, y), rows, bytes| {
            let unpacker = if is_by_plane { Unpacker::for_decompressed_plane(plane, layout.bits) } else { unpacker };
            for (row, bytes) in bytes.chunks_exact(row_bytes.max(1)).take(rows).enumerate() {
                unpacker.run(bytes, canvas.row(x, y + row, chunk_width), mode);
            }
        },
    )?;
    if is_by_plane && layout.has_premultiplied_planes {
        for [red, green, blue, alpha] in canvas.bytes.as_chunks_mut::<4>().0 {
            [red, green, blue].into_iter().for_each(|colour| *colour = unpremultiply(*colour, *alpha));
        }
    }
    Ok(())
}

/// Decodes chunks of YCbCr that are planar or not JPEG, and converts them to RGB.
pub(super) fn decode_ycbcr(
    file: &[u8],
    layout: &Layout,
    canvas: &mut Canvas,
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let ycbcr = YCbCr::new(&layout.directory, layout.is_planar)?;
    if layout.samples != 3 || layout.bits != 8 {
        return Err(unsupported("of YCbCr that does not have three samples of 8 bits"));
    }
    if layout.predictor != 1 && !ycbcr.is_not_subsampled() {
        return Err(unsupported("of YCbCr with a predictor and chroma subsampling"));
    }
    let chunk_width = layout.grid.width as usize;
    if !layout.is_planar {
        return for_each_chunk(
            file,
            layout,
            1,
            |rows| ycbcr.chunk_bytes(chunk_width, rows),
            options,
            |_, (x, y), rows, bytes| {
                for row in 0..rows {
                    let pixels = canvas.row(x, y + row, chunk_width).as_chunks_mut::<3>().0;
                    for (column, pixel) in pixels.iter_mut().enumerate() {
                        *pixel = ycbcr.pixel(bytes, chunk_width, (column, row));
                    }
                }
            },
        );
    }
    for_each_chunk(
        file,
        layout,
        3,
        |rows| rows * chunk_width,
        options,
        |plane, (x, y), rows, bytes| {
            for (row, bytes) in bytes.chunks_exact(chunk_width).take(rows).enumerate() {
                let pixels = canvas.row(x, y + row, chunk_width).as_chunks_mut::<3>().0;
                pixels.iter_mut().zip(bytes).for_each(|(pixel, byte)| pixel[plane] = *byte);
            }
        },
    )?;
    canvas.bytes.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = ycbcr.rgb(*pixel));
    Ok(())
}

/// Calls `draw` with the plane, the position, the visible rows and the decompressed bytes of each chunk. `chunk_bytes`
/// gives the size of a decompressed chunk of that many rows.
fn for_each_chunk(
    file: &[u8],
    layout: &Layout,
    planes: usize,
    chunk_bytes: impl Fn(usize) -> usize,
    options: &DecodeOptions,
    mut draw: impl FnMut(usize, (usize, usize), usize, &[u8]),
) -> Result<(), ImageError> {
    let (across, down, _) = layout.chunks();
    let (across, chunks_per_plane) = (across as usize, across as usize * down as usize);
    let (chunk_width, chunk_height) = (layout.grid.width as usize, layout.grid.height as usize);
    let mut buffer = Vec::new();
    for plane in 0..planes {
        for position in 0..chunks_per_plane {
            options.check_deadline()?;
            let (x, y) = (position % across * chunk_width, position / across * chunk_height);
            let visible_rows = chunk_height.min(layout.height as usize - y);
            // Tiles at the lower edge are stored in full, the last strip is not.
            let rows = if layout.grid.is_tiled { chunk_height } else { visible_rows };
            let index = plane * chunks_per_plane + position;
            buffer.resize(chunk_bytes(rows), 0);
            decompress(&compressed(file, layout, index)?, layout, rows, &mut buffer, options)?;
            draw(plane, (x, y), visible_rows, &buffer);
        }
    }
    Ok(())
}
