//! Responses of different stores: errors, unusual headers, encodings and checksums.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;
use crate::fake_store;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{Running, TestEnv, bitmap, job, submit};
use fake_store::{Answer, FakeStore};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use md5::{Digest, Md5};
use tracing_subscriber::fmt::MakeWriter;
use wire::v1::{FailureReason, ImageJob, S3Object, image_job};
use worker::fetch::FetchErrorKind::{self, *};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};
use worker::{JobEvent, Settings};

fn settings(store: &FakeStore) -> S3Settings {
    S3Settings {
        endpoint: Some(store.endpoint().to_owned()),
        path_style: true,
        access_key: Some("AK".into()),
        secret_key: Some(Secret::new("SK")),
        allow: vec!["*".into()],
        max_object_bytes: 1 << 20,
        attempts: 1,
        ..Default::default()
    }
}

fn object(bucket: &str) -> S3Object {
    S3Object { bucket: bucket.into(), key: "k".into(), ..Default::default() }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", hex::encode(Md5::digest(bytes)))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A response with the picture and these headers.
fn picture(headers: &[(&str, &str)]) -> Answer {
    let answer = Answer::ok(bitmap()).header("ETag", &etag(&bitmap()));
    headers.iter().fold(answer, |answer, (name, value)| answer.header(name, value))
}

/// Reads one object from a store that returns this response.
async fn read(answer: Answer) -> Result<Vec<u8>, (FetchErrorKind, String)> {
    let store = FakeStore::start(move |_| answer.clone()).await;
    let store = ObjectStore::open(&settings(&store)).await.unwrap();
    match store.read(&object("b")).await {
        Ok(fetched) => Ok(fetched.bytes.to_vec()),
        Err(error) => {
            assert!(std::error::Error::source(&error).is_none(), "each cause occurs once, in the sentence: {error:?}");
            Err((error.kind(), error.to_string()))
        }
    }
}

#[tokio::test]
async fn a_refusal_has_true_words_for_its_cause() {
    let sse = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.";
    for (status, code, message, kind, words) in [
        (404, "NoSuchKey", "The specified key does not exist.", NotFound, "s3://b/k does not exist"),
        (404, "NoSuchBucket", "m", NotFound, "does not exist"),
        (400, "InvalidRequest", sse, Encrypted, "SSE-C"),
        (400, "KeyTooLongError", "Your key is too long", BadAddress, "cannot exist"),
        (400, "InvalidURI", "m", BadAddress, "cannot exist"),
        (400, "KMS.DisabledException", "key is disabled", Encrypted, "enable the key"),
        (400, "KMS.NotFoundException", "m", Encrypted, "enable the key"),
        (400, "KMS.KMSInvalidStateException", "m", Encrypted, "enable the key"),
        (403, "InvalidObjectState", "m", Archived, "restore it"),
        (403, "AccessDenied", "m", Denied, "s3.requester_pays"),
        (400, "NobodyKnowsThis", "m", Denied, "NobodyKnowsThis: m"),
        (400, "AuthorizationHeaderMalformed", "expecting 'eu-west-3'", Misconfigured, "check s3.region"),
        (403, "InvalidAccessKeyId", "m", Misconfigured, "s3.anonymous"),
        (403, "RequestTimeTooSkewed", "m", Misconfigured, "clock"),
        (503, "SlowDown", "m", Throttled, "throttles requests"),
        (500, "InternalError", "m", Unavailable, "could not be read"),
    ] {
        let (found, sentence) = read(Answer::error(status, code, message)).await.unwrap_err();
        assert_eq!(found, kind, "{code}: {sentence}");
        assert!(sentence.contains(words) && sentence.contains("s3://b/k"), "{code}: {sentence}");
        assert_eq!(sentence.matches(code).count(), 1, "{sentence}");
        if message != "m" {
            assert_eq!(sentence.matches(message).count(), 1, "{sentence}");
        }
    }
    let html = Answer::new(404, b"<html>not found</html>".to_vec()).header("Content-Type", "text/html");
    let (kind, sentence) = read(html.clone()).await.unwrap_err();
    assert_eq!(kind, NotFound);
    assert!(sentence.contains("s3.endpoint"), "{sentence}");
    let (kind, sentence) = read(html.with_status(400)).await.unwrap_err();
    assert_eq!(kind, Misconfigured);
    assert!(sentence.contains("s3.endpoint"), "{sentence}");
    let elsewhere = Answer::error(301, "PermanentRedirect", "m").header("x-amz-bucket-region", "eu-west-3");
    let (kind, sentence) = read(elsewhere).await.unwrap_err();
    assert_eq!(kind, Misconfigured);
    assert!(sentence.contains("the bucket's region is eu-west-3"), "{sentence}");
}

#[tokio::test]
async fn headers_that_say_nothing_about_the_bytes_make_no_object_unreadable() {
    for headers in [
        &[("Last-Modified", "2022-10-12 17:50:00"), ("Expires", "0")][..],
        &[("Expires", "-1"), ("Date", "yesterday")],
        &[("x-amz-meta-name", "caf\u{e9}"), ("x-amz-meta-empty", ""), ("x-amz-missing-meta", "one")],
        &[("x-amz-tagging-count", "many"), ("x-amz-mp-parts-count", "-"), ("x-amz-delete-marker", "perhaps")],
        &[
            ("x-amz-storage-class", "NEW"),
            ("x-amz-restore", "ongoing-request=\"false\""),
            ("x-amz-object-lock-mode", "?"),
        ],
        &[("x-amz-object-lock-retain-until-date", "never"), ("x-amz-server-side-encryption-bucket-key-enabled", "1")],
        &[("Last-Modified", "Wed, 12 Oct 2022 17:50:00 GMT"), ("Last-Modified", "Wed, 12 Oct 2022 17:50:00 GMT")],
    ] {
        assert_eq!(read(picture(headers)).await, Ok(bitmap()), "{headers:?}");
    }
    // No headers, a weak ETag, a chunked body, and a body that ends with its connection.
    assert_eq!(read(Answer::ok(bitmap())).await, Ok(bitmap()));
    assert_eq!(read(Answer::ok(bitmap()).header("ETag", &format!("W/{}", etag(&bitmap())))).await, Ok(bitmap()));
    assert_eq!(read(picture(&[]).in_pieces(10)).await, Ok(bitmap()));
    assert_eq!(read(picture(&[]).http10()).await, Ok(bitmap()));
}

#[tokio::test]
async fn a_weak_etag_is_the_one_that_a_job_names() {
    let store = FakeStore::start(|_| Answer::ok(bitmap()).header("ETag", &format!("W/{}", etag(&bitmap())))).await;
    let store = ObjectStore::open(&settings(&store)).await.unwrap();
    let wanted = etag(&bitmap()).trim_matches('"').to_owned();
    let fetched = store.read(&S3Object { etag: Some(wanted.clone()), ..object("b") }).await.unwrap();
    assert_eq!(fetched.identity.etag, Some(wanted));
}

#[tokio::test]
async fn content_encodings_are_removed_or_named() {
    for (encoding, stored) in [
        ("gzip", gzip(&bitmap())),
        ("x-gzip", gzip(&bitmap())),
        ("deflate", zlib(&bitmap())),
        ("aws-chunked,gzip", gzip(&bitmap())),
        ("deflate, gzip", gzip(&zlib(&bitmap()))),
        ("aws-chunked", bitmap()),
        ("utf-8", bitmap()),
    ] {
        let answer = Answer::ok(stored.clone()).header("ETag", &etag(&stored)).header("Content-Encoding", encoding);
        assert_eq!(read(answer).await, Ok(bitmap()), "{encoding}");
    }
    let answer = |stored: &[u8], encoding: &str| Answer::ok(stored.to_vec()).header("Content-Encoding", encoding);
    for encoding in ["br", "zstd", "compress"] {
        let (kind, sentence) = read(answer(&[0x28; 90], encoding)).await.unwrap_err();
        assert_eq!(kind, EncodingUnsupported);
        assert!(sentence.contains(encoding), "{sentence}");
    }
    let bomb = gzip(&vec![0; 8 << 20]);
    let (kind, sentence) = read(answer(&bomb, "gzip")).await.unwrap_err();
    assert_eq!(kind, TooLarge, "{sentence}");
    let cut = &gzip(&bitmap())[..30];
    let (kind, _) = read(answer(cut, "gzip").header("ETag", &etag(cut))).await.unwrap_err();
    assert_eq!(kind, EncodingDamaged);
    let (kind, sentence) = read(answer(cut, "gzip").header("ETag", &etag(b"whole"))).await.unwrap_err();
    assert_eq!(kind, Unavailable, "it may have been damaged in transit: {sentence}");
}

#[tokio::test]
async fn what_stands_in_an_objects_place_is_told_from_it() {
    let document = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>InternalError</Code></Error>";
    let answer = Answer::ok(document.to_vec()).header("Content-Type", "application/xml");
    let (kind, sentence) = read(answer.clone().header("ETag", "\"e\"")).await.unwrap_err();
    assert_eq!(kind, Unavailable);
    assert!(sentence.contains("InternalError"), "{sentence}");
    // The error document is the stored object.
    assert_eq!(read(answer.header("ETag", &etag(document))).await, Ok(document.to_vec()));
    let tampered = b"<Error><Code>XMinioObjectTampered</Code></Error>";
    let (kind, _) = read(Answer::new(206, tampered.to_vec())).await.unwrap_err();
    assert_eq!(kind, Denied);
    let pieces = [
        format!("{:x};chunk-signature=00\r\n", bitmap().len()).as_bytes(),
        &bitmap(),
        b"\r\n0;chunk-signature=00\r\n\r\n",
    ]
    .concat();
    let (kind, sentence) = read(Answer::ok(pieces)).await.unwrap_err();
    assert_eq!(kind, EncodingUnsupported);
    assert!(sentence.contains("aws-chunked"), "{sentence}");
    let (kind, _) = read(picture(&[]).cut_at(20)).await.unwrap_err();
    assert_eq!(kind, Unavailable);
}

/// Captures log lines from level INFO up.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn checksums_of_whole_objects_are_compared_and_those_of_parts_passed_over_in_silence() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (crc32, sha256) = (fake_store::crc32(&bitmap()), fake_store::sha256(&bitmap()));
    let (full, composite) = (("x-amz-checksum-type", "FULL_OBJECT"), ("x-amz-checksum-type", "COMPOSITE"));
    for headers in [
        &[("x-amz-checksum-crc32", crc32.as_str()), full][..],
        &[("x-amz-checksum-crc32", &crc32)],
        &[("x-amz-checksum-sha256", &sha256)],
        &[("x-amz-checksum-crc32", "AAAAAA==-3"), composite],
        &[("x-amz-checksum-crc32", "AAAAAA==-3")],
        &[("x-amz-checksum-crc32", "AAAAAA=="), composite, ("x-amz-mp-parts-count", "3")],
        &[("x-amz-checksum-sha256", "not base64")],
    ] {
        assert_eq!(read(picture(headers)).await, Ok(bitmap()), "{headers:?}");
    }
    for headers in [
        &[("x-amz-checksum-crc32", "AAAAAA=="), full][..],
        &[("x-amz-checksum-crc32", "AAAAAA==")],
        &[("x-amz-checksum-crc32c", "AAAAAA==")],
        &[("x-amz-checksum-crc64nvme", "AAAAAAAAAAA="), full],
        &[("x-amz-checksum-sha256", &fake_store::sha256(b"another"))],
    ] {
        let (kind, sentence) = read(picture(headers)).await.unwrap_err();
        assert_eq!(kind, Unavailable, "{headers:?}");
        assert!(sentence.contains("checksum"), "{sentence}");
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log, "", "nothing is logged");
}

#[tokio::test]
async fn requester_pays_is_told_to_the_store_where_it_is_set() {
    let store = FakeStore::start(|request| match request.header("x-amz-request-payer") {
        Some("requester") => picture(&[]),
        _ => Answer::error(403, "AccessDenied", "m"),
    })
    .await;
    let without = ObjectStore::open(&settings(&store)).await.unwrap();
    let error = without.read(&object("b")).await.unwrap_err();
    assert_eq!(error.kind(), Denied);
    assert!(error.to_string().contains("s3.requester_pays"), "{error}");
    let paying = S3Settings { requester_pays: true, ..settings(&store) };
    assert_eq!(paying.problems(), Vec::<String>::new());
    let read = ObjectStore::open(&paying).await.unwrap().read(&object("b")).await.unwrap();
    assert_eq!(read.bytes, bitmap());
    let nobody = S3Settings { anonymous: true, access_key: None, secret_key: None, ..paying };
    assert!(nobody.problems().concat().contains("s3.requester_pays"));
}

#[tokio::test]
async fn final_refusals_end_a_job_at_its_first_delivery() {
    let store = FakeStore::start(|request| match request.bucket() {
        "glacier" => Answer::error(403, "InvalidObjectState", "m"),
        "ssec" => Answer::error(400, "InvalidRequest", "a form of Server Side Encryption"),
        "kms" => Answer::error(400, "KMS.DisabledException", "m"),
        "keytoolong" => Answer::error(400, "KeyTooLongError", "m"),
        "unknown" => Answer::error(400, "NobodyKnowsThis", "m"),
        "br" => Answer::ok(vec![0x1b; 100]).header("Content-Encoding", "br"),
        "brokengzip" => Answer::ok(gzip(&bitmap())[..20].to_vec()).header("Content-Encoding", "gzip"),
        _ => {
            let (stored, cut) = (gzip(&bitmap()[..40]), etag(&gzip(&bitmap()[..40])));
            Answer::ok(stored).header("ETag", &cut).header("Content-Encoding", "gzip")
        }
    })
    .await;
    let env = TestEnv::ready().await;
    let mut running =
        Running::start_with(Settings { s3: settings(&store), ..common::settings(&env) }, Arc::new(common::Yes));
    for (bucket, wanted) in [
        ("glacier", FailureReason::ObjectArchived),
        ("ssec", FailureReason::ObjectForbidden),
        ("kms", FailureReason::ObjectForbidden),
        ("keytoolong", FailureReason::ObjectNotFound),
        ("unknown", FailureReason::ObjectForbidden),
        ("br", FailureReason::UnsupportedPicture),
        ("brokengzip", FailureReason::UndecodablePicture),
        // The ETag matches the stored bytes, so the picture was truncated before it was stored.
        ("cutbeforegzip", FailureReason::UndecodablePicture),
    ] {
        let source = Some(image_job::Source::S3(object(bucket)));
        submit(&env, &ImageJob { source, ..job(bucket, Vec::new()) }).await;
        match running.event().await {
            JobEvent::Failed { reason, message, .. } => assert_eq!(reason, wanted, "{bucket}: {message}"),
            other => panic!("{bucket}: {other:?}"),
        }
    }
    let report = running.end().await;
    assert_eq!((report.failed, report.retried), (8, 0));
}
