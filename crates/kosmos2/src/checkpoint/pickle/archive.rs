//! The directory of a zip archive with uncompressed entries, as torch writes them.
//!
//! Like other zip readers, it trusts only the central directory at the end of the file, and uses an entry's own header
//! only for its length. Nothing is copied: an entry is a range of the file.

use std::collections::HashMap;
use std::ops::Range;

/// Maximum size of the directory, in bytes. That of the published checkpoint is below 0.2 MiB.
pub(super) const MAX_DIRECTORY: usize = 2 << 20;

/// The entries of an archive by name. Their ranges are within the file.
pub(super) struct Archive<'a> {
    entries: HashMap<&'a [u8], Range<usize>>,
}

/// Signatures of records.
const END: &[u8] = b"PK\x05\x06";
const ZIP64_END: &[u8] = b"PK\x06\x06";
const ZIP64_END_LOCATOR: &[u8] = b"PK\x06\x07";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY: &[u8] = b"PK\x03\x04";

/// Lengths of these records without their variable parts.
const END_LENGTH: usize = 22;
const LOCATOR_LENGTH: usize = 20;
const DIRECTORY_ENTRY_LENGTH: usize = 46;
const ENTRY_LENGTH: usize = 30;

/// Maximum length of the comment after the end record.
const MAX_COMMENT: usize = 0xffff;
/// A number with this value is too large for its four bytes and stored in the zip64 extra field.
const IN_ZIP64_FIELD: u64 = 0xffff_ffff;
/// Kind of that extra field.
const ZIP64_FIELD: u64 = 1;

impl<'a> Archive<'a> {
    /// Reads the directory.
    ///
    /// # Errors
    /// What is wrong with the archive, as a clause about the file.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, String> {
        let end = find_end(file).ok_or(
            "it has no zip directory at its end: it may be cut short, or in the format before torch 1.6, which is not supported",
        )?;
        let directory = directory(file, end).ok_or("its directory is outside the file")?;
        if directory.len() > MAX_DIRECTORY {
            return Err(format!("its directory has {} bytes, more than any checkpoint needs", directory.len()));
        }
        let mut entries = HashMap::new();
        let mut rest = directory;
        while !rest.is_empty() {
            let (name, range) = entry(file, &mut rest)?;
            if entries.insert(name, range).is_some() {
                return Err(format!("it names {} twice", shortened(name)));
            }
        }
        Ok(Self { entries })
    }

    /// The range of an entry's data in the file.
    pub(super) fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name.as_bytes()).cloned()
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.keys().copied()
    }
}

/// Reads the next entry of the directory and removes it from `directory`.
fn entry<'a>(file: &'a [u8], directory: &mut &'a [u8]) -> Result<(&'a [u8], Range<usize>), String> {
    let broken = || "its directory is damaged".to_owned();
    let record = *directory;
    if !record.starts_with(DIRECTORY_ENTRY) {
        return Err(broken());
    }
    let field = |at, length| number(record, at, length).ok_or_else(broken);
    let (flags, method) = (field(8, 2)?, field(10, 2)?);
    let (packed, size, start) = (field(20, 4)?, field(24, 4)?, field(42, 4)?);
    let (name, extra, comment) = (field(28, 2)? as usize, field(30, 2)? as usize, field(32, 2)? as usize);
    let extra_start = DIRECTORY_ENTRY_LENGTH + name;
    let name = record.get(DIRECTORY_ENTRY_LENGTH..extra_start).ok_or_else(broken)?;
    let extra_end = extra_start + extra;
    let extra = record.get(extra_start..extra_end).ok_or_else(broken)?;
    *directory = record.get(extra_end + comment..).ok_or_else(broken)?;

    let mut zip64 = zip64_field(extra);
    let mut full = |number: u64| match number {
        IN_ZIP64_FIELD => take(&mut zip64, 8).ok_or_else(broken),
        number => Ok(number),
    };
    // The field has only the numbers that are too large, in this order.
    let (size, packed, start) = (full(size)?, full(packed)?, full(start)?);
    if method != 0 || flags & 1 != 0 || packed != size {
        return Err(format!("its entry {} is compressed or encrypted; torch writes neither", shortened(name)));
    }
    let range = data(file, start, size).ok_or_else(|| {
        format!("its entry {} of {size} bytes is not where its directory says; it may be cut short", shortened(name))
    })?;
    Ok((name, range))
}

/// The range of an entry's data, after its own header. The length of its extra field may differ from the directory's.
fn data(file: &[u8], start: u64, size: u64) -> Option<Range<usize>> {
    let start = usize::try_from(start).ok()?;
    let header = file.get(start..)?.get(..ENTRY_LENGTH)?;
    if !header.starts_with(ENTRY) {
        return None;
    }
    let variable = number(header, 26, 2)? + number(header, 28, 2)?;
    let start = start + ENTRY_LENGTH + usize::try_from(variable).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= file.len()).then_some(start..end)
}

/// The offset of the last end record whose comment reaches to the end of the file.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_LENGTH)?;
    (last.saturating_sub(MAX_COMMENT)..=last).rev().find(|&at| {
        file[at..].starts_with(END) && number(file, at + 20, 2) == Some((file.len() - at - END_LENGTH) as u64)
    })
}

/// The bytes of the directory, according to the end record at `end` or to the zip64 end record.
fn directory(file: &[u8], end: usize) -> Option<&[u8]> {
    let locator = end.checked_sub(LOCATOR_LENGTH).filter(|&at| file[at..].starts_with(ZIP64_END_LOCATOR));
    let (size, start) = match locator {
        Some(locator) => {
            let at = usize::try_from(number(file, locator + 8, 8)?).ok()?;
            let zip64 = file.get(at..end).filter(|record| record.starts_with(ZIP64_END))?;
            (number(zip64, 40, 8)?, number(zip64, 48, 8)?)
        }
        None => (number(file, end + 12, 4)?, number(file, end + 16, 4)?),
    };
    let start = usize::try_from(start).ok()?;
    file.get(start..start.checked_add(usize::try_from(size).ok()?)?)
}

/// The content of the zip64 extra field; empty if there is none.
fn zip64_field(mut extra: &[u8]) -> &[u8] {
    while let (Some(kind), Some(length)) = (take(&mut extra, 2), take(&mut extra, 2)) {
        let Some((field, rest)) = extra.split_at_checked(length as usize) else { break };
        if kind == ZIP64_FIELD {
            return field;
        }
        extra = rest;
    }
    &[]
}

fn take(bytes: &mut &[u8], length: usize) -> Option<u64> {
    let value = number(bytes, 0, length)?;
    *bytes = &bytes[length..];
    Some(value)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn shortened(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}
