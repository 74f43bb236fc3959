//! An export from the stream to the manifest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use futures::stream::TryChunksError;
use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::damage;
use super::destination::Staging;
use super::error::ExportError;
use super::id_files::{self, RepeatSearch};
use super::item::EncodedItem;
use super::manifest;
use super::plan::Plan;
use super::progress::Progress;
use super::request::Export;
use super::shard_builder::{BuilderInput, ShardBuilder, categories};
use super::shard_finisher::ShardFinisher;
use super::shard_record::{Counts, ShardRecord};
use super::shard_writer::ShardContext;
use super::trim;
use crate::pool::open_stream;

/// Pictures that are read at once.
const PICTURE_CONCURRENCY: usize = 16;
/// Messages that are handed to the builder together.
const BATCH: usize = 128;
/// Batches that wait for the builder.
const BATCHES: usize = 2;
/// How often an export that follows the stream looks for new messages.
const POLL: Duration = Duration::from_secs(1);

/// What an export has done, by all runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Shards.
    pub shards: u64,
    /// Bytes of their files.
    pub bytes: u64,
    /// Repeated annotations that were left out.
    pub repeats: u64,
    /// Messages that are not annotations.
    pub unreadable: u64,
    /// Messages that this run removed from the stream.
    pub trimmed: u64,
    /// Counts of the contents.
    pub counts: Counts,
}

/// An export that is running.
struct Running<'a> {
    export: &'a Export,
    stream: Stream,
    staging: Staging,
    plan: Plan,
    records: BTreeMap<u64, ShardRecord>,
    progress: &'a Arc<Progress>,
    /// Whether repeats were searched and the manifest was written since the last shard.
    manifest_is_current: bool,
    trimmed: u64,
}

impl Export {
    /// Exports what is in the stream, from where an earlier run stopped. With `follow`, goes on until `stop`.
    ///
    /// # Errors
    /// [`ExportError`]. Finished shards stay, and a later call goes on from there.
    pub async fn run(&self, progress: &Arc<Progress>, stop: impl Future<Output = ()>) -> Result<Summary, ExportError> {
        let stream = open_stream(&self.jetstream, &self.stream).await?;
        let staging = self.destination.stage()?;
        let plan = self.plan(&stream, &staging).await?;
        let records = ShardRecord::read_all(&self.destination).await?;
        let records = records.into_iter().map(|record| (record.shard, record)).collect();
        let mut running =
            Running { export: self, stream, staging, plan, records, progress, manifest_is_current: false, trimmed: 0 };
        running.repair().await?;
        let mut stop = std::pin::pin!(stop);
        loop {
            if !self.follow {
                running.update().await?;
                return Ok(running.summary());
            }
            tokio::select! {
                updated = running.update() => updated?,
                // Shards that are not finished are made again by the next run.
                () = &mut stop => return Ok(running.summary()),
            }
            if running.has_ended() {
                return Ok(running.summary());
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = &mut stop => return Ok(running.summary()),
            }
        }
    }
}

impl Running<'_> {
    /// Makes the shards again whose files are not as they were written, if the stream still has their messages.
    async fn repair(&mut self) -> Result<(), ExportError> {
        for damage in damage::find(&self.export.destination, &self.plan, &self.records).await? {
            let mut left = 0;
            let mut messages = self.export.read(damage.first, damage.end).await?.boxed();
            while messages.try_next().await?.is_some() {
                left += 1;
            }
            if left < damage.messages {
                return Err(damage.lost(&self.export.destination, left));
            }
            tracing::warn!(file = damage.name, problem = damage.problem, "writing shard {} again", damage.shard);
            let repeats = self.records.get(&damage.shard).map(|record| (damage.shard, record.repeats.clone()));
            self.write_shards(damage.first, damage.end, repeats.into_iter().collect()).await?;
        }
        Ok(())
    }

    /// Exports what has come since the last update.
    async fn update(&mut self) -> Result<(), ExportError> {
        let info = self.stream.info().await;
        let last = info.map_err(|error| ExportError::broker("reading the stream's state", &error))?.state.last_sequence;
        let mut limit = last.saturating_add(1).min(self.plan.end.unwrap_or(u64::MAX));
        let full = self.records.values().filter(|record| record.is_full);
        let next = full.map(|record| record.end).max().unwrap_or(0).max(self.plan.first);
        if self.export.follow && Some(limit) != self.plan.end {
            // Only full shards.
            limit -= limit % self.plan.shard_size;
        }
        self.progress.ends_at(limit.saturating_sub(1));
        let is_current = self.records.values().any(|record| record.end == limit && record.first <= next);
        if next < limit && !is_current {
            self.manifest_is_current = false;
            self.write_shards(next, limit, BTreeMap::new()).await?;
        }
        if !self.manifest_is_current {
            self.remove_repeats().await?;
            manifest::write(&self.export.destination, self.staging.path(), &self.plan, &self.records).await?;
            self.manifest_is_current = true;
        }
        if self.export.trim {
            let (destination, subject) = (&self.export.destination, self.export.dataset.annotations_subject());
            let trimmed = trim::trim(
                &self.export.jetstream,
                &self.stream,
                &subject,
                destination,
                self.staging.path(),
                &self.plan,
                &mut self.records,
            )
            .await?;
            self.trimmed += trimmed;
            if trimmed > 0 {
                manifest::write(destination, self.staging.path(), &self.plan, &self.records).await?;
            }
        }
        Ok(())
    }

    /// Whether the end of the export has been reached.
    fn has_ended(&self) -> bool {
        let last = self.stream.cached_info().state.last_sequence;
        self.plan.end.is_some_and(|end| last.saturating_add(1) >= end)
    }

    /// Makes the shards of a range, without the repeats.
    async fn write_shards(
        &mut self,
        first: u64,
        limit: u64,
        repeats: BTreeMap<u64, Vec<u64>>,
    ) -> Result<(), ExportError> {
        let names = categories(&self.plan)?.names().map(str::to_owned).collect();
        let (from, to) = (first / self.plan.shard_size, limit / self.plan.shard_size);
        let builder = ShardBuilder {
            plan: self.plan.clone(),
            context: ShardContext {
                staging: self.staging.path().to_owned(),
                shard: from,
                dataset: self.plan.dataset.clone(),
                pictures: self.plan.pictures,
                categories: Arc::new(names),
            },
            categories: categories(&self.plan)?,
            repeats,
            progress: Arc::clone(self.progress),
        };
        let finisher = ShardFinisher {
            plan: self.plan.clone(),
            destination: self.export.destination.clone(),
            staging: self.staging.path().to_owned(),
            limit,
            earlier: self.records.range(from..=to).map(|(shard, record)| (*shard, record.clone())).collect(),
            progress: Arc::clone(self.progress),
            runtime: Handle::current(),
        };
        let (inputs, received) = mpsc::channel(BATCHES);
        let building = tokio::task::spawn_blocking(move || builder.run(received, finisher));
        let read = self.send(first, limit, inputs).await;
        let built = building.await.map_err(|error| ExportError::file("shards", error))?;
        // A builder that failed ends the reading too; its error says why.
        let records = built?;
        read?;
        self.records.extend(records.into_iter().map(|record| (record.shard, record)));
        Ok(())
    }

    /// Reads a range and hands it to the builder.
    async fn send(&self, first: u64, limit: u64, inputs: mpsc::Sender<BuilderInput>) -> Result<(), ExportError> {
        let messages = self.export.read(first, limit).await?.map_ok(EncodedItem::from).err_into();
        let mut batches = match &self.export.pictures {
            None => messages.try_chunks(BATCH).map_err(|TryChunksError(_, error)| error).boxed(),
            Some(pictures) => {
                let messages = messages.map(|message| async { message?.with_picture(pictures).await });
                // Pictures are large.
                messages.buffered(PICTURE_CONCURRENCY).map_ok(|message| vec![message]).boxed()
            }
        };
        while let Some(batch) = batches.try_next().await? {
            if inputs.send(BuilderInput::Messages(batch)).await.is_err() {
                return Ok(());
            }
        }
        drop(inputs.send(BuilderInput::End).await);
        Ok(())
    }

    /// Makes the shards again that contain an annotation twice, or one that an earlier shard has.
    async fn remove_repeats(&mut self) -> Result<(), ExportError> {
        let mut search = RepeatSearch::new()?;
        for shard in self.records.keys() {
            let entries = id_files::read(&self.export.destination, *shard).await?;
            search.add(&entries)?;
        }
        let size = self.plan.shard_size;
        for (shard, repeats) in search.finish(|sequence| sequence / size)? {
            let Some(record) = self.records.get(&shard) else { continue };
            if record.repeats == repeats {
                continue;
            }
            if record.trimmed {
                return Err(ExportError::Trimmed { shard });
            }
            tracing::debug!(shard, repeats = repeats.len(), "writing a shard again without repeated annotations");
            let (first, limit) = (record.first, record.end);
            self.write_shards(first, limit, BTreeMap::from([(shard, repeats)])).await?;
        }
        Ok(())
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary { trimmed: self.trimmed, ..Summary::default() };
        for record in self.records.values() {
            summary.shards += 1;
            summary.bytes += record.files.iter().map(|file| file.bytes).sum::<u64>();
            summary.repeats += record.repeats.len() as u64;
            summary.unreadable += record.unreadable.len() as u64;
            summary.counts.add(&record.counts);
        }
        summary
    }
}
