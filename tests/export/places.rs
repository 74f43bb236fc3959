//! Where exports are written: what is there already, what was damaged, and who else writes there.

use std::path::Path;

use crate::filled_stream::{JSONL, TestEnv, files, synthetic};
use crate::support::stderr_of;

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_or_truncated_are_made_again() {
    let env = TestEnv::start().await;
    // One annotation is in two shards.
    env.fill(synthetic(15).chain(synthetic(1)).chain(synthetic(34).skip(15))).await;
    env.exported("out", &JSONL).await;
    let root = env.path("out");
    let whole = files(Path::new(&root));
    let cases: [&[&str]; 6] = [
        &["shard-00000001.jsonl"],
        &["_export/shards/00000001.json"],
        &["_export/ids/00000000.bin"],
        &["manifest.json", "_export/shards/00000002.json"],
        &["_export/shards/00000000.json", "shard-00000000.jsonl"],
        &["shard-00000003.jsonl"],
    ];
    for names in cases {
        names.iter().for_each(|name| std::fs::remove_file(Path::new(&root).join(name)).unwrap());
        env.exported("out", &JSONL).await;
        assert!(files(Path::new(&root)) == whole, "{names:?}");
    }
    std::fs::write(env.path("out/shard-00000002.jsonl"), "{").unwrap();
    env.exported("out", &JSONL).await;
    assert!(files(Path::new(&root)) == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_something_else_are_not_replaced() {
    let env = TestEnv::start().await;
    env.fill(synthetic(5)).await;
    let bucket = env.s3.access().bucket.clone();
    for (format, name) in [
        ("jsonl", "manifest.json"),
        ("jsonl", "shard-00000007.jsonl"),
        ("coco", "captions-00000000.json"),
        ("yolo", "data.yaml"),
        ("fiftyone", "shard-00000000/samples.json"),
    ] {
        let place = name.replace(['/', '.'], "-");
        let local = Path::new(&env.path(&place)).join(name);
        let object = env.objects.path().join(&bucket).join(&place).join(name);
        for path in [&local, &object] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "mine").unwrap();
        }
        for out in [place.clone(), format!("s3://{bucket}/{place}")] {
            let output = env.export(&out, &["--format", format]).await;
            let told = stderr_of(&output);
            assert!(output.status.code() == Some(2) && told.contains("it may hold something else"), "{out}: {told}");
        }
        assert_eq!((std::fs::read(&local).unwrap(), std::fs::read(&object).unwrap()), (b"mine".into(), b"mine".into()));
    }
    // Other files do not matter.
    std::fs::create_dir(env.path("other")).unwrap();
    std::fs::write(env.path("other/notes-2024.txt"), "").unwrap();
    env.exported("other", &JSONL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_exports_that_are_begun_at_once_in_a_bucket_one_is_refused() {
    let env = TestEnv::start().await;
    env.fill(synthetic(25)).await;
    let bucket = env.s3.access().bucket.clone();
    for attempt in 0..5 {
        let out = format!("s3://{bucket}/exports/{attempt}");
        let (jsonl, opensearch) = tokio::join!(
            env.export(&out, &JSONL),
            env.export(&out, &["--format", "opensearch", "--shard-size", "10"]),
        );
        let mut codes = [jsonl.status.code(), opensearch.status.code()];
        codes.sort_unstable();
        assert_eq!(codes, [Some(0), Some(2)], "{} {}", stderr_of(&jsonl), stderr_of(&opensearch));
        let refused = if jsonl.status.success() { stderr_of(&opensearch) } else { stderr_of(&jsonl) };
        assert!(refused.contains("an export with other arguments (format was"), "{refused}");
        let stored = files(&env.objects.path().join(&bucket).join("exports").join(attempt.to_string()));
        let has = |start: &str| stored.keys().any(|name| name.starts_with(start));
        assert!(has("shard-") != has("bulk-"), "{:?}", stored.keys());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_cannot_be_exported_are_counted_by_the_reason() {
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    let bucket = env.s3.access().bucket.clone();
    std::fs::remove_file(env.objects.path().join(&bucket).join("0003.png")).unwrap();
    let mut inside = truth.messages.values().next().unwrap().clone();
    inside.annotation_id = "f".repeat(64);
    inside.picture.as_mut().unwrap().object = None;
    env.publish(&inside, "").await;
    let summary = env.exported("out", &["--format", "parquet", "--layout", "hub"]).await;
    let counts = ["annotations", "pictures_missing", "pictures_in_jobs"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(counts, [49, 1, 1], "{summary}");
}
