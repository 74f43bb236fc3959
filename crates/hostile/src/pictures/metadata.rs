//! Invalid EXIF and excessive XMP, in every format that has them.

use super::png::{self, BOMB_MIB, bomb};
use super::valid::{JPEG, LOSSY_WEBP};
use super::webp::{self, EXIF};
use super::{BadPicture, OverLimit, bad};

const XMP_SEGMENT: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const XMP_KEYWORD: &[u8] = b"XML:com.adobe.xmp";
const PREFIX: &[u8] = b"Exif\0\0";
const XMP_FLAG: u8 = 0x04;

/// An EXIF block with one IFD of these entries: tag, type, count, value or offset.
fn exif(entries: &[(u16, u16, u32, u32)], next: u32) -> Vec<u8> {
    let entry = |&(tag, kind, count, value): &(u16, u16, u32, u32)| {
        [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
    };
    let count = (entries.len() as u16).to_le_bytes();
    let entries: Vec<u8> = entries.iter().flat_map(entry).collect();
    [b"II*\0\x08\0\0\0", &count[..], &entries, &next.to_le_bytes()].concat()
}

/// Small EXIF blocks that state large values.
fn blocks() -> Vec<(&'static str, Vec<u8>)> {
    let most = u32::MAX;
    let overlapping: Vec<_> = (0..5_000).map(|tag| (0x4000 + tag, 2, 60_000, 8)).collect();
    vec![
        ("circular exif", exif(&[(0x8769, 4, 1, 8)], 8)),
        ("exif of 65535 entries", [b"II*\0\x08\0\0\0\xff\xff", &[0x12; 60_000][..]].concat()),
        ("exif of 4 billion orientations", exif(&[(0x0112, 3, most, 8)], 0)),
        ("exif of 4 billion rationals", exif(&[(0x0112, 5, most, 8)], 0)),
        ("exif with an orientation beyond its end", exif(&[(0x0112, 4, 2, most)], 0)),
        ("exif with a directory beyond its end", b"II*\0\xff\xff\xff\xff".to_vec()),
        ("exif with values that overlap", exif(&overlapping, 0)),
        ("exif that is cut within its directory", exif(&[(0x0112, 3, 1, 6)], 0)[..15].to_vec()),
        ("exif of nothing but prefixes", PREFIX.repeat(10_000)),
    ]
}

/// XMP with many orientation properties without a value.
fn xmp() -> Vec<u8> {
    b"tiff:Orientation=".repeat(3_800)
}

fn segment(data: &[u8]) -> Vec<u8> {
    [&[0xff, 0xe1][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat()
}

fn jpeg(segments: &[u8]) -> Vec<u8> {
    [&JPEG.bytes[..2], segments, &JPEG.bytes[2..]].concat()
}

/// The lossy WebP with a VP8X chunk and further chunks.
fn webp(flags: u8, chunks: Vec<u8>) -> Vec<u8> {
    webp::file(&[webp::canvas(flags, 260, 150), LOSSY_WEBP.bytes[12..].to_vec(), chunks])
}

fn packed_xmp(packed: &[u8]) -> Vec<u8> {
    png::chunk(b"iTXt", &[XMP_KEYWORD, b"\0\x01\0\0\0", packed].concat())
}

pub(super) fn refused() -> Vec<BadPicture> {
    let packed = png::compressed(&vec![b' '; 1 << 20]);
    vec![
        bad("png with seventy compressed xmp of 1 MiB", png::square(&vec![packed_xmp(&packed); 70]), OverLimit),
        bad("png with compressed xmp of 2 MiB", png::square(&[packed_xmp(&bomb(2))]), OverLimit),
        bad(
            "png with compressed exif text of 1 GiB",
            png::square(&[png::chunk(b"zTXt", &[b"Raw profile type exif\0\0", &bomb(BOMB_MIB)[..]].concat())]),
            OverLimit,
        ),
    ]
}

pub(super) fn costly() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for (name, block) in blocks() {
        all.push((format!("jpeg with {name}"), jpeg(&segment(&[PREFIX, &block].concat()))));
        all.push((format!("png with {name}"), png::square(&[png::chunk(b"eXIf", &block)])));
        all.push((format!("webp with {name}"), webp(EXIF, webp::chunk(b"EXIF", &block))));
    }
    let damaged = packed_xmp(&[0x78, 0x9c, 0x07]);
    let others = [
        ("jpeg with forty thousand exif segments", jpeg(&segment(PREFIX).repeat(40_000))),
        ("jpeg with exif in twenty thousand segments", jpeg(&segment(&[PREFIX, b"II*"].concat()).repeat(20_000))),
        ("jpeg with two hundred xmp segments", jpeg(&segment(&[XMP_SEGMENT, &xmp()].concat()).repeat(200))),
        ("png with xmp of 1 GiB", png::square(&[packed_xmp(&bomb(BOMB_MIB))])),
        (
            "png with xmp of 10 MiB",
            png::square(&[png::chunk(b"tEXt", &[XMP_KEYWORD, b"\0", &xmp().repeat(160)].concat())]),
        ),
        ("png with twenty thousand damaged xmp", png::square(&vec![damaged; 20_000])),
        ("webp with xmp of 10 MiB", webp(XMP_FLAG, webp::chunk(b"XMP ", &xmp().repeat(160)))),
    ];
    all.extend(others.map(|(name, bytes)| (name.to_owned(), bytes)));
    all
}
