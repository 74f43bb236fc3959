//! AVIF: false box lengths, too many items and tiles, streams that do not match their item.

use super::valid::AVIF;
use super::{BadPicture, Damaged, OverLimit, Unsupported, bad};

/// Offset of the valid picture's AV1 stream, which is in the last box.
const STREAM: usize = 267 + 8;
/// Width and height of the valid picture.
const SIDES: (u32, u32) = (37, 29);
/// The content of its av1C property.
const CONFIGURATION: &[u8] = &[0x81, 0, 0x0c, 0];
/// A frame header OBU of length 0.
const EMPTY_FRAME: &[u8] = &[0x1a, 0];

fn make_box(box_type: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], box_type, body].concat()
}

/// A `FullBox` with a version and without flags.
fn full_box(box_type: &[u8; 4], version: u8, body: &[u8]) -> Vec<u8> {
    make_box(box_type, &[&[version, 0, 0, 0], body].concat())
}

fn ftyp(brand: &[u8; 4]) -> Vec<u8> {
    make_box(b"ftyp", &[&brand[..], &[0; 4], b"avifmif1"].concat())
}

fn infe(id: u16, item_type: &[u8; 4]) -> Vec<u8> {
    full_box(b"infe", 2, &[&id.to_be_bytes()[..], &[0, 0], item_type, b"\0"].concat())
}

fn ispe(width: u32, height: u32) -> Vec<u8> {
    full_box(b"ispe", 0, &[width.to_be_bytes(), height.to_be_bytes()].concat())
}

/// The content of a file.
struct File {
    /// ID of the primary item.
    primary: u16,
    /// The boxes of iinf.
    infos: Vec<Vec<u8>>,
    /// Item ID, offset in `data` and length of one extent.
    locations: Vec<(u16, u32, u32)>,
    /// The boxes of ipco.
    properties: Vec<Vec<u8>>,
    /// Item ID and indices of its properties.
    associations: Vec<(u16, Vec<u8>)>,
    /// The content of iref.
    references: Vec<u8>,
    /// The content of mdat.
    data: Vec<u8>,
}

impl File {
    /// A picture with one stream.
    fn new(stream: &[u8], (width, height): (u32, u32)) -> Self {
        Self {
            primary: 1,
            infos: vec![infe(1, b"av01")],
            locations: vec![(1, 0, stream.len() as u32)],
            properties: vec![ispe(width, height), make_box(b"av1C", CONFIGURATION)],
            associations: vec![(1, vec![1, 0x82])],
            references: Vec::new(),
            data: stream.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let ftyp = ftyp(b"avif");
        // The offsets depend on the length of meta, which does not depend on the offsets.
        let length = ftyp.len() + self.meta(0).len() + 8;
        [ftyp, self.meta(length as u32), make_box(b"mdat", &self.data)].concat()
    }

    fn meta(&self, start: u32) -> Vec<u8> {
        let count = |number: usize| (number as u16).to_be_bytes();
        let infos = [&count(self.infos.len())[..], &self.infos.concat()].concat();
        let mut locations = [&[0x44, 0x00][..], &count(self.locations.len())].concat();
        for (id, at, length) in &self.locations {
            locations.extend([&id.to_be_bytes()[..], &[0, 0, 0, 1]].concat());
            locations.extend([at.saturating_add(start).to_be_bytes(), length.to_be_bytes()].concat());
        }
        let mut associations = (self.associations.len() as u32).to_be_bytes().to_vec();
        for (id, indices) in &self.associations {
            associations.extend([&id.to_be_bytes()[..], &[indices.len() as u8], indices].concat());
        }
        let properties = [make_box(b"ipco", &self.properties.concat()), full_box(b"ipma", 0, &associations)].concat();
        let mut boxes = vec![
            full_box(b"hdlr", 0, &[&[0; 4], &b"pict"[..], &[0; 13]].concat()),
            full_box(b"pitm", 0, &self.primary.to_be_bytes()),
            full_box(b"iinf", 0, &infos),
            full_box(b"iloc", 0, &locations),
            make_box(b"iprp", &properties),
        ];
        if !self.references.is_empty() {
            boxes.push(full_box(b"iref", 0, &self.references));
        }
        full_box(b"meta", 0, &boxes.concat())
    }
}

fn stream() -> &'static [u8] {
    &AVIF.bytes[STREAM..]
}

fn changed(change: impl FnOnce(&mut File)) -> Vec<u8> {
    let mut file = File::new(stream(), SIDES);
    change(&mut file);
    file.bytes()
}

/// A grid that refers `tiles` times to the same item.
fn grid(rows: u8, columns: u8, (width, height): (u32, u32), tiles: usize) -> Vec<u8> {
    changed(|file| {
        let from = file.data.len() as u32;
        let sides = [(width as u16).to_be_bytes(), (height as u16).to_be_bytes()].concat();
        file.data.extend([&[0, 0, rows, columns][..], &sides].concat());
        file.primary = 2;
        file.infos.push(infe(2, b"grid"));
        file.locations.push((2, from, 8));
        file.properties.push(ispe(width, height));
        file.associations.push((2, vec![3]));
        let tiles = vec![[0, 1]; tiles];
        let list = [&[0, 2][..], &(tiles.len() as u16).to_be_bytes(), &tiles.concat()].concat();
        file.references = make_box(b"dimg", &list);
    })
}

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), boxes(), items(), streams()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let of = |width, height| File::new(stream(), (width, height)).bytes();
    let mut all: Vec<_> = [
        (60_000, 60_000, OverLimit),
        (u32::MAX, u32::MAX, OverLimit),
        (u32::MAX, 1, OverLimit),
        (100_000, 8, OverLimit),
        (0, 0, Damaged),
        (0, 29, Damaged),
        (37, 0, Damaged),
        (38, 29, Damaged),
        (36, 29, Damaged),
        (1, 1, Damaged),
        (4_000, 4_000, Damaged),
    ]
    .into_iter()
    .map(|(width, height, fault)| bad(format!("avif of {width} by {height}"), of(width, height), fault))
    .collect();
    let tall = (37, 29 * 2);
    all.extend([
        bad("avif grid with too small tiles", grid(1, 0, tall, 2), Damaged),
        bad("avif grid with a missing tile", grid(1, 0, tall, 1), Damaged),
        bad("avif grid with a surplus tile", grid(1, 0, tall, 3), Damaged),
        bad("avif grid whose tiles do not cover its size", grid(1, 0, (37, 200), 2), Damaged),
        bad("avif grid of sixty-five thousand tiles", grid(255, 255, (37 * 256, 29 * 256), 65_535), OverLimit),
        bad("avif grid without tiles", grid(0, 0, SIDES, 0), Damaged),
    ]);
    all
}

fn boxes() -> Vec<BadPicture> {
    let valid = AVIF.bytes;
    let with_length = |at: usize, length: u32| [&valid[..at], &length.to_be_bytes(), &valid[at + 4..]].concat();
    let mut all = vec![
        bad("avif with only an ftyp box", ftyp(b"avif"), Damaged),
        bad("avif without items", [ftyp(b"avif"), make_box(b"mdat", stream())].concat(), Damaged),
        bad("animated avif without a movie", ftyp(b"avis"), Damaged),
        bad("animated avif with an empty movie", [ftyp(b"avis"), make_box(b"moov", b"")].concat(), Damaged),
        bad(
            "animated avif with an empty track",
            [ftyp(b"avis"), make_box(b"moov", &make_box(b"trak", b""))].concat(),
            Damaged,
        ),
    ];
    // Boxes of the valid picture and their offsets.
    for (at, name) in [(32, "meta"), (77, "pitm"), (91, "iloc"), (161, "iprp"), (169, "ipco"), (177, "ispe")] {
        // Length 1 would mean that a length of eight bytes follows.
        for length in [4, 8, 9] {
            all.push(bad(format!("avif whose {name} is {length} bytes long"), with_length(at, length), Damaged));
        }
    }
    let many = make_box(b"free", b"").repeat(60_000);
    let meta = full_box(b"meta", 0, &many);
    all.push(bad("avif with sixty thousand empty boxes", [ftyp(b"avif"), meta].concat(), OverLimit));
    all
}

fn items() -> Vec<BadPicture> {
    let far = u32::MAX - 1_000;
    let of_type = |item_type: &[u8; 4]| changed(|file| file.infos = vec![infe(1, item_type)]);
    let property = |box_type: &[u8; 4], body: &[u8], essential: u8| {
        let property = make_box(box_type, body);
        changed(|file| {
            file.properties.push(property);
            file.associations[0].1.push(essential | 3);
        })
    };
    vec![
        bad("avif without a primary item", changed(|file| file.primary = 9), Damaged),
        bad("avif whose item has no location", changed(|file| file.locations.clear()), Damaged),
        bad("avif whose item is beyond its end", changed(|file| file.locations[0].1 = far), Damaged),
        bad("avif whose item is 4 GiB long", changed(|file| file.locations[0].2 = u32::MAX), Damaged),
        bad("avif whose item has no size", changed(|file| file.associations.clear()), Damaged),
        bad("avif with sixty thousand items", changed(|file| file.infos = vec![infe(7, b"av01"); 60_000]), OverLimit),
        bad("avif with an unknown item type", of_type(b"abcd"), Damaged),
        bad("avif with an hevc item", of_type(b"hvc1"), Unsupported),
        bad("avif with a jpeg 2000 item", of_type(b"j2k1"), Unsupported),
        bad("avif with an uncompressed item", of_type(b"unci"), Unsupported),
        bad("avif with an overlay item", of_type(b"iovl"), Unsupported),
        bad("avif with an unknown essential property", property(b"abcd", b"", 0x80), Unsupported),
        bad("avif with a layer selector", property(b"lsel", &[0, 1], 0x80), Unsupported),
        bad("avif with an operating point selector", property(b"a1op", &[3], 0x80), Unsupported),
        bad("avif with matrix coefficients 14", property(b"colr", b"nclx\0\x01\0\x0d\0\x0e\x80", 0), Unsupported),
    ]
}

fn streams() -> Vec<BadPicture> {
    let of = |stream: &[u8]| File::new(stream, SIDES).bytes();
    let valid = stream();
    vec![
        bad("avif with an empty stream", of(b""), Damaged),
        bad("avif with a stream of zeros", of(&[0; 300]), Damaged),
        bad("avif with a stream of ones", of(&[255; 300]), Damaged),
        bad("avif with half a stream", of(&valid[..valid.len() / 2]), Damaged),
        bad("avif with only a sequence header", of(&valid[..14]), Damaged),
        bad("avif with three thousand empty frames", of(&[valid, &EMPTY_FRAME.repeat(3_000)].concat()), OverLimit),
        bad("avif with its stream repeated forty times", of(&valid.repeat(40)), OverLimit),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    let of = |stream: &[u8]| File::new(stream, SIDES).bytes();
    let overlapping = changed(|file| file.locations = vec![(1, 0, 300); 60_000]);
    let endless =
        changed(|file| file.references = make_box(b"auxl", &[&[0, 1, 0xff, 0xff][..], &[0; 131_070]].concat()));
    vec![
        ("avif with its stream repeated three times", of(&stream().repeat(3))),
        ("avif with a megabyte after its stream", of(&[stream(), &[0; 1 << 20]].concat())),
        ("avif with sixty thousand locations of one item", overlapping),
        ("avif with sixty-five thousand references", endless),
    ]
}
