//! Which annotations an export contains.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::filled_stream::{JSONL, SUBJECT, TestEnv, files, synthetic};
use crate::support::{send_signal, stderr_of};

/// The job ids in the JSON lines of an export, in order.
fn jobs(env: &TestEnv, out: &str) -> Vec<String> {
    let mut jobs = Vec::new();
    for (name, bytes) in files(Path::new(&env.path(out))) {
        if name.ends_with(".jsonl") {
            for line in String::from_utf8(bytes).unwrap().lines() {
                let annotation: Value = serde_json::from_str(line).unwrap();
                jobs.push(annotation["job_id"].as_str().unwrap().to_owned());
            }
        }
    }
    jobs
}

fn numbered(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|number| format!("job-{number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_left_out_wherever_they_are_and_the_first_stays() {
    let env = TestEnv::start().await;
    env.fill(synthetic(25)).await;
    // Sequences 26 to 28: one in the same shard as the first, two in another.
    env.fill(synthetic(25).skip(24).chain(synthetic(25).take(2))).await;
    let summary = env.exported("out", &JSONL).await;
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(25), Some(3)), "{summary}");
    assert_eq!(jobs(&env, "out"), numbered(0..25));
    // The last shard grows by new annotations and one more repeat.
    env.fill(synthetic(30).skip(25).chain(synthetic(1))).await;
    let summary = env.exported("out", &JSONL).await;
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(30), Some(4)), "{summary}");
    assert_eq!(jobs(&env, "out"), numbered(0..30));
    let stats: Value = serde_json::from_slice(&std::fs::read(env.path("out/_stats.json")).unwrap()).unwrap();
    assert_eq!((stats["repeats"].as_u64(), stats["annotations"].as_u64()), (Some(4), Some(30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_sequences_or_time_is_exported_alone() {
    let env = TestEnv::start().await;
    env.fill(synthetic(20)).await;
    env.exported("range", &[&JSONL[..], &["--sequence", "5..15"]].concat()).await;
    // Sequences begin at 1.
    assert_eq!(jobs(&env, "range"), numbered(4..14));
    // Less than a second: fractions count.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let time = |seconds: u64, nanos| wire::prost_types::Timestamp { seconds: seconds as i64, nanos }.to_string();
    let now = [time(now.as_secs(), now.subsec_nanos() as i32), time(now.as_secs() + 3600, 0)];
    let since = [&JSONL[..], &["--since", &now[0]]].concat();
    tokio::time::sleep(Duration::from_millis(100)).await;
    env.fill(synthetic(33).skip(20)).await;
    env.exported("since", &since).await;
    assert_eq!(jobs(&env, "since"), numbered(20..33));
    // A later run with the same time continues the export; one with another time, or without one, is refused.
    env.fill(synthetic(35).skip(33)).await;
    env.exported("since", &since).await;
    assert_eq!(jobs(&env, "since"), numbered(20..35));
    for other in [&[&JSONL[..], &["--since", "2026-01-01"]].concat()[..], &JSONL] {
        let output = env.export("since", other).await;
        assert_eq!(output.status.code(), Some(2), "{other:?}: {}", stderr_of(&output));
        assert!(stderr_of(&output).contains(&format!("since was {:?} and is", now[0])), "{}", stderr_of(&output));
    }
    let output = env.export("future", &[&JSONL[..], &["--since", &now[1]]].concat()).await;
    assert!(
        output.status.code() == Some(2) && stderr_of(&output).contains("has not come yet"),
        "{}",
        stderr_of(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_results_of_some_tasks_are_exported_alone() {
    let env = TestEnv::start().await;
    env.fill(synthetic(12)).await;
    let mut other = synthetic(13).last().unwrap();
    other.results.truncate(1);
    env.publish(&other, "").await;
    let arguments = [&JSONL[..], &["--task", "ground,detail"]].concat();
    let summary = env.exported("out", &arguments).await;
    let counts = ["annotations", "results", "without_task"].map(|name| summary[name].as_u64().unwrap());
    assert_eq!(counts, [12, 24, 1], "{summary}");
    assert_eq!(jobs(&env, "out"), numbered(0..12));
    let text = std::fs::read_to_string(env.path("out/shard-00000000.jsonl")).unwrap();
    assert!(text.contains("\"detail\"") && !text.contains("\"caption\""), "{text}");
    // The order does not matter, other tasks do.
    env.exported("out", &[&JSONL[..], &["--task", "detail", "--task", "ground"]].concat()).await;
    let output = env.export("out", &JSONL).await;
    assert!(output.status.code() == Some(2) && stderr_of(&output).contains("tasks was"), "{}", stderr_of(&output));
    let summary = env.exported("coco", &["--format", "coco", "--task", "caption"]).await;
    assert_eq!((summary["annotations"].as_u64(), summary["results"].as_u64()), (Some(13), Some(13)), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_without_annotations_is_reported() {
    let env = TestEnv::start().await;
    let output = env.export("out", &JSONL).await;
    let sentence = "no annotations of the dataset scenes in the stream GROUNDLING_ANNOTATIONS";
    assert!(output.status.success() && stderr_of(&output).contains(sentence), "{}", stderr_of(&output));
    // Categories are made once, so there must be something to make them of.
    let output = env.export("coco", &["--format", "coco"]).await;
    assert!(
        output.status.code() == Some(1) && stderr_of(&output).contains("has no annotations yet"),
        "{}",
        stderr_of(&output)
    );
    let database = format!("sqlite:{}", env.path("index.db"));
    let output = env.groundling(&["index", "--dataset", "scenes", "--into", &database]).output().await.unwrap();
    assert!(output.status.success() && stderr_of(&output).contains(sentence), "{}", stderr_of(&output));
    for arguments in
        [&["diff", "scenes", "other"][..], &["review", "--dataset", "scenes", "--out", &env.path("a.html")]]
    {
        let output = env.groundling(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", stderr_of(&output));
        assert!(stderr_of(&output).contains(sentence), "{arguments:?}: {}", stderr_of(&output));
    }
    env.fill(synthetic(3)).await;
    let output = env.export("out", &JSONL).await;
    assert!(output.status.success() && stderr_of(&output).is_empty(), "{}", stderr_of(&output));
    env.exported("coco", &["--format", "coco"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_categories_is_read_line_by_line() {
    let env = TestEnv::start().await;
    env.fill(synthetic(3)).await;
    let (file, boxes) = (env.path("names.txt"), env.exported("all", &["--format", "coco"]).await["boxes"].clone());
    let arguments = ["--format", "coco", "--categories", &file];
    for (text, problem) in
        [("", "names.txt has no categories"), ("whale\n\n= fox\n", "names.txt, line 3: \"= fox\" has no name")]
    {
        std::fs::write(&file, text).unwrap();
        let output = env.export("out", &arguments).await;
        assert!(output.status.code() == Some(2) && stderr_of(&output).contains(problem), "{}", stderr_of(&output));
    }
    std::fs::write(&file, "\u{feff}whale\n# The rest.\nlion\nfox\n").unwrap();
    let summary = env.exported("out", &arguments).await;
    assert_eq!((&summary["boxes"], &summary["boxes_unmapped"]), (&boxes, &Value::from(0)), "{summary}");
    std::fs::write(&file, "unicorn\n").unwrap();
    let mut command = env.groundling(&["export", "--dataset", "scenes", "--out", &env.path("none")]);
    let output = command.args(arguments).output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains(" 0 boxes in 1 shard "), "{told}");
    assert!(stderr_of(&output).contains("boxes left out: no category for the phrase"), "{}", stderr_of(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exported_is_reported_with_its_exit_code() {
    let env = TestEnv::start().await;
    env.fill(synthetic(15)).await;
    env.exported("out", &JSONL).await;
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--format", "coco"], 2, r#"format was "jsonl" and is "coco""#),
        (&["--format", "jsonl", "--shard-size", "20"], 2, "shard_size was 10 and is 20"),
        (&["--format", "jsonl", "--sequence", "9..5"], 2, "the range is empty"),
        (&["--format", "jsonl", "--pictures"], 2, "--pictures: only parquet"),
        (&["--format", "grit", "--categories", "none.txt"], 2, "--categories: this format"),
        (&["--format", "coco", "--categories", "none.txt"], 1, "none.txt"),
        (&["--format", "coco", "--layout", "hub"], 2, "--layout hub: only parquet"),
        (&["--format", "excel"], 2, "invalid value 'excel'"),
    ];
    for (arguments, code, text) in cases {
        let output = env.export("out", arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr_of(&output));
        assert!(stderr_of(&output).contains(text), "{arguments:?}: {}", stderr_of(&output));
    }
    // A stream that was created again has other annotations at the same sequences.
    env.jetstream.delete_stream(crate::filled_stream::STREAM).await.unwrap();
    assert!(env.groundling(&["setup"]).output().await.unwrap().status.success());
    let again = env.export("out", &JSONL).await;
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr_of(&again).contains("choose another destination"), "{}", stderr_of(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_annotation_is_reported_and_left_out() {
    let env = TestEnv::start().await;
    env.fill(synthetic(3)).await;
    env.jetstream.publish(SUBJECT, b"\xff no annotation"[..].into()).await.unwrap().await.unwrap();
    let output = env.export("out", &JSONL).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    assert_eq!(jobs(&env, "out"), numbered(0..3));
    let stats: Value = serde_json::from_slice(&std::fs::read(env.path("out/_stats.json")).unwrap()).unwrap();
    assert_eq!(stats["unreadable"], serde_json::json!([4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_follows_ships_full_shards_until_it_is_stopped() {
    let env = TestEnv::start().await;
    env.fill(synthetic(12)).await;
    let arguments = [&JSONL[..], &["--follow"]].concat();
    let child = env.export_command("out", &arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let id = child.id().unwrap();
    let wait = async |shards: usize| {
        let started = Instant::now();
        loop {
            let found = jobs_files(&env);
            if found.len() >= shards {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(wait(1).await.len(), 1);
    env.fill(synthetic(31).skip(12)).await;
    wait(3).await;
    send_signal(id, "TERM");
    let ended = child.wait_with_output().await.unwrap();
    assert!(ended.status.success());
    // Sequences 1 to 29.
    assert_eq!(jobs(&env, "out"), numbered(0..29));
    // The rest, by a run that does not follow.
    env.exported("out", &JSONL).await;
    assert_eq!(jobs(&env, "out"), numbered(0..31));
}

fn jobs_files(env: &TestEnv) -> BTreeSet<String> {
    let root = env.path("out");
    let Ok(entries) = std::fs::read_dir(Path::new(&root)) else { return BTreeSet::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".jsonl")).collect()
}
