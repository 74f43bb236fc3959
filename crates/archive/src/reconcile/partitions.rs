//! Objects and records on disk, divided by the hash of their key, so that each part fits into memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};

use super::record::{KeyHash, Outcome, RECORD_BYTES, Record, State, from_line, identity, to_line};
use crate::object::SourceObject;

/// Number of parts. Each takes two open files.
const PARTS: usize = 128;
/// Bytes that wait for each file to be written.
const BUFFER: usize = 8 * 1024;

/// The parts of one comparison. The files have no names and vanish with the process.
pub(super) struct Partitions {
    parts: Vec<Part>,
}

struct Part {
    objects: BufWriter<File>,
    records: BufWriter<File>,
}

/// What the comparison of all parts found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) objects: u64,
    pub(super) done: u64,
    pub(super) waiting: u64,
    pub(super) failed: u64,
    pub(super) missing: u64,
    /// Objects that were read before.
    pub(super) repeated: u64,
    /// Records about objects, or states of objects, that the source does not have.
    pub(super) elsewhere: u64,
}

/// Objects on disk, in no particular order.
#[derive(Debug)]
pub struct Spool {
    file: File,
}

impl Partitions {
    pub(super) fn new() -> io::Result<Self> {
        let file = || Ok::<_, io::Error>(BufWriter::with_capacity(BUFFER, tempfile::tempfile()?));
        let part = |_| Ok(Part { objects: file()?, records: file()? });
        Ok(Self { parts: (0..PARTS).map(part).collect::<io::Result<_>>()? })
    }

    pub(super) fn add_object(&mut self, object: &SourceObject) -> io::Result<()> {
        let (key, _) = identity(object);
        let line = to_line(object)?;
        match self.part(key) {
            Some(part) => writeln!(part.objects, "{line}"),
            None => Ok(()),
        }
    }

    pub(super) fn add_record(&mut self, record: Record) -> io::Result<()> {
        match self.part(record.key) {
            Some(part) => part.records.write_all(&record.to_bytes()),
            None => Ok(()),
        }
    }

    fn part(&mut self, key: KeyHash) -> Option<&mut Part> {
        self.parts.get_mut((key % PARTS as u128) as usize)
    }

    /// Compares objects and records, part by part. The missing objects are in the spool, each once.
    pub(super) fn compare(self) -> io::Result<(Totals, Spool)> {
        let mut missing = BufWriter::new(tempfile::tempfile()?);
        let mut totals = Totals::default();
        for Part { objects, records } in self.parts {
            compare(objects, records, &mut totals, &mut missing)?;
        }
        Ok((totals, Spool { file: rewound(missing)? }))
    }
}

fn compare(
    objects: BufWriter<File>,
    records: BufWriter<File>,
    totals: &mut Totals,
    missing: &mut impl Write,
) -> io::Result<()> {
    let mut known = read_records(rewound(records)?)?;
    known.sort_unstable();
    known.dedup();
    let mut is_matched = vec![false; known.len()];
    let mut seen = Seen::default();
    for line in BufReader::new(rewound(objects)?).lines() {
        let object = from_line(&line?)?;
        let (key, state) = identity(&object);
        let first = known.partition_point(|record| record.key < key);
        let same_key =
            known.iter().skip(first).zip(is_matched.iter_mut().skip(first)).take_while(|(record, _)| record.key == key);
        let mut best: Option<Outcome> = None;
        for (record, is_matched) in same_key.filter(|(record, _)| record.state.matches(state)) {
            *is_matched = true;
            best = Some(best.map_or(record.outcome, |best| best.min(record.outcome)));
        }
        // Sources can overlap, and a manifest can have an object twice.
        if !seen.add(key, state) {
            totals.repeated += 1;
            continue;
        }
        totals.objects += 1;
        match best {
            Some(Outcome::Done) => totals.done += 1,
            Some(Outcome::Waiting) => totals.waiting += 1,
            Some(Outcome::Failed) => totals.failed += 1,
            None => {
                totals.missing += 1;
                writeln!(missing, "{}", to_line(&object)?)?;
            }
        }
    }
    totals.elsewhere += is_matched.iter().filter(|is_matched| !**is_matched).count() as u64;
    Ok(())
}

/// The objects of a part that were read.
#[derive(Default)]
struct Seen {
    first: HashMap<KeyHash, State>,
    /// Further states of the same objects, which are few.
    others: HashMap<KeyHash, Vec<State>>,
}

impl Seen {
    /// Whether the object in this state is new.
    fn add(&mut self, key: KeyHash, state: State) -> bool {
        let Some(first) = self.first.get(&key) else {
            self.first.insert(key, state);
            return true;
        };
        if first.matches(state) {
            return false;
        }
        let others = self.others.entry(key).or_default();
        let is_new = !others.iter().any(|other| other.matches(state));
        if is_new {
            others.push(state);
        }
        is_new
    }
}

fn read_records(file: File) -> io::Result<Vec<Record>> {
    let count = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX) / RECORD_BYTES;
    let mut records = Vec::with_capacity(count);
    let (mut file, mut bytes) = (BufReader::new(file), [0; RECORD_BYTES]);
    for _ in 0..count {
        file.read_exact(&mut bytes)?;
        records.push(Record::from_bytes(&bytes));
    }
    Ok(records)
}

/// The file, from its start.
fn rewound(writer: BufWriter<File>) -> io::Result<File> {
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

impl Spool {
    /// The objects.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn objects(&mut self) -> io::Result<impl Iterator<Item = io::Result<SourceObject>> + use<>> {
        self.file.rewind()?;
        let lines = BufReader::new(self.file.try_clone()?).lines();
        Ok(lines.map(|line| Ok(from_line(&line?)?)))
    }
}

#[cfg(test)]
mod tests {
    use wire::v1::{ImageJob, S3Object, image_job};

    use super::*;

    fn object(key: &str, etag: &str) -> SourceObject {
        SourceObject { bucket: "b".into(), key: key.into(), etag: Some(etag.into()), ..SourceObject::default() }
    }

    fn record(key: &str, etag: Option<&str>, outcome: Outcome) -> Record {
        let s3 = S3Object { bucket: "b".into(), key: key.into(), version_id: None, etag: etag.map(str::to_owned) };
        let job = ImageJob { source: Some(image_job::Source::S3(s3)), ..ImageJob::default() };
        Record::of_job(&job, outcome).unwrap()
    }

    #[test]
    fn each_object_counts_once_by_the_best_of_its_outcomes() {
        let mut partitions = Partitions::new().unwrap();
        for key in ["done", "waiting", "failed", "retried", "unpinned"] {
            partitions.add_object(&object(key, "e")).unwrap();
        }
        let again = [("done", "e"), ("failed", "e"), ("lost", "e")];
        for (key, etag) in [("lost", "e"), ("overwritten", "new"), ("overwritten", "newer")].into_iter().chain(again) {
            partitions.add_object(&object(key, etag)).unwrap();
        }
        // As an inventory has it, beside the list of the keys.
        partitions.add_object(&SourceObject { version: Some("v".into()), ..object("waiting", "e") }).unwrap();
        for (key, etag, outcome) in [
            ("done", Some("e"), Outcome::Done),
            ("done", Some("e"), Outcome::Done),
            ("done", Some("e"), Outcome::Failed),
            ("waiting", Some("e"), Outcome::Waiting),
            ("failed", Some("e"), Outcome::Failed),
            ("retried", Some("e"), Outcome::Failed),
            ("retried", Some("e"), Outcome::Waiting),
            ("unpinned", None, Outcome::Failed),
            ("overwritten", Some("old"), Outcome::Done),
            ("of another source", Some("e"), Outcome::Done),
        ] {
            partitions.add_record(record(key, etag, outcome)).unwrap();
        }
        let (totals, mut missing) = partitions.compare().unwrap();
        let expected = Totals { objects: 8, done: 1, waiting: 2, failed: 2, missing: 3, repeated: 4, elsewhere: 2 };
        assert_eq!(totals, expected);
        for _ in 0..2 {
            let mut keys: Vec<_> = missing.objects().unwrap().map(|object| object.unwrap().key).collect();
            keys.sort();
            assert_eq!(keys, ["lost", "overwritten", "overwritten"], "each once, and as often as they are read");
        }
    }
}
