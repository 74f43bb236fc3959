//! The S3 store as sources use it: listing keys, and reading files.

use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{EncodingType, RequestPayer};
use broker::backoff::{Backoff, Delays};
use broker::causes::causes;
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::address::Place;
use super::error::SourceError;
use crate::object::{SourceObject, bare_etag};

/// Chunks of a file that wait for their reader.
const CHUNKS: usize = 8;
/// Times that a download breaks off without bringing anything before it fails.
const ATTEMPTS: u32 = 8;
const AGAIN: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(20));

/// Access to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    requester_pays: bool,
}

/// One answer of a listing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<SourceObject>,
    /// Whether there are keys after them.
    pub(crate) more: bool,
}

impl Store {
    /// Through this client. With `requester_pays`, the owner of the client's key agrees to pay for the requests.
    pub fn new(client: Client, requester_pays: bool) -> Self {
        Self { client, requester_pays }
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }

    /// The first keys after `after`, at most `most` (1000 at most) of them.
    pub(crate) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Listed, SourceError> {
        let answer = self
            .client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(i32::try_from(most).unwrap_or(1000))
            // Keys can hold characters that XML cannot.
            .encoding_type(EncodingType::Url)
            .set_request_payer(self.payer())
            .send()
            .await
            .map_err(|error| SourceError::Listing {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
                may_pass: may_pass(&error),
                cause: said(&error),
            })?;
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let object = |object: &aws_sdk_s3::types::Object| {
            let key = object.key()?;
            Some(SourceObject {
                bucket: bucket.to_owned(),
                key: if is_encoded { decoded(key) } else { key.to_owned() },
                size: object.size().and_then(|size| u64::try_from(size).ok()),
                etag: object.e_tag().map(|etag| bare_etag(etag).to_owned()),
                version: None,
                last_modified: object.last_modified().map(aws_sdk_s3::primitives::DateTime::secs),
            })
        };
        let objects = answer.contents().iter().filter_map(object).collect();
        Ok(Listed { objects, more: answer.is_truncated().unwrap_or(false) })
    }

    /// What tells one state of a file from another: an object's ETag, a local file's size.
    pub(crate) async fn identity(&self, place: &Place) -> Result<String, SourceError> {
        match place {
            Place::Local(path) => {
                let found = tokio::fs::metadata(path).await.map_err(|error| SourceError::file(place, error))?;
                Ok(format!("{} bytes", found.len()))
            }
            Place::Object { bucket, key } => {
                let head = self.client.head_object().bucket(bucket).key(key).set_request_payer(self.payer());
                let found = head.send().await.map_err(|error| SourceError::file(place, said(&error)))?;
                Ok(found.e_tag().map_or_else(String::new, |etag| bare_etag(etag).to_owned()))
            }
        }
    }

    /// A small file whole; `most` is the greatest size in bytes.
    pub(crate) async fn read_whole(&self, place: &Place, most: u64) -> Result<Vec<u8>, SourceError> {
        let reader = self.open(place, 0).await?;
        let name = place.to_string();
        let read = move || {
            let mut bytes = Vec::new();
            reader.take(most.saturating_add(1)).read_to_end(&mut bytes).map(|_| bytes)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(bytes)) if bytes.len() as u64 > most => {
                Err(SourceError::file(name, format!("it has more than {most} bytes")))
            }
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(SourceError::file(name, error)),
            Err(error) => Err(SourceError::file(name, error)),
        }
    }

    /// A file from `offset` bytes on. To be read on a thread that may block.
    pub(crate) async fn open(&self, place: &Place, offset: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        match place {
            Place::Local(path) => {
                let open = |path: &std::path::Path| {
                    let mut file = std::fs::File::open(path)?;
                    file.seek(SeekFrom::Start(offset))?;
                    Ok::<_, std::io::Error>(file)
                };
                Ok(Box::new(open(path).map_err(|error| SourceError::file(place, error))?))
            }
            Place::Object { bucket, key } => {
                let mut download =
                    Download { store: self.clone(), bucket: bucket.clone(), key: key.clone(), offset, etag: None };
                let Some(body) = download.request().await.map_err(|error| SourceError::file(place, error))? else {
                    return Ok(Box::new(std::io::empty()));
                };
                let (sender, chunks) = mpsc::channel(CHUNKS);
                tokio::spawn(download.send_to(sender, body));
                Ok(Box::new(Chunks { chunks, current: Bytes::new() }))
            }
        }
    }

    /// A file that can be read in any order: an object is copied into a temporary file, which has no name and goes with
    /// the program.
    pub(crate) async fn open_seekable(&self, place: &Place) -> Result<std::fs::File, SourceError> {
        if let Place::Local(path) = place {
            return std::fs::File::open(path).map_err(|error| SourceError::file(place, error));
        }
        let (mut reader, name) = (self.open(place, 0).await?, place.to_string());
        let copy = move || {
            let mut file = tempfile::tempfile()?;
            std::io::copy(&mut reader, &mut file)?;
            file.flush()?;
            file.rewind()?;
            Ok::<_, std::io::Error>(file)
        };
        match tokio::task::spawn_blocking(copy).await {
            Ok(copied) => copied.map_err(|error| SourceError::file(name, error)),
            Err(error) => Err(SourceError::file(name, error)),
        }
    }
}

/// An object on its way. A connection that breaks off, for example because the reader waits for workers, is made anew.
struct Download {
    store: Store,
    bucket: String,
    key: String,
    /// Bytes that have arrived.
    offset: u64,
    /// Of the first answer: later ones must be of the same object.
    etag: Option<String>,
}

impl Download {
    /// The rest of the object; `None` if nothing is left of it.
    async fn request(&mut self) -> Result<Option<ByteStream>, String> {
        let get = self.store.client.get_object().bucket(&self.bucket).key(&self.key);
        let get = get.set_request_payer(self.store.payer()).set_if_match(self.etag.clone());
        match get.set_range((self.offset > 0).then(|| format!("bytes={}-", self.offset))).send().await {
            Ok(answer) => {
                self.etag = self.etag.take().or(answer.e_tag);
                Ok(Some(answer.body))
            }
            Err(error) if error.code() == Some("InvalidRange") => Ok(None),
            Err(error) => Err(said(&error)),
        }
    }

    async fn send_to(mut self, sender: mpsc::Sender<std::io::Result<Bytes>>, mut body: ByteStream) {
        let mut delays = Delays::of(AGAIN);
        let mut failures = 0;
        loop {
            let error = match body.next().await {
                None => return,
                Some(Ok(chunk)) => {
                    self.offset += chunk.len() as u64;
                    (failures, delays) = (0, Delays::of(AGAIN));
                    if sender.send(Ok(chunk)).await.is_err() {
                        return;
                    }
                    continue;
                }
                Some(Err(error)) => causes(&error),
            };
            failures += 1;
            tracing::debug!(self.key, "the download broke off: {error}");
            tokio::time::sleep(delays.after_failure()).await;
            match self.request().await {
                Ok(Some(next)) => body = next,
                Ok(None) => return,
                Err(_) if failures < ATTEMPTS => {}
                Err(error) => return drop(sender.send(Err(std::io::Error::other(error))).await),
            }
            if failures >= ATTEMPTS {
                return drop(sender.send(Err(std::io::Error::other(error))).await);
            }
        }
    }
}

/// A body that is received on one thread and read on another.
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

/// What the store said, or why it said nothing.
fn said<
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
>(
    error: &SdkError<E, R>,
) -> String {
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => causes(error),
    }
}

fn may_pass<E: ProvideErrorMetadata>(error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> bool {
    match error.raw_response().map(|response| response.status().as_u16()) {
        None => true,
        Some(status) => status >= 500 || status == 429 || status == 200,
    }
}

/// A key in the encoding of URLs, where a blank can be `+`. What is not encoded stays.
pub(crate) fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, tail) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', tail),
            },
            (byte, _) => (*byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_s3_encodes_them() {
        for (encoded, key) in
            [("a/b.jpg", "a/b.jpg"), ("a+b%2Bc", "a b+c"), ("%C3%A4%e6%97%a5", "ä日"), ("100%", "100%"), ("%zz", "%zz")]
        {
            assert_eq!(decoded(encoded), key);
        }
    }
}
