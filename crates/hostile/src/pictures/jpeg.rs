//! JPEG: false frame headers, too many scans and segments, invalid tables.

use super::valid::{JPEG, PROGRESSIVE};
use super::{BadPicture, Damaged, OverLimit, Unsupported, bad, patch};

/// Offset of the frame header's fields: precision, height, width, components.
const FRAME: usize = 89 + 4;
/// The same offset in the progressive JPEG.
const PROGRESSIVE_FRAME: usize = 158 + 4;
/// Offset of the last scan in the progressive JPEG.
const LAST_SCAN: usize = 3681;
const TABLE_BEFORE_LAST_SCAN: usize = 3646;
/// Offset of the end-of-image marker in the progressive JPEG.
const END: usize = 5425;
/// Offset after the start-of-image marker.
const SEGMENTS: usize = 2;

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), scans(), segments()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let sized = |whole: &[u8], frame, width: u16, height: u16| {
        patch(&patch(whole, frame + 1, &height.to_be_bytes()), frame + 3, &width.to_be_bytes())
    };
    let mut all = Vec::new();
    for (width, height, fault) in [
        (65_535, 65_535, OverLimit),
        (60_000, 60_000, OverLimit),
        (65_535, 4_000, OverLimit),
        (4_000, 65_535, OverLimit),
        (0, 0, Damaged),
        (0, 64, Damaged),
        (64, 0, Damaged),
    ] {
        let claims = format!("claims {width} by {height}");
        all.push(bad(format!("jpeg that {claims}"), sized(JPEG.bytes, FRAME, width, height), fault));
        let progressive = sized(PROGRESSIVE.bytes, PROGRESSIVE_FRAME, width, height);
        all.push(bad(format!("progressive jpeg that {claims}"), progressive, fault));
    }
    all.push(bad("jpeg with twelve bits per sample", patch(JPEG.bytes, FRAME, &[12]), Unsupported));
    for (name, at, byte) in [
        ("0 bits per sample", FRAME, 0),
        ("no components", FRAME + 5, 0),
        ("a hundred components", FRAME + 5, 100),
        ("a component sampled no times", FRAME + 7, 0x00),
        ("a component sampled fifteen times", FRAME + 7, 0xff),
        ("a missing quantisation table", FRAME + 8, 3),
    ] {
        all.push(bad(format!("jpeg of {name}"), patch(JPEG.bytes, at, &[byte]), Damaged));
    }
    // Lossless and hierarchical frames.
    for kind in [0xc3, 0xc5, 0xc6, 0xc7, 0xcb, 0xcd, 0xce, 0xcf] {
        let bytes = patch(JPEG.bytes, FRAME - 3, &[kind]);
        all.push(bad(format!("jpeg with a frame of kind {kind:x}"), bytes, Unsupported));
    }
    all
}

/// The progressive JPEG with the bytes from an offset to its end repeated.
fn repeated(times: usize, from: usize) -> Vec<u8> {
    let whole = PROGRESSIVE.bytes;
    [&whole[..END], &whole[from..END].repeat(times), &whole[END..]].concat()
}

/// The progressive JPEG with its last scan repeated `times` more times.
pub(super) fn repeated_scans(times: usize) -> Vec<u8> {
    repeated(times, LAST_SCAN)
}

/// The shortest scan: one luma coefficient that is 0 in every block, in long end-of-band runs.
fn empty_scan() -> Vec<u8> {
    // A Huffman table with one code, 0, for a run of at least 2^14 blocks; and the scan of the last coefficient.
    let mut table = vec![0xff, 0xc4, 0, 20, 0x10, 1];
    table.extend([0; 15]);
    table.push(0xe0);
    [&table[..], &[0xff, 0xda, 0, 8, 1, 1, 0, 63, 63, 0, 0x00, 0x00]].concat()
}

fn scans() -> Vec<BadPicture> {
    let whole = PROGRESSIVE.bytes;
    let short = |count| [&whole[..END], &empty_scan().repeat(count), &whole[END..]].concat();
    vec![
        bad("jpeg with a hundred more scans", repeated(100, LAST_SCAN), OverLimit),
        bad("jpeg with a thousand more scans", repeated(1_000, LAST_SCAN), OverLimit),
        bad("jpeg with five hundred more scans and tables", repeated(500, TABLE_BEFORE_LAST_SCAN), OverLimit),
        bad("jpeg with thirty thousand empty scans", short(30_000), OverLimit),
        bad("jpeg without a scan", [&JPEG.bytes[..318], b"\xff\xd9"].concat(), Damaged),
        bad("jpeg without an end of image marker", &JPEG.bytes[..JPEG.bytes.len() - 2], Damaged),
        bad("jpeg whose scan is of an unknown component", patch(JPEG.bytes, 318 + 5, &[9]), Damaged),
        bad("jpeg whose scan has no components", patch(JPEG.bytes, 318 + 4, &[0]), Damaged),
        bad("jpeg whose scan has five components", patch(JPEG.bytes, 318 + 4, &[5]), Damaged),
    ]
}

fn segments() -> Vec<BadPicture> {
    let with = |segments: &[u8]| [&JPEG.bytes[..SEGMENTS], segments, &JPEG.bytes[SEGMENTS..]].concat();
    vec![
        bad("jpeg with sixty thousand empty exif segments", with(&b"\xff\xe1\0\x02".repeat(60_000)), OverLimit),
        bad("jpeg with sixty thousand empty comments", with(&b"\xff\xfe\0\x02".repeat(60_000)), OverLimit),
        bad("jpeg with fifty thousand fill bytes", [&JPEG.bytes[..SEGMENTS], &[255; 50_000]].concat(), Damaged),
        bad("jpeg whose segment extends beyond its end", with(b"\xff\xe1\xff\xff"), Damaged),
        bad("jpeg with two start of image markers", with(b"\xff\xd8"), Damaged),
        bad("jpeg with two frames", [&JPEG.bytes[..102], &JPEG.bytes[89..]].concat(), Damaged),
        bad("jpeg with a huffman table of too many codes", patch(JPEG.bytes, 102 + 5, &[255; 16]), Damaged),
        bad("jpeg with an invalid huffman table class", patch(JPEG.bytes, 102 + 4, &[0x77]), Damaged),
        bad("jpeg with an invalid quantisation table", patch(JPEG.bytes, 20 + 4, &[0x0f]), Damaged),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("jpeg with eighty more scans", repeated(80, LAST_SCAN)),
        ("jpeg of 65500 by 120 whose scan ends early", {
            let sized = patch(JPEG.bytes, FRAME + 3, &65_500u16.to_be_bytes());
            patch(&sized, FRAME + 1, &120u16.to_be_bytes())
        }),
    ]
}
