//! BMP: extreme widths and heights, missing rows, invalid compression.

use super::valid::{BMP, PALETTE_BMP};
use super::{BadPicture, Damaged, OverLimit, PictureFault, Unsupported, bad, patch};

const HEADER_LENGTH: usize = 14;
const SIDES: usize = 18;
const DEPTH: usize = 28;
const COMPRESSION: usize = 30;
const COLOURS: usize = 46;
/// Offset of the pixels in the BMP with a palette.
const PALETTE_BMP_PIXELS: usize = 54 + 4 * 200;

pub(super) fn refused() -> Vec<BadPicture> {
    let mut all = Vec::new();
    for (width, height, fault) in [
        (60_000, 60_000, OverLimit),
        (i32::MAX, i32::MAX, OverLimit),
        (i32::MAX, 1, OverLimit),
        (1, i32::MAX, OverLimit),
        (1, i32::MIN, OverLimit),
        (100_000, 1_000, OverLimit),
        (65_535, -60_000, OverLimit),
        (0, 0, Damaged),
        (0, 5, Damaged),
        (5, 0, Damaged),
        // The width is unsigned; a negative height is valid.
        (-60, 5, OverLimit),
        (3_900, 4_000, Damaged),
        (3_900, -4_000, Damaged),
    ] {
        let sides = [i32::to_le_bytes(width), i32::to_le_bytes(height)].concat();
        all.push(bad(format!("bmp of {width} by {height}"), patch(BMP.bytes, SIDES, &sides), fault));
    }
    let fields: [(&str, usize, &[u8], PictureFault); 9] = [
        ("a header of 3 bytes", HEADER_LENGTH, &[3, 0, 0, 0], Unsupported),
        ("a header of 4 GiB", HEADER_LENGTH, &[255; 4], Unsupported),
        ("0 bits per pixel", DEPTH, &[0, 0], Unsupported),
        ("13 bits per pixel", DEPTH, &[13, 0], Unsupported),
        ("65535 bits per pixel", DEPTH, &[255, 255], Unsupported),
        ("an unknown compression", COMPRESSION, &[99, 0, 0, 0], Unsupported),
        ("run-length encoding at 24 bits per pixel", COMPRESSION, &[1, 0, 0, 0], Unsupported),
        ("its pixels as colour masks", COMPRESSION, &[3, 0, 0, 0], Unsupported),
        ("pixels beyond its end", 10, &[255, 255, 255, 127], Damaged),
    ];
    let with = |(name, at, new, fault)| bad(format!("bmp with {name}"), patch(BMP.bytes, at, new), fault);
    all.extend(fields.map(with));
    all.extend(palettes());
    all.extend(runs());
    all
}

/// Palettes for which the header states more colours than the file has, or than are allowed.
fn palettes() -> Vec<BadPicture> {
    let stating = |colours: u32| patch(PALETTE_BMP.bytes, COLOURS, &colours.to_le_bytes());
    vec![
        bad("bmp with a palette of 4 billion colours", stating(u32::MAX), Damaged),
        bad("bmp with a palette of 65537 colours", stating(65_537), Damaged),
        bad("bmp with a palette of 65536 colours", stating(65_536), Damaged),
    ]
}

/// A large run-length encoded picture with these codes.
fn rle(codes: &[u8]) -> Vec<u8> {
    let sides = [3_900i32.to_le_bytes(), 4_000i32.to_le_bytes()].concat();
    let start = patch(&patch(PALETTE_BMP.bytes, SIDES, &sides), COMPRESSION, &[1, 0, 0, 0]);
    [&start[..PALETTE_BMP_PIXELS], codes].concat()
}

fn runs() -> Vec<BadPicture> {
    vec![
        bad("bmp with only an end of bitmap", rle(&[0, 1]), Damaged),
        bad("bmp with only ends of lines", rle(&[0, 0].repeat(50_000)), Damaged),
        bad("bmp with only empty deltas", rle(&[0, 2, 0, 0].repeat(50_000)), Damaged),
        bad("bmp whose deltas end early", rle(&[0, 2, 255, 255].repeat(15)), Damaged),
        bad("bmp with only runs beyond the end of their row", rle(&[255, 7].repeat(50_000)), Damaged),
        bad("bmp whose literal run extends beyond its end", rle(&[0, 255, 1, 2, 3]), Damaged),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    vec![("bmp that fills 3900 by 4000 from few deltas", rle(&[0, 2, 255, 255].repeat(16)))]
}
