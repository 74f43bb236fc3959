//! Which annotations an export contains.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use crate::filled_stream::{Bench, SUBJECT, files, said, synthetic};

/// The job ids in the JSON lines of an export, in order.
fn jobs(bench: &Bench, out: &str) -> Vec<String> {
    let mut jobs = Vec::new();
    for (name, bytes) in files(Path::new(&bench.path(out))) {
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

const JSONL: [&str; 4] = ["--format", "jsonl", "--shard-size", "10"];

#[tokio::test(flavor = "multi_thread")]
async fn repeats_are_left_out_wherever_they_are_and_the_first_stays() {
    let bench = Bench::start().await;
    bench.fill(synthetic(25)).await;
    // Sequences 26 to 28: one in the same shard as the first, two in another.
    bench.fill(synthetic(25).skip(24).chain(synthetic(25).take(2))).await;
    let summary = bench.exported("out", &JSONL).await;
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(25), Some(3)), "{summary}");
    assert_eq!(jobs(&bench, "out"), numbered(0..25));
    // The last shard grows by new annotations and one more repeat.
    bench.fill(synthetic(30).skip(25).chain(synthetic(1))).await;
    let summary = bench.exported("out", &JSONL).await;
    assert_eq!((summary["annotations"].as_u64(), summary["repeats"].as_u64()), (Some(30), Some(4)), "{summary}");
    assert_eq!(jobs(&bench, "out"), numbered(0..30));
    let stats: Value = serde_json::from_slice(&std::fs::read(bench.path("out/_stats.json")).unwrap()).unwrap();
    assert_eq!((stats["repeats"].as_u64(), stats["annotations"].as_u64()), (Some(4), Some(30)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_sequences_or_time_is_exported_alone() {
    let bench = Bench::start().await;
    bench.fill(synthetic(20)).await;
    bench.exported("range", &[&JSONL[..], &["--sequence", "5..15"]].concat()).await;
    // Sequences begin at 1.
    assert_eq!(jobs(&bench, "range"), numbered(4..14));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = wire::prost_types::Timestamp { seconds: now as i64, nanos: 0 }.to_string();
    bench.fill(synthetic(33).skip(20)).await;
    bench.exported("since", &[&JSONL[..], &["--since", &now]].concat()).await;
    assert_eq!(jobs(&bench, "since"), numbered(20..33));
    // A later run with another time continues the same export.
    bench.fill(synthetic(35).skip(33)).await;
    bench.exported("since", &[&JSONL[..], &["--since", "2026-01-01"]].concat()).await;
    assert_eq!(jobs(&bench, "since"), numbered(20..35));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exported_is_told_with_its_exit_code() {
    let bench = Bench::start().await;
    bench.fill(synthetic(15)).await;
    bench.exported("out", &JSONL).await;
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
        let output = bench.export("out", arguments).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(text), "{arguments:?}: {}", said(&output));
    }
    // A stream that was created again has other annotations at the same sequences.
    bench.jetstream.delete_stream(crate::filled_stream::STREAM).await.unwrap();
    assert!(bench.groundling(&["setup"]).output().await.unwrap().status.success());
    let again = bench.export("out", &JSONL).await;
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("choose another destination"), "{}", said(&again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_annotation_is_reported_and_left_out() {
    let bench = Bench::start().await;
    bench.fill(synthetic(3)).await;
    bench.jetstream.publish(SUBJECT, b"\xff no annotation"[..].into()).await.unwrap().await.unwrap();
    let output = bench.export("out", &JSONL).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(jobs(&bench, "out"), numbered(0..3));
    let stats: Value = serde_json::from_slice(&std::fs::read(bench.path("out/_stats.json")).unwrap()).unwrap();
    assert_eq!(stats["unreadable"], serde_json::json!([4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_follows_ships_full_shards_until_it_is_stopped() {
    let bench = Bench::start().await;
    bench.fill(synthetic(12)).await;
    let arguments = [&JSONL[..], &["--follow"]].concat();
    let child = bench.export_command("out", &arguments).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let id = child.id().unwrap().to_string();
    let wait = async |shards: usize| {
        let started = Instant::now();
        loop {
            let found = jobs_files(&bench);
            if found.len() >= shards {
                return found;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert_eq!(wait(1).await.len(), 1);
    bench.fill(synthetic(31).skip(12)).await;
    wait(3).await;
    assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let ended = child.wait_with_output().await.unwrap();
    assert!(ended.status.success());
    // Sequences 1 to 29.
    assert_eq!(jobs(&bench, "out"), numbered(0..29));
    // The rest, by a run that does not follow.
    bench.exported("out", &JSONL).await;
    assert_eq!(jobs(&bench, "out"), numbered(0..31));
}

fn jobs_files(bench: &Bench) -> BTreeSet<String> {
    let root = bench.path("out");
    let Ok(entries) = std::fs::read_dir(Path::new(&root)) else { return BTreeSet::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".jsonl")).collect()
}
