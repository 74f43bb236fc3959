//! AVIF: boxes that lie about lengths, items without end, tiles by the thousand, streams larger than their item.

use super::bases::AVIF;
use super::{BadPicture, Damaged, TooMuch, Unknown, bad};

/// Where the stream of the whole picture begins: it is the last box.
const STREAM: usize = 267 + 8;
/// Sides of that picture.
const SIDES: (u32, u32) = (37, 29);
/// What AV1 says of itself there.
const CONFIGURATION: &[u8] = &[0x81, 0, 0x0c, 0];
/// A frame header unit that has its length: none.
const EMPTY_FRAME: &[u8] = &[0x1a, 0];

fn part(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], kind, body].concat()
}

/// A box with a version and no flags.
fn full(kind: &[u8; 4], version: u8, body: &[u8]) -> Vec<u8> {
    part(kind, &[&[version, 0, 0, 0], body].concat())
}

fn start(brand: &[u8; 4]) -> Vec<u8> {
    part(b"ftyp", &[&brand[..], &[0; 4], b"avifmif1"].concat())
}

fn entry(id: u16, kind: &[u8; 4]) -> Vec<u8> {
    full(b"infe", 2, &[&id.to_be_bytes()[..], &[0, 0], kind, b"\0"].concat())
}

fn size(width: u32, height: u32) -> Vec<u8> {
    full(b"ispe", 0, &[width.to_be_bytes(), height.to_be_bytes()].concat())
}

/// What a file is made of.
struct File {
    primary: u16,
    entries: Vec<Vec<u8>>,
    /// Item, places of one extent each: start and length within the data.
    places: Vec<(u16, u32, u32)>,
    properties: Vec<Vec<u8>>,
    /// Item and numbers of properties.
    described: Vec<(u16, Vec<u8>)>,
    references: Vec<u8>,
    data: Vec<u8>,
}

impl File {
    /// A picture of one stream.
    fn new(stream: &[u8], (width, height): (u32, u32)) -> Self {
        Self {
            primary: 1,
            entries: vec![entry(1, b"av01")],
            places: vec![(1, 0, stream.len() as u32)],
            properties: vec![size(width, height), part(b"av1C", CONFIGURATION)],
            described: vec![(1, vec![1, 0x82])],
            references: Vec::new(),
            data: stream.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let head = start(b"avif");
        // The places depend on the length of what tells them, which is the same whatever they are.
        let length = head.len() + self.meta(0).len() + 8;
        [head, self.meta(length as u32), part(b"mdat", &self.data)].concat()
    }

    fn meta(&self, start: u32) -> Vec<u8> {
        let count = |number: usize| (number as u16).to_be_bytes();
        let entries = [&count(self.entries.len())[..], &self.entries.concat()].concat();
        let mut places = [&[0x44, 0x00][..], &count(self.places.len())].concat();
        for (id, at, length) in &self.places {
            places.extend([&id.to_be_bytes()[..], &[0, 0, 0, 1]].concat());
            places.extend([at.saturating_add(start).to_be_bytes(), length.to_be_bytes()].concat());
        }
        let mut described = (self.described.len() as u32).to_be_bytes().to_vec();
        for (id, numbers) in &self.described {
            described.extend([&id.to_be_bytes()[..], &[numbers.len() as u8], numbers].concat());
        }
        let properties = [part(b"ipco", &self.properties.concat()), full(b"ipma", 0, &described)].concat();
        let mut parts = vec![
            full(b"hdlr", 0, &[&[0; 4], &b"pict"[..], &[0; 13]].concat()),
            full(b"pitm", 0, &self.primary.to_be_bytes()),
            full(b"iinf", 0, &entries),
            full(b"iloc", 0, &places),
            part(b"iprp", &properties),
        ];
        if !self.references.is_empty() {
            parts.push(full(b"iref", 0, &self.references));
        }
        full(b"meta", 0, &parts.concat())
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

/// A grid whose tiles are all the same item, or as many as they say.
fn grid(rows: u8, columns: u8, (width, height): (u32, u32), tiles: usize) -> Vec<u8> {
    changed(|file| {
        let from = file.data.len() as u32;
        let sides = [(width as u16).to_be_bytes(), (height as u16).to_be_bytes()].concat();
        file.data.extend([&[0, 0, rows, columns][..], &sides].concat());
        file.primary = 2;
        file.entries.push(entry(2, b"grid"));
        file.places.push((2, from, 8));
        file.properties.push(size(width, height));
        file.described.push((2, vec![3]));
        let tiles = vec![[0, 1]; tiles];
        let list = [&[0, 2][..], &(tiles.len() as u16).to_be_bytes(), &tiles.concat()].concat();
        file.references = part(b"dimg", &list);
    })
}

pub(super) fn refused() -> Vec<BadPicture> {
    [sizes(), boxes(), items(), streams()].concat()
}

fn sizes() -> Vec<BadPicture> {
    let of = |width, height| File::new(stream(), (width, height)).bytes();
    let mut all: Vec<_> = [
        (60_000, 60_000, TooMuch),
        (u32::MAX, u32::MAX, TooMuch),
        (u32::MAX, 1, TooMuch),
        (100_000, 8, TooMuch),
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
        bad("avif grid of tiles too small", grid(1, 0, tall, 2), Damaged),
        bad("avif grid with a tile too few", grid(1, 0, tall, 1), Damaged),
        bad("avif grid with a tile too many", grid(1, 0, tall, 3), Damaged),
        bad("avif grid of another size than its tiles", grid(1, 0, (37, 200), 2), Damaged),
        bad("avif grid of sixty-five thousand tiles", grid(255, 255, (37 * 256, 29 * 256), 65_535), TooMuch),
        bad("avif grid without tiles", grid(0, 0, SIDES, 0), Damaged),
    ]);
    all
}

fn boxes() -> Vec<BadPicture> {
    let whole = AVIF.bytes;
    let lied = |at: usize, length: u32| [&whole[..at], &length.to_be_bytes(), &whole[at + 4..]].concat();
    let mut all = vec![
        bad("avif of nothing but its brand", start(b"avif"), Damaged),
        bad("avif without items", [start(b"avif"), part(b"mdat", stream())].concat(), Damaged),
        bad("animated avif without a movie", start(b"avis"), Damaged),
        bad("animated avif with an empty movie", [start(b"avis"), part(b"moov", b"")].concat(), Damaged),
        bad(
            "animated avif with an empty track",
            [start(b"avis"), part(b"moov", &part(b"trak", b""))].concat(),
            Damaged,
        ),
    ];
    // The boxes of the whole picture, by where they begin.
    for (at, name) in [(32, "meta"), (77, "pitm"), (91, "iloc"), (161, "iprp"), (169, "ipco"), (177, "ispe")] {
        // One means that the length follows in eight bytes.
        for length in [4, 8, 9] {
            all.push(bad(format!("avif whose {name} is {length} bytes long"), lied(at, length), Damaged));
        }
    }
    let many = part(b"free", b"").repeat(60_000);
    let meta = full(b"meta", 0, &many);
    all.push(bad("avif of empty boxes without end", [start(b"avif"), meta].concat(), TooMuch));
    all
}

fn items() -> Vec<BadPicture> {
    let far = u32::MAX - 1_000;
    let named = |kind: &[u8; 4]| changed(|file| file.entries = vec![entry(1, kind)]);
    let property = |kind: &[u8; 4], body: &[u8], must: u8| {
        let part = part(kind, body);
        changed(|file| {
            file.properties.push(part);
            file.described[0].1.push(must | 3);
        })
    };
    vec![
        bad("avif without a primary item", changed(|file| file.primary = 9), Damaged),
        bad("avif whose item is nowhere", changed(|file| file.places.clear()), Damaged),
        bad("avif whose item lies beyond its end", changed(|file| file.places[0].1 = far), Damaged),
        bad("avif whose item is 4 GiB long", changed(|file| file.places[0].2 = u32::MAX), Damaged),
        bad("avif whose item has no size", changed(|file| file.described.clear()), Damaged),
        bad("avif of sixty thousand items", changed(|file| file.entries = vec![entry(7, b"av01"); 60_000]), TooMuch),
        bad("avif of an unknown item", named(b"abcd"), Damaged),
        bad("avif of hevc", named(b"hvc1"), Unknown),
        bad("avif of jpeg 2000", named(b"j2k1"), Unknown),
        bad("avif of uncompressed samples", named(b"unci"), Unknown),
        bad("avif laid upon itself", named(b"iovl"), Unknown),
        bad("avif with a property that nobody knows", property(b"abcd", b"", 0x80), Unknown),
        bad("avif of a chosen layer", property(b"lsel", &[0, 1], 0x80), Unknown),
        bad("avif of a chosen operating point", property(b"a1op", &[3], 0x80), Unknown),
        bad("avif with matrix coefficients 14", property(b"colr", b"nclx\0\x01\0\x0d\0\x0e\x80", 0), Unknown),
    ]
}

fn streams() -> Vec<BadPicture> {
    let of = |stream: &[u8]| File::new(stream, SIDES).bytes();
    let whole = stream();
    vec![
        bad("avif of an empty stream", of(b""), Damaged),
        bad("avif of zeros", of(&[0; 300]), Damaged),
        bad("avif of ones", of(&[255; 300]), Damaged),
        bad("avif of half a stream", of(&whole[..whole.len() / 2]), Damaged),
        bad("avif of nothing but a sequence header", of(&whole[..14]), Damaged),
        bad("avif of frames that are empty", of(&[whole, &EMPTY_FRAME.repeat(3_000)].concat()), TooMuch),
        bad("avif of a stream again and again", of(&whole.repeat(40)), TooMuch),
    ]
}

pub(super) fn costly() -> Vec<(&'static str, Vec<u8>)> {
    let of = |stream: &[u8]| File::new(stream, SIDES).bytes();
    let overlapping = changed(|file| file.places = vec![(1, 0, 300); 60_000]);
    let endless = changed(|file| file.references = part(b"auxl", &[&[0, 1, 0xff, 0xff][..], &[0; 131_070]].concat()));
    vec![
        ("avif of three streams in one", of(&stream().repeat(3))),
        ("avif with a megabyte behind its stream", of(&[stream(), &[0; 1 << 20]].concat())),
        ("avif of sixty thousand places of one item", overlapping),
        ("avif of sixty-five thousand references", endless),
    ]
}
