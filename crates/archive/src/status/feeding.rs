//! How far the sources have been read, from the cursors.

use std::collections::HashMap;

use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use wire::subjects::{CURSORS_WILDCARD, Dataset};

use super::report::SourceStatus;
use crate::feed::{Counts, Cursor, FeederRecord, Plan};
use crate::object::Position;
use crate::pool::{PoolError, subjects};

/// Requests that run at once.
const AT_ONCE: usize = 16;

/// Cursors at their end, which are never moved again, by subject.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<String, Cursor>);

/// The datasets that have a plan.
pub(super) async fn planned(stream: &Stream<Info>) -> Result<Vec<Dataset>, PoolError> {
    let found = subjects(stream, CURSORS_WILDCARD).await?;
    let dataset = |(subject, _): (String, u64)| {
        let tokens: Vec<_> = subject.split('.').collect();
        match tokens[..] {
            [.., dataset, "plan"] => dataset.parse().ok(),
            _ => None,
        }
    };
    Ok(found.into_iter().filter_map(dataset).collect())
}

/// How far the source of a dataset has been read; `None` if it has no plan.
pub(super) async fn source(
    stream: &Stream<Info>,
    dataset: &Dataset,
    cache: &mut Cache,
) -> Result<Option<SourceStatus>, PoolError> {
    let Some(plan) = last::<Plan>(stream, &dataset.cursor_subject("plan")).await? else { return Ok(None) };
    let feeder = last::<FeederRecord>(stream, &dataset.cursor_subject("feeder")).await?;
    let (mut cursors, mut unknown) = (Vec::new(), Vec::new());
    for lane in 0..plan.lanes.len() {
        let subject = dataset.cursor_subject(&lane.to_string());
        match cache.0.get(&subject) {
            Some(cursor) if cursor.pass == plan.pass => cursors.push(cursor.clone()),
            _ => unknown.push(subject),
        }
    }
    let reads = unknown.into_iter().map(|subject| async move {
        let cursor = last::<Cursor>(stream, &subject).await?.unwrap_or_default();
        Ok::<_, PoolError>((subject, cursor))
    });
    let read: Vec<_> = stream::iter(reads.collect::<Vec<_>>()).buffered(AT_ONCE).try_collect().await?;
    for (subject, cursor) in read {
        if cursor.position == Position::End {
            cache.0.insert(subject, cursor.clone());
        }
        cursors.push(cursor);
    }
    Ok(Some(status(&plan, feeder, &cursors)))
}

fn status(plan: &Plan, feeder: Option<FeederRecord>, cursors: &[Cursor]) -> SourceStatus {
    // Cursors of an earlier pass say nothing about this one.
    let of_pass = |cursor: &Cursor| match cursor.pass == plan.pass {
        true => cursor.clone(),
        false => Cursor::default(),
    };
    let cursors: Vec<Cursor> = cursors.iter().map(of_pass).collect();
    let mut counts = Counts::default();
    cursors.iter().for_each(|cursor| counts += cursor.counts);
    let lanes_done = cursors.iter().filter(|cursor| cursor.position == Position::End).count();
    SourceStatus {
        objects: counts.seen,
        jobs: counts.jobs,
        bytes: counts.bytes,
        total_jobs: (lanes_done == plan.lanes.len()).then_some(counts.jobs),
        lanes: plan.lanes.len(),
        lanes_done,
        feeder: feeder.map(|feeder| feeder.name),
        positions: cursors.iter().map(|cursor| cursor.position.clone()).collect(),
    }
}

async fn last<T: DeserializeOwned>(stream: &Stream<Info>, subject: &str) -> Result<Option<T>, PoolError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => serde_json::from_slice(&message.payload)
            .map(Some)
            .map_err(|error| PoolError::broker(format!("reading {subject}"), &error)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(PoolError::broker(format!("reading {subject}"), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Lane;

    #[test]
    fn the_total_is_known_when_all_lanes_are_at_their_end() {
        let lane = Lane::Keys { after: None, until: None };
        let plan =
            Plan { arguments: Default::default(), sample: None, lanes: vec![(0, lane.clone()), (0, lane)], pass: 1 };
        let cursor = |position, jobs| Cursor {
            position,
            counts: Counts { seen: jobs + 1, jobs, bytes: 10 * jobs },
            pass: 1,
            ..Cursor::default()
        };
        let half = status(&plan, None, &[cursor(Position::End, 5), cursor(Position::Key("k".into()), 2)]);
        assert_eq!((half.jobs, half.objects, half.bytes, half.lanes_done), (7, 9, 70, 1));
        assert_eq!(half.total_jobs, None);
        let whole = status(&plan, None, &[cursor(Position::End, 5), cursor(Position::End, 3)]);
        assert_eq!((whole.total_jobs, whole.lanes_done), (Some(8), 2));
        let old = Cursor { pass: 0, ..cursor(Position::End, 3) };
        let next_pass = status(&plan, None, &[cursor(Position::End, 5), old]);
        assert_eq!((next_pass.total_jobs, next_pass.jobs, next_pass.lanes_done), (None, 5, 1));
    }
}
