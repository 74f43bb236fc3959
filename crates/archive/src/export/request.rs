//! What an export is asked for, and the plan of its shards.

use std::collections::BTreeSet;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use broker::read::{Range, StoredMessage, read};
use futures::{StreamExt, TryStreamExt};
use time::OffsetDateTime;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::ImageAnnotation;

use super::destination::{Destination, Staging};
use super::error::ExportError;
use super::formats::Format;
use super::head_noun::head_noun;
use super::manifest::{MANIFEST, STATS};
use super::pictures::Pictures;
use super::plan::{BEGINNING, PLAN, Plan};
use super::shard_builder::{categories, needs_survey};
use crate::pool::time_text;

/// Where an export begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first annotation.
    Beginning,
    /// At a sequence.
    Sequence(u64),
    /// At the first annotation that was published at this time or later.
    Time(OffsetDateTime),
}

/// What is exported, and how.
#[derive(Debug, Clone)]
pub struct Export {
    /// JetStream.
    pub jetstream: Context,
    /// The stream of annotations.
    pub stream: String,
    /// The dataset.
    pub dataset: Dataset,
    /// The format.
    pub format: Format,
    /// Where the files go.
    pub destination: Destination,
    /// Sequences of a shard, at least 1. Sequences of other datasets count.
    pub shard_size: u64,
    /// Where to begin.
    pub start: Start,
    /// One past the last sequence; `None` for all.
    pub end: Option<u64>,
    /// The tasks whose results are exported. Empty for all.
    pub tasks: Vec<String>,
    /// Reads pictures, if they are exported.
    pub pictures: Option<Pictures>,
    /// The text of a categories file.
    pub categories: Option<String>,
    /// Whether to go on with annotations that come later, shard by shard, until told to stop.
    pub follow: bool,
    /// Whether to remove the annotations of full shards from the stream.
    pub trim: bool,
}

impl Export {
    /// The plan of an earlier run, or a new one.
    pub(super) async fn plan(&self, stream: &Stream, staging: &Staging) -> Result<Plan, ExportError> {
        let created = stream.cached_info().created;
        let earlier = Plan::read(&self.destination).await?;
        let (since, first) = match (self.start, &earlier) {
            (Start::Sequence(first), _) => (BEGINNING.to_owned(), first),
            (Start::Beginning, _) => (BEGINNING.to_owned(), 0),
            (Start::Time(time), Some(earlier)) => (time_text(time), earlier.first),
            (Start::Time(time), None) if time > OffsetDateTime::now_utc() => {
                return Err(ExportError::Future(time_text(time)));
            }
            (Start::Time(time), None) => (time_text(time), self.first_since(stream, time).await?),
        };
        let mut tasks = self.tasks.clone();
        tasks.sort_unstable();
        tasks.dedup();
        let mut plan = Plan {
            version: 1,
            dataset: self.dataset.to_string(),
            format: self.format,
            stream: self.stream.clone(),
            stream_created: time_text(created),
            shard_size: self.shard_size.max(1),
            since,
            first,
            end: self.end,
            pictures: self.pictures.is_some(),
            tasks,
            categories_file: self.categories.clone(),
            categories: None,
        };
        if let Some(earlier) = earlier {
            earlier.check(&plan, &self.destination)?;
            return Ok(earlier);
        }
        self.check_place().await?;
        if needs_survey(self.format, self.categories.as_ref()) {
            plan.categories = Some(self.survey(&plan).await?);
        }
        categories(&plan)?;
        let json = serde_json::to_vec(&plan).map_err(|error| ExportError::file(PLAN, error))?;
        self.destination.create(staging.path(), PLAN, json).await?;
        // Two exports can be begun in one prefix of a bucket at the same time: the one whose plan is there goes on.
        let stored = Plan::read(&self.destination).await?;
        let stored = stored.ok_or_else(|| ExportError::BegunElsewhere(self.destination.to_string()))?;
        stored.check(&plan, &self.destination)?;
        Ok(stored)
    }

    /// Checks that no files are replaced that may be of something else.
    async fn check_place(&self) -> Result<(), ExportError> {
        let common = self.format.common_files(&[]);
        let names = [MANIFEST, STATS].into_iter().chain(common.iter().map(|(name, _)| *name));
        let stems = self.format.stems().iter().map(|stem| format!("{stem}-"));
        for start in names.map(str::to_owned).chain(stems) {
            let is_ours = |name: &&String| match name.strip_prefix(&start) {
                Some("") => true,
                Some(rest) => start.ends_with('-') && is_shard(rest),
                None => false,
            };
            if let Some(name) = self.destination.top_names(&start).await?.iter().find(is_ours) {
                let (place, name) = (self.destination.to_string(), name.clone());
                return Err(ExportError::Occupied { place, name, plan: PLAN });
            }
        }
        Ok(())
    }

    /// The sequence of the first annotation that was published at a time or later.
    async fn first_since(&self, stream: &Stream, time: OffsetDateTime) -> Result<u64, ExportError> {
        let range = Range {
            subject: self.dataset.annotations_subject(),
            since: Some(time),
            headers_only: true,
            deduplicate: false,
            ..Range::all()
        };
        let mut messages = read(&self.jetstream, &self.stream, range).await?.boxed();
        let first = messages.try_next().await?;
        Ok(first.map_or(stream.cached_info().state.last_sequence + 1, |first| first.sequence))
    }

    /// The head nouns of all phrases with boxes, in order.
    async fn survey(&self, plan: &Plan) -> Result<Vec<String>, ExportError> {
        let (mut nouns, mut is_empty) = (BTreeSet::new(), true);
        let end = self.end.unwrap_or(u64::MAX);
        let mut messages = self.read(plan.first, end).await?.boxed();
        while let Some(message) = messages.try_next().await? {
            let Ok(mut annotation) = ImageAnnotation::decode(message.payload) else { continue };
            is_empty &= !plan.keep_tasks(&mut annotation);
            for entity in annotation.results.iter().flat_map(|result| &result.entities) {
                nouns.insert(head_noun(&entity.phrase));
            }
        }
        nouns.remove("");
        // The list is made once, so all later boxes would be left out.
        if is_empty {
            return Err(ExportError::NoNouns(self.dataset.to_string()));
        }
        if nouns.is_empty() {
            tracing::warn!("no phrases to make categories of: boxes will be left out, give --categories");
        }
        Ok(nouns.into_iter().collect())
    }

    /// The messages of the dataset in a range of sequences.
    pub(super) async fn read(
        &self,
        first: u64,
        end: u64,
    ) -> Result<impl futures::Stream<Item = Result<StoredMessage, broker::read::ReadError>> + use<>, ExportError> {
        let range = Range {
            subject: self.dataset.annotations_subject(),
            sequences: first..=end.saturating_sub(1),
            // Repeats are found by their annotation ids, in constant memory.
            deduplicate: false,
            ..Range::all()
        };
        Ok(read(&self.jetstream, &self.stream, range).await?)
    }
}

/// Whether a name goes on like that of a shard: eight digits, and then a part in front of which is no letter.
fn is_shard(rest: &str) -> bool {
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits == 8 && rest.get(8..).is_some_and(|end| end.is_empty() || end.starts_with(['.', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_shards_have_eight_digits() {
        for name in ["00000000.parquet", "00000012-jpg.tar", "00000001"] {
            assert!(is_shard(name), "{name}");
        }
        for name in ["1.parquet", "00000000x.parquet", "2024-00000000", "", "000000001"] {
            assert!(!is_shard(name), "{name}");
        }
    }
}
