//! A picture as its container describes it.

use std::borrow::Cow;

use image::metadata::Orientation;

use super::super::{exif, orientation};
use super::boxes::{MediaBox, Reader};
use super::cicp::Cicp;

/// Offset of the EXIF block in an Exif item, after `exif_tiff_header_offset` (ISO/IEC 23008-12, A.2.1).
const EXIF_OFFSET: usize = 4;

/// The AV1 streams of the picture's colour planes or of its alpha plane: one, or one per tile of a grid.
#[derive(Debug)]
pub(super) struct TileStreams<'a> {
    /// The streams in row-major order.
    pub(super) tiles: Vec<Cow<'a, [u8]>>,
    /// Tiles per row.
    pub(super) columns: u32,
    /// Width of a tile.
    pub(super) width: u32,
    /// Height of a tile.
    pub(super) height: u32,
}

/// A picture as its container describes it.
#[derive(Debug)]
pub(in super::super) struct Description<'a> {
    pub(in super::super) width: u32,
    pub(in super::super) height: u32,
    pub(super) colour: TileStreams<'a>,
    pub(super) alpha: Option<TileStreams<'a>>,
    pub(super) is_premultiplied: bool,
    /// From the first nclx property.
    pub(super) cicp: Option<Cicp>,
    /// Quarter turns counterclockwise, from irot.
    pub(super) rotation: Option<u8>,
    /// Axis of mirroring, from imir: 0 exchanges top and bottom, 1 left and right.
    pub(super) mirror_axis: Option<u8>,
    pub(super) exif: Option<Cow<'a, [u8]>>,
    pub(super) xmp: Option<Cow<'a, [u8]>>,
}

impl Description<'_> {
    /// Applies a property of the picture.
    pub(super) fn apply_property(&mut self, property: MediaBox) {
        let mut reader = Reader::new(property.body);
        match &property.box_type {
            b"irot" => self.rotation = reader.number(1).map(|byte| byte as u8 & 3),
            b"imir" => self.mirror_axis = reader.number(1).map(|byte| byte as u8 & 1),
            b"colr" => self.cicp = self.cicp.or_else(|| read_nclx(reader)),
            _ => {}
        }
    }

    /// The orientation, as Pillow finds it. irot and imir take precedence. Without them, an orientation in EXIF is
    /// ignored, and one in XMP is used only if EXIF has none.
    pub(super) fn orientation(&self) -> Orientation {
        let stated = match (self.rotation, self.mirror_axis) {
            (Some(1), None) => 8,
            (Some(1), Some(0)) => 5,
            (Some(1), Some(_)) => 7,
            (Some(2), None) => 3,
            (Some(2), Some(0)) => 2,
            (Some(2), Some(_)) => 4,
            (Some(3), None) => 6,
            (Some(3), Some(0)) => 7,
            (Some(3), Some(_)) => 5,
            (_, Some(0)) => 4,
            (_, Some(_)) => 2,
            _ => exif::UPRIGHT,
        };
        if stated != exif::UPRIGHT {
            return Orientation::from_exif(stated).unwrap_or(Orientation::NoTransforms);
        }
        let exif_orientation = |item: &Cow<'_, [u8]>| item.get(EXIF_OFFSET..).and_then(exif::orientation);
        if self.exif.as_ref().and_then(exif_orientation).is_some() {
            return Orientation::NoTransforms;
        }
        orientation::of_metadata(None, self.xmp.as_deref())
    }
}

/// Reads a colr property; `None` unless its type is nclx.
fn read_nclx(mut reader: Reader) -> Option<Cicp> {
    if &reader.box_type()? != b"nclx" {
        return None;
    }
    let primaries = reader.number(2)? as u16;
    reader.number(2)?;
    let matrix = reader.number(2)? as u16;
    Some(Cicp { primaries, matrix, is_full_range: reader.number(1)? & 0x80 != 0 })
}
