//! Annotations on disk, divided by the hash of their object, so that each part fits into memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use wire::Message;
use wire::v1::{Entity, GroundedBox, ImageAnnotation, ObjectIdentity, PictureFacts, TaskResult};

use super::compare::{Difference, compare};
use super::largest::{Largest, Pictured};
use super::totals::Totals;
use crate::digest::sha256_u128;

/// Number of parts. Each takes two open files.
const PARTS: usize = 128;
/// Bytes that wait for each file to be written.
const BUFFER: usize = 8 * 1024;

/// Which object or, for a picture within its job, which picture.
type Key = u128;

/// The parts of one comparison. The files have no names and vanish with the process.
pub(super) struct Partitions {
    parts: Vec<[BufWriter<File>; 2]>,
}

/// An annotation and its sequence.
struct SequencedAnnotation {
    sequence: u64,
    annotation: ImageAnnotation,
}

impl Partitions {
    pub(super) fn new() -> io::Result<Self> {
        let file = || Ok::<_, io::Error>(BufWriter::with_capacity(BUFFER, tempfile::tempfile()?));
        Ok(Self { parts: (0..PARTS).map(|_| Ok([file()?, file()?])).collect::<io::Result<_>>()? })
    }

    /// Adds an annotation of the first (`side` 0) or second dataset.
    pub(super) fn add(&mut self, side: usize, sequence: u64, annotation: &ImageAnnotation) -> io::Result<()> {
        let key = key(annotation);
        let part = self.parts.get_mut((key % PARTS as u128) as usize).and_then(|part| part.get_mut(side));
        let Some(file) = part else { return Ok(()) };
        let bytes = reduced(annotation).encode_to_vec();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        file.write_all(&key.to_le_bytes())?;
        file.write_all(&sequence.to_le_bytes())?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&bytes)
    }

    /// Compares the two datasets, part by part.
    pub(super) fn compare(self, totals: &mut Totals, largest: &mut Largest) -> io::Result<()> {
        for [a, b] in self.parts {
            let (a, mut b) = (read(a, &mut totals.replaced)?, read(b, &mut totals.replaced)?);
            for (key, pictures) in a {
                let mut others = b.remove(&key).unwrap_or_default();
                let is_elsewhere = !others.is_empty();
                for picture in pictures {
                    match others.iter().position(|other| is_same(&picture.annotation, &other.annotation)) {
                        Some(index) => add_pair(&picture, &others.swap_remove(index), totals, largest),
                        None => {
                            totals.pictures_only_a += 1;
                            totals.objects_changed += u64::from(is_elsewhere);
                        }
                    }
                }
                totals.pictures_only_b += others.len() as u64;
            }
            totals.pictures_only_b += b.into_values().map(|pictures| pictures.len() as u64).sum::<u64>();
        }
        Ok(())
    }
}

fn add_pair(a: &SequencedAnnotation, b: &SequencedAnnotation, totals: &mut Totals, largest: &mut Largest) {
    let mut difference = compare(&a.annotation, &b.annotation);
    let is_equal = is_equal(&difference);
    difference.counts.pictures_equal = u64::from(is_equal);
    totals.join(&difference.counts);
    if !is_equal {
        largest.add(Pictured { name: name(&a.annotation), sequences: [a.sequence, b.sequence], difference });
    }
}

fn is_equal(Difference { counts, distance, .. }: &Difference) -> bool {
    *distance == 0.0
        && counts.texts_equal == counts.results
        && [counts.results_only_a, counts.results_only_b, counts.phrases_gained, counts.phrases_lost] == [0; 4]
}

/// The last annotation of each picture, by the key.
fn read(writer: BufWriter<File>, replaced: &mut u64) -> io::Result<BTreeMap<Key, Vec<SequencedAnnotation>>> {
    let mut file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    let (mut reader, mut head) = (BufReader::with_capacity(1 << 16, file), [0; 28]);
    let mut pictures = BTreeMap::<Key, Vec<SequencedAnnotation>>::new();
    loop {
        match reader.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(pictures),
            Err(error) => return Err(error),
        }
        let (mut key, mut sequence, mut length) = ([0; 16], [0; 8], [0; 4]);
        key.copy_from_slice(&head[..16]);
        sequence.copy_from_slice(&head[16..24]);
        length.copy_from_slice(&head[24..]);
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        reader.read_exact(&mut bytes)?;
        let annotation = ImageAnnotation::decode(bytes.as_slice()).map_err(io::Error::other)?;
        let stored = SequencedAnnotation { sequence: u64::from_le_bytes(sequence), annotation };
        let of_key = pictures.entry(Key::from_le_bytes(key)).or_default();
        match of_key.iter_mut().find(|other| is_same(&other.annotation, &stored.annotation)) {
            // In the order of the stream.
            Some(earlier) => {
                *replaced += u64::from(earlier.annotation.annotation_id != stored.annotation.annotation_id);
                *earlier = stored;
            }
            None => of_key.push(stored),
        }
    }
}

/// Whether two annotations with the same key are about the same bytes.
fn is_same(a: &ImageAnnotation, b: &ImageAnnotation) -> bool {
    let facts = |annotation: &ImageAnnotation| annotation.picture.clone().unwrap_or_default();
    let (a, b) = (facts(a), facts(b));
    if !a.sha256.is_empty() && !b.sha256.is_empty() {
        return a.sha256 == b.sha256;
    }
    let state = |facts: PictureFacts| facts.object.map(|object| (object.version_id, object.etag)).unwrap_or_default();
    match (state(a), state(b)) {
        ((Some(a), _), (Some(b), _)) => a == b,
        ((_, a), (_, b)) => a == b,
    }
}

fn key(annotation: &ImageAnnotation) -> Key {
    let facts = annotation.picture.as_ref();
    let text = match facts.and_then(|facts| facts.object.as_ref()) {
        Some(ObjectIdentity { bucket, key, .. }) => format!("{bucket}/{key}"),
        None => format!("sha256:{}", facts.map_or("", |facts| facts.sha256.as_str())),
    };
    sha256_u128(text.as_bytes())
}

/// The address of the picture, or the digest of one within its job.
fn name(annotation: &ImageAnnotation) -> String {
    let Some(facts) = &annotation.picture else { return String::new() };
    match &facts.object {
        Some(object) => format!("s3://{}/{}", object.bucket, object.key),
        None => format!("sha256:{}", facts.sha256),
    }
}

/// What is compared, and nothing else.
fn reduced(annotation: &ImageAnnotation) -> ImageAnnotation {
    let picture = annotation.picture.as_ref().map(|facts| PictureFacts {
        sha256: facts.sha256.clone(),
        object: facts.object.clone(),
        ..PictureFacts::default()
    });
    let found =
        |found: &GroundedBox| GroundedBox { fractions: found.fractions, score: found.score, ..GroundedBox::default() };
    let entity = |entity: &Entity| Entity {
        phrase: entity.phrase.clone(),
        boxes: entity.boxes.iter().map(found).collect(),
        ..Entity::default()
    };
    let result = |result: &TaskResult| TaskResult {
        task_id: result.task_id.clone(),
        text: result.text.clone(),
        answer: result.answer.clone(),
        entities: result.entities.iter().map(entity).collect(),
        ..TaskResult::default()
    };
    ImageAnnotation {
        annotation_id: annotation.annotation_id.clone(),
        picture,
        results: annotation.results.iter().map(result).collect(),
        ..ImageAnnotation::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(id: &str, key: Option<&str>, sha256: &str, text: &str) -> ImageAnnotation {
        let object = key.map(|key| ObjectIdentity { bucket: "b".into(), key: key.into(), ..ObjectIdentity::default() });
        ImageAnnotation {
            annotation_id: id.into(),
            picture: Some(PictureFacts { sha256: sha256.into(), object, ..PictureFacts::default() }),
            results: vec![TaskResult { task_id: "t".into(), text: text.into(), ..TaskResult::default() }],
            ..ImageAnnotation::default()
        }
    }

    #[test]
    fn pictures_are_joined_by_object_and_bytes_and_the_last_annotation_counts() {
        let mut partitions = Partitions::new().unwrap();
        let sides = [
            [
                annotation("1", Some("same"), "s", "fox"),
                annotation("2", Some("redone"), "r", "first"),
                annotation("3", Some("redone"), "r", "second"),
                annotation("3", Some("redone"), "r", "second"),
                annotation("4", Some("overwritten"), "old", "x"),
                annotation("5", Some("only a"), "a", "x"),
                annotation("6", None, "inline", "left"),
            ],
            [
                annotation("1b", Some("same"), "s", "fox"),
                annotation("2b", Some("redone"), "r", "second"),
                annotation("4b", Some("overwritten"), "new", "x"),
                annotation("6b", None, "inline", "right"),
                annotation("7b", Some("only b"), "b", "x"),
                annotation("8b", Some("only b 2"), "b", "x"),
                annotation("8c", Some("only b 2"), "c", "x"),
            ],
        ];
        for (side, annotations) in sides.iter().enumerate() {
            for (sequence, annotation) in (1..).zip(annotations) {
                partitions.add(side, sequence, annotation).unwrap();
            }
        }
        let (mut totals, mut largest) = (Totals::default(), Largest::new(10));
        partitions.compare(&mut totals, &mut largest).unwrap();
        assert_eq!((totals.pictures, totals.pictures_equal, totals.texts_equal), (3, 2, 2));
        assert_eq!((totals.pictures_only_a, totals.pictures_only_b), (2, 4));
        assert_eq!((totals.objects_changed, totals.replaced), (1, 1));
        let found = largest.into_sorted();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].sequences), ("sha256:inline", [7, 4]));
    }
}
