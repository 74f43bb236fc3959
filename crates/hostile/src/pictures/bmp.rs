//! BMP: sides of all signs, rows that are not there, packing that does not fit.

use super::bases::{BMP, PALETTE_BMP};
use super::{BadPicture, Damaged, PictureFault, TooMuch, Unknown, bad, patch};

const HEADER_LENGTH: usize = 14;
const SIDES: usize = 18;
const DEPTH: usize = 28;
const PACKING: usize = 30;
const COLOURS: usize = 46;
/// Where the pixels of the one with a palette begin.
const PALETTE_BMP_PIXELS: usize = 54 + 4 * 200;

pub(super) fn refused() -> Vec<BadPicture> {
    let mut all = Vec::new();
    for (width, height, fault) in [
        (60_000, 60_000, TooMuch),
        (i32::MAX, i32::MAX, TooMuch),
        (i32::MAX, 1, TooMuch),
        (1, i32::MAX, TooMuch),
        (1, i32::MIN, TooMuch),
        (100_000, 1_000, TooMuch),
        (65_535, -60_000, TooMuch),
        (0, 0, Damaged),
        (0, 5, Damaged),
        (5, 0, Damaged),
        // A side has no sign, but for that of the height.
        (-60, 5, TooMuch),
        (3_900, 4_000, Damaged),
        (3_900, -4_000, Damaged),
    ] {
        let sides = [i32::to_le_bytes(width), i32::to_le_bytes(height)].concat();
        all.push(bad(format!("bmp of {width} by {height}"), patch(BMP.bytes, SIDES, &sides), fault));
    }
    let fields: [(&str, usize, &[u8], PictureFault); 9] = [
        ("a header of 3 bytes", HEADER_LENGTH, &[3, 0, 0, 0], Unknown),
        ("a header of 4 GiB", HEADER_LENGTH, &[255; 4], Unknown),
        ("no bits a pixel", DEPTH, &[0, 0], Unknown),
        ("13 bits a pixel", DEPTH, &[13, 0], Unknown),
        ("65535 bits a pixel", DEPTH, &[255, 255], Unknown),
        ("an unknown packing", PACKING, &[99, 0, 0, 0], Unknown),
        ("runs that do not go with its depth", PACKING, &[1, 0, 0, 0], Unknown),
        ("colour masks that are its pixels", PACKING, &[3, 0, 0, 0], Unknown),
        ("pixels far beyond its end", 10, &[255, 255, 255, 127], Damaged),
    ];
    let with = |(name, at, new, fault)| bad(format!("bmp with {name}"), patch(BMP.bytes, at, new), fault);
    all.extend(fields.map(with));
    all.extend(palettes());
    all.extend(runs());
    all
}

/// A palette of 256 colours, of which more are stated than the file has, or than there can be.
fn palettes() -> Vec<BadPicture> {
    let stating = |colours: u32| patch(PALETTE_BMP.bytes, COLOURS, &colours.to_le_bytes());
    vec![
        bad("bmp with a palette of 4 billion colours", stating(u32::MAX), Damaged),
        bad("bmp with a palette of 65537 colours", stating(65_537), Damaged),
        bad("bmp with a palette of 65536 colours", stating(65_536), Damaged),
    ]
}

/// A large picture of few run-length codes.
fn packed(codes: &[u8]) -> Vec<u8> {
    let sides = [3_900i32.to_le_bytes(), 4_000i32.to_le_bytes()].concat();
    let start = patch(&patch(PALETTE_BMP.bytes, SIDES, &sides), PACKING, &[1, 0, 0, 0]);
    [&start[..PALETTE_BMP_PIXELS], codes].concat()
}

fn runs() -> Vec<BadPicture> {
    vec![
        bad("bmp of runs that end at once", packed(&[0, 1]), Damaged),
        bad("bmp of ends of lines only", packed(&[0, 0].repeat(50_000)), Damaged),
        bad("bmp of empty moves only", packed(&[0, 2, 0, 0].repeat(50_000)), Damaged),
        bad("bmp of moves that stop early", packed(&[0, 2, 255, 255].repeat(15)), Damaged),
        bad("bmp of runs beyond their row only", packed(&[255, 7].repeat(50_000)), Damaged),
        bad("bmp of a literal beyond its end", packed(&[0, 255, 1, 2, 3]), Damaged),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    vec![("bmp that fills 3900 by 4000 from few moves", packed(&[0, 2, 255, 255].repeat(16)))]
}
