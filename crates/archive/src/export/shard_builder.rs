//! Makes shards of messages, on a thread that may block.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::categories::Categories;
use super::destination::Destination;
use super::error::ExportError;
use super::formats::Format;
use super::id_files::{self, Entry};
use super::item::{EncodedItem, Item};
use super::plan::Plan;
use super::progress::Progress;
use super::shard_record::{Counts, ShardRecord};
use super::shard_writer::{ShardContext, ShardWriter};

/// What the builder is given.
pub(crate) enum BuilderInput {
    /// Messages in the order of the stream.
    Messages(Vec<EncodedItem>),
    /// All messages were given. Without it, the last shard is not finished: reading may have failed.
    End,
}

/// Makes shards one after the other.
pub(crate) struct ShardBuilder {
    pub(crate) plan: Plan,
    pub(crate) destination: Destination,
    pub(crate) context: ShardContext,
    pub(crate) categories: Categories,
    /// One past the last sequence that is read.
    pub(crate) limit: u64,
    /// Sequences to leave out, by shard.
    pub(crate) repeats: BTreeMap<u64, Vec<u64>>,
    /// The present records of shards that are made again.
    pub(crate) earlier: BTreeMap<u64, ShardRecord>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) runtime: Handle,
}

/// A shard in progress.
struct OpenShard {
    shard: u64,
    writer: Box<dyn ShardWriter>,
    entries: Vec<Entry>,
    seen: HashSet<u128>,
    left_out: HashSet<u64>,
    repeats: Vec<u64>,
    unreadable: Vec<u64>,
    counts: Counts,
}

impl ShardBuilder {
    /// Makes all shards. Returns their records.
    pub(crate) fn run(mut self, mut inputs: mpsc::Receiver<BuilderInput>) -> Result<Vec<ShardRecord>, ExportError> {
        let (mut open, mut records) = (None::<OpenShard>, Vec::new());
        loop {
            match inputs.blocking_recv() {
                // Reading failed: the unfinished shard is made again by the next run.
                None => return Ok(records),
                Some(BuilderInput::End) => {
                    if let Some(open) = open {
                        records.push(self.finish(open)?);
                    }
                    return Ok(records);
                }
                Some(BuilderInput::Messages(messages)) => {
                    for message in messages {
                        let shard = message.sequence / self.plan.shard_size;
                        if let Some(done) = open.take_if(|open| open.shard != shard) {
                            records.push(self.finish(done)?);
                        }
                        let current = match &mut open {
                            Some(current) => current,
                            none => none.insert(self.open(shard)?),
                        };
                        self.add(current, message)?;
                    }
                }
            }
        }
    }

    fn open(&self, shard: u64) -> Result<OpenShard, ExportError> {
        let context = ShardContext { shard, ..self.context.clone() };
        Ok(OpenShard {
            shard,
            writer: self.plan.format.open(context)?,
            entries: Vec::new(),
            seen: HashSet::new(),
            left_out: self.repeats.get(&shard).into_iter().flatten().copied().collect(),
            repeats: Vec::new(),
            unreadable: Vec::new(),
            counts: Counts::default(),
        })
    }

    fn add(&mut self, open: &mut OpenShard, message: EncodedItem) -> Result<(), ExportError> {
        let sequence = message.sequence;
        self.progress.message_at(sequence);
        let mut annotation = match message.annotation() {
            Ok(annotation) => annotation,
            Err(error) => {
                tracing::warn!(sequence, %error, "message is not an annotation, left out");
                open.unreadable.push(sequence);
                return Ok(());
            }
        };
        let entry = Entry::new(&annotation.annotation_id, sequence);
        open.entries.push(entry);
        if !open.seen.insert(entry.id) || open.left_out.contains(&sequence) {
            open.repeats.push(sequence);
            return Ok(());
        }
        if !self.plan.keep_tasks(&mut annotation) {
            open.counts.without_task += 1;
            return Ok(());
        }
        let mut item = Item { sequence, annotation, picture: message.picture, categories: Vec::new() };
        self.categorize(&mut item, &mut open.counts);
        count(&item, self.context.pictures, &mut open.counts);
        open.writer.add(&item)
    }

    fn categorize(&mut self, item: &mut Item, counts: &mut Counts) {
        if !self.plan.format.has_categories() {
            return;
        }
        for result in &item.annotation.results {
            let mut found = Vec::with_capacity(result.entities.len());
            for entity in &result.entities {
                let (category, boxes) = (self.categories.of_phrase(&entity.phrase), entity.boxes.len() as u64);
                match &category {
                    Some(category) => {
                        if let Some(count) = counts.categories.get_mut(&*category.name) {
                            *count += boxes;
                        } else {
                            counts.categories.insert(category.name.to_string(), boxes);
                        }
                    }
                    None => counts.add_unmapped(&entity.phrase, boxes),
                }
                found.push(category);
            }
            item.categories.push(found);
        }
    }

    /// Moves the files of a shard to their places, and then writes its record.
    fn finish(&self, open: OpenShard) -> Result<ShardRecord, ExportError> {
        let (destination, staging) = (&self.destination, &self.context.staging);
        let mut files = Vec::new();
        for finished in open.writer.finish()? {
            self.runtime.block_on(destination.publish(&finished.path, &finished.record.name))?;
            files.push(finished.record);
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let ids = id_files::to_bytes(&open.entries);
        self.runtime.block_on(destination.write(staging, &id_files::name(open.shard), ids))?;
        let (first, end) = bounds(&self.plan, open.shard);
        let record = ShardRecord {
            shard: open.shard,
            first,
            end: end.min(self.limit),
            is_full: self.limit >= end,
            files,
            counts: open.counts,
            repeats: open.repeats,
            unreadable: open.unreadable,
            trimmed: false,
        };
        let json = serde_json::to_vec(&record).map_err(|error| ExportError::file(record.name(), error))?;
        self.runtime.block_on(destination.write(staging, &record.name(), json))?;
        for file in self.earlier.get(&open.shard).iter().flat_map(|earlier| &earlier.files) {
            if record.files.iter().all(|new| new.name != file.name) {
                self.runtime.block_on(destination.remove(&file.name))?;
            }
        }
        self.progress.shard_done();
        Ok(record)
    }
}

/// The first sequence of a shard, and one past its last.
pub(crate) fn bounds(plan: &Plan, shard: u64) -> (u64, u64) {
    let first = shard.saturating_mul(plan.shard_size);
    let end = first.saturating_add(plan.shard_size);
    (first.max(plan.first), plan.end.map_or(end, |last| last.min(end)))
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

/// The categories of a plan.
pub(crate) fn categories(plan: &Plan) -> Result<Categories, ExportError> {
    match (&plan.categories_file, &plan.categories) {
        // The command has checked the file.
        (Some(text), _) => Categories::parse("the categories file", text),
        (None, Some(nouns)) => Ok(Categories::listed(nouns)),
        (None, None) => Ok(Categories::open()),
    }
}

/// Whether a format needs a list of categories that the caller did not give.
pub(crate) fn needs_survey(format: Format, categories_file: Option<&String>) -> bool {
    format.has_category_numbers() && categories_file.is_none()
}
