//! Compares an archive with what the streams know: each object is done, failed, waiting or missing.
//!
//! Objects are compared by bucket, key and state: the version where both sides know it, or else the ETag. An object that
//! was overwritten since its annotation is missing. Objects and records go to the disk, divided by the hash of their key, so
//! that memory does not grow with the archive.
//!
//! The source is read first, then jobs and then outcomes; and then everything that the streams have received meanwhile, so
//! that a job which moved from one stream to another during the first reading is found by the second.

mod partitions;
mod record;
mod streams;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};

use partitions::Partitions;
pub use partitions::Spool;
use streams::Until;

use crate::feed::{Feed, FeedError, Plan};
use crate::pool::{Pool, PoolError, annotations_removed};

/// What a comparison found: `objects` is the sum of `done`, `failed`, `waiting` and `missing`.
#[derive(Debug)]
pub struct Reconciled {
    /// Objects read from the source, selected or not.
    pub read: u64,
    /// Those that are selected and occur again.
    pub repeated: u64,
    /// The selected objects, each once.
    pub objects: u64,
    /// Those with an annotation.
    pub done: u64,
    /// Those with a failure only.
    pub failed: u64,
    /// Those without annotation whose job waits, is in flight or is to be attempted again.
    pub waiting: u64,
    /// Those of which nothing is known.
    pub missing: u64,
    /// Annotations, failures and jobs of other objects, or of other states of the objects.
    pub elsewhere: u64,
    /// Whether the dataset was fed with `--unique`: objects that were skipped are missing.
    pub is_unique: bool,
    /// Whether annotations have been removed from their stream: their objects are missing.
    pub annotations_removed: bool,
    /// The missing objects, each once.
    pub missing_objects: Spool,
}

/// How far a comparison is.
#[derive(Debug, Default)]
pub struct ReconcileProgress {
    objects: AtomicU64,
    records: AtomicU64,
}

/// A comparison that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The source cannot be read.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The streams cannot be read.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The temporary files cannot be written or read.
    #[error("the temporary files cannot be used (TMPDIR names their directory): {0}")]
    Disk(#[from] io::Error),
}

impl ReconcileProgress {
    /// Objects of the source, and messages of the streams that were read.
    pub fn counts(&self) -> (u64, u64) {
        (self.objects.load(Ordering::Relaxed), self.records.load(Ordering::Relaxed))
    }
}

/// Compares the objects that `feed` selects from its sources with what the streams know about its dataset.
///
/// # Errors
/// [`ReconcileError`] if a source or a stream cannot be read, the stored plan is not one of this version, or a
/// temporary file cannot be written or read.
pub async fn reconcile(pool: &Pool, feed: &Feed, progress: &ReconcileProgress) -> Result<Reconciled, ReconcileError> {
    let mut partitions = Partitions::new()?;
    let dataset = &feed.recipe.dataset;
    let jobs = pool.stream(&pool.streams.jobs).await?;
    // Objects outside of a sample were never to be annotated.
    let plan = plan(&jobs, &dataset.cursor_subject("plan")).await?.unwrap_or_default();
    let (mut read, mut written) = (0, Ok(()));
    feed.each_page(plan.sample, |page| {
        read += page.seen;
        progress.objects.fetch_add(page.objects.len() as u64, Ordering::Relaxed);
        if written.is_ok() {
            written = page.objects.iter().try_for_each(|object| partitions.add_object(object));
        }
    })
    .await?;
    written?;
    let mut until = Until::default();
    for _ in 0..2 {
        let (sender, mut records) = streams::channel();
        let reading = async {
            let read = streams::read_all(pool, dataset, &mut until, &sender).await;
            drop(sender);
            read
        };
        let writing = async {
            let mut written = Ok(());
            while let Some(record) = records.recv().await {
                progress.records.fetch_add(1, Ordering::Relaxed);
                if written.is_ok() {
                    written = partitions.add_record(record);
                }
            }
            written
        };
        let (ended, written) = tokio::join!(reading, writing);
        ended?;
        written?;
    }
    let annotations_removed = annotations_removed(&pool.jetstream, &pool.streams.annotations).await?;
    let compared = tokio::task::spawn_blocking(move || partitions.compare()).await.map_err(io::Error::other)?;
    let (totals, missing_objects) = compared?;
    Ok(Reconciled {
        read,
        repeated: totals.repeated,
        is_unique: plan.is_unique(),
        objects: totals.objects,
        done: totals.done,
        failed: totals.failed,
        waiting: totals.waiting,
        missing: totals.missing,
        elsewhere: totals.elsewhere,
        annotations_removed,
        missing_objects,
    })
}

async fn plan(jobs: &Stream<Info>, subject: &str) -> Result<Option<Plan>, PoolError> {
    match jobs.get_last_raw_message_by_subject(subject).await {
        Ok(message) => serde_json::from_slice(&message.payload)
            .map(Some)
            .map_err(|error| PoolError::broker(format!("reading {subject}"), &error)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(PoolError::broker(format!("reading {subject}"), &error)),
    }
}
