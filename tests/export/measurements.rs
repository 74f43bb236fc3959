//! Memory and rate, to be run with `--ignored --nocapture`.

use std::time::{Duration, Instant};

use broker::read::{Range, read};
use futures::TryStreamExt;

use crate::filled_stream::{STREAM, SUBJECT, TestEnv, synthetic};

/// Greatest resident memory of a process in MB, while it runs.
pub(crate) async fn most_memory(id: u32) -> f64 {
    let mut most = 0.0f64;
    loop {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{id}/status")) else { return most };
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        // Linux writes kB for KiB.
        let Some(kibibytes) = line.and_then(|line| line.split_whitespace().nth(1)) else { return most };
        most = most.max(kibibytes.parse::<f64>().unwrap() * 1024.0 / 1e6);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn bare_rate(env: &TestEnv) -> f64 {
    let range = Range { subject: SUBJECT.into(), deduplicate: false, ..Range::all() };
    let started = Instant::now();
    let mut messages = std::pin::pin!(read(&env.jetstream, STREAM, range).await.unwrap());
    let mut count = 0u64;
    while messages.try_next().await.unwrap().is_some() {
        count += 1;
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// With the first `tasks` results of each annotation.
async fn measure(count: u64, tasks: usize) {
    let env = TestEnv::start().await;
    let annotations = synthetic(count).map(|mut annotation| {
        annotation.results.truncate(tasks);
        annotation
    });
    env.fill(annotations).await;
    for format in ["parquet", "jsonl", "coco", "webdataset"] {
        let bare = bare_rate(&env).await;
        let started = Instant::now();
        let mut command = env.export_command(format, &["--format", format]);
        let child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let memory = tokio::spawn(most_memory(child.id().unwrap()));
        let output = child.wait_with_output().await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        assert!(output.status.success());
        let rate = count as f64 / seconds;
        println!(
            "{format}: {count} annotations of {tasks} tasks in {seconds:.1} s, {rate:.0}/s, \
             {:.0} % of reading alone ({bare:.0}/s), {:.0} MB",
            100.0 * rate / bare,
            memory.await.unwrap()
        );
        std::fs::remove_dir_all(env.path(format)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn memory_and_rate_of_one_hundred_thousand() {
    measure(100_000, 1).await;
    measure(100_000, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn memory_and_rate_of_one_million() {
    measure(1_000_000, 1).await;
    measure(1_000_000, 3).await;
}
