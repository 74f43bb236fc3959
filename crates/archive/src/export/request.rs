//! What an export is asked for, and the plan of its shards.

use std::collections::BTreeSet;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::stream::Stream;
use broker::read::{Range, StoredMessage, read};
use futures::{StreamExt, TryStreamExt};
use time::OffsetDateTime;
use uuid::Uuid;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::ImageAnnotation;

use super::destination::{Destination, Staging};
use super::error::ExportError;
use super::formats::Format;
use super::head_noun::head_noun;
use super::pictures::Pictures;
use super::plan::{PLAN, Plan};
use super::shard_builder::{categories, needs_survey};
use crate::pool::created_text;

/// Where an export begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first annotation, or where an earlier run began.
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
        let first = match (self.start, &earlier) {
            (Start::Sequence(first), _) => first,
            (_, Some(earlier)) => earlier.first,
            (Start::Beginning, None) => 0,
            (Start::Time(time), None) => self.first_since(stream, time).await?,
        };
        let mut plan = Plan {
            version: 1,
            dataset: self.dataset.to_string(),
            format: self.format,
            stream: self.stream.clone(),
            stream_created: created_text(created),
            shard_size: self.shard_size.max(1),
            first,
            end: self.end,
            pictures: self.pictures.is_some(),
            categories_file: self.categories.clone(),
            categories: None,
        };
        if let Some(earlier) = earlier {
            earlier.check(&plan, matches!(self.start, Start::Sequence(_)), &self.destination)?;
            return Ok(earlier);
        }
        if needs_survey(self.format, self.categories.as_ref()) {
            plan.categories = Some(self.survey(first).await?);
        }
        categories(&plan)?;
        let json = serde_json::to_vec(&plan).map_err(|error| ExportError::file(PLAN, error))?;
        self.destination.write(staging.path(), PLAN, json).await?;
        Ok(plan)
    }

    /// The sequence of the first annotation that was published at a time or later.
    async fn first_since(&self, stream: &Stream, time: OffsetDateTime) -> Result<u64, ExportError> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            ExportError::broker(format!("reading the stream {} from a time on", self.stream), error)
        };
        let config = OrderedConfig {
            // Like the consumers of `broker::read`, so that the same permissions are enough.
            name: Some(format!("groundling-read-{}", Uuid::new_v4().simple())),
            filter_subject: self.dataset.annotations_subject(),
            deliver_policy: DeliverPolicy::ByStartTime { start_time: time },
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        if consumer.cached_info().num_pending == 0 {
            return Ok(stream.cached_info().state.last_sequence + 1);
        }
        let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
        let message = messages.try_next().await.map_err(|error| failed(&error))?;
        let info = message.as_ref().and_then(|message| message.info().ok());
        Ok(info.map_or(stream.cached_info().state.last_sequence + 1, |info| info.stream_sequence))
    }

    /// The head nouns of all phrases with boxes, in order.
    async fn survey(&self, first: u64) -> Result<Vec<String>, ExportError> {
        let mut nouns = BTreeSet::new();
        let end = self.end.unwrap_or(u64::MAX);
        let mut messages = self.read(first, end).await?.boxed();
        while let Some(message) = messages.try_next().await? {
            let Ok(annotation) = ImageAnnotation::decode(message.payload) else { continue };
            for entity in annotation.results.iter().flat_map(|result| &result.entities) {
                nouns.insert(head_noun(&entity.phrase));
            }
        }
        nouns.remove("");
        if nouns.is_empty() {
            tracing::warn!("no phrases to make categories of: boxes will be left out, give --categories");
        }
        Ok(nouns.into_iter().collect())
    }

    /// The annotations of a range of sequences.
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
        };
        Ok(read(&self.jetstream, &self.stream, range).await?)
    }
}
