//! `--trim` removes what was exported and nothing else.

use crate::filled_stream::{JSONL, SUBJECT, TestEnv, synthetic};
use crate::support::{messages, stderr_of};

async fn left(env: &TestEnv) -> u64 {
    messages(&env.jetstream, crate::filled_stream::STREAM).await
}

/// Whether `enqueue --missing` says that annotations are not in the stream any more.
async fn warned_of_removed(env: &TestEnv) -> bool {
    let bucket = env.s3.access().bucket.clone();
    std::fs::write(env.objects.path().join(&bucket).join("a.jpg"), "picture").unwrap();
    let source = format!("s3://{bucket}/");
    let arguments = ["enqueue", &source, "--dataset", "scenes", "--missing", "--dry-run", "--images-per-second", "1"];
    let output = env.groundling(&arguments).output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    stderr_of(&output).contains("annotations have been removed from their stream")
}

#[tokio::test(flavor = "multi_thread")]
async fn trim_removes_the_annotations_of_full_shards_only() {
    let env = TestEnv::start().await;
    env.fill(synthetic(25)).await;
    let mut other = synthetic(1).next().unwrap();
    other.dataset = "other".into();
    env.publish(&other, "-other").await;
    let trim = [&JSONL[..], &["--trim"]].concat();
    assert!(!warned_of_removed(&env).await);
    let summary = env.exported("out", &trim).await;
    assert!(warned_of_removed(&env).await);
    // Full shards hold the sequences up to 19.
    assert_eq!(summary["trimmed"], 19);
    assert_eq!(left(&env).await, 7);
    let again = env.exported("out", &trim).await;
    assert_eq!((again["trimmed"].as_u64(), again["annotations"].as_u64()), (Some(0), Some(25)));
    // A repeat of an annotation that was removed is recognized by the files of ids.
    env.fill(synthetic(5)).await;
    let again = env.exported("out", &trim).await;
    assert_eq!((again["annotations"].as_u64(), again["repeats"].as_u64()), (Some(25), Some(5)), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trim_leaves_what_was_not_exported() {
    let env = TestEnv::start().await;
    env.fill(synthetic(15)).await;
    env.jetstream.publish(SUBJECT, b"\xff no annotation"[..].into()).await.unwrap().await.unwrap();
    env.fill(synthetic(24).skip(15)).await;
    let arguments = [&JSONL[..], &["--trim", "--sequence", "5.."]].concat();
    let output = env.export("out", &arguments).await;
    // One message is not an annotation.
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    // Sequences 1 to 4, 16, and 20 to 25.
    assert_eq!(left(&env).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_if_a_file_is_not_what_was_written() {
    let env = TestEnv::start().await;
    env.fill(synthetic(25)).await;
    env.exported("out", &JSONL).await;
    let damaged = env.path("out/shard-00000001.jsonl");
    let mut bytes = std::fs::read(&damaged).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    let trim = [&JSONL[..], &["--trim"]].concat();
    let output = env.export("out", &trim).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_of(&output).contains("nothing was removed from the stream"), "{}", stderr_of(&output));
    assert!(stderr_of(&output).contains(" instead of "), "{}", stderr_of(&output));
    assert_eq!(left(&env).await, 25);
    // A file that was deleted is made again.
    std::fs::remove_file(&damaged).unwrap();
    assert_eq!(env.exported("out", &trim).await["trimmed"], 19);
    assert_eq!(left(&env).await, 6);
    // Now it cannot be.
    std::fs::remove_file(&damaged).unwrap();
    let output = env.export("out", &trim).await;
    assert_eq!(output.status.code(), Some(1));
    let told = stderr_of(&output);
    assert!(told.contains("shard-00000001.jsonl is missing, and 0 of 10 messages of its shard are left"), "{told}");
}
