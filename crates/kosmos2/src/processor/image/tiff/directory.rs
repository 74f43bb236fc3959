//! The first image file directory (IFD) of a TIFF.
//!
//! Ignores what Pillow ignores: fields of unknown types, a field whose values are not within the file and everything
//! after it. Values are borrowed from the file, so that a directory takes little memory.

/// Maximum number of fields in a directory. About a hundred are defined.
pub(in super::super) const MAX_FIELDS: u64 = 4_096;
/// Size of an entry in bytes.
const ENTRY: usize = 12;
/// Size of an entry of a BigTIFF.
const BIG_ENTRY: usize = 20;

/// The fields of a directory.
#[derive(Debug, Clone)]
pub(in super::super) struct Directory<'a> {
    file: &'a [u8],
    is_big_endian: bool,
    fields: Vec<(u16, Values<'a>)>,
}

/// The values of a field.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Values<'a> {
    bytes: &'a [u8],
    field_type: u16,
    is_big_endian: bool,
}

impl<'a> Directory<'a> {
    /// Whether a file starts with a TIFF signature. Pillow accepts six, two of which are invalid.
    pub(in super::super) fn has_signature(file: &[u8]) -> bool {
        const SIGNATURES: [&[u8; 4]; 6] =
            [b"MM\0\x2a", b"II\x2a\0", b"MM\x2a\0", b"II\0\x2a", b"MM\0\x2b", b"II\x2b\0"];
        SIGNATURES.iter().any(|signature| file.starts_with(*signature))
    }

    /// Reads the first directory.
    pub(in super::super) fn first(file: &'a [u8]) -> Result<Self, DirectoryError> {
        let is_big_endian = file.starts_with(b"MM");
        let reader = Reader { file, is_big_endian };
        let is_big = file.get(2) == Some(&0x2b);
        let count_bytes = if is_big { 8 } else { 2 };
        let offset = if is_big { reader.number(8, 8) } else { reader.number(4, 4) };
        let start = offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(DirectoryError::Missing)?;
        if start == 0 {
            return Err(DirectoryError::Missing);
        }
        let count = reader.number(start, count_bytes).ok_or(DirectoryError::Missing)?;
        if count > MAX_FIELDS {
            return Err(DirectoryError::TooManyFields);
        }
        let mut directory = Self { file, is_big_endian, fields: Vec::new() };
        let length = if is_big { BIG_ENTRY } else { ENTRY };
        let entries = file.get(start + count_bytes..).unwrap_or_default().chunks_exact(length);
        let mut value_bytes = 0u64;
        for entry in entries.take(count as usize) {
            if directory.add(entry, is_big, &mut value_bytes).is_none() {
                break;
            }
        }
        Ok(directory)
    }

    /// Adds a field unless it is ignored; `None` if its values are not within the file. `value_bytes` counts the bytes
    /// of all values outside of entries.
    fn add(&mut self, entry: &'a [u8], is_big: bool, value_bytes: &mut u64) -> Option<()> {
        let reader = Reader { file: entry, is_big_endian: self.is_big_endian };
        let (tag, field_type) = (reader.number(0, 2)? as u16, reader.number(2, 2)? as u16);
        let offset_size = if is_big { 8 } else { 4 };
        let (count, inline) = (reader.number(4, offset_size)?, entry.get(4 + offset_size..)?);
        let Some(unit) = size_of(field_type) else { return Some(()) };
        let size = count.saturating_mul(unit);
        if size == 0 || self.fields.iter().any(|(known, _)| *known == tag) {
            return Some(());
        }
        let bytes = if size <= offset_size as u64 {
            inline.get(..size as usize)?
        } else {
            // Values that do not overlap are together not larger than the file.
            *value_bytes = value_bytes.saturating_add(size);
            if *value_bytes > self.file.len() as u64 {
                return Some(());
            }
            let start = usize::try_from(reader.number(4 + offset_size, offset_size)?).ok()?;
            self.file.get(start..start.checked_add(size as usize)?)?
        };
        self.fields.push((tag, Values { bytes, field_type, is_big_endian: self.is_big_endian }));
        Some(())
    }

    /// Whether numbers are big-endian.
    pub(in super::super) fn is_big_endian(&self) -> bool {
        self.is_big_endian
    }

    /// The values of a field; `None` if it is absent.
    pub(in super::super) fn get(&self, tag: u16) -> Option<Values<'a>> {
        self.fields.iter().find(|(known, _)| *known == tag).map(|(_, values)| *values)
    }

    /// The first value of a field, or `default` if it is absent; `None` if it is not a non-negative whole number.
    pub(in super::super) fn number(&self, tag: u16, default: u64) -> Option<u64> {
        self.get(tag).map_or(Some(default), |values| values.get(0))
    }
}

/// Why there is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum DirectoryError {
    /// There is none, or the file ends before it.
    Missing,
    /// It states more than [`MAX_FIELDS`] fields.
    TooManyFields,
}

impl<'a> Values<'a> {
    /// Number of values.
    pub(in super::super) fn len(&self) -> usize {
        self.bytes.len() / size_of(self.field_type).map_or(1, |size| size as usize)
    }

    /// The value at an index; `None` if it is absent or not a non-negative whole number.
    pub(in super::super) fn get(&self, index: usize) -> Option<u64> {
        let size = size_of(self.field_type)? as usize;
        let reader = Reader { file: self.bytes, is_big_endian: self.is_big_endian };
        let number = reader.number(index.checked_mul(size)?, size)?;
        match self.field_type {
            3 | 4 | 13 | 16 => Some(number),
            // Signed bytes, shorts and longs.
            6 | 8 | 9 if number >> (size * 8 - 1) == 0 => Some(number),
            _ => None,
        }
    }

    /// All values; `None` if there are more than `limit` or one is not a non-negative whole number.
    pub(in super::super) fn list(&self, limit: usize) -> Option<Vec<u64>> {
        if self.len() > limit { None } else { (0..self.len()).map(|index| self.get(index)).collect() }
    }

    /// The value at an index, if it is an unsigned rational or a non-negative whole number.
    pub(in super::super) fn fraction(&self, index: usize) -> Option<f32> {
        if self.field_type != 5 {
            return self.get(index).map(|number| number as f32);
        }
        let reader = Reader { file: self.bytes, is_big_endian: self.is_big_endian };
        let (numerator, denominator) = (reader.number(index * 8, 4)?, reader.number(index * 8 + 4, 4)?);
        Some(if denominator == 0 { 0.0 } else { (numerator as f64 / denominator as f64) as f32 })
    }

    /// The bytes of all values.
    pub(in super::super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Size of a value in bytes; `None` for a type that Pillow does not read.
fn size_of(field_type: u16) -> Option<u64> {
    match field_type {
        1 | 2 | 6 | 7 => Some(1),
        3 | 8 => Some(2),
        4 | 9 | 11 | 13 => Some(4),
        5 | 10 | 12 | 16 => Some(8),
        _ => None,
    }
}

struct Reader<'a> {
    file: &'a [u8],
    is_big_endian: bool,
}

impl Reader<'_> {
    /// The number of `size` bytes at an offset.
    fn number(&self, at: usize, size: usize) -> Option<u64> {
        let bytes = self.file.get(at..at.checked_add(size)?)?;
        let shifted = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_big_endian { bytes.iter().fold(0, shifted) } else { bytes.iter().rev().fold(0, shifted) })
    }
}
