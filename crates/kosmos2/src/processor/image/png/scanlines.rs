//! Decompresses a PNG file's scanlines and undoes their filters.

use fdeflate::Decompressor;

use super::super::error::{ImageError, undecodable};
use super::super::format::PictureFormat;
use super::super::limits::DecodeOptions;
use super::layout::Layout;

/// Bytes that are decompressed between two checks of the deadline, to at most 64 MiB. Pillow feeds its decoder as many
/// at a time, which decides what it accepts of data that ends early.
const READ_SIZE: usize = 64 << 10;

/// Decodes the scanlines of all passes one after the other, each with its filter byte.
///
/// Like Pillow, accepts data that ends at the end of a scanline if the zlib checksum is correct; missing scanlines are
/// zero. Data after the last scanline is ignored.
pub(super) fn decode<'a>(
    idat: impl Iterator<Item = &'a [u8]>,
    layout: &Layout,
    options: &DecodeOptions,
) -> Result<Vec<u8>, ImageError> {
    let mut rows = vec![0; layout.decompressed_size()];
    let mut decompressor = Decompressor::new();
    let (mut written, mut written_by_last_read) = (0, 0);
    'reads: for mut input in idat.flat_map(|data| data.chunks(READ_SIZE)) {
        options.check_deadline()?;
        let start = written;
        loop {
            let result = decompressor.read(input, &mut rows, written, false);
            let damaged = |_| undecodable(PictureFormat::Png, "its compressed pixel data is damaged");
            let (read, wrote) = result.map_err(damaged)?;
            input = input.get(read..).unwrap_or_default();
            written += wrote;
            if decompressor.is_done() || written == rows.len() {
                written_by_last_read = written - start;
                break 'reads;
            }
            if input.is_empty() {
                break;
            }
        }
    }
    let ends_with_scanline =
        || written_by_last_read > 0 && decompressor.is_done() && is_end_of_scanline(written, layout);
    if written < rows.len() && !ends_with_scanline() {
        return Err(undecodable(PictureFormat::Png, "its pixel data ends early"));
    }
    undo_filters(&mut rows, layout, options)?;
    Ok(rows)
}

fn is_end_of_scanline(mut written: usize, layout: &Layout) -> bool {
    for pass in layout.passes() {
        let size = (pass.scanline_bytes + 1) * pass.scanlines;
        if written <= size {
            return written.is_multiple_of(pass.scanline_bytes + 1);
        }
        written -= size;
    }
    true
}

fn undo_filters(scanlines: &mut [u8], layout: &Layout, options: &DecodeOptions) -> Result<(), ImageError> {
    let pixel = layout.bits_per_pixel().div_ceil(8);
    let mut rest = scanlines;
    for pass in layout.passes() {
        let (scanlines, after) = rest.split_at_mut((pass.scanline_bytes + 1) * pass.scanlines);
        rest = after;
        let zeros = vec![0; pass.scanline_bytes];
        let mut above: &[u8] = &zeros;
        for scanline in scanlines.chunks_exact_mut(pass.scanline_bytes + 1) {
            options.check_deadline()?;
            let Some((filter, row)) = scanline.split_first_mut() else { continue };
            match pixel {
                1 => undo_filter::<1>(*filter, row, above),
                2 => undo_filter::<2>(*filter, row, above),
                3 => undo_filter::<3>(*filter, row, above),
                4 => undo_filter::<4>(*filter, row, above),
                6 => undo_filter::<6>(*filter, row, above),
                _ => undo_filter::<8>(*filter, row, above),
            }
            .ok_or_else(|| undecodable(PictureFormat::Png, "a scanline has an unknown filter type"))?;
            above = row;
        }
    }
    Ok(())
}

/// Undoes the filter of a scanline; `None` if the filter type is unknown. `N` is the size of a pixel in bytes, at least
/// 1.
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
            let mut upper_left = [0; N];
            for (pixel, above) in pixels {
                let nearest = |byte: usize| paeth(left[byte], above[byte], upper_left[byte]);
                *pixel = std::array::from_fn(|byte| pixel[byte].wrapping_add(nearest(byte)));
                (left, upper_left) = (*pixel, *above);
            }
        }
        _ => return None,
    }
    Some(())
}

/// The Paeth predictor: of the bytes left, above and upper left, the one nearest to left + above − upper left.
fn paeth(left: u8, above: u8, upper_left: u8) -> u8 {
    let [a, b, c] = [left, above, upper_left].map(i16::from);
    let (to_left, to_above, to_upper_left) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
    if to_left <= to_above && to_left <= to_upper_left {
        left
    } else if to_above <= to_upper_left {
        above
    } else {
        upper_left
    }
}
