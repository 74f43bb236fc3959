//! Both stores, with the S3 client that the worker uses.
#![allow(clippy::unwrap_used, reason = "a panic in a test is the report")]

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use sandbox::{EmbeddedS3, S3Access, SeaweedFs};

const PICTURE: &[u8] = b"not a picture, but bytes all the same";

fn client(access: &S3Access) -> Client {
    let keys = Credentials::new(&access.access_key, &access.secret_key, None, None, "sandbox");
    let http = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(&access.endpoint)
        .region(Region::new(access.region.clone()))
        .credentials_provider(keys)
        .force_path_style(true)
        .http_client(http)
        .build();
    Client::from_conf(config)
}

async fn put(access: &S3Access, key: &str) -> Result<(), String> {
    let request = client(access).put_object().bucket(&access.bucket).key(key).body(ByteStream::from_static(PICTURE));
    request.send().await.map(drop).map_err(|error| format!("{error:?}"))
}

async fn get(access: &S3Access, key: &str) -> Result<Vec<u8>, String> {
    let request = client(access).get_object().bucket(&access.bucket).key(key);
    let object = request.send().await.map_err(|error| format!("{error:?}"))?;
    Ok(object.body.collect().await.unwrap().to_vec())
}

async fn keys(access: &S3Access, prefix: &str) -> Vec<String> {
    let listed = client(access).list_objects_v2().bucket(&access.bucket).prefix(prefix).send().await.unwrap();
    listed.contents().iter().map(|object| object.key().unwrap().to_string()).collect()
}

fn with_wrong_secret(access: &S3Access) -> S3Access {
    S3Access { secret_key: "wrong".into(), ..access.clone() }
}

#[tokio::test]
async fn the_embedded_store_serves_the_folder_to_those_with_keys() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedS3::start(dir.path()).await.unwrap();
    let access = store.access().clone();
    put(&access, "scenes/a picture ☃.png").await.unwrap();
    assert_eq!(get(&access, "scenes/a picture ☃.png").await.unwrap(), PICTURE);
    assert_eq!(keys(&access, "scenes/").await, ["scenes/a picture ☃.png"]);
    assert!(get(&access, "scenes/other.png").await.is_err());
    assert!(get(&with_wrong_secret(&access), "scenes/a picture ☃.png").await.is_err());

    store.stop().await;
    assert!(get(&access, "scenes/a picture ☃.png").await.is_err());
    let again = EmbeddedS3::start(dir.path()).await.unwrap();
    assert_eq!(get(again.access(), "scenes/a picture ☃.png").await.unwrap(), PICTURE);
}

#[tokio::test]
async fn seaweed_keeps_what_the_admin_puts_and_lets_the_reader_only_read() {
    let mut store = SeaweedFs::start().await.unwrap();
    let (admin, reader) = (store.admin().clone(), store.read_only().clone());
    // Without retries: a started store accepts writes.
    put(&admin, "scenes/0001.png").await.unwrap();
    assert_eq!(get(&admin, "scenes/0001.png").await.unwrap(), PICTURE);
    assert_eq!(get(&reader, "scenes/0001.png").await.unwrap(), PICTURE);
    assert_eq!(keys(&reader, "").await, ["scenes/0001.png"]);
    assert!(put(&reader, "scenes/0002.png").await.unwrap_err().contains("AccessDenied"));
    assert!(get(&with_wrong_secret(&admin), "scenes/0001.png").await.unwrap_err().contains("SignatureDoesNotMatch"));

    store.stop().await.unwrap();
    assert!(get(&admin, "scenes/0001.png").await.is_err());
}

#[tokio::test]
async fn two_stores_run_side_by_side() {
    let (first, second) = tokio::join!(SeaweedFs::start(), SeaweedFs::start());
    let (first, second) = (first.unwrap(), second.unwrap());
    put(first.admin(), "mine.png").await.unwrap();
    assert!(keys(second.admin(), "").await.is_empty());
}

#[tokio::test]
async fn secrets_do_not_print() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedS3::start(dir.path()).await.unwrap();
    assert!(!format!("{store:?}").contains(&store.access().secret_key));
}
