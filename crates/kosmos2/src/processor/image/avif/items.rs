//! The items of a file: which there are, where their bytes lie, what is said of them, and how they refer to each other.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::super::decode::{ImageError, PictureFormat};
use super::super::limits::{MAX_PARTS, check_count};
use super::boxes::{Part, Reader, first, full, parts};
use super::damaged;

/// An item.
#[derive(Debug, Clone, Default)]
pub(super) struct Item {
    pub(super) kind: [u8; 4],
    /// Of a text item.
    pub(super) content_type: Vec<u8>,
    /// Whether its bytes lie in the box of data beside the items instead of the file.
    is_inside: bool,
    base: u64,
    extents: Vec<(u64, u64)>,
    /// Number of a property, from one, and whether it has to be understood.
    properties: Vec<(usize, bool)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Items<'a> {
    file: &'a [u8],
    inside: &'a [u8],
    pub(super) primary: u32,
    items: BTreeMap<u32, Item>,
    properties: Vec<Part<'a>>,
    /// Kind, from, to.
    references: Vec<([u8; 4], u32, u32)>,
    /// How many boxes, items, places, properties and references were read.
    read: u64,
}

impl<'a> Items<'a> {
    /// Reads the box of items.
    pub(super) fn read(file: &'a [u8], meta: &'a [u8]) -> Result<Self, ImageError> {
        let cut = || damaged("its description of items ends too early");
        let (_, _, meta) = full(meta).ok_or_else(cut)?;
        let mut items = Self { file, ..Self::default() };
        for part in parts(meta.rest()) {
            items.count();
            let read = match &part.kind {
                b"pitm" => items.read_primary(part.body),
                b"idat" => {
                    items.inside = part.body;
                    Some(())
                }
                b"iinf" => items.read_kinds(part.body),
                b"iloc" => items.read_places(part.body),
                b"iref" => items.read_references(part.body),
                b"iprp" => items.read_properties(part.body),
                _ => Some(()),
            };
            read.ok_or_else(cut)?;
            check_count(PictureFormat::Avif, "boxes, items and references", items.read, MAX_PARTS)?;
        }
        Ok(items)
    }

    /// Counts one more of anything; whether reading goes on. All boxes together have a limit.
    fn count(&mut self) -> bool {
        self.read += 1;
        self.read <= MAX_PARTS
    }

    fn read_primary(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, mut reader) = full(body)?;
        self.primary = reader.number(if version == 0 { 2 } else { 4 })? as u32;
        Some(())
    }

    fn read_kinds(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, mut reader) = full(body)?;
        reader.number(if version == 0 { 2 } else { 4 })?;
        for part in parts(reader.rest()).filter(|part| &part.kind == b"infe") {
            if !self.count() {
                break;
            }
            let (version, _, mut reader) = full(part.body)?;
            if version < 2 {
                continue;
            }
            let id = reader.number(if version == 2 { 2 } else { 4 })? as u32;
            reader.number(2)?;
            let kind = reader.kind()?;
            reader.text();
            let content_type = if &kind == b"mime" { reader.text() } else { b"" };
            let item = self.items.entry(id).or_default();
            item.kind = kind;
            item.content_type = content_type.to_vec();
        }
        Some(())
    }

    fn read_places(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, mut reader) = full(body)?;
        let (first, second) = (reader.number(1)? as usize, reader.number(1)? as usize);
        let (offset_size, length_size, base_size) = (first >> 4, first & 15, second >> 4);
        let index_size = if version > 0 { second & 15 } else { 0 };
        if [offset_size, length_size, base_size, index_size].iter().any(|size| !matches!(size, 0 | 4 | 8)) {
            return None;
        }
        let wide = if version < 2 { 2 } else { 4 };
        for _ in 0..reader.number(wide)? {
            if !self.count() {
                break;
            }
            let id = reader.number(wide)? as u32;
            let is_inside = version > 0 && reader.number(2)? & 15 == 1;
            reader.number(2)?;
            let base = reader.number(base_size)?;
            let extents = reader.number(2)?;
            let mut item = Item { is_inside, base, ..self.items.remove(&id).unwrap_or_default() };
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

    fn read_references(&mut self, body: &[u8]) -> Option<()> {
        let (version, _, reader) = full(body)?;
        let wide = if version == 0 { 2 } else { 4 };
        for part in parts(reader.rest()) {
            let mut reader = Reader::new(part.body);
            let from = reader.number(wide)? as u32;
            for _ in 0..reader.number(2)? {
                if !self.count() {
                    return Some(());
                }
                self.references.push((part.kind, from, reader.number(wide)? as u32));
            }
        }
        Some(())
    }

    fn read_properties(&mut self, body: &'a [u8]) -> Option<()> {
        for part in parts(first(body, b"ipco")?) {
            if !self.count() {
                return Some(());
            }
            self.properties.push(part);
        }
        for part in parts(body).filter(|part| &part.kind == b"ipma") {
            let (version, flags, mut reader) = full(part.body)?;
            let wide = if flags & 1 == 1 { 2 } else { 1 };
            for _ in 0..reader.number(4)? {
                let id = reader.number(if version == 0 { 2 } else { 4 })? as u32;
                for _ in 0..reader.number(1)? {
                    if !self.count() {
                        return Some(());
                    }
                    let number = reader.number(wide)? as usize;
                    let must = 1 << (wide * 8 - 1);
                    self.items.entry(id).or_default().properties.push((number & (must - 1), number & must != 0));
                }
            }
        }
        Some(())
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> usize {
        self.file.len()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Item> {
        self.items.get(&id)
    }

    /// The properties of an item, and whether each has to be understood.
    pub(super) fn properties(&self, item: &Item) -> impl Iterator<Item = (Part<'a>, bool)> {
        let known = |(number, must): &(usize, bool)| Some((*self.properties.get(number.checked_sub(1)?)?, *must));
        item.properties.iter().filter_map(known)
    }

    /// What an item refers to by a kind of reference, in order.
    pub(super) fn referred(&self, kind: &[u8; 4], from: u32) -> impl Iterator<Item = u32> {
        self.references.iter().filter(move |one| &one.0 == kind && one.1 == from).map(|one| one.2)
    }

    /// What refers to an item by a kind of reference.
    pub(super) fn referring(&self, kind: &[u8; 4], to: u32) -> impl Iterator<Item = u32> {
        self.references.iter().filter(move |one| &one.0 == kind && one.2 == to).map(|one| one.1)
    }

    /// The bytes of an item, which are put together where they lie in several places.
    pub(super) fn bytes(&self, item: &Item) -> Result<Cow<'a, [u8]>, ImageError> {
        let outside = || damaged("an item does not lie within it");
        let within = if item.is_inside { self.inside } else { self.file };
        let place = |&(offset, length): &(u64, u64)| {
            let start = usize::try_from(item.base.checked_add(offset)?).ok()?;
            let length = if length == 0 { within.len().checked_sub(start)? } else { usize::try_from(length).ok()? };
            within.get(start..start.checked_add(length)?)
        };
        match item.extents.as_slice() {
            [] => Err(outside()),
            [one] => Ok(place(one).ok_or_else(outside)?.into()),
            several => {
                let mut bytes = Vec::new();
                for extent in several {
                    bytes.extend(place(extent).ok_or_else(outside)?);
                    // No byte of a well-formed file is read twice.
                    if bytes.len() > within.len() {
                        return Err(outside());
                    }
                }
                Ok(bytes.into())
            }
        }
    }
}
