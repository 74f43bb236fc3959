//! TIFF: false sizes and offsets, too many chunks (strips and tiles), invalid compressed data, camera raw files.

use super::png::{self, bomb};
use super::valid::{FAX_TIFF, JPEG_TIFF, LZW_TIFF};
use super::{BadPicture, Damaged, OverLimit, PictureFault, Unsupported, bad};

const SHORT: u16 = 3;
const LONG: u16 = 4;
const LONG8: u16 = 16;

const WIDTH: u16 = 256;
const HEIGHT: u16 = 257;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const MAKE: u16 = 271;
const OFFSETS: u16 = 273;
const SAMPLES: u16 = 277;
const ROWS_PER_STRIP: u16 = 278;
const LENGTHS: u16 = 279;
const PLANES: u16 = 284;
const PREDICTOR: u16 = 317;
const COLOUR_MAP: u16 = 320;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const TILE_OFFSETS: u16 = 324;
const TILE_LENGTHS: u16 = 325;
const FILL_ORDER: u16 = 266;
const EXTRA: u16 = 338;
const FORMAT: u16 = 339;

/// Offset of the pixels.
const START: u32 = 8;

/// Tag, type and values.
type Field = (u16, u16, Vec<u32>);

/// A field of type LONG.
fn field(tag: u16, values: impl Into<Vec<u32>>) -> Field {
    (tag, LONG, values.into())
}

/// A file with pixels and then one IFD.
fn file(pixels: &[u8], fields: &[Field]) -> Vec<u8> {
    let ifd = START as usize + pixels.len();
    let mut end = ifd + 2 + fields.len() * 12 + 4;
    let (mut directory, mut values) = ((fields.len() as u16).to_le_bytes().to_vec(), Vec::new());
    for (tag, field_type, numbers) in fields {
        directory.extend([tag.to_le_bytes(), field_type.to_le_bytes()].concat());
        directory.extend((numbers.len() as u32).to_le_bytes());
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if let [one] = numbers[..] {
            directory.extend(one.to_le_bytes());
        } else {
            directory.extend((end as u32).to_le_bytes());
            end += bytes.len();
            values.extend(bytes);
        }
    }
    [b"II*\0", &(ifd as u32).to_le_bytes()[..], pixels, &directory, &[0; 4], &values].concat()
}

/// The fields of an uncompressed gray picture of 8×8 pixels in one strip, with changes.
fn square(changes: &[Field]) -> Vec<Field> {
    let plain = [
        field(WIDTH, [8]),
        field(HEIGHT, [8]),
        field(BITS, [8]),
        field(COMPRESSION, [1]),
        field(PHOTOMETRIC, [1]),
        field(OFFSETS, [START]),
        field(SAMPLES, [1]),
        field(ROWS_PER_STRIP, [8]),
        field(LENGTHS, [64]),
    ];
    let kept = plain.into_iter().filter(|(tag, ..)| changes.iter().all(|(changed, ..)| changed != tag));
    let mut fields: Vec<_> = kept.chain(changes.iter().cloned()).collect();
    fields.sort_by_key(|(tag, ..)| *tag);
    fields
}

fn changed(changes: &[Field]) -> Vec<u8> {
    file(&[7; 64], &square(changes))
}

/// A picture of 8×8 pixels with a compression scheme.
fn compressed(number: u32, pixels: &[u8], changes: &[Field]) -> Vec<u8> {
    let length = pixels.len() as u32;
    let changes = [&[field(COMPRESSION, [number]), field(LENGTHS, [length])], changes].concat();
    file(pixels, &square(&changes))
}

/// A picture of 8×8 pixels in tiles.
fn tiled(width: u32, height: u32, count: usize, pixels: &[u8], changes: &[Field]) -> Vec<u8> {
    let tiles = [
        field(TILE_WIDTH, [width]),
        field(TILE_HEIGHT, [height]),
        field(TILE_OFFSETS, vec![START; count]),
        field(TILE_LENGTHS, vec![pixels.len() as u32; count]),
    ];
    let mut fields = square(&[&tiles[..], changes].concat());
    fields.retain(|(tag, ..)| ![OFFSETS, LENGTHS, ROWS_PER_STRIP].contains(tag));
    file(pixels, &fields)
}

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), directories(), samples(), chunks(), compression(), unsupported()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let most = u32::MAX;
    let mut all = Vec::new();
    for (width, height, fault) in [
        (60_000, 60_000, OverLimit),
        (most, most, OverLimit),
        (most, 1, OverLimit),
        (1, most, OverLimit),
        (100_000, 8, OverLimit),
        (0, 0, Damaged),
        (0, 8, Damaged),
        (8, 0, Damaged),
        (4_000, 4_000, Damaged),
    ] {
        let sides = [field(WIDTH, [width]), field(HEIGHT, [height]), field(ROWS_PER_STRIP, [height.max(1)])];
        all.push(bad(format!("tiff of {width} by {height}"), changed(&sides), fault));
        let packed = compressed(8, &png::compressed(&[0; 64]), &sides);
        all.push(bad(format!("compressed tiff of {width} by {height}"), packed, fault));
    }
    // Within the limit on pixels, but each takes eight bytes in a strip and four in the decoded picture.
    let deep = [field(WIDTH, [13_370]), field(HEIGHT, [13_370]), field(ROWS_PER_STRIP, [13_370])];
    let colours = [field(BITS, [16; 4]), field(SAMPLES, [4]), field(PHOTOMETRIC, [2]), field(EXTRA, [2])];
    all.push(bad(
        "tiff that takes too much memory",
        compressed(5, &[0; 64], &[&deep[..], &colours].concat()),
        OverLimit,
    ));
    for (width, height, fault) in [
        (60_000, 60_000, OverLimit),
        (most, most, OverLimit),
        (8, most, OverLimit),
        (100_000, 8, OverLimit),
        (0, 8, Damaged),
        (8, 0, Damaged),
    ] {
        let name = format!("tiff with tiles of {width} by {height}");
        all.push(bad(name, tiled(width, height, 1, &[0; 64], &[field(COMPRESSION, [8])]), fault));
    }
    // A picture one pixel wide, with very wide tiles.
    let thin = [field(WIDTH, [1]), field(HEIGHT, [60_000]), field(COMPRESSION, [8])];
    all.push(bad("tiff with tiles much wider than it", tiled(60_000, 1, 60_000, &[0; 64], &thin), OverLimit));
    all
}

/// A file whose header has this offset of the IFD.
fn with_ifd_offset(offset: u32, rest: &[u8]) -> Vec<u8> {
    [b"II*\0", &offset.to_le_bytes()[..], rest].concat()
}

fn directories() -> Vec<BadPicture> {
    let big = |offset: u64, count: u64| {
        [b"II\x2b\0\x08\0\0\0", &offset.to_le_bytes()[..], &count.to_le_bytes(), &[0; 60]].concat()
    };
    let without = |tag: u16| {
        let fields: Vec<_> = square(&[]).into_iter().filter(|(one, ..)| *one != tag).collect();
        file(&[7; 64], &fields)
    };
    vec![
        bad("tiff without a directory", with_ifd_offset(0, &[]), Damaged),
        bad("tiff with a directory in its header", with_ifd_offset(0, &[0; 64]), Damaged),
        bad("tiff with a directory beyond its end", with_ifd_offset(u32::MAX, &[0; 64]), Damaged),
        bad("tiff with a directory of no fields", with_ifd_offset(8, &[0; 64]), Damaged),
        bad("tiff with a directory of 65535 fields", with_ifd_offset(8, &[255; 64]), OverLimit),
        bad("tiff with a directory of 4000 missing fields", with_ifd_offset(8, b"\xa0\x0f\0\0"), Damaged),
        bad("big tiff with a directory beyond its end", big(u64::MAX, 1), Damaged),
        bad("big tiff with two to the sixtieth fields", big(16, 1 << 60), OverLimit),
        bad("tiff without a width", without(WIDTH), Damaged),
        bad("tiff without a height", without(HEIGHT), Damaged),
        bad("tiff without strip offsets", without(OFFSETS), Damaged),
        bad("tiff with a width of type float", changed(&[(WIDTH, 11, vec![8f32.to_bits()])]), Damaged),
        bad("tiff with a negative width", changed(&[(WIDTH, 9, vec![u32::MAX])]), Damaged),
        bad("tiff with a width of an unknown type", changed(&[(WIDTH, 99, vec![8])]), Damaged),
        bad("tiff with a width of type ascii", changed(&[(WIDTH, 2, vec![8])]), Damaged),
    ]
}

fn samples() -> Vec<BadPicture> {
    let many = u32::from(u16::MAX);
    vec![
        bad("tiff with 7 bits per sample", changed(&[field(BITS, [7])]), Unsupported),
        bad("tiff with 65535 bits per sample", changed(&[field(BITS, [many])]), Unsupported),
        bad("tiff with 0 bits per sample", changed(&[field(BITS, [0])]), Unsupported),
        bad("tiff with 0 samples", changed(&[field(SAMPLES, [0])]), Damaged),
        bad("tiff with 65535 samples", changed(&[field(SAMPLES, [many])]), Unsupported),
        bad("tiff with 65535 samples in planes", changed(&[field(SAMPLES, [many]), field(PLANES, [2])]), Unsupported),
        bad("tiff with four billion samples", changed(&[field(SAMPLES, [u32::MAX])]), Unsupported),
        bad(
            "tiff with contradicting numbers of samples",
            changed(&[field(BITS, [8, 8]), field(SAMPLES, [3])]),
            Damaged,
        ),
        bad("tiff with samples of different sizes", changed(&[field(BITS, [8, 4]), field(SAMPLES, [2])]), Unsupported),
        bad("tiff with samples of different formats", changed(&[field(FORMAT, [1, 3])]), Unsupported),
        bad("tiff with a missing palette", changed(&[field(PHOTOMETRIC, [3])]), Damaged),
        bad("tiff with fill order 9", changed(&[field(FILL_ORDER, [9])]), Damaged),
    ]
}

fn chunks() -> Vec<BadPicture> {
    let far = u32::MAX - 7;
    let planes = [field(BITS, [8; 3]), field(SAMPLES, [3]), field(PHOTOMETRIC, [2]), field(PLANES, [2])];
    let endless = [field(OFFSETS, vec![START; 70_000]), field(ROWS_PER_STRIP, [4])];
    let lzw = |changes: &[Field]| compressed(5, &[0x80, 0, 0, 0], changes);
    vec![
        bad("tiff whose strip is beyond its end", changed(&[field(OFFSETS, [far])]), Damaged),
        bad("tiff whose strip begins at its end", changed(&[field(OFFSETS, [1 << 20])]), Damaged),
        bad("tiff with seventy thousand strips", changed(&endless), OverLimit),
        bad("tiff whose strips have no rows", changed(&[field(ROWS_PER_STRIP, [0])]), Damaged),
        bad("compressed tiff with a missing plane", lzw(&planes), Damaged),
        bad("compressed tiff whose strip is beyond its end", lzw(&[field(OFFSETS, [far])]), Damaged),
        bad("compressed tiff whose strip is 4 GiB long", lzw(&[field(LENGTHS, [u32::MAX])]), Damaged),
        bad("compressed tiff with missing strips", lzw(&[field(ROWS_PER_STRIP, [1])]), Damaged),
        bad("compressed tiff with byte counts of type ascii", lzw(&[(LENGTHS, 2, vec![4])]), Damaged),
        bad("compressed tiff with 8-byte offsets beyond its end", lzw(&[(OFFSETS, LONG8, vec![far, far])]), Damaged),
        bad(
            "compressed tiff with a missing tile",
            tiled(4, 4, 3, &png::compressed(&[7; 16]), &[field(COMPRESSION, [8])]),
            Damaged,
        ),
        bad(
            "compressed tiff with a tile of three rows",
            tiled(8, 8, 1, &png::compressed(&[7; 24]), &[field(COMPRESSION, [8])]),
            Damaged,
        ),
    ]
}

fn compression() -> Vec<BadPicture> {
    let bilevel = [field(BITS, [1])];
    let of = |number: u32, pixels: &[u8]| compressed(number, pixels, &[]);
    let fax = |number: u32, pixels: &[u8]| compressed(number, pixels, &bilevel);
    let cut = png::compressed(&[7; 64]);
    let longs = |changes: &[Field]| compressed(8, &png::compressed(&[7; 64]), changes);
    let mut all = vec![
        bad("tiff whose lzw data is empty", of(5, &[0x80, 0x40, 0x40]), Damaged),
        bad("tiff whose lzw has codes before their entries", of(5, &[0x80, 0x3f, 0xff, 0xff, 0xff]), Damaged),
        bad("tiff whose old lzw data is empty", of(5, &[0x00, 0x01]), Damaged),
        bad("tiff whose deflate data is invalid", of(8, &[0; 60]), Damaged),
        bad("tiff whose deflate data is truncated", of(8, &cut[..cut.len() / 2]), Damaged),
        bad("tiff whose deflate data ends a row early", of(8, &png::compressed(&[7; 56])), Damaged),
        bad("tiff whose old deflate data is empty", of(32_946, &png::compressed(&[])), Damaged),
        bad("tiff with only packbits no-ops", of(32_773, &[128; 100_000]), Damaged),
        bad("tiff whose packbits end within a run", of(32_773, &[130]), Damaged),
        bad("tiff whose packbits end within literals", of(32_773, &[63, 1, 2]), Damaged),
        bad("tiff whose jpeg is invalid", of(7, &[0; 60]), Damaged),
        bad("tiff whose jpeg is empty", of(7, b"\xff\xd8\xff\xd9"), Damaged),
        bad("tiff whose jpeg has a different size", of(7, super::valid::JPEG.bytes), Damaged),
        bad("tiff with predictor 3 and integers", longs(&[field(PREDICTOR, [3])]), Unsupported),
        bad("tiff with predictor 9", longs(&[field(PREDICTOR, [9])]), Unsupported),
    ];
    for (number, name) in [(2, "huffman"), (32_771, "huffman by words"), (3, "group 3"), (4, "group 4")] {
        all.push(bad(format!("tiff with {name} without codes"), fax(number, &[0; 300]), Damaged));
        all.push(bad(format!("tiff with {name} of one byte"), fax(number, &[0x35]), Damaged));
        all.push(bad(format!("tiff with {name} of 8 bits"), of(number, &[0x35; 60]), Unsupported));
    }
    all
}

fn unsupported() -> Vec<BadPicture> {
    let mut all = Vec::new();
    for (number, name) in [
        (6, "old jpeg"),
        (9, "jbig"),
        (32_809, "thunderscan"),
        (33_005, "jpeg 2000"),
        (34_676, "logluv"),
        (34_925, "lzma"),
        (50_000, "zstandard"),
        (50_001, "webp"),
        (65_000, "an unknown scheme"),
    ] {
        all.push(bad(format!("tiff with {name}"), changed(&[field(COMPRESSION, [number])]), Unsupported));
    }
    for (number, name) in [(4, "a mask"), (8, "lab"), (32_803, "sensor samples"), (32_844, "luminance")] {
        all.push(bad(format!("tiff with {name}"), changed(&[field(PHOTOMETRIC, [number])]), Unsupported));
    }
    let thumbnail = [field(254, [1]), field(MAKE, [0x6e6f6e]), field(330, [8])];
    let canon = [b"II*\0\x10\0\0\0CR\x02\0\0\0\0\0", &[0; 40][..]].concat();
    all.extend([
        bad("dng", changed(&[(50_706, 1, vec![0x0401])]), Unsupported),
        bad("nef", changed(&thumbnail), Unsupported),
        bad("cr2", canon, Unsupported),
    ]);
    all
}

/// A JPEG strip whose last scan is repeated, above or below the limit.
fn many_scans(fault: PictureFault) -> Vec<u8> {
    let times = if fault == OverLimit { 200 } else { 80 };
    let pixels = super::jpeg::repeated_scans(times);
    let sides = [field(WIDTH, [120]), field(HEIGHT, [90]), field(ROWS_PER_STRIP, [90])];
    let colours = [field(BITS, [8; 3]), field(SAMPLES, [3]), field(PHOTOMETRIC, [6])];
    compressed(7, &pixels, &[&sides[..], &colours].concat())
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    let large = [field(WIDTH, [4_000]), field(HEIGHT, [4_000]), field(ROWS_PER_STRIP, [4_000])];
    let colours = [field(BITS, [8; 3]), field(SAMPLES, [3]), field(PHOTOMETRIC, [2])];
    let mut looped = changed(&[]);
    // The next IFD is this one.
    let next = looped.len() - 4;
    looped[next..].copy_from_slice(&72u32.to_le_bytes());
    let black_row = [field(BITS, [1]), field(PHOTOMETRIC, [0])];
    let map = [field(PHOTOMETRIC, [3]), (COLOUR_MAP, SHORT, vec![0; 150_000])];
    let tiles = [&large[..2], &[field(COMPRESSION, [8])]].concat();
    vec![
        ("tiff of 4000 by 4000 from 16 KiB", compressed(8, &bomb(16), &large)),
        ("tiff with 1 GiB after its pixels", compressed(8, &bomb(1 << 10), &[])),
        ("tiff with 62500 tiles at one offset", tiled(16, 16, 62_500, &png::compressed(&[9; 256]), &tiles)),
        ("tiff of 4000 by 4000 in one tile", tiled(4_000, 4_000, 1, &bomb(16), &tiles)),
        ("tiff whose next directory is the first", looped),
        ("tiff with 3 MiB of ccitt fill bits", compressed(3, &vec![0; 3 << 20], &black_row)),
        ("tiff with 1 MiB of packbits no-ops in 4000 by 4000", compressed(32_773, &vec![128; 1 << 20], &large)),
        ("tiff with a palette of 50000 colours", changed(&map)),
        ("tiff with a jpeg of eighty scans", many_scans(Damaged)),
        ("tiff with a jpeg of two hundred scans", many_scans(OverLimit)),
        (
            "tiff of 4000 by 4000 with a too short strip",
            compressed(5, LZW_TIFF.bytes, &[&large[..], &colours].concat()),
        ),
        ("tiff whose ccitt data is a tiff", compressed(4, FAX_TIFF.bytes, &[&large[..], &black_row].concat())),
        ("tiff whose jpeg is a tiff", compressed(7, JPEG_TIFF.bytes, &large)),
    ]
}
