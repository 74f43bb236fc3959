//! The directory of a zip archive whose entries are stored as they are, as torch writes them.
//!
//! Only the central directory at the file's end is believed, as by every reader of zip files, and of an entry's own
//! header only how long it is. Nothing is copied: an entry is a range of the file's bytes.

use std::collections::HashMap;
use std::ops::Range;

use super::MOST;

/// Entries by name, each within the file.
pub(super) struct Archive<'a> {
    entries: HashMap<&'a [u8], Range<usize>>,
}

/// Signatures of the records that are read.
const END: &[u8] = b"PK\x05\x06";
const WIDE_END: &[u8] = b"PK\x06\x06";
const WIDE_END_LOCATOR: &[u8] = b"PK\x06\x07";
const DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY: &[u8] = b"PK\x03\x04";

/// Lengths of these records, without what varies.
const END_LENGTH: usize = 22;
const LOCATOR_LENGTH: usize = 20;
const DIRECTORY_ENTRY_LENGTH: usize = 46;
const ENTRY_LENGTH: usize = 30;

/// The longest comment after the end record.
const COMMENT: usize = 0xffff;
/// Stands for a number that a record's four bytes cannot hold: it is in the extra field of this kind.
const WIDE: u64 = 0xffff_ffff;
const WIDE_FIELD: u64 = 1;

impl<'a> Archive<'a> {
    /// Reads the directory.
    ///
    /// # Errors
    /// What is wrong with it, as part of a sentence.
    pub(super) fn read(file: &'a [u8]) -> Result<Self, String> {
        let end = find_end(file).ok_or(
            "no directory is at its end: it may be cut short, or of the form before torch 1.6, which is not read",
        )?;
        let directory = directory(file, end).ok_or("its directory lies outside of it")?;
        if directory.len() > MOST {
            return Err(format!("its directory is of {} bytes, more than any checkpoint needs", directory.len()));
        }
        let mut entries = HashMap::new();
        let mut rest = directory;
        while !rest.is_empty() {
            let (name, range) = entry(file, &mut rest)?;
            if entries.insert(name, range).is_some() {
                return Err(format!("it names {} twice", shown(name)));
            }
        }
        Ok(Self { entries })
    }

    /// Where the bytes of an entry lie in the file.
    pub(super) fn get(&self, name: &str) -> Option<Range<usize>> {
        self.entries.get(name.as_bytes()).cloned()
    }

    /// The names of all entries.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.keys().copied()
    }
}

/// Takes the next entry off the directory.
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

    let mut wide = wide_field(extra);
    let mut whole = |number: u64| match number {
        WIDE => take(&mut wide, 8).ok_or_else(broken),
        number => Ok(number),
    };
    // In this order, and only those that are too large.
    let (size, packed, start) = (whole(size)?, whole(packed)?, whole(start)?);
    if method != 0 || flags & 1 != 0 || packed != size {
        return Err(format!("its entry {} is compressed or encrypted; torch stores entries as they are", shown(name)));
    }
    let range = data(file, start, size).ok_or_else(|| {
        format!("its entry {} of {size} bytes is not where its directory says; it may be cut short", shown(name))
    })?;
    Ok((name, range))
}

/// Where an entry's data lie: after its own header, whose extra field may be another than the directory's.
fn data(file: &[u8], start: u64, size: u64) -> Option<Range<usize>> {
    let start = usize::try_from(start).ok()?;
    let header = file.get(start..)?.get(..ENTRY_LENGTH)?;
    if !header.starts_with(ENTRY) {
        return None;
    }
    let varying = number(header, 26, 2)? + number(header, 28, 2)?;
    let start = start + ENTRY_LENGTH + usize::try_from(varying).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= file.len()).then_some(start..end)
}

/// The last place where an end record fits, with its comment, to the file's end.
fn find_end(file: &[u8]) -> Option<usize> {
    let last = file.len().checked_sub(END_LENGTH)?;
    (last.saturating_sub(COMMENT)..=last).rev().find(|&at| {
        file[at..].starts_with(END) && number(file, at + 20, 2) == Some((file.len() - at - END_LENGTH) as u64)
    })
}

/// The directory's bytes, by the end record at `end` or the wide one that a locator before it names.
fn directory(file: &[u8], end: usize) -> Option<&[u8]> {
    let locator = end.checked_sub(LOCATOR_LENGTH).filter(|&at| file[at..].starts_with(WIDE_END_LOCATOR));
    let (size, start) = match locator {
        Some(locator) => {
            let at = usize::try_from(number(file, locator + 8, 8)?).ok()?;
            let wide = file.get(at..end).filter(|record| record.starts_with(WIDE_END))?;
            (number(wide, 40, 8)?, number(wide, 48, 8)?)
        }
        None => (number(file, end + 12, 4)?, number(file, end + 16, 4)?),
    };
    let start = usize::try_from(start).ok()?;
    file.get(start..start.checked_add(usize::try_from(size).ok()?)?)
}

/// The extra field of wide numbers; empty where there is none.
fn wide_field(mut extra: &[u8]) -> &[u8] {
    while let (Some(kind), Some(length)) = (take(&mut extra, 2), take(&mut extra, 2)) {
        let Some((field, rest)) = extra.split_at_checked(length as usize) else { break };
        if kind == WIDE_FIELD {
            return field;
        }
        extra = rest;
    }
    &[]
}

fn take(bytes: &mut &[u8], length: usize) -> Option<u64> {
    let found = number(bytes, 0, length)?;
    *bytes = &bytes[length..];
    Some(found)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(200)]).into_owned()
}
