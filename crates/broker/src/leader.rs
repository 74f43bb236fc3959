//! What the leader of a stream has.
//!
//! In a cluster, consumers and direct gets are answered by any server of the stream, whose copy may lag behind that of
//! the leader. Nothing in their answers tells that more messages exist.

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use time::OffsetDateTime;

/// The sequence of the last message of a subject (with wildcards; empty for all), if it was published at `since` or
/// later. 0 if there is none.
///
/// # Errors
/// If the leader does not answer.
pub async fn last_sequence<I>(
    stream: &Stream<I>,
    subject: &str,
    since: Option<OffsetDateTime>,
) -> Result<u64, async_nats::Error> {
    // For ">" the server says that there is no message if the last one was deleted. These two match every subject.
    let subjects = match subject {
        "" | ">" => &["*", "*.>"][..],
        subject => &[subject],
    };
    let mut last = 0;
    for &subject in subjects {
        match stream.get_last_raw_message_by_subject(subject).await {
            Ok(message) if since.is_some_and(|since| message.time < since) => {}
            Ok(message) => last = last.max(message.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(last)
}
