//! The annotation ids of shards, and the search for ids that occur twice.
//!
//! Beside each shard lies a file with the id and the sequence of each of its annotations: 16 bytes of the id and the
//! sequence, big-endian. The search distributes the entries of all shards to temporary files by the hash of the id, and
//! then looks at one of these at a time, so that its memory does not grow with the number of annotations as long as there
//! are fewer than about 100 million.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use super::destination::Destination;
use super::error::ExportError;
use crate::digest::sha256_u128;

/// The folder of the files.
pub(crate) const FOLDER: &str = "_export/ids";
/// Bytes of an entry.
const ENTRY: usize = 24;
/// Temporary files.
const PARTITIONS: usize = 64;

/// An id and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 128 bits of the id: a collision is not to be expected.
    pub(crate) id: u128,
    pub(crate) sequence: u64,
}

impl Entry {
    /// The id of an annotation is a SHA-256; other ids are hashed.
    pub(crate) fn new(id: &str, sequence: u64) -> Self {
        let bits = id.get(..32).filter(|_| id.len() == 64).and_then(|half| u128::from_str_radix(half, 16).ok());
        Self { id: bits.unwrap_or_else(|| sha256_u128(id.as_bytes())), sequence }
    }

    fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        let (id, sequence) = bytes.split_at_mut(16);
        id.copy_from_slice(&self.id.to_be_bytes());
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (id, sequence) = bytes.split_at_checked(16)?;
        Some(Self {
            id: u128::from_be_bytes(id.try_into().ok()?),
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
        })
    }
}

/// The bytes of a file with this number of entries.
pub(crate) fn bytes(entries: u64) -> u64 {
    entries.saturating_mul(ENTRY as u64)
}

/// The name of a shard's file of ids.
pub(crate) fn name(shard: u64) -> String {
    format!("{FOLDER}/{shard:08}.bin")
}

/// The shard of a file of ids.
pub(crate) fn shard_of(name: &str) -> Option<u64> {
    name.strip_prefix(FOLDER)?.strip_prefix('/')?.strip_suffix(".bin")?.parse().ok()
}

/// The bytes of a file of ids.
pub(crate) fn to_bytes(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_bytes()).collect()
}

/// The entries of a shard.
pub(crate) async fn read(destination: &Destination, shard: u64) -> Result<Vec<Entry>, ExportError> {
    let name = name(shard);
    let damaged = |cause: &str| ExportError::file(destination.name_of(&name), cause);
    let bytes = destination.read(&name).await?.ok_or_else(|| damaged("the file does not exist"))?;
    if bytes.len() % ENTRY != 0 {
        return Err(damaged("the file is incomplete"));
    }
    Ok(bytes.chunks_exact(ENTRY).filter_map(Entry::from_bytes).collect())
}

/// Finds the messages whose annotation id an earlier message has: their sequences, in order.
pub(crate) struct RepeatSearch {
    partitions: Vec<BufWriter<File>>,
}

impl RepeatSearch {
    pub(crate) fn new() -> Result<Self, ExportError> {
        let partition = |_| tempfile::tempfile().map(|file| BufWriter::with_capacity(1 << 14, file));
        Ok(Self { partitions: (0..PARTITIONS).map(partition).collect::<io::Result<_>>().map_err(failed)? })
    }

    pub(crate) fn add(&mut self, entries: &[Entry]) -> Result<(), ExportError> {
        for entry in entries {
            let partition = usize::try_from(entry.id % PARTITIONS as u128).unwrap_or(0);
            if let Some(file) = self.partitions.get_mut(partition) {
                file.write_all(&entry.to_bytes()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The repeats by the shard that `shard_of` returns for a sequence.
    pub(crate) fn finish(self, shard_of: impl Fn(u64) -> u64) -> Result<BTreeMap<u64, Vec<u64>>, ExportError> {
        let mut repeats = BTreeMap::<u64, Vec<u64>>::new();
        for partition in self.partitions {
            for sequence in repeats_in(partition).map_err(failed)? {
                repeats.entry(shard_of(sequence)).or_default().push(sequence);
            }
        }
        repeats.values_mut().for_each(|sequences| sequences.sort_unstable());
        Ok(repeats)
    }
}

fn repeats_in(partition: BufWriter<File>) -> io::Result<Vec<u64>> {
    let mut file = partition.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let (mut first, mut repeats, mut bytes) = (HashMap::<u128, u64>::new(), Vec::new(), [0; ENTRY]);
    loop {
        match reader.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(repeats),
            Err(error) => return Err(error),
        }
        let Some(entry) = Entry::from_bytes(&bytes) else { continue };
        match first.get_mut(&entry.id) {
            None => drop(first.insert(entry.id, entry.sequence)),
            Some(kept) => {
                repeats.push(entry.sequence.max(*kept));
                *kept = entry.sequence.min(*kept);
            }
        }
    }
}

fn failed(error: io::Error) -> ExportError {
    ExportError::file("temporary file of annotation ids", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let entries = [Entry::new(&"ab".repeat(32), 7), Entry::new("short", u64::MAX)];
        assert_eq!(entries[0].id, u128::from_str_radix(&"ab".repeat(16), 16).unwrap());
        let bytes = to_bytes(&entries);
        let read: Vec<_> = bytes.chunks(ENTRY).filter_map(Entry::from_bytes).collect();
        assert_eq!(read, entries);
    }

    #[test]
    fn all_but_the_first_message_of_an_id_are_repeats_whatever_their_order() {
        let mut search = RepeatSearch::new().unwrap();
        let entry = |id: u64, sequence| Entry::new(&format!("{id}"), sequence);
        let unique: Vec<_> = (0..1000).map(|id| entry(id, 100 + id)).collect();
        search.add(&[entry(3, 5000), entry(4, 5), entry(5, 2222)]).unwrap();
        search.add(&unique).unwrap();
        search.add(&[entry(3, 5001)]).unwrap();
        let repeats = search.finish(|sequence| sequence / 1000).unwrap();
        assert_eq!(repeats, BTreeMap::from([(0, vec![104]), (2, vec![2222]), (5, vec![5000, 5001])]));
    }
}
