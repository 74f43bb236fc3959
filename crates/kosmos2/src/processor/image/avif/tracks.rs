//! Image sequences: the first sample of the colour track and of its alpha track.

use std::borrow::Cow;

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::limits::{MAX_PARTS, check_count};
use super::boxes::{Reader, boxes, find, full_box};
use super::description::{Description, TileStreams};
use super::error::damaged;

/// Size of the fields of a visual sample entry, before its boxes.
const VISUAL_SAMPLE_ENTRY: usize = 78;

struct Track<'a> {
    id: u64,
    size: (u32, u32),
    /// ID of the track whose alpha this is (auxl).
    auxiliary_for: Option<u64>,
    /// ID of the track that the colours are premultiplied by (prem).
    premultiplied_by: Option<u64>,
    /// Boxes of the sample entry.
    properties: &'a [u8],
    first_sample: &'a [u8],
}

/// Reads the description from the body of the moov box.
pub(super) fn describe<'a>(file: &'a [u8], movie: &'a [u8]) -> Result<Description<'a>, ImageError> {
    let mut tracks = Vec::new();
    for (count, one) in boxes(movie).enumerate() {
        check_count(PictureFormat::Avif, "boxes", count as u64, MAX_PARTS)?;
        if &one.box_type == b"trak" {
            // Tracks of other media, such as sound, are ignored.
            tracks.extend(track(file, one.body));
        }
    }
    let colour = tracks.iter().find(|track| track.auxiliary_for.is_none());
    let colour = colour.ok_or_else(|| damaged("it has no AV1 track"))?;
    let alpha = tracks.iter().find(|track| track.auxiliary_for == Some(colour.id));
    if alpha.is_some_and(|alpha| alpha.size != colour.size) {
        return Err(damaged("its alpha has a different size"));
    }
    let streams = |track: &Track<'a>| TileStreams {
        tiles: vec![Cow::Borrowed(track.first_sample)],
        columns: 1,
        width: track.size.0,
        height: track.size.1,
    };
    let mut description = Description {
        width: colour.size.0,
        height: colour.size.1,
        colour: streams(colour),
        alpha: alpha.map(streams),
        is_premultiplied: alpha.is_some_and(|alpha| colour.premultiplied_by == Some(alpha.id)),
        cicp: None,
        rotation: None,
        mirror_axis: None,
        exif: None,
        xmp: None,
    };
    boxes(colour.properties).take(MAX_PARTS as usize).for_each(|one| description.apply_property(one));
    Ok(description)
}

/// Reads the body of a trak box; `None` if it is not an AV1 track or is incomplete.
fn track<'a>(file: &'a [u8], body: &'a [u8]) -> Option<Track<'a>> {
    let (version, _, mut header) = full_box(find(body, b"tkhd")?)?;
    let time_size = if version == 1 { 8 } else { 4 };
    header.bytes(2 * time_size)?;
    let id = header.number(4)?;
    // Skip to width and height, which are 16.16 fixed-point numbers.
    header.bytes(4 + time_size + 8 + 8 + 36)?;
    let size = ((header.number(4)? >> 16) as u32, (header.number(4)? >> 16) as u32);
    let table = find(find(find(body, b"mdia")?, b"minf")?, b"stbl")?;
    let (_, _, mut descriptions) = full_box(find(table, b"stsd")?)?;
    descriptions.number(4)?;
    let entry = find(descriptions.rest(), b"av01")?;
    let reference = |reference_type: &[u8; 4]| Reader::new(find(find(body, b"tref")?, reference_type)?).number(4);
    let first_sample = first_sample(file, table)?;
    Some(Track {
        id,
        size,
        auxiliary_for: reference(b"auxl"),
        premultiplied_by: reference(b"prem"),
        properties: entry.get(VISUAL_SAMPLE_ENTRY..)?,
        first_sample,
    })
}

/// The first sample: at the first chunk offset, with the first sample size.
fn first_sample<'a>(file: &'a [u8], table: &'a [u8]) -> Option<&'a [u8]> {
    let offset = |box_type: &[u8; 4], size| {
        let (_, _, mut reader) = full_box(find(table, box_type)?)?;
        reader.number(4)?;
        reader.number(size)
    };
    let start = usize::try_from(offset(b"stco", 4).or_else(|| offset(b"co64", 8))?).ok()?;
    let (_, _, mut sizes) = full_box(find(table, b"stsz")?)?;
    let (common_size, count) = (sizes.number(4)?, sizes.number(4)?);
    let length = if common_size == 0 && count > 0 { sizes.number(4)? } else { common_size };
    file.get(start..start.checked_add(usize::try_from(length).ok()?)?)
}
