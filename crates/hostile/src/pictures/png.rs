//! PNG: false headers, wrong CRCs, too many chunks, and texts and profiles that are decompression bombs.

use std::io::Write;

use flate2::{Compress, Compression, Crc, FlushCompress, write::ZlibEncoder};

use super::valid::PALETTE_PNG;
use super::{BadPicture, Damaged, OverLimit, bad};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const RGB: u8 = 2;
const RGBA: u8 = 6;
/// Decompressed size of a bomb; compressed, it is about a thousandth.
pub(super) const BOMB_MIB: usize = 1 << 10;

pub(super) fn chunk(chunk_type: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(chunk_type);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes(), &chunk_type[..], data, &crc.sum().to_be_bytes()].concat()
}

fn header(width: u32, height: u32, depth: u8, colours: u8) -> Vec<u8> {
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colours, 0, 0, 0]].concat())
}

pub(super) fn compressed(data: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(data).and_then(|()| encoder.finish()).unwrap_or_default()
}

pub(super) fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    [SIGNATURE, &chunks.concat(), &chunk(b"IEND", b"")].concat()
}

/// A black square of 8×8 pixels with these chunks before its IDAT chunk.
pub(super) fn square(between: &[Vec<u8>]) -> Vec<u8> {
    let rows = compressed(&[0; (8 * 3 + 1) * 8]);
    file(&[header(8, 8, 8, RGB), between.concat(), chunk(b"IDAT", &rows)])
}

/// A zlib stream of `mib` MiB of zeros. After a full flush, the Deflate blocks of 1 MiB end at a byte boundary and do
/// not refer to earlier data, so that they can be repeated.
pub(super) fn bomb(mib: usize) -> Vec<u8> {
    const MIB: usize = 1 << 20;
    let mut block = Vec::with_capacity(1 << 14);
    let done = Compress::new(Compression::best(), false).compress_vec(&[0; MIB], &mut block, FlushCompress::Full);
    assert!(done.is_ok() && block.len() < 1 << 14, "a MiB of zeros takes about a KiB");
    // Adler-32 of zeros: the low half is 1, the high half is the number of bytes modulo 65521.
    let sum = ((mib * MIB % 65_521) as u32) << 16 | 1;
    [b"\x78\xda", &block.repeat(mib)[..], b"\x03\0", &sum.to_be_bytes()].concat()
}

fn profile(mib: usize) -> Vec<u8> {
    chunk(b"iCCP", &[b"profile\0\0", &bomb(mib)[..]].concat())
}

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), checksums(), chunks(), data()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let most = u32::MAX >> 1;
    let claims = [
        (60_000, 60_000, 8, RGB, OverLimit),
        (65_535, 65_535, 16, RGBA, OverLimit),
        (most, 1, 8, RGB, OverLimit),
        (1, most, 8, RGB, OverLimit),
        (most, most, 16, RGBA, OverLimit),
        (u32::MAX, u32::MAX, 8, RGB, OverLimit),
        (100_000, 1_000, 8, RGB, OverLimit),
        (1_000, 100_000, 1, 0, OverLimit),
        (0, 0, 8, RGB, Damaged),
        (0, 8, 8, RGB, Damaged),
        (8, 0, 8, RGB, Damaged),
        (8, 8, 7, RGB, Damaged),
        (8, 8, 8, 5, Damaged),
        (8, 8, 16, 3, Damaged),
        (9, 8, 8, RGB, Damaged),
        (4_000, 4_000, 8, RGB, Damaged),
    ];
    let pixels = chunk(b"IDAT", &compressed(&[0; (8 * 3 + 1) * 8]));
    let of = |(width, height, depth, colours, fault)| {
        let name = format!("png that claims {width} by {height} of depth {depth} and kind {colours}");
        bad(name, file(&[header(width, height, depth, colours), pixels.clone()]), fault)
    };
    claims.map(of).into()
}

fn checksums() -> Vec<BadPicture> {
    let (whole, mut at, mut all) = (PALETTE_PNG.bytes, SIGNATURE.len(), Vec::new());
    for name in ["header", "palette", "pixels"] {
        let length = u32::from_be_bytes([whole[at], whole[at + 1], whole[at + 2], whole[at + 3]]) as usize;
        for (part, place) in [("data", at + 8 + length / 2), ("checksum", at + 8 + length), ("kind", at + 7)] {
            let mut bytes = whole.to_vec();
            bytes[place] ^= 1;
            if (name, part) == ("pixels", "checksum") {
                // Like Pillow, the decoder does not check the CRC of IDAT.
                continue;
            }
            all.push(bad(format!("png whose {name} has a wrong {part}"), bytes, Damaged));
        }
        at += 12 + length;
    }
    all
}

fn chunks() -> Vec<BadPicture> {
    let (start, rows) = (header(8, 8, 8, RGB), chunk(b"IDAT", &compressed(&[0; 25 * 8])));
    let endless = |kind: &[u8; 4]| [&u32::MAX.to_be_bytes()[..], kind, &[0; 40]].concat();
    vec![
        bad("png with sixty thousand empty texts", square(&vec![chunk(b"tEXt", b"a\0"); 60_000]), OverLimit),
        bad("png with sixty thousand unknown chunks", square(&vec![chunk(b"abCd", b""); 60_000]), OverLimit),
        bad("png of twelve thousand frames", animated(12_000), OverLimit),
        bad("png with a header of 4 GiB", [SIGNATURE, &endless(b"IHDR")].concat(), Damaged),
        bad("png with a text of 4 GiB", [SIGNATURE, &start, &endless(b"tEXt")].concat(), Damaged),
        bad("png with pixel data of 4 GiB", [SIGNATURE, &start, &endless(b"IDAT")].concat(), Damaged),
        bad("png with exif of 4 GiB", [SIGNATURE, &start, &endless(b"eXIf"), &rows].concat(), Damaged),
        bad("png with two headers", square(&[header(9, 8, 8, RGB)]), Damaged),
        bad("png without a header", file(std::slice::from_ref(&rows)), Damaged),
        bad("png without pixels", file(std::slice::from_ref(&start)), Damaged),
        bad("png with a palette of 257 colours", file(&[header(8, 8, 8, 3), chunk(b"PLTE", &[0; 771]), rows]), Damaged),
    ]
}

fn data() -> Vec<BadPicture> {
    let with = |data: &[u8]| file(&[header(8, 8, 8, RGB), chunk(b"IDAT", data)]);
    let whole = compressed(&[7; 25 * 8]);
    vec![
        bad("png with an empty IDAT chunk", with(b""), Damaged),
        bad("png whose pixel data is not compressed", with(&[0; 200]), Damaged),
        bad("png whose pixel data has another compression method", with(&[&[0x79], &whole[1..]].concat()), Damaged),
        bad("png whose pixel data ends within a scanline", with(&compressed(&[0; 25 * 7 + 3])), Damaged),
        bad("png whose pixel data has no scanlines", with(&compressed(&[])), Damaged),
        bad("png with an unknown row filter", with(&compressed(&[9; 25 * 8])), Damaged),
        bad("png whose pixel data is truncated", with(&whole[..whole.len() / 2]), Damaged),
        bad("png whose deflate block type is reserved", with(&[0x78, 0x9c, 0x07, 0, 0, 0]), Damaged),
        bad("png whose deflate distance is before the start", with(&[0x78, 0x9c, 0x4b, 0x04, 0x12, 0, 0]), Damaged),
    ]
}

fn animated(frames: u32) -> Vec<u8> {
    let control = |number: u32| {
        let one = 1u32.to_be_bytes();
        let sides = [one, one, [0; 4], [0; 4]].concat();
        chunk(b"fcTL", &[&number.to_be_bytes()[..], &sides, &[0, 1, 0, 100, 0, 0]].concat())
    };
    let head = chunk(b"acTL", &[frames.to_be_bytes(), [0; 4]].concat());
    let pixels = chunk(b"IDAT", &compressed(&[0; 4]));
    file(&[header(1, 1, 8, RGB), head, pixels, (0..frames).flat_map(control).collect()])
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    let text = chunk(b"zTXt", &[b"Comment\0\0", &bomb(BOMB_MIB)[..]].concat());
    let plain = chunk(b"tEXt", &[b"Comment\0", &vec![b'a'; 10 << 20][..]].concat());
    let (start, rows) = (header(8, 8, 8, RGB), compressed(&[1; 25 * 8]));
    let pieces: Vec<_> = rows.iter().flat_map(|&byte| chunk(b"IDAT", &[byte])).collect();
    let sides = [4000u32.to_be_bytes(), 4000u32.to_be_bytes()].concat();
    let interlaced = chunk(b"IHDR", &[&sides[..], &[8, RGB, 0, 0, 1]].concat());
    vec![
        ("png with a text of 1 GiB", square(&[text])),
        ("png with 10 MiB of text", square(&[plain])),
        ("png with a colour profile of 4 MiB", square(&[profile(4)])),
        ("png with a colour profile of 1 GiB", square(&[profile(BOMB_MIB)])),
        ("png with 1 GiB after its pixels", file(&[start.clone(), chunk(b"IDAT", &bomb(BOMB_MIB))])),
        ("png of four thousand frames", animated(4_000)),
        ("png with ten thousand IDAT chunks", file(&[start, chunk(b"IDAT", b"").repeat(10_000), pieces])),
        ("png interlaced 4000 by 4000", file(&[interlaced, chunk(b"IDAT", &bomb(50))])),
    ]
}
