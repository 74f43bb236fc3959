//! Reads the description of a file's picture from its boxes (ISO/IEC 14496-12, ISO/IEC 23008-12).

use std::borrow::Cow;

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::limits::check_count;
use super::boxes::{MediaBox, Reader, find, full_box};
use super::description::{Description, TileStreams};
use super::error::{damaged, unsupported};
use super::items::{Item, Items};
use super::tracks;

/// Maximum number of tiles in a grid. Cameras and encoders write tiles of at least 256×256 pixels.
const MAX_TILES: u64 = 4_096;
/// Maximum number of auxiliary images that are searched for alpha. Others are depth and what cameras add.
const MAX_AUXILIARY: usize = 64;
/// Essential properties that do not prevent decoding.
const SUPPORTED_PROPERTIES: [&[u8; 4]; 13] = [
    b"av1C", b"ispe", b"pixi", b"colr", b"auxC", b"irot", b"imir", b"clap", b"pasp", b"clli", b"mdcv", b"a1lx", b"rloc",
];
/// Types of auxiliary images that are alpha.
const ALPHA_TYPES: [&[u8]; 2] = [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
const XMP_TYPE: &[u8] = b"application/rdf+xml";

/// Whether the brands of a file state that it is AVIF.
pub(in super::super) fn is_avif(file: &[u8]) -> bool {
    let Some(brands) = brands(file) else { return false };
    let major = brands.first().copied().unwrap_or_default();
    let is_avif_brand = |brand: &[u8; 4]| matches!(brand, b"avif" | b"avis");
    is_avif_brand(&major) || (matches!(&major, b"mif1" | b"msf1") && brands.iter().any(is_avif_brand))
}

/// The major brand and the compatible brands; `None` if the file does not start with an ftyp box.
fn brands(file: &[u8]) -> Option<Vec<[u8; 4]>> {
    if file.get(4..8)? != b"ftyp" {
        return None;
    }
    let mut reader = Reader::new(find(file, b"ftyp")?);
    let major = reader.box_type()?;
    reader.number(4)?;
    Some([&[major], &reader.rest().as_chunks::<4>().0[..reader.rest().len().min(4_000) / 4]].concat())
}

impl<'a> Description<'a> {
    /// Reads the description of the primary item or, in an image sequence, of the first track.
    pub(in super::super) fn read(file: &'a [u8]) -> Result<Self, ImageError> {
        let is_sequence = brands(file).is_some_and(|brands| brands.first() == Some(b"avis"));
        if let Some(movie) = find(file, b"moov").filter(|_| is_sequence) {
            return tracks::describe(file, movie);
        }
        let meta = find(file, b"meta").ok_or_else(|| damaged("it has no meta box"))?;
        Self::from_items(&Items::read(file, meta)?)
    }

    fn from_items(items: &Items<'a>) -> Result<Self, ImageError> {
        let primary = items.get(items.primary).ok_or_else(|| damaged("it has no primary item"))?;
        let (width, height) = size(items, primary)?;
        let colour = tile_streams(items, items.primary, primary)?;
        let is_alpha = |item: &Item| {
            items.properties(item).any(|(property, _)| {
                let urn = full_box(property.body).map(|(_, _, mut reader)| reader.c_string()).unwrap_or_default();
                &property.box_type == b"auxC" && ALPHA_TYPES.contains(&urn)
            })
        };
        let alpha_of = |id: u32| {
            items.referring(b"auxl", id).take(MAX_AUXILIARY).find(|one| items.get(*one).is_some_and(is_alpha))
        };
        let alpha_id = alpha_of(items.primary);
        if alpha_id.is_none() && items.referred(b"dimg", items.primary).take(8).any(|tile| alpha_of(tile).is_some()) {
            return Err(unsupported("whose tiles have separate alpha images"));
        }
        let alpha = alpha_id.and_then(|id| Some((id, items.get(id)?)));
        let alpha = match alpha {
            Some((_, item)) if size(items, item)? != (width, height) => {
                return Err(damaged("its alpha has a different size"));
            }
            Some((id, item)) => Some(tile_streams(items, id, item)?),
            None => None,
        };
        let mut description = Self {
            width,
            height,
            colour,
            alpha,
            is_premultiplied: alpha_id.is_some_and(|id| items.referred(b"prem", items.primary).any(|one| one == id)),
            cicp: None,
            rotation: None,
            mirror_axis: None,
            exif: None,
            xmp: None,
        };
        items.properties(primary).for_each(|(property, _)| description.apply_property(property));
        for id in items.referring(b"cdsc", items.primary) {
            let Some(item) = items.get(id) else { continue };
            // Metadata that cannot be read is ignored.
            match &item.item_type {
                b"Exif" => description.exif = items.bytes(item).ok(),
                b"mime" if item.content_type == XMP_TYPE => description.xmp = items.bytes(item).ok(),
                _ => {}
            }
        }
        Ok(description)
    }
}

/// Width and height from an item's ispe property.
fn size(items: &Items, item: &Item) -> Result<(u32, u32), ImageError> {
    let ispe = items.properties(item).find(|(property, _)| &property.box_type == b"ispe").map(|(property, _)| property);
    let read = |property: MediaBox| {
        let (_, _, mut reader) = full_box(property.body)?;
        Some((reader.number(4)? as u32, reader.number(4)? as u32))
    };
    ispe.and_then(read).ok_or_else(|| damaged("an item has no ispe property"))
}

/// The streams of an item: its own, or those of its tiles if it is a grid (ISO/IEC 23008-12, 6.6.2.3).
fn tile_streams<'a>(items: &Items<'a>, id: u32, item: &Item) -> Result<TileStreams<'a>, ImageError> {
    let (width, height) = size(items, item)?;
    if &item.item_type != b"grid" {
        return Ok(TileStreams { tiles: vec![stream(items, item)?], columns: 1, width, height });
    }
    check_properties(items, item)?;
    let too_short = || damaged("its grid item is too short");
    let bytes = items.bytes(item)?;
    let mut reader = Reader::new(&bytes);
    reader.number(1).ok_or_else(too_short)?;
    let field_size = if reader.number(1).ok_or_else(too_short)? & 1 == 1 { 4 } else { 2 };
    let mut number = |bytes| reader.number(bytes).ok_or_else(too_short);
    let (rows, columns) = (number(1)? + 1, number(1)? + 1);
    if (number(field_size)?, number(field_size)?) != (width.into(), height.into()) {
        return Err(damaged("its grid and its ispe property have different sizes"));
    }
    check_count(PictureFormat::Avif, "tiles", rows * columns, MAX_TILES)?;
    let (mut tiles, mut tile_size, mut total_length) = (Vec::new(), None, 0);
    for id in items.referred(b"dimg", id).take(MAX_TILES as usize + 1) {
        let tile = items.get(id).ok_or_else(|| damaged("a tile of its grid is missing"))?;
        let one = size(items, tile)?;
        if *tile_size.get_or_insert(one) != one {
            return Err(damaged("its tiles have different sizes"));
        }
        let stream = stream(items, tile)?;
        total_length += stream.len();
        if total_length > items.file_length() {
            return Err(damaged("its tiles overlap in the file"));
        }
        tiles.push(stream);
    }
    let (tile_width, tile_height) = tile_size.unwrap_or_default();
    let covers = |side: u32, count: u64, tile: u32| {
        let total = count * u64::from(tile);
        tile > 0 && total >= u64::from(side) && total - u64::from(tile) < u64::from(side)
    };
    if tiles.len() as u64 != rows * columns || !covers(width, columns, tile_width) || !covers(height, rows, tile_height)
    {
        return Err(damaged("its tiles do not cover its size"));
    }
    Ok(TileStreams { tiles, columns: columns as u32, width: tile_width, height: tile_height })
}

/// The AV1 stream of an item.
fn stream<'a>(items: &Items<'a>, item: &Item) -> Result<Cow<'a, [u8]>, ImageError> {
    match &item.item_type {
        b"av01" => {}
        b"hvc1" | b"hev1" => return Err(ImageError::UnsupportedFormat { name: "a HEIC (HEIF) file" }),
        b"jpeg" | b"j2k1" | b"avc1" | b"unci" | b"vvc1" | b"iden" | b"iovl" => {
            return Err(ImageError::UnsupportedFormat { name: "a HEIF file that is not AVIF" });
        }
        _ => return Err(damaged("an item has an unknown type")),
    }
    check_properties(items, item)?;
    items.bytes(item)
}

/// Checks that no essential property of an item is unsupported.
fn check_properties(items: &Items, item: &Item) -> Result<(), ImageError> {
    for (property, is_essential) in items.properties(item) {
        let name = String::from_utf8_lossy(&property.box_type).escape_default().to_string();
        match &property.box_type {
            // Operating point 0 and all layers are decoded anyway.
            b"a1op" if property.body == [0] => {}
            b"lsel" if property.body == [0xff, 0xff] => {}
            b"a1op" | b"lsel" => return Err(unsupported(format!("with several layers ({name})"))),
            box_type if is_essential && !SUPPORTED_PROPERTIES.contains(&box_type) => {
                return Err(unsupported(format!("with the essential property {name}")));
            }
            _ => {}
        }
    }
    Ok(())
}
