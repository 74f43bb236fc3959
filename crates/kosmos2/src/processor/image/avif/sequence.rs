//! Animated files: of their tracks the first sample of colours and, where there is one, of opacity.

use std::borrow::Cow;

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::{MAX_PARTS, check_count};
use super::boxes::{Reader, first, full, parts};
use super::container::{Description, Layer};
use super::damaged;

/// What stands in a sample's description before its own boxes.
const VISUAL_ENTRY: usize = 78;

struct Track<'a> {
    id: u64,
    size: (u32, u32),
    /// The track whose opacity it is.
    auxiliary_for: Option<u64>,
    /// The track that its colours are multiplied with.
    multiplied_by: Option<u64>,
    /// Boxes that describe its samples.
    properties: &'a [u8],
    sample: &'a [u8],
}

pub(super) fn read<'a>(file: &'a [u8], movie: &'a [u8]) -> Result<Description<'a>, ImageError> {
    let mut tracks = Vec::new();
    for (count, part) in parts(movie).enumerate() {
        check_count(PictureFormat::Avif, "boxes", count as u64, MAX_PARTS)?;
        if &part.kind == b"trak" {
            // Tracks of other kinds, sound say, are passed over.
            tracks.extend(track(file, part.body));
        }
    }
    let colour = tracks.iter().find(|track| track.auxiliary_for.is_none());
    let colour = colour.ok_or_else(|| damaged("it has no track of AV1 pictures"))?;
    let alpha = tracks.iter().find(|track| track.auxiliary_for == Some(colour.id));
    if alpha.is_some_and(|alpha| alpha.size != colour.size) {
        return Err(damaged("its opacity has another size"));
    }
    let layer = |track: &Track<'a>| Layer {
        tiles: vec![Cow::Borrowed(track.sample)],
        columns: 1,
        width: track.size.0,
        height: track.size.1,
    };
    let mut found = Description {
        width: colour.size.0,
        height: colour.size.1,
        colour: layer(colour),
        alpha: alpha.map(layer),
        is_premultiplied: alpha.is_some_and(|alpha| colour.multiplied_by == Some(alpha.id)),
        colours: None,
        turns: None,
        mirror: None,
        exif: None,
        xmp: None,
    };
    parts(colour.properties).take(MAX_PARTS as usize).for_each(|part| found.apply(part));
    Ok(found)
}

/// A track of AV1 samples; `None` where it is none or cannot be read.
fn track<'a>(file: &'a [u8], body: &'a [u8]) -> Option<Track<'a>> {
    let (version, _, mut header) = full(first(body, b"tkhd")?)?;
    let wide = if version == 1 { 8 } else { 4 };
    header.bytes(2 * wide)?;
    let id = header.number(4)?;
    // Up to the size, which is in fixed point.
    header.bytes(4 + wide + 8 + 8 + 36)?;
    let size = ((header.number(4)? >> 16) as u32, (header.number(4)? >> 16) as u32);
    let table = first(first(first(body, b"mdia")?, b"minf")?, b"stbl")?;
    let (_, _, mut descriptions) = full(first(table, b"stsd")?)?;
    descriptions.number(4)?;
    let entry = first(descriptions.rest(), b"av01")?;
    let refers = |kind: &[u8; 4]| Reader::new(first(first(body, b"tref")?, kind)?).number(4);
    let sample = first_sample(file, table)?;
    Some(Track {
        id,
        size,
        auxiliary_for: refers(b"auxl"),
        multiplied_by: refers(b"prem"),
        properties: entry.get(VISUAL_ENTRY..)?,
        sample,
    })
}

fn first_sample<'a>(file: &'a [u8], table: &'a [u8]) -> Option<&'a [u8]> {
    let place = |kind: &[u8; 4], wide| {
        let (_, _, mut reader) = full(first(table, kind)?)?;
        reader.number(4)?;
        reader.number(wide)
    };
    let start = usize::try_from(place(b"stco", 4).or_else(|| place(b"co64", 8))?).ok()?;
    let (_, _, mut sizes) = full(first(table, b"stsz")?)?;
    let (common, count) = (sizes.number(4)?, sizes.number(4)?);
    let length = if common == 0 && count > 0 { sizes.number(4)? } else { common };
    file.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}
