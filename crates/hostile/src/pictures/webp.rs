//! WebP: contradicting sizes of canvas, frame and bitstream, too many chunks, incomplete metadata.

use super::valid::{LOSSLESS_WEBP, LOSSY_WEBP};
use super::{BadPicture, Damaged, OverLimit, bad, patch};

/// Offset of the 16-bit width and height in a lossy file: after the chunk header, the frame tag and the start code.
const LOSSY_SIDES: usize = 12 + 8 + 6;
/// Offset of the 14-bit width and height in a lossless file: after the chunk header and the signature.
const LOSSLESS_SIDES: usize = 12 + 8 + 1;
const ANIMATION: u8 = 0x02;
pub(super) const EXIF: u8 = 0x08;
const ALPHA: u8 = 0x10;

pub(super) fn chunk(fourcc: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&fourcc[..], &(data.len() as u32).to_le_bytes(), data, &vec![0; data.len() & 1]].concat()
}

pub(super) fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
    let body = chunks.concat();
    [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &body].concat()
}

fn u24(value: u32) -> [u8; 3] {
    let [low, middle, high, _] = value.to_le_bytes();
    [low, middle, high]
}

pub(super) fn canvas(flags: u8, width: u32, height: u32) -> Vec<u8> {
    chunk(b"VP8X", &[&[flags, 0, 0, 0][..], &u24(width - 1), &u24(height - 1)].concat())
}

/// A VP8 chunk that states this width and height.
pub(super) fn lossy(width: u16, height: u16) -> Vec<u8> {
    patch(&LOSSY_WEBP.bytes[12..], LOSSY_SIDES - 12, &[width.to_le_bytes(), height.to_le_bytes()].concat())
}

fn lossless(width: u32, height: u32) -> Vec<u8> {
    let bits = (width - 1) | (height - 1) << 14;
    patch(&LOSSLESS_WEBP.bytes[12..], LOSSLESS_SIDES - 12, &bits.to_le_bytes())
}

fn frame(width: u32, height: u32, stream: &[u8]) -> Vec<u8> {
    let sides = [u24(width - 1), u24(height - 1)].concat();
    chunk(b"ANMF", &[&[0; 6][..], &sides, &[100, 0, 0, 0], stream].concat())
}

fn animation() -> Vec<u8> {
    chunk(b"ANIM", &[0; 6])
}

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), chunks()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let most = 1 << 24;
    let (small, opaque) = (lossy(260, 150), 0);
    let animated = |width, height, stream: &[u8]| {
        file(&[canvas(ANIMATION, width, height), animation(), frame(width, height, stream)])
    };
    vec![
        bad("lossy webp of 16383 by 16383", file(&[lossy(16_383, 16_383)]), OverLimit),
        bad("lossy webp of 0 by 0", file(&[lossy(0, 0)]), Damaged),
        bad("lossy webp of 0 by 150", file(&[lossy(0, 150)]), Damaged),
        bad("lossless webp of 16384 by 16384", file(&[lossless(16_384, 16_384)]), OverLimit),
        bad("webp canvas of 16777216 by 16777216", file(&[canvas(opaque, most, most), small.clone()]), OverLimit),
        bad("webp canvas of 16777216 by 1", file(&[canvas(opaque, most, 1), small.clone()]), OverLimit),
        bad("webp canvas of 60000 by 60000", file(&[canvas(ALPHA, 60_000, 60_000), small.clone()]), OverLimit),
        bad(
            "webp whose canvas and bitstream differ in size",
            file(&[canvas(opaque, 100, 100), small.clone()]),
            Damaged,
        ),
        bad(
            "webp of one pixel with a stream of 16383 by 16383",
            file(&[canvas(opaque, 1, 1), lossy(16_383, 16_383)]),
            OverLimit,
        ),
        bad("webp of one pixel with a frame of 16383 by 16383", animated(1, 1, &lossy(16_383, 16_383)), OverLimit),
        bad("animated webp of 16777216 by 16777216", animated(most, most, &small), OverLimit),
        bad("animated webp whose frame and bitstream differ in size", animated(100, 100, &small), Damaged),
        bad(
            "animated webp with a frame beyond its canvas",
            file(&[canvas(ANIMATION, 259, 150), animation(), frame(259, 150, &small)]),
            Damaged,
        ),
    ]
}

fn chunks() -> Vec<BadPicture> {
    let small = lossy(260, 150);
    let huge = |kind: &[u8; 4]| [&kind[..], &0xffff_fff0u32.to_le_bytes(), &[0; 8]].concat();
    let frames = |count| {
        file(&[
            canvas(ANIMATION, 1, 1),
            animation(),
            frame(1, 1, &chunk(b"VP8L", &[0x2f, 0, 0, 0, 0, 0, 0, 0])).repeat(count),
        ])
    };
    vec![
        bad(
            "webp with sixty thousand unknown chunks",
            file(&[canvas(0, 260, 150), chunk(b"abcd", b"").repeat(60_000), small.clone()]),
            OverLimit,
        ),
        bad("webp of twelve thousand frames", frames(12_000), OverLimit),
        bad("webp with exif of 4 GiB", file(&[canvas(EXIF, 260, 150), small.clone(), huge(b"EXIF")]), Damaged),
        bad("webp with an animation of 4 GiB", file(&[canvas(ANIMATION, 260, 150), huge(b"ANIM")]), Damaged),
        bad("webp with a stream of 4 GiB", file(&[huge(b"VP8 ")]), Damaged),
        bad("webp with only a canvas", file(&[canvas(0, 260, 150)]), Damaged),
        bad(
            "webp with a lossy and a lossless bitstream",
            file(&[canvas(0, 260, 150), small.clone(), LOSSLESS_WEBP.bytes[12..].to_vec()]),
            Damaged,
        ),
        bad("animated webp without frames", file(&[canvas(ANIMATION, 260, 150), animation()]), Damaged),
        bad(
            "animated webp whose frame is empty",
            file(&[canvas(ANIMATION, 1, 1), animation(), frame(1, 1, b"")]),
            Damaged,
        ),
        bad("webp that begins with an unknown chunk", file(&[chunk(b"abcd", b"efgh"), small]), Damaged),
        bad("webp without chunks", file(&[]), Damaged),
        bad("lossy webp whose frame is not a key frame", patch(LOSSY_WEBP.bytes, 20, &[0xb1]), Damaged),
        bad("lossy webp with a wrong start code", patch(LOSSY_WEBP.bytes, 23, &[0]), Damaged),
        bad("lossless webp with a wrong signature", patch(LOSSLESS_WEBP.bytes, 20, &[0]), Damaged),
        bad("lossless webp of a later version", patch(LOSSLESS_WEBP.bytes, 24, &[0xff]), Damaged),
    ]
}
