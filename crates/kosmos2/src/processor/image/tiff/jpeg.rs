//! A chunk that is a JPEG stream without tables, decoded by mozjpeg.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use super::super::deadline_reader::DeadlineReader;
use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::jpeg::Markers;
use super::super::limits::{DecodeOptions, MAX_SCANS, check_count};
use super::error::{damaged, unsupported};
use super::layout::Layout;

/// Bytes that the decoder reads between two checks of the deadline.
const READ_SIZE: usize = 4 << 10;
const START_OF_IMAGE: &[u8] = b"\xff\xd8";
const END_OF_IMAGE: &[u8] = b"\xff\xd9";
const START_OF_SCAN: u8 = 0xda;
/// Rows between two checks of the deadline.
const ROWS: usize = 64;

/// Decodes `rows` rows of a chunk into `output`, which they fill.
pub(super) fn decode(
    compressed: &[u8],
    layout: &Layout,
    rows: usize,
    output: &mut [u8],
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let components = if layout.is_planar { 1 } else { layout.samples };
    if layout.bits != 8 || !(1..=4).contains(&components) {
        let bits = layout.bits;
        return Err(unsupported(format!("with JPEG compression of {components} samples of {bits} bits")));
    }
    let is_ycbcr = layout.is_ycbcr && components == 3;
    let stream = complete_stream(compressed, layout.jpeg_tables, is_ycbcr);
    check_count(PictureFormat::Tiff, "scans in a strip or tile", Markers::read(&stream).scans, MAX_SCANS)?;
    let target = match components {
        1 => Some(ColorSpace::JCS_GRAYSCALE),
        3 => Some(ColorSpace::JCS_RGB),
        4 => Some(ColorSpace::JCS_CMYK),
        // libjpeg has no colour space of two components.
        _ => None,
    };
    let width = layout.grid.width as usize;
    let expected = Expected { width, rows, max_rows: max_rows(layout, rows), components, is_ycbcr };
    // The library reports some fatal errors by panicking.
    catch_unwind(AssertUnwindSafe(|| decompress(&stream, &expected, target, output, options)))
        .unwrap_or_else(|_| Err(damaged("the JPEG decoder could not read a strip or tile")))
}

/// What the JPEG stream of a chunk must be.
struct Expected {
    width: usize,
    rows: usize,
    max_rows: usize,
    components: usize,
    is_ycbcr: bool,
}

/// Maximum rows of a chunk's stream: some writers pad the last strip.
fn max_rows(layout: &Layout, rows: usize) -> usize {
    let strip = (layout.grid.height as usize).next_multiple_of(16);
    if layout.grid.is_tiled { rows } else { rows.max(strip) }
}

fn decompress(
    stream: &[u8],
    &Expected { width, rows, max_rows, components, is_ycbcr }: &Expected,
    target: Option<ColorSpace>,
    output: &mut [u8],
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let damaged_stream = |error: std::io::Error| damaged(error);
    let reader = DeadlineReader::new(stream, READ_SIZE, options.deadline);
    let decoder = Decompress::builder().from_reader(reader).map_err(damaged_stream)?;
    let (found_width, found_rows) = decoder.size();
    if found_width != width || !(rows..=max_rows).contains(&found_rows) {
        return Err(damaged(format!(
            "the JPEG of a strip or tile has {found_width}×{found_rows} pixels instead of {width}×{rows}"
        )));
    }
    let found = decoder.components();
    if found.len() != components {
        let count = found.len();
        return Err(damaged(format!("the JPEG of a strip or tile has {count} components instead of {components}")));
    }
    // Only luma may have sampling factors other than 1.
    let is_1x1 = |at: usize| found.get(at).is_some_and(|one| one.h_samp_factor == 1 && one.v_samp_factor == 1);
    if !(1..components).all(is_1x1) || (!is_ycbcr && !is_1x1(0)) {
        return Err(damaged("the JPEG of a strip or tile has sampling factors that TIFF does not allow"));
    }
    let Some(target) = target else {
        // Raw planes, padded to whole blocks.
        let mut planes = vec![Vec::new(); components];
        let mut plane_buffers: Vec<_> = planes.iter_mut().collect();
        decoder.raw().map_err(damaged_stream)?.read_raw_data(&mut plane_buffers);
        let stride = width.next_multiple_of(8);
        for (index, pixel) in output.chunks_exact_mut(components).enumerate() {
            let at = index / width * stride + index % width;
            pixel.iter_mut().zip(&planes).for_each(|(to, plane)| *to = plane.get(at).copied().unwrap_or_default());
        }
        return Ok(());
    };
    let mut scanlines = decoder.to_colorspace(target).map_err(damaged_stream)?;
    for rows in output.chunks_mut((width * components * ROWS).max(1)) {
        options.check_deadline()?;
        scanlines.read_scanlines_into(rows).map_err(damaged_stream)?;
    }
    Ok(())
}

/// Makes a complete JPEG stream from a chunk. Inserts the tables, and an Adobe segment in place of the chunk's own APPn
/// segments: the TIFF fields decide about the colour space.
fn complete_stream(compressed: &[u8], tables: &[u8], is_ycbcr: bool) -> Vec<u8> {
    let mut stream = START_OF_IMAGE.to_vec();
    stream.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
    stream.push(u8::from(is_ycbcr));
    // DQT, DHT, DAC and DRI.
    let is_table = |marker| matches!(marker, 0xdb | 0xc4 | 0xcc | 0xdd);
    copy_segments(tables, is_table, &mut stream);
    let rest = copy_segments(compressed, |marker| !matches!(marker, 0xe0..=0xef | 0xfe), &mut stream);
    stream.extend(rest);
    // Some writers omit the end-of-image marker.
    if !stream.ends_with(END_OF_IMAGE) {
        stream.extend(END_OF_IMAGE);
    }
    stream
}

/// Copies the segments before the first scan for which `is_kept` is true, and returns the rest from there on.
fn copy_segments<'a>(from: &'a [u8], is_kept: impl Fn(u8) -> bool, to: &mut Vec<u8>) -> &'a [u8] {
    let mut rest = from.strip_prefix(START_OF_IMAGE).unwrap_or(from);
    while let Some(&[0xff, marker, high, low]) = rest.first_chunk() {
        let length = 2 + usize::from(u16::from_be_bytes([high, low]));
        let Some((segment, after)) = rest.split_at_checked(length) else { break };
        if matches!(marker, START_OF_SCAN | 0xd0..=0xd9) {
            break;
        }
        if is_kept(marker) {
            to.extend(segment);
        }
        rest = after;
    }
    rest
}
