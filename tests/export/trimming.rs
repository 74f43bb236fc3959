//! `--trim` removes what was exported and nothing else.

use crate::filled_stream::{Bench, SUBJECT, said, synthetic};
use crate::support::messages;

const JSONL: [&str; 4] = ["--format", "jsonl", "--shard-size", "10"];

async fn left(bench: &Bench) -> u64 {
    messages(&bench.jetstream, crate::filled_stream::STREAM).await
}

/// Whether `enqueue --missing` says that annotations are not in the stream any more.
async fn warned_of_removed(bench: &Bench) -> bool {
    let bucket = bench.s3.access().bucket.clone();
    std::fs::write(bench.objects.path().join(&bucket).join("a.jpg"), "picture").unwrap();
    let source = format!("s3://{bucket}/");
    let arguments = ["enqueue", &source, "--dataset", "scenes", "--missing", "--dry-run", "--images-per-second", "1"];
    let output = bench.groundling(&arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output).contains("annotations have been removed from their stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn trim_removes_the_annotations_of_full_shards_only() {
    let bench = Bench::start().await;
    bench.fill(synthetic(25)).await;
    let mut other = synthetic(1).next().unwrap();
    other.dataset = "other".into();
    bench.publish(&other, "-other").await;
    let trim = [&JSONL[..], &["--trim"]].concat();
    assert!(!warned_of_removed(&bench).await);
    let summary = bench.exported("out", &trim).await;
    assert!(warned_of_removed(&bench).await);
    // Full shards hold the sequences up to 19.
    assert_eq!(summary["trimmed"], 19);
    assert_eq!(left(&bench).await, 7);
    let again = bench.exported("out", &trim).await;
    assert_eq!((again["trimmed"].as_u64(), again["annotations"].as_u64()), (Some(0), Some(25)));
    // A repeat of an annotation that was removed is recognized by the files of ids.
    bench.fill(synthetic(5)).await;
    let again = bench.exported("out", &trim).await;
    assert_eq!((again["annotations"].as_u64(), again["repeats"].as_u64()), (Some(25), Some(5)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trim_leaves_what_was_not_exported() {
    let bench = Bench::start().await;
    bench.fill(synthetic(15)).await;
    bench.jetstream.publish(SUBJECT, b"\xff no annotation"[..].into()).await.unwrap().await.unwrap();
    bench.fill(synthetic(24).skip(15)).await;
    let arguments = [&JSONL[..], &["--trim", "--sequence", "5.."]].concat();
    let output = bench.export("out", &arguments).await;
    // One message is not an annotation.
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    // Sequences 1 to 4, 16, and 20 to 25.
    assert_eq!(left(&bench).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_if_a_file_is_not_what_was_written() {
    let bench = Bench::start().await;
    bench.fill(synthetic(25)).await;
    bench.exported("out", &JSONL).await;
    let damaged = bench.path("out/shard-00000001.jsonl");
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let trim = [&JSONL[..], &["--trim"]].concat();
    let output = bench.export("out", &trim).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nothing was removed from the stream"), "{}", said(&output));
    assert!(said(&output).contains(" instead of "), "{}", said(&output));
    assert_eq!(left(&bench).await, 25);
    // A file that was deleted is made again.
    std::fs::remove_file(&damaged).unwrap();
    assert_eq!(bench.exported("out", &trim).await["trimmed"], 19);
    assert_eq!(left(&bench).await, 6);
    // Now it cannot be.
    std::fs::remove_file(&damaged).unwrap();
    let output = bench.export("out", &trim).await;
    assert_eq!(output.status.code(), Some(1));
    let told = said(&output);
    assert!(told.contains("shard-00000001.jsonl is missing, and 0 of 10 messages of its shard are left"), "{told}");
}
