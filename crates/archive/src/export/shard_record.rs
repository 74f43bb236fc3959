//! What is known of a finished shard.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::destination::Destination;
use super::error::ExportError;
use super::staged_file::FileRecord;

/// The folder of the records.
const FOLDER: &str = "_export/shards";
/// Most unmapped phrases that are counted by name in one shard, and in the statistics.
pub(crate) const MOST_UNMAPPED: usize = 1000;

/// A finished shard. The record is written after the shard's files: without it, the shard is made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardRecord {
    /// Its number.
    pub shard: u64,
    /// The first sequence.
    pub first: u64,
    /// One past the last sequence.
    pub end: u64,
    /// Whether the stream had reached the end of the shard. The last shard is made again when there is more.
    pub is_full: bool,
    /// Its files, in the order of their names.
    pub files: Vec<FileRecord>,
    /// Counts of its contents.
    pub counts: Counts,
    /// Sequences that were left out because an earlier message has the same annotation id.
    pub repeats: Vec<u64>,
    /// Sequences whose messages are not annotations.
    pub unreadable: Vec<u64>,
    /// Whether its annotations were removed from the stream.
    #[serde(default)]
    pub trimmed: bool,
}

/// Counts of a shard, or of all shards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Annotations.
    pub annotations: u64,
    /// Results of tasks.
    pub results: u64,
    /// Phrases with boxes.
    pub entities: u64,
    /// Boxes.
    pub boxes: u64,
    /// Boxes by tenths of their score: from 0 to below 0.1 and so on. Boxes from prompts have none.
    pub boxes_by_score: [u64; 10],
    /// Pictures that could not be exported because the object does not exist any more or has other bytes now.
    pub pictures_missing: u64,
    /// Pictures that could not be exported because they were part of their jobs, and are stored nowhere.
    #[serde(default)]
    pub pictures_in_jobs: u64,
    /// Annotations that were left out because they have no result of the tasks that are exported.
    #[serde(default)]
    pub without_task: u64,
    /// Results by task id.
    pub tasks: BTreeMap<String, u64>,
    /// Boxes by category.
    pub categories: BTreeMap<String, u64>,
    /// Boxes that were left out because their phrase has no category.
    pub boxes_unmapped: u64,
    /// The phrases of these, with the number of their boxes; 1000 of them at most.
    pub unmapped: BTreeMap<String, u64>,
}

impl Counts {
    /// Counts boxes of a phrase without category.
    pub(crate) fn add_unmapped(&mut self, phrase: &str, boxes: u64) {
        self.boxes_unmapped += boxes;
        self.name_unmapped(phrase, boxes);
    }

    fn name_unmapped(&mut self, phrase: &str, boxes: u64) {
        if let Some(count) = self.unmapped.get_mut(phrase) {
            *count += boxes;
        } else if self.unmapped.len() < MOST_UNMAPPED {
            self.unmapped.insert(phrase.to_owned(), boxes);
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.annotations += other.annotations;
        self.results += other.results;
        self.entities += other.entities;
        self.boxes += other.boxes;
        self.pictures_missing += other.pictures_missing;
        self.pictures_in_jobs += other.pictures_in_jobs;
        self.without_task += other.without_task;
        self.boxes_unmapped += other.boxes_unmapped;
        self.boxes_by_score.iter_mut().zip(other.boxes_by_score).for_each(|(sum, count)| *sum += count);
        other.tasks.iter().for_each(|(name, count)| *self.tasks.entry(name.clone()).or_default() += count);
        other.categories.iter().for_each(|(name, count)| *self.categories.entry(name.clone()).or_default() += count);
        other.unmapped.iter().for_each(|(phrase, count)| self.name_unmapped(phrase, *count));
    }
}

impl Counts {
    /// Boxes that are in the files.
    pub fn boxes_exported(&self) -> u64 {
        self.boxes.saturating_sub(self.boxes_unmapped)
    }
}

impl ShardRecord {
    /// Messages of the stream that the shard was made of.
    pub(crate) fn messages(&self) -> u64 {
        self.annotations() + self.unreadable.len() as u64
    }

    /// Messages among them that are annotations, with those that were left out.
    pub(crate) fn annotations(&self) -> u64 {
        self.counts.annotations + self.counts.without_task + self.repeats.len() as u64
    }

    /// The name of the record.
    pub(crate) fn name(&self) -> String {
        Self::name_of(self.shard)
    }

    /// The name of a shard's record.
    pub(crate) fn name_of(shard: u64) -> String {
        format!("{FOLDER}/{shard:08}.json")
    }

    /// The records at a destination, in the order of their numbers.
    pub(crate) async fn read_all(destination: &Destination) -> Result<Vec<Self>, ExportError> {
        let mut records = Vec::new();
        for name in destination.list(FOLDER).await? {
            let Some(bytes) = destination.read(&name).await? else { continue };
            let record = serde_json::from_slice(&bytes);
            records.push(record.map_err(|error| ExportError::file(destination.name_of(&name), error))?);
        }
        records.sort_by_key(|record: &Self| record.shard);
        Ok(records)
    }
}
