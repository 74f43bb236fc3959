//! Finishes shards: their files get to their places, and then their records.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::destination::Destination;
use super::error::ExportError;
use super::id_files;
use super::open_shard::OpenShard;
use super::plan::Plan;
use super::progress::Progress;
use super::shard_record::ShardRecord;

/// Finishes shards on a thread that may block.
pub(crate) struct ShardFinisher {
    pub(crate) plan: Plan,
    pub(crate) destination: Destination,
    /// The directory for unfinished files.
    pub(crate) staging: PathBuf,
    /// One past the last sequence that is read.
    pub(crate) limit: u64,
    /// The present records of shards that are made again.
    pub(crate) earlier: BTreeMap<u64, ShardRecord>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) runtime: Handle,
}

impl ShardFinisher {
    /// Moves the files of a shard to their places, and then writes its record.
    pub(crate) fn finish(&self, open: OpenShard) -> Result<ShardRecord, ExportError> {
        let (destination, staging) = (&self.destination, &self.staging);
        let mut files = Vec::new();
        for finished in open.writer.finish()? {
            self.runtime.block_on(destination.publish(&finished.path, &finished.record.name))?;
            files.push(finished.record);
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let ids = id_files::to_bytes(&open.entries);
        self.runtime.block_on(destination.write(staging, &id_files::name(open.shard), ids))?;
        let (first, end) = self.plan.bounds(open.shard);
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
