//! Access to the S3 store: lists keys, and reads files.

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
use crate::object::{SourceObject, unquoted_etag};

/// Maximum number of chunks of a file that are buffered.
const BUFFERED_CHUNKS: usize = 8;
/// Maximum consecutive interruptions of a download without progress.
const MAX_ATTEMPTS: u32 = 8;
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(20));

/// Access to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    requester_pays: bool,
}

/// One response of a listing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listed {
    pub(crate) objects: Vec<SourceObject>,
    /// Whether there are more keys.
    pub(crate) more: bool,
}

impl Store {
    /// A store that is accessed with `client`. With `requester_pays`, the client pays for the requests.
    pub fn new(client: Client, requester_pays: bool) -> Self {
        Self { client, requester_pays }
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Lists the first keys after `after`, at most `max_keys`, of which stores return 1000.
    pub(crate) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
        max_keys: usize,
    ) -> Result<Listed, SourceError> {
        let answer = self
            .client
            .list_objects_v2()
            .bucket(bucket)
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(i32::try_from(max_keys).unwrap_or(1000))
            // Keys can contain characters that XML cannot.
            .encoding_type(EncodingType::Url)
            .set_request_payer(self.payer())
            .send()
            .await
            .map_err(|error| SourceError::Listing {
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
                is_temporary: is_temporary(&error),
                cause: message(&error),
            })?;
        let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
        let object = |object: &aws_sdk_s3::types::Object| {
            let key = object.key()?;
            Some(SourceObject {
                bucket: bucket.to_owned(),
                key: if is_encoded { decoded(key) } else { key.to_owned() },
                size: object.size().and_then(|size| u64::try_from(size).ok()),
                etag: object.e_tag().map(|etag| unquoted_etag(etag).to_owned()),
                version: None,
                last_modified: object.last_modified().map(aws_sdk_s3::primitives::DateTime::secs),
            })
        };
        let objects = answer.contents().iter().filter_map(object).collect();
        Ok(Listed { objects, more: answer.is_truncated().unwrap_or(false) })
    }

    /// A text that changes with the contents of a file: the ETag of an object, the size of a local file.
    pub(crate) async fn identity(&self, place: &Place) -> Result<String, SourceError> {
        match place {
            Place::Local(path) => {
                let found = tokio::fs::metadata(path).await.map_err(|error| SourceError::file(place, error))?;
                Ok(format!("{} bytes", found.len()))
            }
            Place::Object { bucket, key } => {
                let head = self.client.head_object().bucket(bucket).key(key).set_request_payer(self.payer());
                let found = head.send().await.map_err(|error| SourceError::file(place, message(&error)))?;
                Ok(found.e_tag().map_or_else(String::new, |etag| unquoted_etag(etag).to_owned()))
            }
        }
    }

    /// Reads a file of at most `max_bytes`.
    pub(crate) async fn read_whole(&self, place: &Place, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let reader = self.open(place, 0).await?;
        let name = place.to_string();
        let read = move || {
            let mut bytes = Vec::new();
            reader.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map(|_| bytes)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(bytes)) if bytes.len() as u64 > max_bytes => {
                Err(SourceError::file(name, format!("it has more than {max_bytes} bytes")))
            }
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) => Err(SourceError::file(name, error)),
            Err(error) => Err(SourceError::file(name, error)),
        }
    }

    /// Opens a file at an offset in bytes. The reader blocks.
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
                let (sender, chunks) = mpsc::channel(BUFFERED_CHUNKS);
                tokio::spawn(download.send_to(sender, body));
                Ok(Box::new(Chunks { chunks, current: Bytes::new() }))
            }
        }
    }

    /// Opens a file for random access. An object is copied to an unnamed temporary file first.
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

/// A download of an object. It continues over another connection if one is interrupted, for example because the reader
/// waits for workers.
struct Download {
    store: Store,
    bucket: String,
    key: String,
    /// The number of bytes received.
    offset: u64,
    /// The ETag of the first response. Later ones must have the same.
    etag: Option<String>,
}

impl Download {
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

/// The error of the store, or of the connection.
fn message<
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

fn is_temporary<E: ProvideErrorMetadata>(error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> bool {
    match error.raw_response().map(|response| response.status().as_u16()) {
        None => true,
        Some(status) => status >= 500 || status == 429 || status == 200,
    }
}

/// Decodes a URL-encoded key, in which `+` is a space. Invalid escapes are kept.
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
