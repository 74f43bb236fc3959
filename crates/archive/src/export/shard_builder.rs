//! Makes shards of messages, on a thread that may block.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use tokio::sync::mpsc;

use super::categories::Categories;
use super::error::ExportError;
use super::formats::Format;
use super::id_files::Entry;
use super::item::{EncodedItem, Item};
use super::open_shard::OpenShard;
use super::plan::Plan;
use super::progress::Progress;
use super::shard_finisher::ShardFinisher;
use super::shard_record::{Counts, ShardRecord};
use super::shard_writer::ShardContext;

/// What the builder is given.
pub(crate) enum BuilderInput {
    /// Messages in the order of the stream.
    Messages(Vec<EncodedItem>),
    /// All messages were given. Without it, the last shard is not finished: reading may have failed.
    End,
}

/// Makes shards one after the other. One is filled while the one before it is finished.
pub(crate) struct ShardBuilder {
    pub(crate) plan: Plan,
    pub(crate) context: ShardContext,
    pub(crate) categories: Categories,
    /// Sequences to leave out, by shard.
    pub(crate) repeats: BTreeMap<u64, Vec<u64>>,
    pub(crate) progress: Arc<Progress>,
}

impl ShardBuilder {
    /// Makes all shards. Returns their records.
    pub(crate) fn run(
        mut self,
        inputs: mpsc::Receiver<BuilderInput>,
        finisher: ShardFinisher,
    ) -> Result<Vec<ShardRecord>, ExportError> {
        // Without a buffer: a shard is accepted when the one before is finished, so two at most are in memory.
        let (built, received) = sync_channel::<OpenShard>(0);
        let finish_all = move || received.into_iter().map(|shard| finisher.finish(shard)).collect();
        let failed = |error| ExportError::file("shards", error);
        let finishing = thread::Builder::new().name("shards".into()).spawn(finish_all).map_err(failed)?;
        let outcome = self.build(inputs, &built);
        drop(built);
        let records = finishing.join().map_err(|_| ExportError::file("shards", "finishing one panicked"))?;
        outcome.and(records)
    }

    /// Hands each shard to the thread that finishes it, until there are no more messages or that thread has failed.
    fn build(
        &mut self,
        mut inputs: mpsc::Receiver<BuilderInput>,
        built: &SyncSender<OpenShard>,
    ) -> Result<(), ExportError> {
        let mut open = None::<OpenShard>;
        loop {
            match inputs.blocking_recv() {
                // Reading failed: the unfinished shard is made again by the next run.
                None => return Ok(()),
                Some(BuilderInput::End) => {
                    if let Some(last) = open {
                        drop(built.send(last));
                    }
                    return Ok(());
                }
                Some(BuilderInput::Messages(messages)) => {
                    for message in messages {
                        let shard = message.sequence / self.plan.shard_size;
                        if let Some(full) = open.take_if(|open| open.shard != shard)
                            && built.send(full).is_err()
                        {
                            return Ok(());
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
        let writer = self.plan.format.open(ShardContext { shard, ..self.context.clone() })?;
        Ok(OpenShard::new(shard, writer, self.repeats.get(&shard).into_iter().flatten().copied()))
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
        if !open.insert_id(Entry::new(&annotation.annotation_id, sequence)) {
            return Ok(());
        }
        if !self.plan.keep_tasks(&mut annotation) {
            open.counts.without_task += 1;
            return Ok(());
        }
        let mut item = Item { sequence, annotation, picture: message.picture, categories: Vec::new() };
        self.categorize(&mut item, &mut open.counts);
        open.add(&item, self.context.pictures)
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
