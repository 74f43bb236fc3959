//! A PNG file's packed pixels to rows of samples.

use fdeflate::Decompressor;

use super::super::decode::{ImageError, PictureFormat, undecodable};
use super::super::limits::DecodeOptions;
use super::layout::Layout;

/// How much is unpacked between two looks at the deadline: at most 64 MiB of pixels come of it. Pillow reads as much.
const PIECE: usize = 64 << 10;

/// The rows of all passes one behind the other, each behind its filter's byte, the filters undone.
///
/// Pillow lets data end where a row ends, if the checksum behind them is right; what is missing is zero. Data beyond
/// the last row do not count.
pub(super) fn unpack<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    layout: &Layout,
    options: &DecodeOptions,
) -> Result<Vec<u8>, ImageError> {
    let mut rows = vec![0; layout.unpacked_size()];
    let mut unpacker = Decompressor::new();
    let (mut written, mut written_at_the_end) = (0, 0);
    'pieces: for mut piece in pieces.flat_map(|piece| piece.chunks(PIECE)) {
        options.check_time()?;
        let start = written;
        loop {
            let step = unpacker.read(piece, &mut rows, written, false);
            let broken = |_| undecodable(PictureFormat::Png, "its packed pixels are damaged");
            let (read, wrote) = step.map_err(broken)?;
            piece = piece.get(read..).unwrap_or_default();
            written += wrote;
            if unpacker.is_done() || written == rows.len() {
                written_at_the_end = written - start;
                break 'pieces;
            }
            if piece.is_empty() {
                break;
            }
        }
    }
    let ends_with_a_row = || written_at_the_end > 0 && unpacker.is_done() && is_end_of_row(written, layout);
    if written < rows.len() && !ends_with_a_row() {
        return Err(undecodable(PictureFormat::Png, "its pixels end early"));
    }
    undo_filters(&mut rows, layout, options)?;
    Ok(rows)
}

fn is_end_of_row(mut written: usize, layout: &Layout) -> bool {
    for pass in layout.passes() {
        let size = (pass.row + 1) * pass.rows;
        if written <= size {
            return written.is_multiple_of(pass.row + 1);
        }
        written -= size;
    }
    true
}

fn undo_filters(rows: &mut [u8], layout: &Layout, options: &DecodeOptions) -> Result<(), ImageError> {
    let pixel = layout.bits_per_pixel().div_ceil(8);
    let mut rest = rows;
    for pass in layout.passes() {
        let (rows, behind) = rest.split_at_mut((pass.row + 1) * pass.rows);
        rest = behind;
        let no_row = vec![0; pass.row];
        let mut above: &[u8] = &no_row;
        for row in rows.chunks_exact_mut(pass.row + 1) {
            options.check_time()?;
            let Some((filter, row)) = row.split_first_mut() else { continue };
            match pixel {
                1 => undo_filter::<1>(*filter, row, above),
                2 => undo_filter::<2>(*filter, row, above),
                3 => undo_filter::<3>(*filter, row, above),
                4 => undo_filter::<4>(*filter, row, above),
                6 => undo_filter::<6>(*filter, row, above),
                _ => undo_filter::<8>(*filter, row, above),
            }
            .ok_or_else(|| undecodable(PictureFormat::Png, "a row has an unknown filter"))?;
            above = row;
        }
    }
    Ok(())
}

/// `N` is the size of a pixel in bytes, or 1. `None` for a filter that does not exist.
fn undo_filter<const N: usize>(filter: u8, row: &mut [u8], above: &[u8]) -> Option<()> {
    let mut left = [0; N];
    let pixels = row.as_chunks_mut::<N>().0.iter_mut().zip(above.as_chunks::<N>().0);
    match filter {
        0 => {}
        1 => {
            for (pixel, _) in pixels {
                *pixel = std::array::from_fn(|byte| pixel[byte].wrapping_add(left[byte]));
                left = *pixel;
            }
        }
        2 => row.iter_mut().zip(above).for_each(|(byte, above)| *byte = byte.wrapping_add(*above)),
        3 => {
            for (pixel, above) in pixels {
                let mean = |byte: usize| ((u16::from(left[byte]) + u16::from(above[byte])) / 2) as u8;
                *pixel = std::array::from_fn(|byte| pixel[byte].wrapping_add(mean(byte)));
                left = *pixel;
            }
        }
        4 => {
            let mut corner = [0; N];
            for (pixel, above) in pixels {
                let nearest = |byte: usize| paeth(left[byte], above[byte], corner[byte]);
                *pixel = std::array::from_fn(|byte| pixel[byte].wrapping_add(nearest(byte)));
                (left, corner) = (*pixel, *above);
            }
        }
        _ => return None,
    }
    Some(())
}

/// Of the pixels to the left, above and at the corner, the one nearest to left + above − corner.
fn paeth(left: u8, above: u8, corner: u8) -> u8 {
    let [a, b, c] = [left, above, corner].map(i16::from);
    let (to_left, to_above, to_corner) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
    if to_left <= to_above && to_left <= to_corner {
        left
    } else if to_above <= to_corner {
        above
    } else {
        corner
    }
}
