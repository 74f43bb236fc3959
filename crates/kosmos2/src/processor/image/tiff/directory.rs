//! The first image file directory of a TIFF: fields by their tag, read where they lie.
//!
//! What Pillow passes over is passed over here too: fields of unknown types, fields whose values do not lie within the
//! file, and everything behind an entry that the file ends in. No value is copied, so that a directory costs nothing.

/// Most fields of a directory. Writers know about a hundred.
pub(in super::super) const MAX_FIELDS: u64 = 4_096;
/// Bytes of an entry of the two kinds of file.
const ENTRY: usize = 12;
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
    kind: u16,
    is_big_endian: bool,
}

impl<'a> Directory<'a> {
    /// Whether a file begins as a TIFF does. Two of the six marks break the rules, but Pillow takes them.
    pub(in super::super) fn begins(file: &[u8]) -> bool {
        const MARKS: [&[u8; 4]; 6] = [b"MM\0\x2a", b"II\x2a\0", b"MM\x2a\0", b"II\0\x2a", b"MM\0\x2b", b"II\x2b\0"];
        MARKS.iter().any(|mark| file.starts_with(*mark))
    }

    /// Reads the first directory.
    pub(in super::super) fn first(file: &'a [u8]) -> Result<Self, DirectoryError> {
        let is_big_endian = file.starts_with(b"MM");
        let reader = Reader { file, is_big_endian };
        let is_big = file.get(2) == Some(&0x2b);
        let count_bytes = if is_big { 8 } else { 2 };
        let place = if is_big { reader.number(8, 8) } else { reader.number(4, 4) };
        let start = usize::try_from(place.ok_or(DirectoryError::Cut)?).map_err(|_| DirectoryError::Cut)?;
        if start == 0 {
            return Err(DirectoryError::Cut);
        }
        let count = reader.number(start, count_bytes).ok_or(DirectoryError::Cut)?;
        if count > MAX_FIELDS {
            return Err(DirectoryError::TooManyFields);
        }
        let mut directory = Self { file, is_big_endian, fields: Vec::new() };
        let length = if is_big { BIG_ENTRY } else { ENTRY };
        let entries = file.get(start + count_bytes..).unwrap_or_default().chunks_exact(length);
        let mut read = 0u64;
        for entry in entries.take(count as usize) {
            if directory.add(entry, is_big, &mut read).is_none() {
                break;
            }
        }
        Ok(directory)
    }

    /// Adds a field unless it is passed over; `None` where reading ends.
    fn add(&mut self, entry: &'a [u8], is_big: bool, read: &mut u64) -> Option<()> {
        let reader = Reader { file: entry, is_big_endian: self.is_big_endian };
        let (tag, kind) = (reader.number(0, 2)? as u16, reader.number(2, 2)? as u16);
        let word = if is_big { 8 } else { 4 };
        let (count, inline) = (reader.number(4, word)?, entry.get(4 + word..)?);
        let Some(unit) = size_of(kind) else { return Some(()) };
        let size = count.saturating_mul(unit);
        if size == 0 || self.fields.iter().any(|(known, _)| *known == tag) {
            return Some(());
        }
        let bytes = if size <= word as u64 {
            inline.get(..size as usize)?
        } else {
            // No well-formed file has more values than bytes.
            *read = read.saturating_add(size);
            if *read > self.file.len() as u64 {
                return Some(());
            }
            let start = usize::try_from(reader.number(4 + word, word)?).ok()?;
            self.file.get(start..start.checked_add(size as usize)?)?
        };
        self.fields.push((tag, Values { bytes, kind, is_big_endian: self.is_big_endian }));
        Some(())
    }

    /// Whether numbers have their high byte first.
    pub(in super::super) fn is_big_endian(&self) -> bool {
        self.is_big_endian
    }

    /// The values of a field, where it is there.
    pub(in super::super) fn get(&self, tag: u16) -> Option<Values<'a>> {
        self.fields.iter().find(|(known, _)| *known == tag).map(|(_, values)| *values)
    }

    /// The first number of a field, or `default` where it is not there; `None` where it is not a whole number.
    pub(in super::super) fn number(&self, tag: u16, default: u64) -> Option<u64> {
        self.get(tag).map_or(Some(default), |values| values.get(0))
    }
}

/// Why there is no directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum DirectoryError {
    /// There is none, or the file ends before it.
    Cut,
    /// It claims more fields than allowed.
    TooManyFields,
}

impl<'a> Values<'a> {
    /// How many there are.
    pub(in super::super) fn len(&self) -> usize {
        self.bytes.len() / size_of(self.kind).map_or(1, |size| size as usize)
    }

    /// One of them; `None` unless it is there and a whole number that is not negative.
    pub(in super::super) fn get(&self, index: usize) -> Option<u64> {
        let size = size_of(self.kind)? as usize;
        let reader = Reader { file: self.bytes, is_big_endian: self.is_big_endian };
        let number = reader.number(index.checked_mul(size)?, size)?;
        match self.kind {
            3 | 4 | 13 | 16 => Some(number),
            // Signed bytes, shorts and longs.
            6 | 8 | 9 if number >> (size * 8 - 1) == 0 => Some(number),
            _ => None,
        }
    }

    /// All of them, at most `most`; `None` where there are more, or one is not a whole number.
    pub(in super::super) fn list(&self, most: usize) -> Option<Vec<u64>> {
        if self.len() > most { None } else { (0..self.len()).map(|index| self.get(index)).collect() }
    }

    /// One of them as a fraction of two whole numbers.
    pub(in super::super) fn fraction(&self, index: usize) -> Option<f32> {
        if self.kind != 5 {
            return self.get(index).map(|number| number as f32);
        }
        let reader = Reader { file: self.bytes, is_big_endian: self.is_big_endian };
        let (over, under) = (reader.number(index * 8, 4)?, reader.number(index * 8 + 4, 4)?);
        Some(if under == 0 { 0.0 } else { (over as f64 / under as f64) as f32 })
    }

    /// The bytes as they are.
    pub(in super::super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Bytes of a value, of the types that Pillow reads.
fn size_of(kind: u16) -> Option<u64> {
    match kind {
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
    /// The number of `size` bytes at a place.
    fn number(&self, at: usize, size: usize) -> Option<u64> {
        let bytes = self.file.get(at..at.checked_add(size)?)?;
        let shifted = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.is_big_endian { bytes.iter().fold(0, shifted) } else { bytes.iter().rev().fold(0, shifted) })
    }
}
