//! Reads objects from an S3 store within the limits of the settings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::RequestPayer;
use md5::Digest;
use wire::v1::{ObjectIdentity, S3Object};

use super::action::Action;
pub use super::client::CaFileError;
use super::client::client;
use super::encoding::{Body, BodyError, Whole};
use super::error_document::error_document;
use super::request_error::reading_error;
use super::size_estimate::SizeEstimate;
use super::{FetchError, FetchErrorKind, Fetched, too_large, unsupported_encoding};
use crate::byte_budget::{ByteBudget, Reservation};
use crate::read_monitor::ReadMonitor;
use crate::settings::S3Settings;
use crate::slow_reads::{SlowReadAborted, SlowReadPermit};

/// An S3 store with the buckets and prefixes that may be read. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    pub(super) client: Client,
    allow: Vec<String>,
    max_bytes: u64,
    size_estimate: Arc<SizeEstimate>,
    operation_timeout: Duration,
    pub(super) requester_pays: bool,
}

/// The result of a read with a limit on its bytes.
enum Read {
    Whole(Fetched),
    /// The object exceeds this limit, but not `s3.max_object_bytes`.
    Larger,
}

/// Why an object was not read for a job.
#[derive(Debug)]
pub(crate) enum ReadError {
    Failed(FetchError),
    Aborted(SlowReadAborted),
}

impl From<FetchError> for ReadError {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

impl From<SlowReadAborted> for ReadError {
    fn from(reason: SlowReadAborted) -> Self {
        Self::Aborted(reason)
    }
}

/// Whether an ETag is the MD5 of these bytes. This holds for most objects, but not for multipart uploads and some
/// encrypted objects.
pub(crate) fn is_md5_of(etag: &str, bytes: &[u8]) -> bool {
    is_md5(etag) && etag.eq_ignore_ascii_case(&hex::encode(md5::Md5::digest(bytes)))
}

/// Whether an ETag has the form of an MD5. Other forms cannot be compared with bytes.
pub(crate) fn is_md5(etag: &str) -> bool {
    etag.len() == 32 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl ObjectStore {
    /// Opens the store of the settings. It does not connect before the first read.
    ///
    /// # Errors
    /// [`CaFileError`] if `s3.ca_file` cannot be used.
    pub async fn open(settings: &S3Settings) -> Result<Self, CaFileError> {
        Ok(Self {
            client: client(settings).await?,
            allow: settings.allow.clone(),
            max_bytes: settings.max_object_bytes,
            size_estimate: Arc::new(SizeEstimate::new(settings.max_object_bytes)),
            operation_timeout: settings.operation_timeout,
            requester_pays: settings.requester_pays,
        })
    }

    /// The client, for operations that a worker does not need, such as listing and writing.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads one object after reserving bytes of `budget` for the estimated size. If the object is larger, it is
    /// requested again after reserving bytes for the largest object allowed. Bytes that it does not need are released.
    /// `monitor` covers the reads, but not the wait for the budget.
    ///
    /// # Errors
    /// The errors of [`ObjectStore::read`], and [`ReadError::Aborted`] if `monitor` aborts a slow read.
    pub(crate) async fn read_into<F: FnMut(SlowReadPermit)>(
        &self,
        object: &S3Object,
        budget: &ByteBudget,
        monitor: &mut ReadMonitor<'_, F>,
    ) -> Result<(Fetched, Reservation), ReadError> {
        let (mut claim, mut time) = (self.size_estimate.bytes(), self.operation_timeout);
        loop {
            // Reserved before the request, because a store does not wait with its response, and released before more is
            // reserved, so that jobs that wait for the budget hold none of it.
            let mut reservation = budget.reserve(claim).await;
            let started = Instant::now();
            match monitor.run(claim, self.read_up_to(object, claim, time)).await?? {
                Read::Whole(fetched) => {
                    let size = fetched.bytes.len() as u64;
                    self.size_estimate.record(size);
                    reservation.shrink_to(size);
                    return Ok((fetched, reservation));
                }
                Read::Larger if claim >= self.max_bytes => {
                    return Err(too_large(&name_of(object), self.max_bytes).into());
                }
                Read::Larger => (claim, time) = (self.max_bytes, time.saturating_sub(started.elapsed())),
            }
        }
    }

    /// Reads one object.
    ///
    /// # Errors
    /// [`FetchError`]. Never more than `s3.max_object_bytes` are held in memory.
    pub async fn read(&self, object: &S3Object) -> Result<Fetched, FetchError> {
        match self.read_up_to(object, self.max_bytes, self.operation_timeout).await? {
            Read::Whole(fetched) => Ok(fetched),
            Read::Larger => Err(too_large(&name_of(object), self.max_bytes)),
        }
    }

    async fn read_up_to(&self, object: &S3Object, most: u64, time: Duration) -> Result<Read, FetchError> {
        let name = name_of(object);
        if !self.allows(&object.bucket, &object.key) {
            let sentence = if climbs(&object.key) {
                format!(
                    "{name} may not be read by this worker: its key has a segment \".\" or \"..\", which could lead out of the prefixes of s3.allow; only the entry \"*\" allows it"
                )
            } else {
                format!("{name} may not be read by this worker: add its bucket or prefix to s3.allow")
            };
            return Err(FetchError::new(FetchErrorKind::NotAllowed, sentence));
        }
        // The client's own timeout covers only the headers; this one covers the body too.
        match tokio::time::timeout(time, self.read_within(object, &name, most)).await {
            Ok(read) => read,
            Err(_) => {
                let sentence =
                    format!("{name} was not read within {:?} (s3.operation_timeout)", self.operation_timeout);
                Err(FetchError::new(FetchErrorKind::Unavailable, sentence))
            }
        }
    }

    /// Whether an entry of `s3.allow` covers the object. No bucket or prefix covers a key with a segment `.` or `..`:
    /// S3 does not interpret them, but stores on top of a file system may leave the prefix. The entry `*` covers every
    /// key.
    pub fn allows(&self, bucket: &str, key: &str) -> bool {
        let climbs = climbs(key);
        self.allow.iter().any(|entry| match entry.split_once('/') {
            _ if entry == "*" => true,
            None => entry == bucket && !climbs,
            Some((allowed, prefix)) => allowed == bucket && key.starts_with(prefix) && !climbs,
        })
    }

    async fn read_within(&self, object: &S3Object, name: &str, most: u64) -> Result<Read, FetchError> {
        let pinned = object.etag.as_deref().map(bare_etag);
        let answer = self
            .client
            .get_object()
            .bucket(&object.bucket)
            .key(&object.key)
            .set_version_id(object.version_id.clone())
            .set_if_match(pinned.map(|etag| format!("\"{etag}\"")))
            .set_request_payer(self.requester_pays.then_some(RequestPayer::Requester))
            .send()
            .await
            .map_err(|error| reading_error(error, name, self.requester_pays))?;
        let identity = ObjectIdentity {
            bucket: object.bucket.clone(),
            key: object.key.clone(),
            etag: answer.e_tag().map(|etag| bare_etag(etag).to_owned()),
            // S3 returns "null" for an object without a version.
            version_id: answer.version_id().filter(|version| *version != "null").map(str::to_owned),
        };
        // Some stores ignore conditions and versions, so the response is compared with the request.
        if let (Some(wanted), Some(found)) = (pinned, identity.etag.as_deref())
            && wanted != found
        {
            let sentence = format!(
                "{name} has the ETag {found:?}, but the job names {wanted:?}: submit the job again with the new ETag"
            );
            return Err(FetchError::new(FetchErrorKind::Changed, sentence));
        }
        if let (Some(wanted), Some(found)) = (object.version_id.as_deref(), identity.version_id.as_deref())
            && wanted != found
        {
            let sentence = format!("{name} was returned in the version {found:?}, but the job names {wanted:?}");
            return Err(FetchError::new(FetchErrorKind::Changed, sentence));
        }
        let whole = match self.body(answer, name, most).await {
            Ok(Whole { bytes, stored_md5 }) => Fetched { bytes, identity, stored_md5 },
            Err(Unread::Larger) => return Ok(Read::Larger),
            Err(Unread::Failed(error)) => return Err(error),
            Err(Unread::Damaged { encoding, reason, stored_md5 }) => {
                return Err(damaged(name, &encoding, &reason, &stored_md5, identity.etag.as_deref()));
            }
        };
        whole.check_form(name, self.requester_pays)?;
        Ok(Read::Whole(whole))
    }

    /// The decoded bytes, at most `most`.
    async fn body(&self, answer: GetObjectOutput, name: &str, most: u64) -> Result<Whole, Unread> {
        let announced = answer.content_length().and_then(|length| u64::try_from(length).ok());
        if announced.is_some_and(|length| length > self.max_bytes) {
            return Err(Unread::Failed(too_large(name, self.max_bytes)));
        }
        if announced.is_some_and(|length| length > most) {
            return Err(Unread::Larger);
        }
        let mut body = Body::new(answer.content_encoding(), most);
        let mut chunks = answer.body;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                let sentence = format!("reading {name} failed");
                FetchError::new(FetchErrorKind::Unavailable, sentence).because(error)
            })?;
            body.push(&chunk).map_err(|error| Unread::of(error, name))?;
        }
        match announced {
            Some(length) if length != body.arrived() => {
                let sentence =
                    format!("{name} was announced with {length} bytes, but {} bytes arrived", body.arrived());
                Err(FetchError::new(FetchErrorKind::Unavailable, sentence).into())
            }
            _ => body.end().map_err(|error| Unread::of(error, name)),
        }
    }
}

/// Why a body was not read.
enum Unread {
    Larger,
    Damaged { encoding: String, reason: String, stored_md5: String },
    Failed(FetchError),
}

impl From<FetchError> for Unread {
    fn from(error: FetchError) -> Self {
        Self::Failed(error)
    }
}

impl Unread {
    fn of(error: BodyError, name: &str) -> Self {
        match error {
            BodyError::Larger => Self::Larger,
            BodyError::Damaged { encoding, reason, stored_md5 } => Self::Damaged { encoding, reason, stored_md5 },
            BodyError::Unsupported(encoding) => unsupported_encoding(name, &encoding).into(),
        }
    }
}

/// The error for encoded bytes that cannot be decoded. It is the object's own fault only if the bytes match the ETag.
fn damaged(name: &str, encoding: &str, reason: &str, stored_md5: &str, etag: Option<&str>) -> FetchError {
    let sentence = format!("{name} cannot be decoded according to its content encoding {encoding} ({reason})");
    match etag {
        Some(etag) if is_md5(etag) && !etag.eq_ignore_ascii_case(stored_md5) => {
            let sentence =
                format!("{sentence}, and the bytes do not match its ETag: they may have been damaged in transit");
            FetchError::new(FetchErrorKind::Unavailable, sentence)
        }
        _ => FetchError::new(FetchErrorKind::EncodingDamaged, format!("{sentence}: store it again")),
    }
}

impl Fetched {
    /// Checks that the bytes are not an error document of the store or the framing of an upload.
    fn check_form(&self, name: &str, requester_pays: bool) -> Result<(), FetchError> {
        if let Some(error) = error_document(&self.bytes) {
            // If the bytes match the ETag, the document is the stored object.
            let is_stored = self.identity.etag.as_deref().is_some_and(|etag| is_md5_of(etag, &self.bytes));
            return if is_stored { Ok(()) } else { Err(error.into_fetch_error(Action::Read, name, requester_pays)) };
        }
        if is_aws_chunked(&self.bytes) {
            let sentence = format!(
                "{name} contains the framing of an upload (aws-chunked): upload it again with a client and a store that both support it"
            );
            return Err(FetchError::new(FetchErrorKind::EncodingUnsupported, sentence));
        }
        Ok(())
    }
}

/// Whether bytes have the framing of an upload in chunks: a length in hexadecimal, optionally a signature, and the
/// chunk. Only the first chunk is checked.
fn is_aws_chunked(bytes: &[u8]) -> bool {
    let Some(end) = bytes.iter().take(128).position(|byte| *byte == b'\r') else { return false };
    let Some(line) = bytes.get(..end).and_then(|line| std::str::from_utf8(line).ok()) else { return false };
    let (length, extension) = line.split_once(';').unwrap_or((line, ""));
    let Ok(length) = usize::from_str_radix(length, 16) else { return false };
    let after = bytes.get(end + 2..).and_then(|rest| rest.get(length..));
    bytes.get(end + 1) == Some(&b'\n')
        && (extension.is_empty() || extension.starts_with("chunk-signature="))
        && after.is_some_and(|after| after.starts_with(b"\r\n"))
}

/// Whether a key has a segment `.` or `..`.
fn climbs(key: &str) -> bool {
    key.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn name_of(object: &S3Object) -> String {
    format!("s3://{}/{}", object.bucket, object.key)
}

/// An ETag without its quotes and without the prefix `W/`, which proxies add when they change the encoding.
fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(allow: &[&str]) -> ObjectStore {
        let allow = allow.iter().map(|entry| (*entry).to_owned()).collect();
        ObjectStore::open(&S3Settings { allow, anonymous: true, ..Default::default() }).await.unwrap()
    }

    #[tokio::test]
    async fn the_allow_list_takes_buckets_prefixes_and_everything() {
        let some = store(&["imgs", "archive/2024/"]).await;
        assert!(some.allows("imgs", "anything") && some.allows("archive", "2024/a.jpg"));
        assert!(some.allows("archive", "2024/größe 日本/a..b.jpg"));
        for (bucket, key) in [
            ("archive", "2023/a.jpg"),
            ("archive", "2024"),
            ("archive", "2024/../2023/a.jpg"),
            ("imgs", "../secrets/a"),
            ("imgs", "./a"),
            ("img", "a"),
            ("imgs2", "a"),
        ] {
            assert!(!some.allows(bucket, key), "{bucket}/{key}");
        }
        assert!(store(&["*"]).await.allows("x", "y"));
        assert!(!store(&[]).await.allows("x", "y"));
    }

    #[tokio::test]
    async fn an_object_outside_the_allow_list_is_refused_without_asking_the_store() {
        let object = S3Object { bucket: "secrets".into(), key: "k".into(), ..Default::default() };
        let error = store(&["imgs"]).await.read(&object).await.unwrap_err();
        assert_eq!(error.kind(), FetchErrorKind::NotAllowed);
        assert_eq!(
            error.to_string(),
            "s3://secrets/k may not be read by this worker: add its bucket or prefix to s3.allow"
        );
        let object = S3Object { bucket: "imgs".into(), key: "../other/a.jpg".into(), ..Default::default() };
        let error = store(&["imgs"]).await.read(&object).await.unwrap_err();
        assert_eq!(error.kind(), FetchErrorKind::NotAllowed);
        let said = error.to_string();
        assert!(said.contains("a segment \".\" or \"..\"") && !said.contains("add its bucket"), "{said}");
    }

    #[test]
    fn an_etag_is_the_md5_of_an_object_in_one_part() {
        assert!(is_md5_of("900150983CD24fb0d6963f7d28e17f72", b"abc"));
        assert!(!is_md5_of("900150983cd24fb0d6963f7d28e17f72-2", b"abc"));
        assert!(!is_md5_of("900150983cd24fb0d6963f7d28e17f72", b"ab"));
    }

    #[test]
    fn pieces_of_an_upload_are_told_from_pictures() {
        assert!(is_aws_chunked(b"3;chunk-signature=00\r\nabc\r\n0;chunk-signature=00\r\n\r\n"));
        assert!(is_aws_chunked(b"3\r\nabc\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"));
        for other in
            [&b""[..], b"\x89PNG\r\n\x1a\n", b"3\r\nab", b"3;q=1\r\nabc\r\n", b"ffffffffffffffff\r\n\r\n", b"abc"]
        {
            assert!(!is_aws_chunked(other), "{other:?}");
        }
    }
}
