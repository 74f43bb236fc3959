//! Reads objects from a real S3 store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use sandbox::{S3Access, SeaweedFs};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::v1::S3Object;
use worker::fetch::FetchErrorKind;
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};

fn settings(access: &S3Access) -> S3Settings {
    S3Settings {
        endpoint: Some(access.endpoint.clone()),
        region: access.region.clone(),
        path_style: true,
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        allow: vec!["*".into()],
        max_object_bytes: 1000,
        ..Default::default()
    }
}

async fn put(store: &ObjectStore, bucket: &str, key: &str, body: &[u8]) -> (String, Option<String>) {
    let body = ByteStream::from(body.to_vec());
    let put = store.client().put_object().bucket(bucket).key(key).body(body).send().await.unwrap();
    (put.e_tag().unwrap().to_owned(), put.version_id().map(str::to_owned))
}

fn object(bucket: &str, key: &str) -> S3Object {
    S3Object { bucket: bucket.into(), key: key.into(), ..Default::default() }
}

async fn kind(store: &ObjectStore, object: &S3Object) -> FetchErrorKind {
    let error = store.read(object).await.expect_err("should not be read");
    assert!(error.to_string().contains(&object.key), "the sentence names the object: {error}");
    error.kind()
}

#[tokio::test]
async fn an_object_is_read_whole_and_pins_are_kept() {
    let server = SeaweedFs::start().await.unwrap();
    let bucket = server.admin().bucket.clone();
    let store = ObjectStore::open(&settings(server.admin())).await.unwrap();
    let (etag, _) = put(&store, &bucket, "a/ü b+c.jpg", b"picture").await;
    let wanted = object(&bucket, "a/ü b+c.jpg");
    let fetched = store.read(&wanted).await.unwrap();
    assert_eq!(&fetched.bytes[..], b"picture");
    assert_eq!(fetched.identity.etag.as_deref(), Some(etag.trim_matches('"')));
    assert_eq!((fetched.identity.bucket, fetched.identity.key), (bucket.clone(), wanted.key.clone()));

    for pin in [etag.clone(), etag.trim_matches('"').to_owned()] {
        assert!(store.read(&S3Object { etag: Some(pin), ..wanted.clone() }).await.is_ok());
    }
    put(&store, &bucket, &wanted.key, b"another").await;
    assert_eq!(kind(&store, &S3Object { etag: Some(etag), ..wanted }).await, FetchErrorKind::Changed);
}

#[tokio::test]
async fn a_pinned_version_is_read_even_when_there_is_a_newer_one() {
    let server = SeaweedFs::start().await.unwrap();
    let bucket = server.admin().bucket.clone();
    let store = ObjectStore::open(&settings(server.admin())).await.unwrap();
    let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    let client = store.client();
    client.put_bucket_versioning().bucket(&bucket).versioning_configuration(versioning).send().await.unwrap();
    let (_, old) = put(&store, &bucket, "k", b"old").await;
    let (_, new) = put(&store, &bucket, "k", b"new").await;
    let pinned = store.read(&S3Object { version_id: old.clone(), ..object(&bucket, "k") }).await.unwrap();
    assert_eq!((&pinned.bytes[..], pinned.identity.version_id), (&b"old"[..], old));
    let current = store.read(&object(&bucket, "k")).await.unwrap();
    assert_eq!((&current.bytes[..], current.identity.version_id), (&b"new"[..], new));
    let unknown = S3Object { version_id: Some("00000000000000000000000000000000".into()), ..object(&bucket, "k") };
    assert_eq!(kind(&store, &unknown).await, FetchErrorKind::NotFound);
}

#[tokio::test]
async fn what_cannot_be_read_is_told_apart() {
    let server = SeaweedFs::start().await.unwrap();
    let bucket = server.admin().bucket.clone();
    let store = ObjectStore::open(&settings(server.admin())).await.unwrap();
    assert_eq!(kind(&store, &object(&bucket, "missing")).await, FetchErrorKind::NotFound);
    assert_eq!(kind(&store, &object("no-such-bucket", "k")).await, FetchErrorKind::NotFound);
    put(&store, &bucket, "large", &[0; 1001]).await;
    assert_eq!(kind(&store, &object(&bucket, "large")).await, FetchErrorKind::TooLarge);
    put(&store, &bucket, "fits", &[0; 1000]).await;
    assert_eq!(store.read(&object(&bucket, "fits")).await.unwrap().bytes.len(), 1000);

    store.client().create_bucket().bucket("private").send().await.unwrap();
    put(&store, "private", "k", b"x").await;
    let reader = ObjectStore::open(&settings(server.read_only())).await.unwrap();
    assert!(reader.read(&object(&bucket, "fits")).await.is_ok());
    assert_eq!(kind(&reader, &object("private", "k")).await, FetchErrorKind::Denied);

    let wrong = S3Settings { secret_key: Some(Secret::new("wrong")), ..settings(server.admin()) };
    assert_eq!(
        kind(&ObjectStore::open(&wrong).await.unwrap(), &object(&bucket, "fits")).await,
        FetchErrorKind::Misconfigured
    );
}

#[tokio::test]
async fn a_store_that_is_away_is_unavailable_and_not_missing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let away = S3Settings { endpoint: Some(endpoint), attempts: 1, ..local() };
    assert_eq!(kind(&ObjectStore::open(&away).await.unwrap(), &object("b", "k")).await, FetchErrorKind::Unavailable);
}

#[tokio::test]
async fn a_store_that_stops_in_the_middle_is_given_up_in_time() {
    let endpoint = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: \"e\"\r\n\r\nhalf".to_vec(), true).await;
    let limit = Duration::from_millis(1500);
    let stalled = S3Settings { endpoint: Some(endpoint), operation_timeout: limit, attempts: 1, ..local() };
    let start = Instant::now();
    assert_eq!(kind(&ObjectStore::open(&stalled).await.unwrap(), &object("b", "k")).await, FetchErrorKind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_unavailable() {
    let endpoint = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(), false).await;
    let broken = S3Settings { endpoint: Some(endpoint), attempts: 1, ..local() };
    assert_eq!(kind(&ObjectStore::open(&broken).await.unwrap(), &object("b", "k")).await, FetchErrorKind::Unavailable);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_bounded_while_it_comes() {
    let mut answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
    answer.extend([0; 5000]);
    let endless = S3Settings { endpoint: Some(answering(answer, true).await), attempts: 1, ..local() };
    assert_eq!(kind(&ObjectStore::open(&endless).await.unwrap(), &object("b", "k")).await, FetchErrorKind::TooLarge);
}

#[tokio::test]
async fn an_etag_is_held_against_the_answer_of_stores_that_pass_over_conditions() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: \"other\"\r\n\r\nx".to_vec();
    let careless = S3Settings { endpoint: Some(answering(answer, false).await), attempts: 1, ..local() };
    let pinned = S3Object { etag: Some("mine".into()), ..object("b", "k") };
    assert_eq!(kind(&ObjectStore::open(&careless).await.unwrap(), &pinned).await, FetchErrorKind::Changed);
}

fn local() -> S3Settings {
    S3Settings {
        path_style: true,
        anonymous: true,
        allow: vec!["*".into()],
        max_object_bytes: 1000,
        ..Default::default()
    }
}

/// A store that returns one response to every request and then closes the connection or keeps it open.
async fn answering(answer: Vec<u8>, hang: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&answer).await;
            if hang {
                kept.push(stream);
            }
        }
    });
    endpoint
}
