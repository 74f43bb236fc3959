//! Access to the S3 store: lists keys, and reads files.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{EncodingType, RequestPayer};

use super::address::Place;
use super::checked::Checked;
use super::download::Download;
use super::error::SourceError;
use super::outage::Outage;
use super::store_error::{is_temporary, message};
use crate::digest::sha256_of;
use crate::object::{SourceObject, unquoted_etag};

/// Access to the store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) client: Client,
    requester_pays: bool,
    outage: Outage,
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
        Self { client, requester_pays, outage: Outage::default() }
    }

    /// Whether the store answers. All copies of the store share it.
    pub(crate) fn outage(&self) -> &Outage {
        &self.outage
    }

    pub(super) fn payer(&self) -> Option<RequestPayer> {
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

    /// A text that changes with the contents of a file: the ETag of an object, the SHA-256 of a local file.
    pub(crate) async fn identity(&self, place: &Place) -> Result<String, SourceError> {
        match place {
            Place::Local(path) => {
                let path = path.clone();
                match tokio::task::spawn_blocking(move || sha256(&path)).await {
                    Ok(hash) => hash.map_err(|error| SourceError::file(place, error)),
                    Err(error) => Err(SourceError::file(place, error)),
                }
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
                let download = Download::new(self.clone(), bucket.clone(), key.clone(), offset);
                download.start().await.map_err(|error| SourceError::file(place, error))
            }
        }
    }

    /// Opens a file for random access. An object is copied to an unnamed temporary file first, and compared with its MD5 if
    /// that is known.
    pub(crate) async fn open_seekable(&self, place: &Place, md5: Option<&str>) -> Result<std::fs::File, SourceError> {
        if let Place::Local(path) = place {
            return std::fs::File::open(path).map_err(|error| SourceError::file(place, error));
        }
        let (mut reader, name) = (Checked::new(self.open(place, 0).await?, md5), place.to_string());
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

/// The SHA-256 of a local file.
fn sha256(path: &Path) -> std::io::Result<String> {
    Ok(format!("sha256 {}", sha256_of(std::fs::File::open(path)?)?))
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
