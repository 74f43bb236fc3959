//! JPEG: lies in the frame header, scans and segments without end, EXIF that leads nowhere.

use super::bases::{JPEG, PROGRESSIVE};
use super::{BadPicture, Damaged, TooMuch, Unknown, bad, patch};

/// Behind the marker and length of the frame header: precision, height, width, components.
const FRAME: usize = 89 + 4;
/// The same of the progressive one.
const PROGRESSIVE_FRAME: usize = 158 + 4;
/// Where the last scan of the progressive one begins, and where the end-of-image marker is.
const LAST_SCAN: usize = 3681;
const TABLE_BEFORE_LAST_SCAN: usize = 3646;
const END: usize = 5425;
/// Behind the start-of-image marker.
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
        (65_535, 65_535, TooMuch),
        (60_000, 60_000, TooMuch),
        (65_535, 4_000, TooMuch),
        (4_000, 65_535, TooMuch),
        (0, 0, Damaged),
        (0, 64, Damaged),
        (64, 0, Damaged),
    ] {
        let claims = format!("claims {width} by {height}");
        all.push(bad(format!("jpeg that {claims}"), sized(JPEG.bytes, FRAME, width, height), fault));
        let progressive = sized(PROGRESSIVE.bytes, PROGRESSIVE_FRAME, width, height);
        all.push(bad(format!("progressive jpeg that {claims}"), progressive, fault));
    }
    all.push(bad("jpeg of twelve bits a sample", patch(JPEG.bytes, FRAME, &[12]), Unknown));
    for (name, at, byte) in [
        ("no bits a sample", FRAME, 0),
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
        all.push(bad(format!("jpeg with a frame of kind {kind:x}"), bytes, Unknown));
    }
    all
}

/// The progressive picture with its last scan once more, and again.
fn repeated(times: usize, from: usize) -> Vec<u8> {
    let whole = PROGRESSIVE.bytes;
    [&whole[..END], &whole[from..END].repeat(times), &whole[END..]].concat()
}

/// The progressive picture with its last scan that many times more.
pub(super) fn repeated_scans(times: usize) -> Vec<u8> {
    repeated(times, LAST_SCAN)
}

/// The shortest scan of all: one coefficient of the gray, zero in every block, in long runs.
fn empty_scan() -> Vec<u8> {
    // A table of one code, 0, for a run of 2^14 blocks and more, and the scan of the last coefficient.
    let mut table = vec![0xff, 0xc4, 0, 20, 0x10, 1];
    table.extend([0; 15]);
    table.push(0xe0);
    [&table[..], &[0xff, 0xda, 0, 8, 1, 1, 0, 63, 63, 0, 0x00, 0x00]].concat()
}

fn scans() -> Vec<BadPicture> {
    let whole = PROGRESSIVE.bytes;
    let short = |count| [&whole[..END], &empty_scan().repeat(count), &whole[END..]].concat();
    vec![
        bad("jpeg of a hundred more scans", repeated(100, LAST_SCAN), TooMuch),
        bad("jpeg of a thousand more scans", repeated(1_000, LAST_SCAN), TooMuch),
        bad("jpeg of five hundred scans with tables", repeated(500, TABLE_BEFORE_LAST_SCAN), TooMuch),
        bad("jpeg of thirty thousand empty scans", short(30_000), TooMuch),
        bad("jpeg without a scan", [&JPEG.bytes[..318], b"\xff\xd9"].concat(), Damaged),
        bad("jpeg without an end", &JPEG.bytes[..JPEG.bytes.len() - 2], Damaged),
        bad("jpeg whose scan is of another component", patch(JPEG.bytes, 318 + 5, &[9]), Damaged),
        bad("jpeg whose scan has no components", patch(JPEG.bytes, 318 + 4, &[0]), Damaged),
        bad("jpeg whose scan has five components", patch(JPEG.bytes, 318 + 4, &[5]), Damaged),
    ]
}

fn segments() -> Vec<BadPicture> {
    let with = |segments: &[u8]| [&JPEG.bytes[..SEGMENTS], segments, &JPEG.bytes[SEGMENTS..]].concat();
    vec![
        bad("jpeg of empty exif without end", with(&b"\xff\xe1\0\x02".repeat(60_000)), TooMuch),
        bad("jpeg of empty comments without end", with(&b"\xff\xfe\0\x02".repeat(60_000)), TooMuch),
        bad("jpeg of fill bytes without end", [&JPEG.bytes[..SEGMENTS], &[255; 50_000]].concat(), Damaged),
        bad("jpeg whose segment goes beyond its end", with(b"\xff\xe1\xff\xff"), Damaged),
        bad("jpeg that begins twice", with(b"\xff\xd8"), Damaged),
        bad("jpeg with two frames", [&JPEG.bytes[..102], &JPEG.bytes[89..]].concat(), Damaged),
        bad("jpeg with a table of too many codes", patch(JPEG.bytes, 102 + 5, &[255; 16]), Damaged),
        bad("jpeg with a table of no known kind", patch(JPEG.bytes, 102 + 4, &[0x77]), Damaged),
        bad("jpeg with a quantisation table of no known kind", patch(JPEG.bytes, 20 + 4, &[0x0f]), Damaged),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("jpeg of eighty more scans", repeated(80, LAST_SCAN)),
        ("jpeg of 65500 by 120 whose scan stops", {
            let sized = patch(JPEG.bytes, FRAME + 3, &65_500u16.to_be_bytes());
            patch(&sized, FRAME + 1, &120u16.to_be_bytes())
        }),
    ]
}
