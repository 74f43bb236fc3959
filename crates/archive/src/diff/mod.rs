//! Compares the annotations of two datasets, picture by picture.
//!
//! Pictures are the same if they are the same object (bucket and key) with the same bytes (SHA-256, or else version or
//! ETag); pictures within jobs if their bytes are the same. Annotations go to the disk, divided by the hash of their
//! object, so that memory does not grow with the datasets but with a 128th of them.

mod compare;
mod largest;
mod matching;
mod partitions;
mod totals;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream::stream::RawMessageErrorKind;
use broker::read::{Range, read};
use futures::TryStreamExt;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::ImageAnnotation;

pub use compare::Difference;
use largest::Largest;
pub use largest::Pictured;
use partitions::Partitions;
pub use totals::{IOU_LEVELS, Mean, Totals};

use crate::pool::{Pool, PoolError};

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Diff {
    /// The counts.
    pub totals: Totals,
    /// The pictures that differ most, in this order.
    pub largest: Vec<Pictured>,
}

/// How far a comparison is.
#[derive(Debug, Default)]
pub struct DiffProgress {
    read: AtomicU64,
}

/// A comparison that could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    /// The stream cannot be read.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The temporary files cannot be written or read.
    #[error("the temporary files cannot be used (TMPDIR names their directory): {0}")]
    Disk(#[from] io::Error),
}

impl DiffProgress {
    /// Messages that were read.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

/// Compares the annotations of two datasets. Returns the counts and the `largest` pictures that differ most.
///
/// # Errors
/// [`DiffError`] if the stream does not exist or cannot be read, or a temporary file cannot be written or read.
pub async fn diff(
    pool: &Pool,
    datasets: [&Dataset; 2],
    largest: usize,
    progress: &DiffProgress,
) -> Result<Diff, DiffError> {
    pool.stream(&pool.streams.annotations).await?;
    let (mut partitions, mut totals) = (Partitions::new()?, Totals::default());
    for (side, dataset) in datasets.into_iter().enumerate() {
        let range = Range { subject: dataset.annotations_subject(), deduplicate: false, ..Range::all() };
        let messages = read(&pool.jetstream, &pool.streams.annotations, range).await.map_err(PoolError::from)?;
        let mut messages = std::pin::pin!(messages);
        while let Some(message) = messages.try_next().await.map_err(PoolError::from)? {
            progress.read.fetch_add(1, Ordering::Relaxed);
            match ImageAnnotation::decode(message.payload) {
                Ok(annotation) => partitions.add(side, message.sequence, &annotation)?,
                Err(error) => {
                    totals.unreadable += 1;
                    let sequence = message.sequence;
                    tracing::debug!(sequence, "ignored a message that is not an annotation: {error}");
                }
            }
        }
    }
    let compared = move || {
        let mut largest = Largest::new(largest);
        partitions.compare(&mut totals, &mut largest).map(|()| Diff { totals, largest: largest.into_sorted() })
    };
    Ok(tokio::task::spawn_blocking(compared).await.map_err(io::Error::other)??)
}

/// The annotation with this sequence; `None` if it is not in the stream any more.
///
/// # Errors
/// [`PoolError`] if the server does not answer, or the message is not an annotation.
pub async fn find_annotation(pool: &Pool, sequence: u64) -> Result<Option<ImageAnnotation>, PoolError> {
    let what = || format!("reading the annotation with the sequence {sequence}");
    let stream = pool.stream(&pool.streams.annotations).await?;
    let message = match stream.get_raw_message(sequence).await {
        Ok(message) => message,
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(error) => return Err(PoolError::broker(what(), &error)),
    };
    ImageAnnotation::decode(message.payload).map(Some).map_err(|error| PoolError::broker(what(), &error))
}
