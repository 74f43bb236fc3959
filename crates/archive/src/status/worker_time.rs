//! Which workers were active when, from a sample of the annotations.

use std::collections::{HashMap, HashSet};

use broker::direct::{Batch, DirectReader, Start};
use futures::{StreamExt, TryStreamExt, stream};
use time::{Duration, OffsetDateTime};
use wire::Message;
use wire::v1::ImageAnnotation;

use super::report::Workers;
use crate::pool::PoolError;

/// Maximum number of parts into which the time of a dataset is divided.
const PARTS: i64 = 32;
/// Annotations that are looked at first in each part.
const SAMPLE: usize = 32;
/// More are looked at while fewer than this many were seen of each worker.
const OF_EACH_WORKER: usize = 4;
/// Maximum number of annotations that are looked at in each part.
const MAX_SAMPLED: usize = 1024;
/// Requests that run at once.
const CONCURRENCY: usize = 8;
/// Parts that ended this long ago get no more annotations.
const CLOSED_AFTER: Duration = Duration::seconds(10);

/// The number of workers in parts that are over, by dataset's subject, start and length.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<(String, i64, i64), u64>);

/// The workers with an annotation from `from` until before `until`.
pub(crate) async fn workers(
    annotations: &DirectReader,
    subject: &str,
    from: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Workers, PoolError> {
    let (mut seen, mut looked_at, mut start, mut most) = (HashSet::new(), 0, Start::Time(from), SAMPLE);
    loop {
        let Batch { messages, pending } = annotations.batch(subject, start, most).await?;
        let Some(last) = messages.last() else { break };
        start = Start::Sequence(last.sequence + 1);
        let is_over = pending == 0 || last.published >= until;
        for message in messages.iter().filter(|message| message.published < until) {
            looked_at += 1;
            if let Ok(annotation) = ImageAnnotation::decode(message.payload.clone()) {
                seen.extend(annotation.worker.map(|worker| worker.worker_id));
            }
        }
        let is_enough = looked_at >= seen.len() * OF_EACH_WORKER;
        if is_over || is_enough || looked_at >= MAX_SAMPLED {
            return Ok(Workers { seen: seen.len() as u64, at_least: !is_over && !is_enough });
        }
        most = looked_at * 3;
    }
    Ok(Workers { seen: seen.len() as u64, at_least: false })
}

/// The seconds from `from` to `until`, each multiplied by the workers that were active then: the time is divided into
/// parts, and a worker with an annotation in a part was active during all of it.
pub(super) async fn device_seconds(
    annotations: &DirectReader,
    subject: &str,
    from: OffsetDateTime,
    until: OffsetDateTime,
    now: OffsetDateTime,
    cache: &mut Cache,
) -> Result<f64, PoolError> {
    let length = part_length(until - from);
    let first = from.unix_timestamp().div_euclid(length);
    let last = until.unix_timestamp().div_euclid(length);
    let known = &cache.0;
    let parts: Vec<_> = (first..=last)
        .map(|part| async move {
            let start = part * length;
            let known = known.get(&(subject.to_owned(), start, length)).copied();
            let (begin, end) = (time(start), time(start + length));
            let seen = match known {
                Some(seen) => seen,
                None => workers(annotations, subject, begin, end).await?.seen,
            };
            Ok::<_, PoolError>((start, seen))
        })
        .collect();
    let parts: Vec<(i64, u64)> = stream::iter(parts).buffered(CONCURRENCY).try_collect().await?;
    let mut seconds = 0.0;
    for (start, seen) in parts {
        let (begin, end) = (time(start), time(start + length));
        let active = end.min(until) - begin.max(from);
        seconds += active.as_seconds_f64().max(0.0) * seen as f64;
        if end + CLOSED_AFTER < now {
            cache.0.insert((subject.to_owned(), start, length), seen);
        }
    }
    Ok(seconds)
}

fn time(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A power of two of seconds, so that most parts stay the same while the time grows.
fn part_length(span: Duration) -> i64 {
    let mut length = 1;
    while length * PARTS < span.whole_seconds() {
        length *= 2;
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_dataset_has_a_bounded_number_of_parts() {
        let lengths = [0, 1, 32, 33, 3600, 86_400].map(|seconds| part_length(Duration::seconds(seconds)));
        assert_eq!(lengths, [1, 1, 1, 2, 128, 4096]);
    }
}
