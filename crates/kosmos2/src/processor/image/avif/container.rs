//! What a file says of its picture: size, streams, tiles, opacity, colours and how to turn it.

use std::borrow::Cow;

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::check_count;
use super::boxes::{Part, Reader, first, full};
use super::items::{Item, Items};
use super::sequence;
use super::{damaged, unsupported};

/// Most tiles of a grid. Cameras and encoders write tiles of at least 256 by 256 pixels.
const MAX_TILES: u64 = 4_096;
/// Most auxiliary pictures of one that are looked at: opacity, depth, and what cameras add.
const MAX_AUXILIARY: usize = 64;
/// Properties that may have to be understood.
const UNDERSTOOD: [&[u8; 4]; 13] = [
    b"av1C", b"ispe", b"pixi", b"colr", b"auxC", b"irot", b"imir", b"clap", b"pasp", b"clli", b"mdcv", b"a1lx", b"rloc",
];
const ALPHA: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
const XMP: &[u8] = b"application/rdf+xml";

/// The colours of a picture in the numbers of the standard on code points (H.273).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colours {
    pub(super) primaries: u16,
    pub(super) matrix: u16,
    pub(super) is_full_range: bool,
}

/// One or several AV1 streams that make a plane, or planes, of the picture.
#[derive(Debug)]
pub(super) struct Layer<'a> {
    /// From left to right and from top to bottom.
    pub(super) tiles: Vec<Cow<'a, [u8]>>,
    pub(super) columns: u32,
    /// Size of a tile.
    pub(super) width: u32,
    pub(super) height: u32,
}

/// A picture as its container describes it.
#[derive(Debug)]
pub(in super::super) struct Description<'a> {
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(super) colour: Layer<'a>,
    pub(super) alpha: Option<Layer<'a>>,
    pub(super) is_premultiplied: bool,
    pub(super) colours: Option<Colours>,
    /// Quarter turns against the clock, and the axis to mirror at.
    pub(super) turns: Option<u8>,
    pub(super) mirror: Option<u8>,
    pub(super) exif: Option<Cow<'a, [u8]>>,
    pub(super) xmp: Option<Cow<'a, [u8]>>,
}

/// Whether a file of boxes says that it holds AV1.
pub(in super::super) fn is_avif(file: &[u8]) -> bool {
    let Some(brands) = brands(file) else { return false };
    let main = brands.first().copied().unwrap_or_default();
    let is_ours = |brand: &[u8; 4]| matches!(brand, b"avif" | b"avis");
    is_ours(&main) || (matches!(&main, b"mif1" | b"msf1") && brands.iter().any(is_ours))
}

/// The main brand, then those behind the version.
fn brands(file: &[u8]) -> Option<Vec<[u8; 4]>> {
    if file.get(4..8)? != b"ftyp" {
        return None;
    }
    let mut reader = Reader::new(first(file, b"ftyp")?);
    let main = reader.kind()?;
    reader.number(4)?;
    Some([&[main], &reader.rest().as_chunks::<4>().0[..reader.rest().len().min(4_000) / 4]].concat())
}

impl<'a> Description<'a> {
    pub(in super::super) fn read(file: &'a [u8]) -> Result<Self, ImageError> {
        let is_sequence = brands(file).is_some_and(|brands| brands.first() == Some(b"avis"));
        if let Some(movie) = first(file, b"moov").filter(|_| is_sequence) {
            return sequence::read(file, movie);
        }
        let meta = first(file, b"meta").ok_or_else(|| damaged("it describes no items"))?;
        Self::of_items(&Items::read(file, meta)?)
    }

    fn of_items(items: &Items<'a>) -> Result<Self, ImageError> {
        let primary = items.get(items.primary).ok_or_else(|| damaged("it has no primary item"))?;
        let (width, height) = size(items, primary)?;
        let colour = layer(items, items.primary, primary)?;
        let is_alpha = |item: &Item| {
            items.properties(item).any(|(part, _)| {
                let urn = full(part.body).map(|(_, _, mut reader)| reader.text()).unwrap_or_default();
                &part.kind == b"auxC" && ALPHA.contains(&urn)
            })
        };
        let alpha_of = |id: u32| {
            items.referring(b"auxl", id).take(MAX_AUXILIARY).find(|one| items.get(*one).is_some_and(is_alpha))
        };
        let alpha_id = alpha_of(items.primary);
        if alpha_id.is_none() && items.referred(b"dimg", items.primary).take(8).any(|tile| alpha_of(tile).is_some()) {
            return Err(unsupported("whose tiles have opacity of their own"));
        }
        let alpha = alpha_id.and_then(|id| Some((id, items.get(id)?)));
        let alpha = match alpha {
            Some((_, item)) if size(items, item)? != (width, height) => {
                return Err(damaged("its opacity has another size"));
            }
            Some((id, item)) => Some(layer(items, id, item)?),
            None => None,
        };
        let mut found = Self {
            width,
            height,
            colour,
            alpha,
            is_premultiplied: alpha_id.is_some_and(|id| items.referred(b"prem", items.primary).any(|one| one == id)),
            colours: None,
            turns: None,
            mirror: None,
            exif: None,
            xmp: None,
        };
        items.properties(primary).for_each(|(part, _)| found.apply(part));
        for id in items.referring(b"cdsc", items.primary) {
            let Some(item) = items.get(id) else { continue };
            // Metadata that cannot be read make no difference to the pixels.
            match &item.kind {
                b"Exif" => found.exif = items.bytes(item).ok(),
                b"mime" if item.content_type == XMP => found.xmp = items.bytes(item).ok(),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Takes over what a property says of the whole picture.
    pub(super) fn apply(&mut self, part: Part) {
        let mut reader = Reader::new(part.body);
        match &part.kind {
            b"irot" => self.turns = reader.number(1).map(|byte| byte as u8 & 3),
            b"imir" => self.mirror = reader.number(1).map(|byte| byte as u8 & 1),
            b"colr" => self.colours = self.colours.or_else(|| colours(reader)),
            _ => {}
        }
    }
}

fn colours(mut reader: Reader) -> Option<Colours> {
    if &reader.kind()? != b"nclx" {
        return None;
    }
    let primaries = reader.number(2)? as u16;
    reader.number(2)?;
    let matrix = reader.number(2)? as u16;
    Some(Colours { primaries, matrix, is_full_range: reader.number(1)? & 0x80 != 0 })
}

/// Width and height that an item's properties tell.
fn size(items: &Items, item: &Item) -> Result<(u32, u32), ImageError> {
    let part = items.properties(item).find(|(part, _)| &part.kind == b"ispe").map(|(part, _)| part);
    let read = |part: Part| {
        let (_, _, mut reader) = full(part.body)?;
        Some((reader.number(4)? as u32, reader.number(4)? as u32))
    };
    part.and_then(read).ok_or_else(|| damaged("an item tells no size"))
}

fn layer<'a>(items: &Items<'a>, id: u32, item: &Item) -> Result<Layer<'a>, ImageError> {
    let (width, height) = size(items, item)?;
    if &item.kind != b"grid" {
        return Ok(Layer { tiles: vec![stream(items, item)?], columns: 1, width, height });
    }
    check_properties(items, item)?;
    let cut = || damaged("the description of its tiles ends too early");
    let bytes = items.bytes(item)?;
    let mut reader = Reader::new(&bytes);
    reader.number(1).ok_or_else(cut)?;
    let wide = if reader.number(1).ok_or_else(cut)? & 1 == 1 { 4 } else { 2 };
    let mut number = |bytes| reader.number(bytes).ok_or_else(cut);
    let (rows, columns) = (number(1)? + 1, number(1)? + 1);
    if (number(wide)?, number(wide)?) != (width.into(), height.into()) {
        return Err(damaged("its tiles make another size"));
    }
    check_count(PictureFormat::Avif, "tiles", rows * columns, MAX_TILES)?;
    let (mut tiles, mut tile_size, mut length) = (Vec::new(), None, 0);
    for id in items.referred(b"dimg", id).take(MAX_TILES as usize + 1) {
        let tile = items.get(id).ok_or_else(|| damaged("a tile is not there"))?;
        let one = size(items, tile)?;
        if *tile_size.get_or_insert(one) != one {
            return Err(damaged("its tiles have different sizes"));
        }
        let stream = stream(items, tile)?;
        length += stream.len();
        if length > items.length() {
            return Err(damaged("its tiles lie in each other's place"));
        }
        tiles.push(stream);
    }
    let (tile_width, tile_height) = tile_size.unwrap_or_default();
    let fills = |side: u32, count: u64, tile: u32| {
        let all = count * u64::from(tile);
        tile > 0 && all >= u64::from(side) && all - u64::from(tile) < u64::from(side)
    };
    if tiles.len() as u64 != rows * columns || !fills(width, columns, tile_width) || !fills(height, rows, tile_height) {
        return Err(damaged("its tiles do not fill it"));
    }
    Ok(Layer { tiles, columns: columns as u32, width: tile_width, height: tile_height })
}

/// The AV1 stream of an item.
fn stream<'a>(items: &Items<'a>, item: &Item) -> Result<Cow<'a, [u8]>, ImageError> {
    match &item.kind {
        b"av01" => {}
        b"hvc1" | b"hev1" => return Err(ImageError::UnsupportedFormat { name: "a HEIC (HEIF) file" }),
        b"jpeg" | b"j2k1" | b"avc1" | b"unci" | b"vvc1" | b"iden" | b"iovl" => {
            return Err(ImageError::UnsupportedFormat { name: "a HEIF file that is not AVIF" });
        }
        _ => return Err(damaged("an item is of no known kind")),
    }
    check_properties(items, item)?;
    items.bytes(item)
}

/// Holds what has to be understood against what is.
fn check_properties(items: &Items, item: &Item) -> Result<(), ImageError> {
    for (part, must) in items.properties(item) {
        let kind = String::from_utf8_lossy(&part.kind).into_owned();
        match &part.kind {
            // The first operating point and all layers are what is decoded anyway.
            b"a1op" if part.body == [0] => {}
            b"lsel" if part.body == [0xff, 0xff] => {}
            b"a1op" | b"lsel" => return Err(unsupported(format!("of several layers ({kind})"))),
            kind if must && !UNDERSTOOD.contains(&kind) => {
                let kind = String::from_utf8_lossy(kind).escape_default().to_string();
                return Err(unsupported(format!("with the property {kind}")));
            }
            _ => {}
        }
    }
    Ok(())
}
