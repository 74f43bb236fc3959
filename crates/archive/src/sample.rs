//! Samples of the outcomes of a dataset, each taken in one pass, in memory proportional to the sample.

use std::collections::BTreeMap;

use broker::read::{Range, read};
use futures::TryStreamExt;
use wire::Message;
use wire::subjects::Dataset;
use wire::v1::ImageAnnotation;

use crate::failures::{Failure, Failures, Selection};
use crate::filter::uniform_hash;
use crate::pool::{Pool, PoolError};

/// The members with the smallest hashes of their ids.
#[derive(Debug)]
struct Sample<T> {
    seed: u64,
    size: usize,
    kept: BTreeMap<(u64, String), T>,
}

/// A sample of annotations.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SampledAnnotations {
    /// The annotations, each once, in the order of the stream.
    pub annotations: Vec<ImageAnnotation>,
    /// Messages of the dataset that were read.
    pub read: u64,
    /// Messages among them that are not annotations.
    pub unreadable: u64,
}

impl<T> Sample<T> {
    fn new(size: usize, seed: u64) -> Self {
        Self { seed, size, kept: BTreeMap::new() }
    }

    /// Adds a member. One with an id that the sample has is ignored.
    fn add(&mut self, id: &str, member: impl FnOnce() -> T) {
        let hash = uniform_hash(self.seed, id);
        let is_full = self.kept.len() >= self.size;
        if is_full && self.kept.last_key_value().is_none_or(|((largest, _), _)| hash >= *largest) {
            return;
        }
        self.kept.entry((hash, id.to_owned())).or_insert_with(member);
        if self.kept.len() > self.size {
            self.kept.pop_last();
        }
    }

    fn into_members(self) -> Vec<T> {
        self.kept.into_values().collect()
    }
}

/// A sample of `size` annotations of a dataset, or all if there are fewer. It depends on the seed and on the annotations
/// alone. Calls `watch` with the number of messages read.
///
/// # Errors
/// [`PoolError`] if the stream does not exist or cannot be read.
pub async fn sample_annotations(
    pool: &Pool,
    dataset: &Dataset,
    size: usize,
    seed: u64,
    mut watch: impl FnMut(u64),
) -> Result<SampledAnnotations, PoolError> {
    pool.stream(&pool.streams.annotations).await?;
    // The sample has each id once.
    let range = Range { subject: dataset.annotations_subject(), deduplicate: false, ..Range::all() };
    let messages = read(&pool.jetstream, &pool.streams.annotations, range).await?;
    let mut messages = std::pin::pin!(messages);
    let mut sample = Sample::new(size, seed);
    let mut sampled = SampledAnnotations::default();
    while let Some(message) = messages.try_next().await? {
        sampled.read += 1;
        watch(sampled.read);
        match ImageAnnotation::decode(message.payload) {
            Ok(annotation) => {
                let id = annotation.annotation_id.clone();
                sample.add(&id, || (message.sequence, annotation));
            }
            Err(error) => {
                sampled.unreadable += 1;
                let sequence = message.sequence;
                tracing::debug!(sequence, "ignored a message that is not an annotation: {error}");
            }
        }
    }
    let mut members = sample.into_members();
    members.sort_by_key(|(sequence, _)| *sequence);
    sampled.annotations = members.into_iter().map(|(_, annotation)| annotation).collect();
    Ok(sampled)
}

/// A sample of `size` failures of a dataset, or all if there are fewer, in the order of the stream, and the number of all.
///
/// # Errors
/// [`PoolError`] if the stream does not exist or cannot be read.
pub async fn sample_failures(
    pool: &Pool,
    dataset: &Dataset,
    size: usize,
    seed: u64,
) -> Result<(Vec<Failure>, u64), PoolError> {
    let selection = Selection { dataset: Some(dataset.clone()), ..Selection::default() };
    let mut failures = Failures::open(pool, selection).await?;
    let (mut sample, mut count) = (Sample::new(size, seed), 0);
    while let Some(failure) = failures.next().await? {
        count += 1;
        sample.add(&failure.sequence.to_string(), || failure);
    }
    let mut members = sample.into_members();
    members.sort_by_key(|failure| failure.sequence);
    Ok((members, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ids: impl Iterator<Item = u32>, size: usize, seed: u64) -> Vec<u32> {
        let mut sample = Sample::new(size, seed);
        ids.for_each(|id| sample.add(&id.to_string(), || id));
        let mut members = sample.into_members();
        members.sort_unstable();
        members
    }

    #[test]
    fn a_sample_has_exactly_its_size_whatever_the_order_and_the_repeats() {
        let first = sample(0..5000, 100, 7);
        assert_eq!(first.len(), 100);
        assert_eq!(first, sample((0..5000).rev().chain(0..5000), 100, 7));
        assert_ne!(first, sample(0..5000, 100, 8));
        let below = first.iter().filter(|id| **id < 2500).count();
        assert!((30..70).contains(&below), "{below} of 100 are from the first half");
        assert_eq!(sample(0..5, 100, 7), [0, 1, 2, 3, 4]);
        assert!(sample(0..5, 0, 7).is_empty());
        // A larger sample contains a smaller one.
        let larger = sample(0..5000, 200, 7);
        assert!(first.iter().all(|id| larger.contains(id)));
    }
}
