//! How far the sources have been read, from the cursors.

use std::collections::HashMap;

use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use wire::subjects::{CURSORS_WILDCARD, Dataset};

use super::report::SourceStatus;
use crate::feed::{Counts, Cursor, FeederRecord, Plan, SourceState, StateRecord};
use crate::object::Position;
use crate::pool::{PoolError, subjects};

/// Requests that run at once.
const CONCURRENCY: usize = 16;

/// Cursors at their end, which are never moved again, by subject.
#[derive(Debug, Default)]
pub(super) struct Cache(HashMap<String, Timestamped<Cursor>>);

/// A record, and when it was stored.
#[derive(Debug, Clone)]
struct Timestamped<T> {
    value: T,
    /// `None` if there is no such record.
    at: Option<OffsetDateTime>,
}

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
    now: OffsetDateTime,
    cache: &mut Cache,
) -> Result<Option<SourceStatus>, PoolError> {
    let Some(plan) = last::<Plan>(stream, &dataset.cursor_subject("plan")).await? else { return Ok(None) };
    let plan = plan.value;
    let feeder = last::<FeederRecord>(stream, &dataset.cursor_subject("feeder")).await?;
    let state = last::<StateRecord>(stream, &dataset.cursor_subject("state")).await?;
    let mut reads = Vec::new();
    for lane in 0..plan.lanes.len() {
        let subject = dataset.cursor_subject(&lane.to_string());
        let known = cache.0.get(&subject).filter(|cursor| cursor.value.pass == plan.pass).cloned();
        reads.push(async move {
            let cursor = match known {
                Some(cursor) => cursor,
                None => {
                    let stored = last::<Cursor>(stream, &subject).await?;
                    stored.unwrap_or(Timestamped { value: Cursor::default(), at: None })
                }
            };
            Ok::<_, PoolError>((subject, cursor))
        });
    }
    // In the order of the lanes.
    let read: Vec<_> = stream::iter(reads).buffered(CONCURRENCY).try_collect().await?;
    let mut cursors = Vec::new();
    for (subject, cursor) in read {
        if cursor.value.position == Position::End {
            cache.0.insert(subject, cursor.clone());
        }
        cursors.push(cursor);
    }
    let state = state.map(|state| state.value).unwrap_or_default();
    Ok(Some(status(&plan, state, feeder, &cursors, now)))
}

fn status(
    plan: &Plan,
    state: StateRecord,
    feeder: Option<Timestamped<FeederRecord>>,
    cursors: &[Timestamped<Cursor>],
    now: OffsetDateTime,
) -> SourceStatus {
    // Cursors of an earlier pass say nothing about this one.
    let of_pass = |cursor: &Timestamped<Cursor>| match cursor.value.pass == plan.pass {
        true => cursor.value.clone(),
        false => Cursor::default(),
    };
    let stored =
        cursors.iter().filter_map(|cursor| cursor.at).chain(feeder.iter().filter_map(|feeder| feeder.at)).max();
    let cursors: Vec<Cursor> = cursors.iter().map(of_pass).collect();
    let mut counts = Counts::default();
    cursors.iter().for_each(|cursor| counts += cursor.counts);
    let lanes_done = cursors.iter().filter(|cursor| cursor.position == Position::End).count();
    let is_complete = lanes_done == plan.lanes.len();
    SourceStatus {
        state: Some(SourceState::new(state.state, is_complete)),
        reason: state.reason,
        pass: plan.pass,
        objects: counts.seen,
        jobs: counts.jobs,
        bytes: counts.bytes,
        total_jobs: is_complete.then_some(counts.jobs),
        lanes: plan.lanes.len(),
        lanes_done,
        feeder: feeder.map(|feeder| feeder.value.name),
        feeder_age_seconds: stored.map(|at| (now - at).as_seconds_f64().max(0.0)),
        positions: cursors.iter().map(|cursor| cursor.position.clone()).collect(),
    }
}

async fn last<T: DeserializeOwned>(stream: &Stream<Info>, subject: &str) -> Result<Option<Timestamped<T>>, PoolError> {
    match stream.get_last_raw_message_by_subject(subject).await {
        Ok(message) => serde_json::from_slice(&message.payload)
            .map(|value| Some(Timestamped { value, at: Some(message.time) }))
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
        let plan = Plan { lanes: vec![(0, lane.clone()), (0, lane)], pass: 1, ..Plan::default() };
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::HOUR;
        let cursor = |position, jobs| {
            let counts = Counts { seen: jobs + 1, jobs, bytes: 10 * jobs };
            let at = Some(now - time::Duration::seconds(7));
            Timestamped { value: Cursor { position, counts, pass: 1, ..Cursor::default() }, at }
        };
        let status = |cursors: &[Timestamped<Cursor>]| status(&plan, StateRecord::default(), None, cursors, now);
        let half = status(&[cursor(Position::End, 5), cursor(Position::Key("k".into()), 2)]);
        assert_eq!((half.jobs, half.objects, half.bytes, half.lanes_done), (7, 9, 70, 1));
        assert_eq!(
            (half.total_jobs, half.state, half.feeder_age_seconds),
            (None, Some(SourceState::Active), Some(7.0))
        );
        let whole = status(&[cursor(Position::End, 5), cursor(Position::End, 3)]);
        assert_eq!((whole.total_jobs, whole.lanes_done, whole.state), (Some(8), 2, Some(SourceState::Complete)));
        let mut old = cursor(Position::End, 3);
        old.value.pass = 0;
        let next_pass = status(&[cursor(Position::End, 5), old]);
        assert_eq!((next_pass.total_jobs, next_pass.jobs, next_pass.lanes_done), (None, 5, 1));
    }
}
