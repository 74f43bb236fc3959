//! What the server reports about a delivery: the identity of the job and the number of its deliveries.

use async_nats::jetstream;
use wire::v1::Retry;

/// What the server reports about a delivery. Stream, sequence and time of publication together identify a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryInfo {
    /// The jobs stream, also for a job that was delivered from the retries stream.
    pub stream: String,
    /// The job's sequence in the jobs stream.
    pub sequence: u64,
    /// How often the job has been delivered, this delivery included. Counts from 1.
    pub deliveries: u64,
    /// When the job was published, in nanoseconds since 1970.
    pub published_nanos: u64,
}

impl DeliveryInfo {
    /// Reads the reply subject of a consumer's message. `None` if the message does not come from a consumer.
    pub(crate) fn of_message(message: &jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        Some(Self {
            stream: info.stream.to_owned(),
            sequence: info.stream_sequence,
            deliveries: u64::try_from(info.delivered).ok()?,
            published_nanos: u64::try_from(info.published.unix_timestamp_nanos()).ok()?,
        })
    }

    /// The job whose copy in the retries stream has been delivered `deliveries` times. The copy's first delivery only
    /// starts its delay and does not count as a delivery of the job.
    pub(crate) fn of_retry(retry: &Retry, deliveries: u64) -> Self {
        let delayed = u64::from(retry.delay_nanos > 0);
        Self {
            stream: retry.stream.clone(),
            sequence: retry.stream_sequence,
            deliveries: retry.deliveries.saturating_add(deliveries.saturating_sub(delayed)),
            published_nanos: retry.published_nanos,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_nats::jetstream::AckKind;
    use bytes::Bytes;
    use sandbox::{NatsOptions, NatsServer};

    use super::*;

    fn info() -> DeliveryInfo {
        DeliveryInfo { stream: "JOBS".into(), sequence: 17, deliveries: 2, published_nanos: 1_700_000_000_000_000_001 }
    }

    fn read(context: &jetstream::Context, reply: &str) -> Option<DeliveryInfo> {
        let message = async_nats::Message {
            subject: "groundling.jobs.x".into(),
            reply: Some(reply.into()),
            payload: Bytes::new(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        DeliveryInfo::of_message(&jetstream::Message { message, context: context.clone() })
    }

    #[tokio::test]
    async fn the_reply_subjects_of_consumers_are_read_in_both_forms_and_no_others() {
        let server = NatsServer::start(&NatsOptions::default()).await.unwrap();
        let context = jetstream::new(async_nats::connect(server.client_url()).await.unwrap());
        for reply in [
            "$JS.ACK.JOBS.workers.2.17.30.1700000000000000001.5",
            "$JS.ACK._.ACCHASH.JOBS.workers.2.17.30.1700000000000000001.5.token",
            "$JS.ACK.hub.ACCHASH.JOBS.workers.2.17.30.1700000000000000001.5",
        ] {
            assert_eq!(read(&context, reply), Some(info()), "{reply}");
        }
        for reply in ["_INBOX.x", "$JS.ACK.a.b", "$JS.ACK.JOBS.workers.two.17.30.1.5", "$JS.ACK.1.2.3.4.5.6.7.8"] {
            assert_eq!(read(&context, reply), None, "{reply}");
        }
    }

    #[test]
    fn a_delay_is_written_in_nanoseconds() {
        let nack = Bytes::from(AckKind::Nak(Some(Duration::from_millis(1500))));
        assert_eq!(nack, "-NAK {\"delay\":1500000000}");
    }
}
