//! The stream in batches.

use std::pin::Pin;

use broker::read::{Range, ReadError, StoredMessage, read};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use wire::Message;
use wire::v1::ImageAnnotation;

use super::rows::AnnotationRow;
use crate::export::item::Item;
use crate::pool::Pool;

/// A batch is complete with this many bytes of messages, so that memory does not depend on the size of annotations.
const BATCH_BYTES: usize = 2 << 20;
/// A batch is complete with this many messages.
const BATCH_MESSAGES: u64 = 1000;

/// Annotations that are written in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) annotations: Vec<AnnotationRow>,
    /// Messages, annotations or not.
    pub(crate) messages: u64,
    /// Messages that are not annotations.
    pub(crate) unreadable: u64,
    /// The sequence up to which the stream was read.
    pub(crate) last: u64,
    bytes: usize,
}

/// Reads a range of the stream in batches.
pub(crate) struct BatchReader {
    messages: Pin<Box<dyn Stream<Item = Result<StoredMessage, ReadError>> + Send>>,
    /// What was read of the next batch.
    pending: Batch,
    /// The last sequence of the range.
    end: u64,
    is_done: bool,
}

impl BatchReader {
    /// Reads the messages of a subject with sequences after `after` up to `end`.
    pub(crate) async fn open(pool: &Pool, subject: &str, after: u64, end: u64) -> Result<Self, ReadError> {
        // Repeats are found by their annotation ids, in the database.
        let range =
            Range { subject: subject.to_owned(), sequences: after + 1..=end, deduplicate: false, ..Range::all() };
        let messages = read(&pool.jetstream, &pool.streams.annotations, range).await?;
        let pending = Batch { last: after, ..Batch::default() };
        Ok(Self { messages: Box::pin(messages), pending, end, is_done: false })
    }

    /// The next batch, or `None` at the end. The last batch ends at the end of the range. A call that is dropped before it
    /// is done loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.is_done {
            return Ok(None);
        }
        while self.pending.bytes < BATCH_BYTES && self.pending.messages < BATCH_MESSAGES {
            let Some(message) = self.messages.try_next().await? else {
                self.is_done = true;
                self.pending.last = self.end;
                break;
            };
            self.pending.add(message.sequence, &message.payload);
        }
        Ok(Some(self.take()))
    }

    /// What was read since the last batch.
    pub(crate) fn take(&mut self) -> Batch {
        let last = self.pending.last;
        std::mem::replace(&mut self.pending, Batch { last, ..Batch::default() })
    }
}

impl Batch {
    /// A batch without messages that ends at a sequence.
    pub(crate) fn empty(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    fn add(&mut self, sequence: u64, payload: &Bytes) {
        self.messages += 1;
        self.bytes += payload.len();
        self.last = sequence;
        match ImageAnnotation::decode(payload.as_ref()) {
            Ok(annotation) => {
                let item = Item { sequence, annotation, picture: None, categories: Vec::new() };
                self.annotations.push(item.into());
            }
            Err(error) => {
                tracing::debug!(sequence, %error, "a message is not an annotation");
                self.unreadable += 1;
            }
        }
    }
}
