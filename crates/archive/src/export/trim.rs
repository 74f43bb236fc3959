//! Removes exported annotations from the stream.

use std::collections::BTreeMap;
use std::path::Path;

use async_nats::jetstream::Context;
use async_nats::jetstream::stream::Stream;
use broker::delete::delete_message;

use super::destination::Destination;
use super::error::ExportError;
use super::id_files;
use super::plan::Plan;
use super::shard_record::ShardRecord;

/// Removes the annotations of full shards whose files have the bytes that were written. Returns how many messages were
/// removed. All shards are verified before the first message is removed.
pub(crate) async fn trim(
    jetstream: &Context,
    stream: &Stream,
    subject: &str,
    destination: &Destination,
    staging: &Path,
    plan: &Plan,
    records: &mut BTreeMap<u64, ShardRecord>,
) -> Result<u64, ExportError> {
    let ready = |record: &&ShardRecord| record.is_full && !record.trimmed;
    let shards: Vec<u64> = records.values().filter(ready).map(|record| record.shard).collect();
    for record in shards.iter().filter_map(|shard| records.get(shard)) {
        verify(destination, record).await?;
    }
    // A purge removes everything before a sequence, so it is right only if everything was exported.
    let end = shards.last().and_then(|shard| records.get(shard)).map(|record| record.end);
    let is_complete = records.values().all(|record| record.unreadable.is_empty());
    let mut removed = 0;
    if let Some(end) = end.filter(|_| plan.first == 0 && is_complete) {
        let purged = stream.purge().filter(subject).sequence(end).await;
        removed = purged.map_err(|error| ExportError::broker("removing annotations from the stream", &error))?.purged;
    } else {
        for shard in &shards {
            for entry in id_files::read(destination, *shard).await? {
                removed += u64::from(remove(jetstream, stream, entry.sequence).await?);
            }
        }
    }
    for shard in shards {
        let Some(record) = records.get_mut(&shard) else { continue };
        record.trimmed = true;
        let json = serde_json::to_vec(record).map_err(|error| ExportError::file(record.name(), error))?;
        destination.write(staging, &record.name(), json).await?;
    }
    Ok(removed)
}

async fn verify(destination: &Destination, record: &ShardRecord) -> Result<(), ExportError> {
    for file in &record.files {
        let found = destination.sha256(&file.name).await?;
        if found.as_deref() != Some(file.sha256.as_str()) {
            let problem = match found {
                Some(found) => format!("has the SHA-256 {found} instead of {}", file.sha256),
                None => "is missing".to_owned(),
            };
            return Err(ExportError::Verification { name: destination.name_of(&file.name), problem });
        }
    }
    Ok(())
}

/// Removes a message. Whether it was there.
async fn remove(jetstream: &Context, stream: &Stream, sequence: u64) -> Result<bool, ExportError> {
    let removed = delete_message(jetstream, &stream.cached_info().config.name, sequence).await;
    let what = format!("removing message {sequence} from the stream");
    removed.map_err(|error| ExportError::broker(what, error.as_ref()))
}
