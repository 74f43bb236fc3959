//! GIF: false sizes of screen and frame, too many blocks and frames, invalid LZW codes.

use super::valid::GIF;
use super::{BadPicture, Damaged, OverLimit, bad, patch};

/// Offset of the screen's width and height.
const SCREEN: usize = 6;
const TRAILER: &[u8] = b";";

/// A header with a logical screen and a global colour table of two colours.
fn screen(width: u16, height: u16) -> Vec<u8> {
    [b"GIF89a", &width.to_le_bytes()[..], &height.to_le_bytes(), &[0x80, 0, 0], &[0, 0, 0, 255, 255, 255]].concat()
}

/// A frame at the upper left corner with LZW data.
fn frame(width: u16, height: u16, code_bits: u8, data: &[u8]) -> Vec<u8> {
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let blocks: Vec<u8> = data.chunks(255).flat_map(|part| [&[part.len() as u8], part].concat()).collect();
    [&[0x2c, 0, 0, 0, 0], &sides[..], &[0, code_bits], &blocks, &[0]].concat()
}

/// LZW data of one pixel: clear code, index, end code, three bits each.
const PIXEL: &[u8] = &[0x44, 0x01];

fn file(width: u16, height: u16, blocks: &[u8]) -> Vec<u8> {
    [&screen(width, height), blocks, TRAILER].concat()
}

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), blocks(), codes()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let claims = [(65_535, 65_535, OverLimit), (60_000, 60_000, OverLimit), (65_535, 4_000, OverLimit)];
    let mut all = Vec::new();
    for (width, height, fault) in claims {
        let sides = [u16::to_le_bytes(width), u16::to_le_bytes(height)].concat();
        let name = format!("gif whose screen is {width} by {height}");
        all.push(bad(name, patch(GIF.bytes, SCREEN, &sides), fault));
    }
    all.push(bad(
        "gif of one pixel with a frame of 65535 by 65535",
        file(1, 1, &frame(65_535, 65_535, 2, PIXEL)),
        OverLimit,
    ));
    all.push(bad("gif of 0 by 0", file(0, 0, &frame(0, 0, 2, PIXEL)), Damaged));
    all.push(bad("gif with a frame of 0 by 5", file(5, 5, &frame(0, 5, 2, PIXEL)), Damaged));
    all.push(bad(
        "gif of one pixel with a frame of 65535 by 30000",
        file(1, 1, &frame(65_535, 30_000, 2, PIXEL)),
        OverLimit,
    ));
    all
}

fn blocks() -> Vec<BadPicture> {
    let comment = b"\x21\xfe\0";
    vec![
        bad(
            "gif with sixty thousand empty comments",
            file(1, 1, &[&comment.repeat(60_000), &frame(1, 1, 2, PIXEL)[..]].concat()),
            OverLimit,
        ),
        bad("gif of twelve thousand frames", file(1, 1, &frame(1, 1, 2, PIXEL).repeat(12_000)), OverLimit),
        bad("gif of sixty thousand frames", file(1, 1, &frame(1, 1, 2, PIXEL).repeat(60_000)), OverLimit),
        bad("gif without a frame", file(1, 1, b""), Damaged),
        bad("gif with only comments", file(1, 1, &comment.repeat(40_000)), Damaged),
        bad(
            "gif with an unterminated comment",
            [&screen(1, 1)[..], b"\x21\xfe", &[&[255][..], &[7; 255]].concat().repeat(200)].concat(),
            Damaged,
        ),
        bad("gif with an unknown block", file(1, 1, b"\x99\x01\x02\x00"), Damaged),
        bad("gif with fifty thousand zeros between blocks", [&screen(1, 1)[..], &[0; 50_000]].concat(), Damaged),
        bad("gif of an unknown version", patch(GIF.bytes, 3, b"90a"), super::Unsupported),
        bad("gif with a truncated colour table", &screen(1, 1)[..15], Damaged),
    ]
}

fn codes() -> Vec<BadPicture> {
    let picture = |bits, data: &[u8]| file(40, 40, &frame(40, 40, bits, data));
    vec![
        bad("gif without data", picture(2, b""), Damaged),
        bad("gif with codes of 0 bits", picture(0, PIXEL), Damaged),
        bad("gif with codes of 13 bits", picture(13, PIXEL), Damaged),
        bad("gif with codes of 255 bits", picture(255, PIXEL), Damaged),
        bad("gif whose first code is invalid", picture(2, &[0xff; 40]), Damaged),
        bad("gif that ends after one pixel", picture(2, PIXEL), Damaged),
        bad("gif with only clear codes", picture(2, &[0x24, 0x49, 0x92].repeat(5_000)), Damaged),
        bad("gif with a code before its entry", picture(2, &[0x3c, 0xff, 0xff, 0xff]), Damaged),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("gif of nine thousand frames", file(1, 1, &frame(1, 1, 2, PIXEL).repeat(9_000))),
        (
            "gif with clear codes after its pixel",
            file(1, 1, &frame(1, 1, 2, &[PIXEL, &[0x24, 0x49, 0x92].repeat(50_000)[..]].concat())),
        ),
        ("gif that fills a large frame from few codes", file(4_000, 4_000, &frame(4_000, 4_000, 2, &longest_codes()))),
    ]
}

/// Codes that each decode to one more pixel than the previous code: the maximum pixels per byte.
fn longest_codes() -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u64, 0);
    let mut push = |code: u64, width: u32| {
        bits |= code << held;
        held += width;
        while held >= 8 {
            bytes.push(bits as u8);
            bits >>= 8;
            held -= 8;
        }
    };
    let (clear, first) = (4, 6);
    for _ in 0..3 {
        push(clear, 3);
        push(0, 3);
        let mut width = 3;
        for code in first..4096 {
            push(code, width);
            if code + 1 == 1 << width && width < 12 {
                width += 1;
            }
        }
    }
    bytes
}
