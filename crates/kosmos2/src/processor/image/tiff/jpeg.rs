//! A strip or tile that is a JPEG stream without its tables, decoded by libjpeg's own arithmetic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Decompress};

use super::super::decode::{ImageError, PictureFormat};
use super::super::header::jpeg_scans;
use super::super::limits::{DecodeOptions, MAX_SCANS, Paced, check_count};
use super::layout::{Layout, damaged, unsupported};

const PIECE: usize = 4 << 10;
const START: &[u8] = b"\xff\xd8";
const END: &[u8] = b"\xff\xd9";
const START_OF_SCAN: u8 = 0xda;
/// Rows between two looks at the deadline.
const ROWS: usize = 64;

/// Decodes a piece into `into`, which its rows fill.
pub(super) fn decode(
    packed: &[u8],
    layout: &Layout,
    rows: usize,
    into: &mut [u8],
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let colours = if layout.is_planar { 1 } else { layout.samples };
    if layout.bits != 8 || !(1..=4).contains(&colours) {
        return Err(unsupported(format!("with JPEG of {colours} samples of {} bits", layout.bits)));
    }
    let is_ycbcr = layout.is_ycbcr && colours == 3;
    let stream = whole(packed, layout.jpeg_tables, is_ycbcr);
    check_count(PictureFormat::Tiff, "scans in a strip or tile", jpeg_scans(&stream), MAX_SCANS)?;
    let target = match colours {
        1 => Some(ColorSpace::JCS_GRAYSCALE),
        3 => Some(ColorSpace::JCS_RGB),
        4 => Some(ColorSpace::JCS_CMYK),
        // There is no name for two.
        _ => None,
    };
    // The library reports some fatal errors by unwinding.
    let width = layout.grid.width as usize;
    let size = Size { width, rows, most_rows: most_rows(layout, rows), colours, is_ycbcr };
    catch_unwind(AssertUnwindSafe(|| decompress(&stream, &size, target, into, options)))
        .unwrap_or_else(|_| Err(damaged("a strip or tile does not follow JPEG's format")))
}

struct Size {
    width: usize,
    rows: usize,
    most_rows: usize,
    colours: usize,
    is_ycbcr: bool,
}

/// Some writers fill up the last strip.
fn most_rows(layout: &Layout, rows: usize) -> usize {
    let strip = (layout.grid.height as usize).next_multiple_of(16);
    if layout.grid.is_tiled { rows } else { rows.max(strip) }
}

fn decompress(
    stream: &[u8],
    &Size { width, rows, most_rows, colours, is_ycbcr }: &Size,
    target: Option<ColorSpace>,
    into: &mut [u8],
    options: &DecodeOptions,
) -> Result<(), ImageError> {
    let broken = |error: std::io::Error| damaged(error);
    let decoder = Decompress::builder().from_reader(Paced::new(stream, PIECE, options.deadline)).map_err(broken)?;
    let (found_width, found_rows) = decoder.size();
    if found_width != width || !(rows..=most_rows).contains(&found_rows) {
        return Err(damaged(format!(
            "a strip or tile is a JPEG of {found_width}×{found_rows} pixels instead of {width}×{rows}"
        )));
    }
    let components = decoder.components();
    if components.len() != colours {
        return Err(damaged(format!("a strip or tile is a JPEG of {} components", components.len())));
    }
    // Of the components only luma may be sampled more finely than the others.
    let is_plain = |at: usize| components.get(at).is_some_and(|one| one.h_samp_factor == 1 && one.v_samp_factor == 1);
    if !(1..colours).all(is_plain) || (!is_ycbcr && !is_plain(0)) {
        return Err(damaged("a strip or tile is a JPEG with sampling factors that TIFF does not allow"));
    }
    let Some(target) = target else {
        // Planes of whole blocks.
        let mut planes = vec![Vec::new(); colours];
        let mut into_planes: Vec<_> = planes.iter_mut().collect();
        decoder.raw().map_err(broken)?.read_raw_data(&mut into_planes);
        let stride = width.next_multiple_of(8);
        for (index, pixel) in into.chunks_exact_mut(colours).enumerate() {
            let at = index / width * stride + index % width;
            pixel.iter_mut().zip(&planes).for_each(|(to, plane)| *to = plane.get(at).copied().unwrap_or_default());
        }
        return Ok(());
    };
    let mut scanlines = decoder.to_colorspace(target).map_err(broken)?;
    for rows in into.chunks_mut((width * colours * ROWS).max(1)) {
        options.check_time()?;
        scanlines.read_scanlines_into(rows).map_err(broken)?;
    }
    Ok(())
}

/// A whole JPEG file of a piece: the tables put before it, and a segment that tells which colours it holds, since TIFF
/// tells that elsewhere and the stream may say something else.
fn whole(packed: &[u8], tables: &[u8], is_ycbcr: bool) -> Vec<u8> {
    let mut stream = START.to_vec();
    stream.extend(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
    stream.push(u8::from(is_ycbcr));
    // Tables of both kinds, and the restart interval.
    let is_table = |marker| matches!(marker, 0xdb | 0xc4 | 0xcc | 0xdd);
    copy_segments(tables, is_table, &mut stream);
    let rest = copy_segments(packed, |marker| !matches!(marker, 0xe0..=0xef | 0xfe), &mut stream);
    stream.extend(rest);
    // Some writers leave the mark of the end out.
    if !stream.ends_with(END) {
        stream.extend(END);
    }
    stream
}

/// Copies segments before the first scan and returns everything from there on.
fn copy_segments<'a>(from: &'a [u8], is_kept: impl Fn(u8) -> bool, into: &mut Vec<u8>) -> &'a [u8] {
    let mut rest = from.strip_prefix(START).unwrap_or(from);
    while let Some(&[0xff, marker, high, low]) = rest.first_chunk() {
        let length = 2 + usize::from(u16::from_be_bytes([high, low]));
        let Some((segment, behind)) = rest.split_at_checked(length) else { break };
        if matches!(marker, START_OF_SCAN | 0xd0..=0xd9) {
            break;
        }
        if is_kept(marker) {
            into.extend(segment);
        }
        rest = behind;
    }
    rest
}
