//! Downloads an object that may be larger than memory.

use std::io::Read;
use std::time::Duration;

use aws_sdk_s3::error::ProvideErrorMetadata;
use aws_sdk_s3::primitives::ByteStream;
use broker::backoff::{Backoff, Delays};
use broker::causes::causes;
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::store::Store;
use super::store_error::message;

/// Maximum number of chunks of a file that are buffered.
const BUFFERED_CHUNKS: usize = 8;
/// Maximum consecutive interruptions of a download without progress.
const MAX_ATTEMPTS: u32 = 8;
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(20));

/// A download of an object. It continues over another connection if one is interrupted, for example because the reader
/// waits for workers.
pub(super) struct Download {
    store: Store,
    bucket: String,
    key: String,
    /// The number of bytes received.
    offset: u64,
    /// The ETag of the first response. Later ones must have the same.
    etag: Option<String>,
}

impl Download {
    /// A download from `offset` on.
    pub(super) fn new(store: Store, bucket: String, key: String, offset: u64) -> Self {
        Self { store, bucket, key, offset, etag: None }
    }

    /// Starts the download. The reader blocks.
    pub(super) async fn start(mut self) -> Result<Box<dyn Read + Send>, String> {
        let Some(body) = self.request().await? else { return Ok(Box::new(std::io::empty())) };
        let (sender, chunks) = mpsc::channel(BUFFERED_CHUNKS);
        tokio::spawn(self.send_to(sender, body));
        Ok(Box::new(Chunks { chunks, current: Bytes::new() }))
    }

    /// Requests the rest of the object; `None` if there is none.
    async fn request(&mut self) -> Result<Option<ByteStream>, String> {
        let get = self.store.client.get_object().bucket(&self.bucket).key(&self.key);
        let get = get.set_request_payer(self.store.payer()).set_if_match(self.etag.clone());
        match get.set_range((self.offset > 0).then(|| format!("bytes={}-", self.offset))).send().await {
            Ok(answer) => {
                self.etag = self.etag.take().or(answer.e_tag);
                Ok(Some(answer.body))
            }
            Err(error) if error.code() == Some("InvalidRange") => Ok(None),
            Err(error) => Err(message(&error)),
        }
    }

    async fn send_to(mut self, sender: mpsc::Sender<std::io::Result<Bytes>>, mut body: ByteStream) {
        let mut delays = Delays::of(RETRY_BACKOFF);
        let mut failures = 0;
        loop {
            let error = match body.next().await {
                None => return,
                Some(Ok(chunk)) => {
                    self.offset += chunk.len() as u64;
                    (failures, delays) = (0, Delays::of(RETRY_BACKOFF));
                    if sender.send(Ok(chunk)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(Err(error)) => causes(&error),
            };
            failures += 1;
            tracing::debug!(self.key, "a download was interrupted: {error}");
            tokio::time::sleep(delays.after_failure()).await;
            match self.request().await {
                Ok(Some(next)) => body = next,
                Ok(None) => return,
                Err(_) if failures < MAX_ATTEMPTS => {}
                Err(error) => return drop(sender.send(Err(std::io::Error::other(error))).await),
            }
            if failures >= MAX_ATTEMPTS {
                return drop(sender.send(Err(std::io::Error::other(error))).await);
            }
        }
    }
}

/// Reads the chunks that a download sends.
struct Chunks {
    chunks: mpsc::Receiver<std::io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.current = chunk?,
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
