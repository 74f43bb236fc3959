//! Which jobs workers have.

use std::collections::HashMap;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use async_nats::jetstream::context::ConsumerInfoErrorKind;
use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream};
use broker::settings::StreamSettings;
use wire::subjects::{JOBS_WILDCARD, URGENT_WILDCARD, dataset_token};

use crate::pool::PoolError;

/// Maximum number of jobs that are read to find their datasets.
const MAX_LISTED_JOBS: usize = 512;

/// Jobs in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct InFlight {
    /// Of all datasets; `None` if the consumer does not exist.
    pub(super) total: Option<u64>,
    /// By dataset; `None` if there are too many to look at each.
    pub(super) by_dataset: Option<HashMap<String, u64>>,
}

impl InFlight {
    /// Those of a dataset. `is_only` tells that no other dataset has jobs in the stream.
    pub(super) fn of(&self, dataset: &str, is_only: bool) -> Option<u64> {
        match &self.by_dataset {
            Some(by_dataset) => Some(by_dataset.get(dataset).copied().unwrap_or(0)),
            None if is_only => self.total,
            None => None,
        }
    }
}

/// Finds the jobs that were delivered and are still in the stream: an acknowledgement removes them.
pub(super) async fn in_flight(stream: &Stream<Info>, streams: &StreamSettings) -> Result<InFlight, PoolError> {
    let mut found = InFlight { total: None, by_dataset: Some(HashMap::new()) };
    for (consumer, subject) in [(streams.consumer.clone(), JOBS_WILDCARD), (streams.urgent_consumer(), URGENT_WILDCARD)]
    {
        let info = match stream.consumer_info(&consumer).await {
            Ok(info) => info,
            Err(error) if error.kind() == ConsumerInfoErrorKind::NotFound => continue,
            Err(error) => return Err(PoolError::broker(format!("reading the consumer {consumer}"), &error)),
        };
        found.total = Some(found.total.unwrap_or(0) + info.num_ack_pending as u64);
        match &mut found.by_dataset {
            Some(by_dataset) if info.num_ack_pending <= MAX_LISTED_JOBS => {
                walk(stream, &info, subject, by_dataset).await?;
            }
            by_dataset => *by_dataset = None,
        }
    }
    if found.total.is_none() {
        found.by_dataset = None;
    }
    Ok(found)
}

async fn walk(
    stream: &Stream<Info>,
    info: &ConsumerInfo,
    subject: &str,
    by_dataset: &mut HashMap<String, u64>,
) -> Result<(), PoolError> {
    let mut sequence = info.ack_floor.stream_sequence + 1;
    for _ in 0..info.num_ack_pending {
        if sequence > info.delivered.stream_sequence {
            break;
        }
        let message = match stream.raw_message_builder().sequence(sequence).next_by_subject(subject).send().await {
            Ok(message) => message,
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => break,
            Err(error) => return Err(PoolError::broker("reading the jobs in flight", &error)),
        };
        if message.sequence > info.delivered.stream_sequence {
            break;
        }
        sequence = message.sequence + 1;
        if let Some(dataset) = dataset_token(&message.subject) {
            *by_dataset.entry(dataset.to_owned()).or_insert(0) += 1;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_in_flight_are_unknown_only_where_they_could_be_of_several_datasets() {
        let looked_at = InFlight { total: Some(3), by_dataset: Some(HashMap::from([("a".into(), 3)])) };
        assert_eq!((looked_at.of("a", false), looked_at.of("b", false)), (Some(3), Some(0)));
        let too_many = InFlight { total: Some(9000), by_dataset: None };
        assert_eq!((too_many.of("a", true), too_many.of("a", false)), (Some(9000), None));
    }
}
