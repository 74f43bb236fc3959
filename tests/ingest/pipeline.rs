//! Pictures are uploaded to SeaweedFS, which posts to `groundling ingest`, and a worker annotates them.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use sandbox::{NatsOptions, NatsServer, SeaweedFs, Webhook};
use wire::subjects::{ANNOTATIONS_STREAM, FAILED_STREAM, JOBS_STREAM};
use wire::v1::{FailureReason, ImageAnnotation, JobFailure};
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};

use crate::env::TestEnv;
use crate::support::{Worker, demo, messages, read, with_store};

/// The smallest part of a multipart upload, but for the last one.
const PART: usize = 5 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_annotated_once() {
    let nats = NatsServer::start(&NatsOptions::default()).await.unwrap();
    let rules = "[[ingest]]\nname = \"uploads\"\npath = \"/events\"\nformat = \"seaweedfs\"\nsuffixes = [\".jpg\"]\ndataset = \"uploads\"\n";
    let env = TestEnv::with_server(nats, rules).await;
    let ingest = env.ingest().await;
    let endpoint = format!("http://{}/events", env.webhook);
    let webhook = Webhook { endpoint, token: "secret".into(), timeout_seconds: 60 };
    let store = SeaweedFs::start_with_webhook(&webhook).await.unwrap();
    let (admin, bucket) = (store.admin(), store.admin().bucket.as_str());
    let s3 = S3Settings {
        endpoint: Some(store.endpoint().into()),
        path_style: true,
        access_key: Some(admin.access_key.clone()),
        secret_key: Some(Secret::new(admin.secret_key.clone())),
        ..S3Settings::default()
    };
    let client = ObjectStore::open(&s3).await.unwrap().client().clone();
    let pictures: Vec<_> = demo().scenes[..4].iter().map(|scene| std::fs::read(&scene.path).unwrap()).collect();
    let put = async |key: &str, bytes: &[u8]| {
        let put = client.put_object().bucket(bucket).key(key).body(bytes.to_vec().into()).send().await.unwrap();
        (put.e_tag().unwrap().trim_matches('"').to_owned(), put.version_id().map(str::to_owned))
    };

    let names = ["a b.jpg", "a+b.jpg", "a#b.jpg", "a%23b.jpg", "größe/日本.JPG"];
    for key in names {
        put(key, &pictures[0]).await;
    }
    put("notes.txt", b"no picture").await;
    put("empty.jpg", b"").await;
    // A picture with bytes after its end, so that it has two parts.
    let mut large = pictures[1].clone();
    large.resize(PART + 1000, 0);
    let upload = client.create_multipart_upload().bucket(bucket).key("multi.jpg").send().await.unwrap();
    let mut parts = CompletedMultipartUpload::builder();
    for (number, bytes) in [(1, &large[..PART]), (2, &large[PART..])] {
        let part = client.upload_part().bucket(bucket).key("multi.jpg").upload_id(upload.upload_id().unwrap());
        let part = part.part_number(number).body(bytes.to_vec().into()).send().await.unwrap();
        parts = parts.parts(CompletedPart::builder().part_number(number).e_tag(part.e_tag().unwrap()).build());
    }
    let complete =
        client.complete_multipart_upload().bucket(bucket).key("multi.jpg").upload_id(upload.upload_id().unwrap());
    complete.multipart_upload(parts.build()).send().await.unwrap();
    client
        .copy_object()
        .bucket(bucket)
        .key("copied.jpg")
        .copy_source(format!("{bucket}/a+b.jpg"))
        .send()
        .await
        .unwrap();
    // Repeated with the same content: the same state, and one job.
    let same = put("same.jpg", &pictures[2]).await;
    assert_eq!(put("same.jpg", &pictures[2]).await, same);
    // Overwritten with another one: the first state is gone when the worker looks for it.
    put("overwritten.jpg", &pictures[2]).await;
    put("overwritten.jpg", &pictures[3]).await;
    put("deleted.jpg", &pictures[2]).await;
    client.delete_object().bucket(bucket).key("deleted.jpg").send().await.unwrap();

    // In a bucket with versions each state stays.
    client.create_bucket().bucket("versions").send().await.unwrap();
    let enabled = aws_sdk_s3::types::VersioningConfiguration::builder()
        .status(aws_sdk_s3::types::BucketVersioningStatus::Enabled)
        .build();
    client.put_bucket_versioning().bucket("versions").versioning_configuration(enabled).send().await.unwrap();
    let mut versions = Vec::new();
    for picture in &pictures[..2] {
        let put =
            client.put_object().bucket("versions").key("v.jpg").body(picture.clone().into()).send().await.unwrap();
        versions.push(put.version_id().unwrap().to_owned());
    }
    client.delete_object().bucket("versions").key("v.jpg").send().await.unwrap();

    // Eleven objects, of which two have two states.
    let jobs = names.len() as u64 + 8;
    env.until("submitted", async || messages(&env.jetstream, JOBS_STREAM).await >= jobs).await;
    // The delete marker is the last event, and events of SeaweedFS come in order.
    env.until("finished", async || env.records("uploads", "skipped", Some("delete")).await >= 2).await;
    assert_eq!(messages(&env.jetstream, JOBS_STREAM).await, jobs, "{:?}", env.keys().await);
    for reason in ["suffix", "empty", "directory", "upload_part"] {
        assert!(env.records("uploads", "skipped", Some(reason)).await > 0, "{reason}");
    }
    assert_eq!(env.records("uploads", "duplicate", None).await, 1);
    assert_eq!(env.records("uploads", "failed", None).await, 0);

    let mut command = env.command();
    with_store(&mut command, admin);
    command.env("GROUNDLING__S3__ALLOW", format!("{bucket},versions")).env("GROUNDLING_MODEL", demo().model_dir);
    let worker = Worker::start(command);
    env.until("done", async || messages(&env.jetstream, JOBS_STREAM).await == 0).await;
    let count = messages(&env.jetstream, ANNOTATIONS_STREAM).await;
    let annotations: Vec<ImageAnnotation> = read(&env.jetstream, ANNOTATIONS_STREAM, count).await;
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for annotation in &annotations {
        let picture = annotation.picture.as_ref().unwrap();
        *found.entry(format!("{:?}", picture.object)).or_default() += 1;
    }
    assert!(found.values().all(|count| *count == 1), "{found:?}");
    let failures: Vec<JobFailure> =
        read(&env.jetstream, FAILED_STREAM, messages(&env.jetstream, FAILED_STREAM).await).await;
    let mut reasons: Vec<_> = failures.iter().map(|failure| failure.reason()).collect();
    reasons.sort();
    assert_eq!(reasons, [FailureReason::ObjectNotFound, FailureReason::ObjectChanged], "{failures:?}");
    assert_eq!(count, jobs - 2);
    let annotated = format!("{annotations:?}");
    for key in names.iter().chain(&["multi.jpg", "copied.jpg", "overwritten.jpg", "same.jpg"]) {
        assert!(annotated.contains(&format!("{key:?}")), "{key} is not annotated");
    }
    assert!(versions.iter().all(|version| annotated.contains(version)), "both versions are annotated");
    assert!(worker.terminate().await.success());
    ingest.terminate().await;
}
