//! Standard output and standard error that are closed, full or not read: no command panics, hangs or loses work.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::io::{PipeReader, Read};
use std::process::{Output, Stdio};
use std::time::Duration;

use support::{DEADLINE, TestServers, Worker, caption, demo, groundling, stderr_of};
use tokio::process::Command;
use tokio::time::timeout;

/// The status that a shell reports for a program killed by SIGPIPE.
const STDOUT_CLOSED: i32 = 141;
/// The exit code of a program that panicked.
const PANICKED: i32 = 101;

/// The writing end of a pipe whose reader is closed.
fn closed() -> Stdio {
    let (_, writer) = std::io::pipe().unwrap();
    writer.into()
}

/// A full disk.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A name, and a function that opens it as standard output or standard error.
type Broken = (&'static str, fn() -> Stdio);
const BROKEN: [Broken; 2] = [("closed", closed), ("full", full)];

async fn run(command: &mut Command) -> Output {
    timeout(DEADLINE, command.output()).await.expect("the command hangs").unwrap()
}

fn with_model() -> Command {
    let mut command = groundling();
    command.env("GROUNDLING_MODEL", demo().model_dir);
    command
}

#[tokio::test]
async fn results_and_exit_codes_do_not_depend_on_standard_error() {
    let scene = demo().scenes[0].path.clone();
    let out = tempfile::tempdir().unwrap();
    let bench = ["bench", "--device", "cpu", "--batch", "1", "--pictures", "2", "--new-tokens", "4", "--repeat", "1"];
    for (what, broken) in BROKEN {
        for log in ["trace", "off"] {
            let annotate = |images: &[&str]| {
                let mut command = with_model();
                command.env("RUST_LOG", log).args(["annotate", "--format", "json-v0"]).args(images).stderr(broken());
                command
            };
            let output = run(&mut annotate(&[scene.to_str().unwrap()])).await;
            assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(0), false), "annotate, {what}, {log}");
            let output = run(&mut annotate(&["no/such.jpg", scene.to_str().unwrap()])).await;
            assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), false), "annotate, {what}, {log}");
            let output = run(&mut annotate(&["--task", "nothing", "x.jpg"])).await;
            assert_eq!(output.status.code(), Some(2), "annotate, {what}, {log}");
        }
        let mut command = groundling();
        let output = run(command.args(["demo", "--format", "json", "--out"]).arg(out.path()).stderr(broken())).await;
        let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((output.status.code(), lines), (Some(0), 48), "demo, {what}");
        let mut command = with_model();
        command.args(bench).args(["--warmup", "0", "--through-worker"]).arg(&scene).env("RUST_LOG", "debug");
        let output = run(command.stderr(broken())).await;
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(0), false), "bench, {what}");
    }
}

#[tokio::test]
async fn a_closed_standard_output_ends_every_command_in_silence() {
    let out = tempfile::tempdir().unwrap();
    let random = ["--device", "cpu", "--new-tokens", "2", "--repeat", "1", "--warmup", "0"];
    let commands: [(&str, Command); 5] = [
        ("annotate", with_model()),
        ("annotate as JSON", with_model()),
        ("demo", groundling()),
        ("bench", with_model()),
        ("inspect", with_model()),
    ];
    for (name, mut command) in commands {
        match name {
            "annotate" => command.arg("annotate").arg(&demo().scenes_dir),
            "annotate as JSON" => command.args(["annotate", "--format", "json-v0"]).arg(&demo().scenes_dir),
            "demo" => command.args(["demo", "--out"]).arg(out.path()),
            "bench" => command.arg("bench").args(random),
            _ => command.args(["inspect", "prompt", "--prompt", "x"]),
        };
        let child = command.stdout(closed()).stderr(Stdio::piped()).spawn().unwrap();
        let output = timeout(DEADLINE, child.wait_with_output()).await.expect("the command hangs").unwrap();
        assert_eq!(output.status.code(), Some(STDOUT_CLOSED), "{name}: {}", stderr_of(&output));
        assert!(
            !stderr_of(&output).contains("panicked") && !stderr_of(&output).contains("standard output"),
            "{}",
            stderr_of(&output)
        );
    }
    for flag in ["--help", "--version"] {
        let status = groundling().arg(flag).stdout(closed()).status().await.unwrap();
        assert_ne!(status.code(), Some(PANICKED), "{flag}");
    }
}

#[tokio::test]
async fn a_full_standard_output_is_an_error_that_says_so() {
    for arguments in [&["annotate"][..], &["annotate", "--format", "json-v0"]] {
        let mut command = with_model();
        command.args(arguments).arg(&demo().scenes[0].path);
        let child = command.stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
        let output = timeout(DEADLINE, child.wait_with_output()).await.expect("the command hangs").unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
        assert!(
            stderr_of(&output).contains("standard output cannot be written: No space left"),
            "{}",
            stderr_of(&output)
        );
        assert_eq!(stderr_of(&output).lines().count(), 1, "{}", stderr_of(&output));
    }
}

/// What happens to a worker's standard error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Log {
    ClosedAtStart,
    Full,
    /// The reader reads the first lines, then closes it.
    ClosedAtWork,
    /// The reader reads nothing, so the pipe soon becomes full.
    Stalled,
}

fn start(mut command: Command, log: Log) -> (Worker, Option<PipeReader>) {
    command.env("RUST_LOG", "trace");
    let (reader, writer) = std::io::pipe().unwrap();
    let reader = match log {
        Log::ClosedAtStart => {
            command.stderr(closed());
            None
        }
        Log::Full => {
            command.stderr(full());
            None
        }
        Log::ClosedAtWork | Log::Stalled => {
            command.stderr(writer);
            Some(reader)
        }
    };
    (Worker::start_with_stderr(command), reader)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_log_cannot_be_written_works_on_and_ends_on_sigterm() {
    let servers = TestServers::start().await;
    let scene = &demo().scenes[0];
    servers.upload(&scene.file_name, std::fs::read(&scene.path).unwrap()).await;
    let mut jobs = 0;
    for log in [Log::ClosedAtStart, Log::Full, Log::ClosedAtWork, Log::Stalled] {
        let (worker, mut reader) = start(servers.groundling(), log);
        for round in 0..2 {
            for number in 0..20 {
                let id = format!("{log:?} {round} {number}");
                servers.enqueue(&servers.job(&id, &scene.file_name, vec![caption()])).await;
            }
            jobs += 20;
            let (annotations, failures) = servers.wait_for_outcomes(jobs).await;
            assert_eq!((annotations.len() as u64, failures.len()), (jobs, 0), "{log:?}");
            if log == Log::ClosedAtWork {
                reader = None;
            }
        }
        servers.wait_until_queue_is_empty().await;
        assert_eq!(worker.terminate().await.code(), Some(0), "{log:?}");
        if let Some(mut reader) = reader {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).unwrap();
            assert!(!text.is_empty() && !String::from_utf8_lossy(&text).contains("panicked"), "{log:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_its_broker_ends_on_sigterm_whatever_becomes_of_its_log() {
    for log in [Log::ClosedAtStart, Log::Full, Log::ClosedAtWork, Log::Stalled] {
        let mut command = with_model();
        command.env("GROUNDLING__NATS__URL", "nats://127.0.0.1:1").env("GROUNDLING__S3__ALLOW", "*");
        let (mut worker, mut reader) = start(command, log);
        if let Some(reader) = &mut reader {
            reader.read_exact(&mut [0]).unwrap();
        }
        if log == Log::ClosedAtWork {
            reader = None;
        }
        // Time for several attempts to connect, each with a log line.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(worker.is_running(), "{log:?}");
        assert_eq!(worker.terminate().await.code(), Some(0), "{log:?}");
        drop(reader);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_were_lost_are_counted_in_a_line_once_there_is_room() {
    let servers = TestServers::start().await;
    let scene = &demo().scenes[0];
    servers.upload(&scene.file_name, std::fs::read(&scene.path).unwrap()).await;
    let (worker, reader) = start(servers.groundling(), Log::Stalled);
    for number in 0..200 {
        servers.enqueue(&servers.job(&format!("job {number}"), &scene.file_name, vec![caption()])).await;
    }
    servers.wait_for_outcomes(200).await;
    let mut reader = reader.unwrap();
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    servers.enqueue(&servers.job("last", &scene.file_name, vec![caption()])).await;
    servers.wait_for_outcomes(201).await;
    assert_eq!(worker.terminate().await.code(), Some(0));
    let text = reading.join().unwrap();
    let lost = text.lines().find(|line| line.contains("log lines were lost")).expect("a line with the number");
    let number = lost.split("lines=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(number.parse::<u64>().unwrap() > 0, "{lost}");
    assert!(text.lines().all(|line| !line.contains('\u{1b}')), "no colours without a terminal");
}
