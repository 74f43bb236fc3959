//! A shard that annotations are added to.

use std::collections::HashSet;

use super::error::ExportError;
use super::id_files::Entry;
use super::item::Item;
use super::shard_record::Counts;
use super::shard_writer::ShardWriter;

/// The files of a shard, and what its record tells about them.
pub(crate) struct OpenShard {
    pub(crate) shard: u64,
    pub(crate) writer: Box<dyn ShardWriter>,
    /// The ids of all annotations, repeated ones too.
    pub(crate) entries: Vec<Entry>,
    seen: HashSet<u128>,
    left_out: HashSet<u64>,
    /// The sequences of annotations that were left out because they are repeated.
    pub(crate) repeats: Vec<u64>,
    /// The sequences of messages that are not annotations.
    pub(crate) unreadable: Vec<u64>,
    pub(crate) counts: Counts,
}

impl OpenShard {
    /// An empty shard. `left_out` are the sequences of annotations that other shards have.
    pub(crate) fn new(shard: u64, writer: Box<dyn ShardWriter>, left_out: impl Iterator<Item = u64>) -> Self {
        Self {
            shard,
            writer,
            entries: Vec::new(),
            seen: HashSet::new(),
            left_out: left_out.collect(),
            repeats: Vec::new(),
            unreadable: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Records an annotation's id. Returns whether it is new, so that the annotation belongs to the shard.
    pub(crate) fn insert_id(&mut self, entry: Entry) -> bool {
        self.entries.push(entry);
        let is_new = self.seen.insert(entry.id) && !self.left_out.contains(&entry.sequence);
        if !is_new {
            self.repeats.push(entry.sequence);
        }
        is_new
    }

    /// Adds an annotation to the files and counts it. `pictures` tells whether pictures are exported.
    pub(crate) fn add(&mut self, item: &Item, pictures: bool) -> Result<(), ExportError> {
        count(item, pictures, &mut self.counts);
        self.writer.add(item)
    }
}

fn count(item: &Item, pictures: bool, counts: &mut Counts) {
    counts.annotations += 1;
    if pictures && item.picture.is_none() {
        let has_object = item.annotation.picture.as_ref().is_some_and(|picture| picture.object.is_some());
        counts.pictures_missing += u64::from(has_object);
        counts.pictures_in_jobs += u64::from(!has_object);
    }
    for result in &item.annotation.results {
        counts.results += 1;
        match counts.tasks.get_mut(&result.task_id) {
            Some(count) => *count += 1,
            None => drop(counts.tasks.insert(result.task_id.clone(), 1)),
        }
        counts.entities += result.entities.len() as u64;
        for found in result.entities.iter().flat_map(|entity| &entity.boxes) {
            counts.boxes += 1;
            let Some(score) = found.score else { continue };
            let tenth = (f64::from(score) * 10.0).clamp(0.0, 9.0) as usize;
            if let Some(count) = counts.boxes_by_score.get_mut(tenth) {
                *count += 1;
            }
        }
    }
}
