//! BMP: sides of all signs, rows that are not there, packing that does not fit.

use super::bases::BMP;
use super::{BadPicture, Damaged, TooMuch, bad, patch};

const HEADER_LENGTH: usize = 14;
const SIDES: usize = 18;
const PLANES: usize = 26;
const DEPTH: usize = 28;
const PACKING: usize = 30;

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
        (-60, 5, Damaged),
        (3_900, 4_000, Damaged),
        (3_900, -4_000, Damaged),
    ] {
        let sides = [i32::to_le_bytes(width), i32::to_le_bytes(height)].concat();
        all.push(bad(format!("bmp of {width} by {height}"), patch(BMP.bytes, SIDES, &sides), fault));
    }
    let fields: [(&str, usize, &[u8]); 9] = [
        ("a header of 3 bytes", HEADER_LENGTH, &[3, 0, 0, 0]),
        ("a header of 4 GiB", HEADER_LENGTH, &[255; 4]),
        ("no planes", PLANES, &[0, 0]),
        ("no bits a pixel", DEPTH, &[0, 0]),
        ("13 bits a pixel", DEPTH, &[13, 0]),
        ("65535 bits a pixel", DEPTH, &[255, 255]),
        ("an unknown packing", PACKING, &[99, 0, 0, 0]),
        ("runs that do not go with its depth", PACKING, &[1, 0, 0, 0]),
        ("pixels far beyond its end", 10, &[255, 255, 255, 127]),
    ];
    all.extend(fields.map(|(name, at, new)| bad(format!("bmp with {name}"), patch(BMP.bytes, at, new), Damaged)));
    all
}
