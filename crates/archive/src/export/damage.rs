//! Shards whose files are missing, or have another size than was written: they are made again.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::destination::Destination;
use super::error::ExportError;
use super::id_files;
use super::manifest::listed_shards;
use super::plan::Plan;
use super::shard_record::ShardRecord;

/// Files that are looked at at once.
const CONCURRENCY: usize = 32;

/// A shard that must be made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) shard: u64,
    /// The first sequence.
    pub(crate) first: u64,
    /// One past the last sequence.
    pub(crate) end: u64,
    /// Messages that it was made of.
    pub(crate) messages: u64,
    /// The file that is not as it was written.
    pub(crate) name: String,
    /// What is wrong with it.
    pub(crate) problem: String,
}

impl Damage {
    /// The error if the stream does not have all messages any more.
    pub(crate) fn lost(&self, destination: &Destination, left: u64) -> ExportError {
        let (name, problem) = (destination.name_of(&self.name), self.problem.clone());
        ExportError::Lost { name, problem, left, messages: self.messages }
    }
}

/// The damaged shards, in their order.
pub(crate) async fn find(
    destination: &Destination,
    plan: &Plan,
    records: &BTreeMap<u64, ShardRecord>,
) -> Result<Vec<Damage>, ExportError> {
    let mut damages = without_record(destination, plan, records).await?;
    let files = records.values().flat_map(|record| {
        let ids = (record, id_files::name(record.shard), id_files::bytes(record.annotations()));
        record.files.iter().map(move |file| (record, file.name.clone(), file.bytes)).chain([ids])
    });
    // Collected, because a future that contains a borrowing iterator is not `Send`.
    let files: Vec<_> = files.collect();
    let sizes = stream::iter(files).map(|(record, name, bytes)| async move {
        let problem = match destination.size(&name).await? {
            Some(size) if size == bytes => return Ok(None),
            Some(size) => format!("has {size} bytes instead of {bytes}"),
            None => "is missing".to_owned(),
        };
        let ShardRecord { shard, first, end, .. } = *record;
        Ok::<_, ExportError>(Some(Damage { shard, first, end, messages: record.messages(), name, problem }))
    });
    let found: Vec<_> = sizes.buffered(CONCURRENCY).try_collect().await?;
    damages.extend(found.into_iter().flatten());
    damages.sort_by_key(|damage| damage.shard);
    damages.dedup_by_key(|damage| damage.shard);
    Ok(damages)
}

/// Shards below the last one that have no record, although the manifest or a file of ids shows that they were made. Those
/// above it are made in any case.
async fn without_record(
    destination: &Destination,
    plan: &Plan,
    records: &BTreeMap<u64, ShardRecord>,
) -> Result<Vec<Damage>, ExportError> {
    let Some(last) = records.values().filter(|record| record.is_full).map(|record| record.shard).max() else {
        return Ok(Vec::new());
    };
    let listed = listed_shards(destination).await?;
    let with_ids = destination.list(id_files::FOLDER).await?.into_iter().filter_map(|name| id_files::shard_of(&name));
    let made: BTreeSet<u64> = listed.keys().copied().chain(with_ids).collect();
    let mut damages = Vec::new();
    for shard in made.into_iter().filter(|shard| *shard < last && !records.contains_key(shard)) {
        let (first, end) = plan.bounds(shard);
        let messages = match id_files::read(destination, shard).await {
            Ok(entries) => entries.len() as u64,
            Err(_) => listed.get(&shard).copied().unwrap_or(0),
        };
        let (name, problem) = (ShardRecord::name_of(shard), "is missing".to_owned());
        damages.push(Damage { shard, first, end, messages, name, problem });
    }
    Ok(damages)
}

#[cfg(test)]
mod tests {
    use super::super::formats::Format;
    use super::super::plan::BEGINNING;
    use super::super::shard_record::Counts;
    use super::super::staged_file::FileRecord;
    use super::*;

    fn plan() -> Plan {
        Plan {
            version: 1,
            dataset: "d".into(),
            format: Format::Jsonl,
            stream: "S".into(),
            stream_created: "then".into(),
            shard_size: 10,
            since: BEGINNING.into(),
            first: 0,
            end: None,
            pictures: false,
            tasks: Vec::new(),
            categories_file: None,
            categories: None,
        }
    }

    #[tokio::test]
    async fn missing_and_truncated_files_and_missing_records_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let destination = Destination::Local(dir.path().into());
        let staging = destination.stage().unwrap();
        let mut records = BTreeMap::new();
        for shard in 0..4 {
            let name = format!("shard-{shard}.jsonl");
            destination.write(staging.path(), &name, b"12345".to_vec()).await.unwrap();
            let ids = vec![0; usize::try_from(id_files::bytes(2)).unwrap()];
            destination.write(staging.path(), &id_files::name(shard), ids).await.unwrap();
            let record = ShardRecord {
                shard,
                first: shard * 10,
                end: shard * 10 + 10,
                is_full: true,
                files: vec![FileRecord { name, bytes: 5, sha256: String::new() }],
                counts: Counts { annotations: 1, ..Counts::default() },
                repeats: vec![3],
                unreadable: vec![4],
                trimmed: false,
            };
            records.insert(shard, record);
        }
        assert!(find(&destination, &plan(), &records).await.unwrap().is_empty());
        std::fs::remove_file(dir.path().join("shard-0.jsonl")).unwrap();
        std::fs::write(dir.path().join("shard-1.jsonl"), "12").unwrap();
        records.remove(&2);
        std::fs::write(dir.path().join(id_files::name(3)), "").unwrap();
        let damages = find(&destination, &plan(), &records).await.unwrap();
        let told: Vec<_> = damages.iter().map(|one| (one.shard, one.messages, one.problem.as_str())).collect();
        let empty = "has 0 bytes instead of 48";
        let expected = [(0, 3, "is missing"), (1, 3, "has 2 bytes instead of 5"), (2, 2, "is missing"), (3, 3, empty)];
        assert_eq!(told, expected);
        assert_eq!(damages[2].name, "_export/shards/00000002.json");
    }
}
