//! The orientation entry of an EXIF block, read as Pillow 13 reads it.

use std::collections::HashSet;

/// EXIF's value for a picture that is stored upright.
pub(super) const UPRIGHT: u8 = 1;
/// Identifier that some writers put before the block, some of them twice.
const PREFIX: &[u8] = b"Exif\0\0";
const ORIENTATION: u16 = 0x0112;
/// Size of an IFD entry: tag, type, count, and the values or their offset.
const ENTRY: usize = 12;
/// Values of at most this many bytes are in the entry itself.
const INLINE: u64 = 4;

/// The orientation that an EXIF block states, 1 to 8; `None` if it has no orientation entry.
///
/// [`UPRIGHT`] if the block is not EXIF or the value of the entry is not an orientation.
pub(super) fn orientation(block: &[u8]) -> Option<u8> {
    let block = block.strip_prefix(PREFIX).map_or(block, |rest| rest.strip_prefix(PREFIX).unwrap_or(rest));
    if block.is_empty() {
        return None;
    }
    let Some((order, ifd)) = header(block) else { return Some(UPRIGHT) };
    Some(orientation_entry(block, order, ifd)?.orientation(order))
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    /// The first `N` bytes in little-endian order.
    fn le_bytes<const N: usize>(self, bytes: &[u8]) -> Option<[u8; N]> {
        let mut number: [u8; N] = *bytes.first_chunk()?;
        if matches!(self, Self::Big) {
            number.reverse();
        }
        Some(number)
    }

    fn u16(self, bytes: &[u8]) -> Option<u16> {
        self.le_bytes(bytes).map(u16::from_le_bytes)
    }

    fn u32(self, bytes: &[u8]) -> Option<u32> {
        self.le_bytes(bytes).map(u32::from_le_bytes)
    }
}

/// Byte order and offset of the first IFD.
fn header(block: &[u8]) -> Option<(ByteOrder, usize)> {
    let order = match block.get(..4)? {
        // Pillow also accepts the version number in the other byte order, and BigTIFF's in big-endian order.
        b"II*\0" | b"II\0*" => ByteOrder::Little,
        b"MM\0*" | b"MM*\0" | b"MM\0+" => ByteOrder::Big,
        _ => return None,
    };
    Some((order, order.u32(block.get(4..)?)? as usize))
}

struct Entry<'a> {
    field_type: u16,
    value: &'a [u8],
}

/// The first orientation entry that has a value. Like Pillow, stops at an entry whose values are outside of the block.
fn orientation_entry(block: &[u8], order: ByteOrder, ifd: usize) -> Option<Entry<'_>> {
    let count = order.u16(block.get(ifd..)?)?;
    let entries = block.get(ifd + 2..)?;
    let mut out_of_line = 0;
    let mut seen = HashSet::new();
    for entry in entries.chunks_exact(ENTRY).take(count.into()) {
        let (tag, field_type, count) = (order.u16(entry)?, order.u16(&entry[2..])?, order.u32(&entry[4..])?);
        let Some(unit) = unit_size(field_type) else { continue };
        if seen.contains(&tag) {
            continue;
        }
        let size = u64::from(count) * unit;
        let value = if size > INLINE {
            out_of_line += size;
            // Values that do not overlap are together not larger than the block.
            if out_of_line > block.len() as u64 {
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
            return Some(Entry { field_type, value });
        }
        seen.insert(tag);
    }
    None
}

/// Size of one value of a TIFF field type in bytes; `None` for a type that Pillow does not know.
fn unit_size(field_type: u16) -> Option<u64> {
    match field_type {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}

impl Entry<'_> {
    /// The first value, if it is a number of any type from 1 to 8; [`UPRIGHT`] otherwise, for text and bytes too.
    fn orientation(&self, order: ByteOrder) -> u8 {
        let number = self.number(order).unwrap_or_default();
        (UPRIGHT..=8).find(|&orientation| f64::from(orientation) == number).unwrap_or(UPRIGHT)
    }

    fn number(&self, order: ByteOrder) -> Option<f64> {
        let value = self.value;
        Some(match self.field_type {
            3 => order.u16(value)?.into(),
            4 | 13 => order.u32(value)?.into(),
            5 => f64::from(order.u32(value)?) / f64::from(order.u32(value.get(4..)?)?),
            6 => i8::from_le_bytes(order.le_bytes(value)?).into(),
            8 => i16::from_le_bytes(order.le_bytes(value)?).into(),
            9 => i32::from_le_bytes(order.le_bytes(value)?).into(),
            10 => {
                let half = |at| Some(f64::from(i32::from_le_bytes(order.le_bytes(value.get(at..)?)?)));
                half(0)? / half(4)?
            }
            11 => f32::from_le_bytes(order.le_bytes(value)?).into(),
            12 => f64::from_le_bytes(order.le_bytes(value)?),
            16 => u64::from_le_bytes(order.le_bytes(value)?) as f64,
            _ => return None,
        })
    }
}
