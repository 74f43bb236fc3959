//! What the leader of a stream has.
//!
//! In a cluster, consumers and direct gets are answered by any server of the stream, whose copy may lag behind that of
//! the leader. Nothing in their answers tells that more messages exist.

use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use futures::TryStreamExt;
use time::OffsetDateTime;

/// How often the leader is asked while its answers contradict each other.
const ATTEMPTS: u32 = 10;
/// Delay between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The sequence of the last message of a subject (with wildcards; empty for all), if it was published at `since` or
/// later. 0 if there is none.
///
/// The server says that there is no message whatever error it had in looking for one, such as a file that was damaged when
/// the server was killed. So that is only taken for an answer if the server also counts no message. If it counts some, and
/// the last one of all subjects is asked for, the sequence is that of the stream's state: another server may have the
/// message.
///
/// # Errors
/// If the leader does not answer, or cannot read the messages that it counts of one subject.
pub async fn last_sequence<I>(
    stream: &Stream<I>,
    subject: &str,
    since: Option<OffsetDateTime>,
) -> Result<u64, async_nats::Error> {
    let is_all = matches!(subject, "" | ">");
    for _ in 0..ATTEMPTS {
        let found = if is_all { last_of_all(stream).await? } else { last_of_subject(stream, subject).await? };
        match found {
            Some(message) if since.is_some_and(|since| message.time < since) => return Ok(0),
            Some(message) => return Ok(message.sequence),
            None if !has_messages(stream, subject).await? => return Ok(0),
            None => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
    if is_all {
        let info = stream.get_info().await?;
        let (stream, last) = (&info.config.name, info.state.last_sequence);
        tracing::warn!(
            stream,
            last,
            "the server that leads the stream cannot read its last message; trying other servers"
        );
        return Ok(last);
    }
    Err(format!(
        "the server that leads the stream counts messages of {subject}, and cannot read the last one: let another server \
         lead the stream (`nats stream cluster step-down`), and compare their copies"
    )
    .into())
}

async fn last_of_all<I>(stream: &Stream<I>) -> Result<Option<StreamMessage>, async_nats::Error> {
    let last = stream.get_info().await?.state.last_sequence;
    if last > 0
        && let Some(message) = found(stream.get_raw_message(last).await)?
    {
        return Ok(Some(message));
    }
    // It was deleted. For ">" the server looks no further then; these two match every subject.
    let (one, more) = (last_of_subject(stream, "*").await?, last_of_subject(stream, "*.>").await?);
    Ok(one.into_iter().chain(more).max_by_key(|message| message.sequence))
}

async fn last_of_subject<I>(stream: &Stream<I>, subject: &str) -> Result<Option<StreamMessage>, async_nats::Error> {
    found(stream.get_last_raw_message_by_subject(subject).await)
}

fn found(answer: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>, async_nats::Error> {
    match answer {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn has_messages<I>(stream: &Stream<I>, subject: &str) -> Result<bool, async_nats::Error> {
    let filter = if subject.is_empty() { ">" } else { subject };
    let mut subjects = stream.info_with_subjects(filter).await?;
    Ok(subjects.try_next().await?.is_some())
}
