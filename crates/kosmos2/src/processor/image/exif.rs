//! The orientation entry of an EXIF block, read as Pillow 13 reads it.

use std::collections::HashSet;

/// Orientation of a picture that is stored upright.
pub(super) const UPRIGHT: u8 = 1;
/// What some writers put before the block, some of them twice.
const PREFIX: &[u8] = b"Exif\0\0";
const ORIENTATION: u16 = 0x0112;
/// Tag, type, count, and the values or their offset.
const ENTRY: usize = 12;
/// Values of at most this many bytes stand in the entry itself.
const INLINE: u64 = 4;

/// The orientation that a block states, 1 to 8; `None` if it has no entry for it.
///
/// A block that is not EXIF, or an entry whose value is not an orientation, states [`UPRIGHT`].
pub(super) fn orientation(block: &[u8]) -> Option<u8> {
    let block = block.strip_prefix(PREFIX).map_or(block, |rest| rest.strip_prefix(PREFIX).unwrap_or(rest));
    if block.is_empty() {
        return None;
    }
    let Some((order, directory)) = header(block) else { return Some(UPRIGHT) };
    Some(entry(block, order, directory)?.orientation(order))
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The first `N` bytes, the least significant one first.
    fn little<const N: usize>(self, bytes: &[u8]) -> Option<[u8; N]> {
        let mut number: [u8; N] = *bytes.first_chunk()?;
        if matches!(self, Self::Big) {
            number.reverse();
        }
        Some(number)
    }

    fn u16(self, bytes: &[u8]) -> Option<u16> {
        self.little(bytes).map(u16::from_le_bytes)
    }

    fn u32(self, bytes: &[u8]) -> Option<u32> {
        self.little(bytes).map(u32::from_le_bytes)
    }
}

/// Byte order and offset of the first directory.
fn header(block: &[u8]) -> Option<(ByteOrder, usize)> {
    let order = match block.get(..4)? {
        // Pillow also takes a version of the other byte order, and that of big files.
        b"II*\0" | b"II\0*" => ByteOrder::Little,
        b"MM\0*" | b"MM*\0" | b"MM\0+" => ByteOrder::Big,
        _ => return None,
    };
    Some((order, order.u32(block.get(4..)?)? as usize))
}

struct Entry<'a> {
    kind: u16,
    value: &'a [u8],
}

/// The first orientation entry that has a value. Reading ends at values that lie beyond the block.
fn entry(block: &[u8], order: ByteOrder, directory: usize) -> Option<Entry<'_>> {
    let count = order.u16(block.get(directory..)?)?;
    let entries = block.get(directory + 2..)?;
    let mut stored_apart = 0;
    let mut seen = HashSet::new();
    for entry in entries.chunks_exact(ENTRY).take(count.into()) {
        let (tag, kind, count) = (order.u16(entry)?, order.u16(&entry[2..])?, order.u32(&entry[4..])?);
        let Some(unit) = unit_size(kind) else { continue };
        if seen.contains(&tag) {
            continue;
        }
        let size = u64::from(count) * unit;
        let value = if size > INLINE {
            stored_apart += size;
            if stored_apart > block.len() as u64 {
                continue;
            }
            let start = order.u32(&entry[8..])? as usize;
            block.get(start..)?.get(..size as usize)?
        } else {
            &entry[8..8 + size as usize]
        };
        if value.is_empty() {
            continue;
        }
        if tag == ORIENTATION {
            return Some(Entry { kind, value });
        }
        seen.insert(tag);
    }
    None
}

/// Bytes of one value of a type.
fn unit_size(kind: u16) -> Option<u64> {
    match kind {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}

impl Entry<'_> {
    /// The first value. Numbers of every type count, but neither text nor bytes.
    fn orientation(&self, order: ByteOrder) -> u8 {
        let number = self.number(order).unwrap_or_default();
        let orientations = UPRIGHT..=8;
        orientations.into_iter().find(|&orientation| f64::from(orientation) == number).unwrap_or(UPRIGHT)
    }

    fn number(&self, order: ByteOrder) -> Option<f64> {
        let value = self.value;
        Some(match self.kind {
            3 => order.u16(value)?.into(),
            4 | 13 => order.u32(value)?.into(),
            5 => f64::from(order.u32(value)?) / f64::from(order.u32(value.get(4..)?)?),
            6 => i8::from_le_bytes(order.little(value)?).into(),
            8 => i16::from_le_bytes(order.little(value)?).into(),
            9 => i32::from_le_bytes(order.little(value)?).into(),
            10 => {
                let part = |at| Some(f64::from(i32::from_le_bytes(order.little(value.get(at..)?)?)));
                part(0)? / part(4)?
            }
            11 => f32::from_le_bytes(order.little(value)?).into(),
            12 => f64::from_le_bytes(order.little(value)?),
            16 => u64::from_le_bytes(order.little(value)?) as f64,
            _ => return None,
        })
    }
}
