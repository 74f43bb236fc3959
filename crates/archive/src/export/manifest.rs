//! The files that describe an export as a whole.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::destination::Destination;
use super::error::ExportError;
use super::formats::Format;
use super::plan::Plan;
use super::shard_builder::categories;
use super::shard_record::{Counts, ShardRecord};
use super::staged_file::FileRecord;

/// The list of shards and files.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The counts.
pub(crate) const STATS: &str = "_stats.json";

/// What a later run reads of a manifest.
#[derive(Deserialize)]
struct Listed {
    shards: Vec<ListedShard>,
}

#[derive(Deserialize)]
struct ListedShard {
    shard: u64,
    annotations: u64,
}

/// The shards of the manifest, with the number of their annotations. Empty if there is none, or one that cannot be read: it
/// is written again.
pub(crate) async fn listed_shards(destination: &Destination) -> Result<BTreeMap<u64, u64>, ExportError> {
    let Some(bytes) = destination.read(MANIFEST).await? else { return Ok(BTreeMap::new()) };
    let listed = serde_json::from_slice::<Listed>(&bytes).map(|listed| listed.shards).unwrap_or_default();
    Ok(listed.into_iter().map(|listed| (listed.shard, listed.annotations)).collect())
}

#[derive(Serialize)]
struct Manifest<'a> {
    version: u32,
    dataset: &'a str,
    format: Format,
    stream: &'a str,
    stream_created: &'a str,
    shard_size: u64,
    shards: Vec<Shard<'a>>,
    /// Files that belong to all shards.
    files: Vec<FileRecord>,
}

#[derive(Serialize)]
struct Shard<'a> {
    shard: u64,
    first: u64,
    end: u64,
    is_full: bool,
    annotations: u64,
    results: u64,
    files: &'a [FileRecord],
}

#[derive(Serialize)]
struct Stats {
    shards: u64,
    repeats: u64,
    unreadable: Vec<u64>,
    #[serde(flatten)]
    counts: Counts,
}

/// Writes the manifest, the statistics and the format's common files.
pub(crate) async fn write(
    destination: &Destination,
    staging: &Path,
    plan: &Plan,
    records: &BTreeMap<u64, ShardRecord>,
) -> Result<(), ExportError> {
    let mut stats = Stats { shards: 0, repeats: 0, unreadable: Vec::new(), counts: Counts::default() };
    for record in records.values() {
        stats.shards += 1;
        stats.repeats += record.repeats.len() as u64;
        stats.unreadable.extend_from_slice(&record.unreadable);
        stats.counts.add(&record.counts);
    }
    let mut names: Vec<String> = categories(plan)?.names().map(str::to_owned).collect();
    if names.is_empty() {
        names = stats.counts.categories.keys().cloned().collect();
    }
    let mut files = Vec::new();
    for (name, text) in plan.format.common_files(&names) {
        let (bytes, sha256) = (text.len() as u64, hex::encode(Sha256::digest(text.as_bytes())));
        destination.write(staging, name, text.into_bytes()).await?;
        files.push(FileRecord { name: name.to_owned(), bytes, sha256 });
    }
    let shards = records.values().map(|record| Shard {
        shard: record.shard,
        first: record.first,
        end: record.end,
        is_full: record.is_full,
        annotations: record.counts.annotations,
        results: record.counts.results,
        files: &record.files,
    });
    let manifest = Manifest {
        version: plan.version,
        dataset: &plan.dataset,
        format: plan.format,
        stream: &plan.stream,
        stream_created: &plan.stream_created,
        shard_size: plan.shard_size,
        shards: shards.collect(),
        files,
    };
    destination.write(staging, STATS, json(STATS, &stats)?).await?;
    destination.write(staging, MANIFEST, json(MANIFEST, &manifest)?).await
}

fn json(name: &str, value: &impl Serialize) -> Result<Vec<u8>, ExportError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|error| ExportError::file(name, error))?;
    bytes.push(b'\n');
    Ok(bytes)
}
