//! The items of a file, their properties, and the references between them (ISO/IEC 14496-12, 8.11).

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::error::ImageError;
use super::super::format::PictureFormat;
use super::super::limits::{MAX_PARTS, check_count};
use super::boxes::{MediaBox, Reader, boxes, find, full_box};
use super::error::damaged;

/// An item.
#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    pub(super) item_type: [u8; 4],
    /// Content type of a mime item.
    pub(super) content_type: Vec<u8>,
    /// Whether its extents are in the idat box instead of the file.
    is_in_idat: bool,
    base_offset: u64,
    /// Offset and length of each extent; length 0 means up to the end.
    extents: Vec<(u64, u64)>,
    /// Index of each property, from 1, and whether it is essential.
    properties: Vec<(usize, bool)>,
}

/// All items of a file.
#[derive(Debug, Default)]
pub(super) struct Items<'a> {
    file: &'a [u8],
    idat: &'a [u8],
    /// ID of the primary item.
    pub(super) primary: u32,
    items: BTreeMap<u32, Item>,
    properties: Vec<MediaBox<'a>>,
    /// Reference type, ID of the referring item, ID of the item referred to.
    references: Vec<([u8; 4], u32, u32)>,
    /// Number of boxes, items, extents, properties and references that were read.
    parts: u64,
}

impl<'a> Items<'a> {
    /// Reads the body of the meta box.
    pub(super) fn read(file: &'a [u8], meta: &'a [u8]) -> Result<Self, ImageError> {
        let incomplete = || damaged("its meta box is incomplete");
        let (_, _, meta) = full_box(meta).ok_or_else(incomplete)?;
        let mut items = Self { file, ..Self::default() };
        for one in boxes(meta.rest()) {
            items.count();
            let read = match &one.box_type {
                b"pitm" => items.read_primary(one.body),
                b"idat" => {
                    items.idat = one.body;
                    Some(())
                }
                b"iinf" => items.read_infos(one.body),
                b"iloc" => items.read_locations(one.body),
                b"iref" => items.read_references(one.body),
                b"iprp" => items.read_properties(one.body),
                _ => Some(()),
            };
            read.ok_or_else(incomplete)?;
            check_count(PictureFormat::Avif, "boxes, items and references", items.parts, MAX_PARTS)?;
        }
        Ok(items)
    }

    /// Counts a part; whether the limit on all parts together still holds.
    fn count(&mut self) -> bool {
        self.parts += 1;
        self.parts <= MAX_PARTS
    }

    /// pitm.
    fn read_primary(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, mut reader) = full_box(body)?;
        self.primary = reader.number(if version == 0 { 2 } else { 4 })? as u32;
        Some(())
    }

    /// iinf.
    fn read_infos(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, mut reader) = full_box(body)?;
        reader.number(if version == 0 { 2 } else { 4 })?;
        for one in boxes(reader.rest()).filter(|one| &one.box_type == b"infe") {
            if !self.count() {
                break;
            }
            let (version, _, mut reader) = full_box(one.body)?;
            if version < 2 {
                continue;
            }
            let id = reader.number(if version == 2 { 2 } else { 4 })? as u32;
            reader.number(2)?;
            let item_type = reader.box_type()?;
            // The item's name.
            reader.c_string();
            let content_type = if &item_type == b"mime" { reader.c_string() } else { b"" };
            let item = self.items.entry(id).or_default();
            item.item_type = item_type;
            item.content_type = content_type.to_vec();
        }
        Some(())
    }

    /// iloc.
    fn read_locations(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, mut reader) = full_box(body)?;
        let (first, second) = (reader.number(1)? as usize, reader.number(1)? as usize);
        let (offset_size, length_size, base_size) = (first >> 4, first & 15, second >> 4);
        let index_size = if version > 0 { second & 15 } else { 0 };
        if [offset_size, length_size, base_size, index_size].iter().any(|size| !matches!(size, 0 | 4 | 8)) {
            return None;
        }
        let id_size = if version < 2 { 2 } else { 4 };
        for _ in 0..reader.number(id_size)? {
            if !self.count() {
                break;
            }
            let id = reader.number(id_size)? as u32;
            let is_in_idat = version > 0 && reader.number(2)? & 15 == 1;
            reader.number(2)?;
            let base_offset = reader.number(base_size)?;
            let extents = reader.number(2)?;
            let mut item = Item { is_in_idat, base_offset, ..self.items.remove(&id).unwrap_or_default() };
            item.extents.clear();
            for _ in 0..extents {
                if !self.count() {
                    break;
                }
                reader.number(index_size)?;
                item.extents.push((reader.number(offset_size)?, reader.number(length_size)?));
            }
            self.items.insert(id, item);
        }
        Some(())
    }

    /// iref.
    fn read_references(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, reader) = full_box(body)?;
        let id_size = if version == 0 { 2 } else { 4 };
        for one in boxes(reader.rest()) {
            let mut reader = Reader::new(one.body);
            let from = reader.number(id_size)? as u32;
            for _ in 0..reader.number(2)? {
                if !self.count() {
                    return Some(());
                }
                self.references.push((one.box_type, from, reader.number(id_size)? as u32));
            }
        }
        Some(())
    }

    /// iprp.
    fn read_properties(&mut self, body: &'a [u8]) -> Option<()> {
        for one in boxes(find(body, b"ipco")?) {
            if !self.count() {
                return Some(());
            }
            self.properties.push(one);
        }
        for one in boxes(body).filter(|one| &one.box_type == b"ipma") {
            let (version, flags, mut reader) = full_box(one.body)?;
            let index_size = if flags & 1 == 1 { 2 } else { 1 };
            for _ in 0..reader.number(4)? {
                let id = reader.number(if version == 0 { 2 } else { 4 })? as u32;
                for _ in 0..reader.number(1)? {
                    if !self.count() {
                        return Some(());
                    }
                    let value = reader.number(index_size)? as usize;
                    let essential = 1 << (index_size * 8 - 1);
                    let property = (value & (essential - 1), value & essential != 0);
                    self.items.entry(id).or_default().properties.push(property);
                }
            }
        }
        Some(())
    }

    /// Bytes of the file.
    pub(super) fn file_length(&self) -> usize {
        self.file.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Item> {
        self.items.get(&id)
    }

    /// The properties of an item, and whether each is essential.
    pub(super) fn properties(&self, item: &Item) -> impl Iterator<Item = (MediaBox<'a>, bool)> {
        let existing =
            |(index, is_essential): &(usize, bool)| Some((*self.properties.get(index.checked_sub(1)?)?, *is_essential));
        item.properties.iter().filter_map(existing)
    }

    /// IDs of the items that an item refers to by a type of reference, in order.
    pub(super) fn referred(&self, reference_type: &[u8; 4], from: u32) -> impl Iterator<Item = u32> {
        self.references.iter().filter(move |one| &one.0 == reference_type && one.1 == from).map(|one| one.2)
    }

    /// IDs of the items that refer to an item by a type of reference.
    pub(super) fn referring(&self, reference_type: &[u8; 4], to: u32) -> impl Iterator<Item = u32> {
        self.references.iter().filter(move |one| &one.0 == reference_type && one.2 == to).map(|one| one.1)
    }

    /// The bytes of an item, concatenated if it has several extents.
    pub(super) fn bytes(&self, item: &Item) -> Result<Cow<'a, [u8]>, ImageError> {
        let out_of_bounds = || damaged("an item extends beyond its end");
        let source = if item.is_in_idat { self.idat } else { self.file };
        let slice = |&(offset, length): &(u64, u64)| {
            let start = usize::try_from(item.base_offset.checked_add(offset)?).ok()?;
            let length = if length == 0 { source.len().checked_sub(start)? } else { usize::try_from(length).ok()? };
            source.get(start..start.checked_add(length)?)
        };
        match item.extents.as_slice() {
            [] => Err(out_of_bounds()),
            [one] => Ok(slice(one).ok_or_else(out_of_bounds)?.into()),
            several => {
                let mut bytes = Vec::new();
                for extent in several {
                    bytes.extend(slice(extent).ok_or_else(out_of_bounds)?);
                    // Extents that do not overlap are together not larger than their source.
                    if bytes.len() > source.len() {
                        return Err(out_of_bounds());
                    }
                }
                Ok(bytes.into())
            }
        }
    }
}
