//! The rate at which the workers annotate pictures.

use std::time::Duration;

use async_nats::jetstream::Context;
use broker::causes::causes;
use broker::server_time;

use super::error::FeedError;

/// The number of annotations that the rate is computed from.
const ANNOTATIONS: u64 = 1000;
/// Maximum age of the last annotation: without recent annotations, the pool may have changed.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Annotations per second of all workers together, from the times of the last 1000 annotations in the stream with the
/// name `annotations`. `None` if there are fewer than two, or none within the last 10 minutes.
///
/// # Errors
/// [`FeedError::Broker`] if the stream cannot be read.
pub async fn pool_rate(jetstream: &Context, annotations: &str) -> Result<Option<f64>, FeedError> {
    let rate = async {
        let stream = jetstream.get_stream(annotations).await?;
        let state = &stream.cached_info().state;
        let last = state.last_sequence;
        let first = state.first_sequence.max(last.saturating_sub(ANNOTATIONS));
        if state.messages < 2 || first >= last {
            return Ok(None);
        }
        let (start, end) = (stream.get_raw_message(first).await?.time, stream.get_raw_message(last).await?.time);
        let seconds = (end - start).as_seconds_f64();
        let is_recent = server_time::age(jetstream, annotations, end).await? <= MAX_AGE;
        Ok::<_, async_nats::Error>((seconds > 0.0 && is_recent).then(|| (last - first) as f64 / seconds))
    };
    rate.await.map_err(|error| FeedError::Broker {
        what: format!("reading the stream {annotations}"),
        cause: causes(error.as_ref()),
    })
}
