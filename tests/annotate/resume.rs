//! `--out` and `--resume`: no row twice and none missing, whatever ends a run; progress, summary and Ctrl-C.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::process::Command;

use crate::support::{DEADLINE, Random, demo, send_signal, stderr_of};
use crate::{annotate, folder};

/// All rows of `--out`: of the file, or of the parts in their order. A last row that is incomplete is left out.
fn rows(out: &Path) -> Vec<Value> {
    let mut files = vec![out.to_path_buf()];
    if out.is_dir() {
        let names = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
        files = names.filter(|path| path.to_string_lossy().contains("part-")).collect();
        files.sort();
    }
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let complete = |text: String| -> Vec<Value> {
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    texts.flat_map(complete).collect()
}

fn names(rows: &[Value]) -> Vec<String> {
    rows.iter().map(|row| row["job_id"].as_str().unwrap().to_owned()).collect()
}

/// Asserts that every name occurs once.
fn assert_each_once(rows: &[Value]) -> BTreeSet<String> {
    let all = names(rows);
    let different: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(different.len(), all.len(), "a row occurs twice: {all:?}");
    different
}

async fn run(command: &mut Command) -> Output {
    tokio::time::timeout(DEADLINE, command.output()).await.expect("the command hangs").unwrap()
}

fn to_out(out: &Path, dir: &Path) -> Command {
    let mut command = annotate();
    command.args(["--shard-rows", "5", "--resume", "--out"]).arg(out).arg(dir);
    command
}

/// A folder with this many different pictures: the demo's, with a comment behind the end of each.
fn many(count: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let scenes = demo().scenes;
    for number in 0..count {
        let mut bytes = fs::read(&scenes[number % scenes.len()].path).unwrap();
        bytes.extend_from_slice(format!("{number}").as_bytes());
        fs::write(dir.path().join(format!("{number:04}.jpg")), bytes).unwrap();
    }
    dir
}

#[tokio::test]
async fn a_resumed_run_does_what_is_missing_changed_or_failed_and_nothing_else() {
    let dir = folder(&["a.jpg", "b.jpg", "sub/c.jpg"]);
    fs::write(dir.path().join("bad.jpg"), "no picture").unwrap();
    let home = tempfile::tempdir().unwrap();
    for out in ["rows.jsonl", "rows"].map(|name| home.path().join(name)) {
        let output = run(annotate().arg("--out").arg(&out).arg(dir.path()).arg(dir.path())).await;
        assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
        assert!(
            output.stdout.is_empty() && stderr_of(&output).contains("3 done, 1 failed, 4 skipped (named before), "),
            "{}",
            stderr_of(&output)
        );
        let first = rows(&out);
        assert_eq!(assert_each_once(&first).len(), 4, "a folder that is named twice gives each picture once");
        // Without --resume, nothing is overwritten.
        let output = run(annotate().arg("--out").arg(&out).arg(dir.path())).await;
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr_of(&output).contains("add --resume to continue"), "{}", stderr_of(&output));
        assert_eq!(rows(&out), first);

        let output = run(&mut to_out(&out, dir.path())).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr_of(&output).contains("4 found: 0 done, 1 failed, 3 skipped (already done), "),
            "{}",
            stderr_of(&output)
        );
        assert_eq!(assert_each_once(&rows(&out)).len(), 4);

        // One is repaired, one has other content, and one is new.
        fs::copy(dir.path().join("a.jpg"), dir.path().join("bad.jpg")).unwrap();
        fs::copy(dir.path().join("a.jpg"), dir.path().join("b.jpg")).unwrap();
        fs::copy(dir.path().join("a.jpg"), dir.path().join("new.jpg")).unwrap();
        let output = run(&mut to_out(&out, dir.path())).await;
        assert!(output.status.success(), "{}", stderr_of(&output));
        assert!(stderr_of(&output).contains("3 done, 2 skipped (already done), "), "{}", stderr_of(&output));
        let all = rows(&out);
        let ids: BTreeSet<_> = all.iter().map(|row| row["annotation_id"].to_string()).collect();
        assert_eq!((all.len(), ids.len()), (6, 6), "the row of the earlier content stays");
        assert!(all.iter().all(|row| row["reason"].is_null()), "the failure is replaced");

        // Another recipe is other work.
        for other in [&["--task", "detailed"][..], &["--max-new-tokens", "5"], &["--min-score", "0.5"]] {
            let output = run(to_out(&out, &dir.path().join("sub")).args(other)).await;
            assert!(stderr_of(&output).contains("1 done, "), "{other:?}: {}", stderr_of(&output));
            let output = run(to_out(&out, &dir.path().join("sub")).args(other)).await;
            assert!(
                stderr_of(&output).contains("0 done, 1 skipped (already done), "),
                "{other:?}: {}",
                stderr_of(&output)
            );
        }
        // The folder is as it was for the next round.
        fs::write(dir.path().join("bad.jpg"), "no picture").unwrap();
        fs::copy(&demo().scenes[1].path, dir.path().join("b.jpg")).unwrap();
        fs::remove_file(dir.path().join("new.jpg")).unwrap();
    }
    let output = run(annotate().args(["--resume"]).arg(dir.path())).await;
    assert_eq!(output.status.code(), Some(2), "--resume needs --out");
    let output = run(annotate().args(["--format", "json-v0", "--out", "x.jsonl"]).arg(dir.path())).await;
    assert_eq!(output.status.code(), Some(2), "{}", stderr_of(&output));
}

const PICTURES: usize = 30;

/// Waits until there are this many rows, complete or not.
async fn wait_for_rows(out: &Path, count: usize) {
    let begun = Instant::now();
    loop {
        let files = if out.is_dir() { crate::files_below(out) } else { BTreeSet::from([out.to_path_buf()]) };
        let texts = files.iter().filter_map(|file| fs::read(file).ok());
        if texts.map(|text| text.iter().filter(|byte| **byte == b'\n').count()).sum::<usize>() >= count {
            return;
        }
        assert!(begun.elapsed() < DEADLINE, "fewer than {count} rows");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Kills runs at random moments until `kills` were killed: in turn after a random time and after a random number of new
/// rows. After each, the rows so far are complete and different; each time a run ends by itself, every picture has its row,
/// and the next one starts anew.
async fn kill_runs(kills: usize) {
    let (dir, home) = (many(PICTURES), tempfile::tempdir().unwrap());
    let name = |number: usize| dir.path().join(format!("{number:04}.jpg")).display().to_string();
    let expected: BTreeSet<_> = (0..PICTURES).map(name).collect();
    // In turn a file and a directory.
    let out_of = |number: usize| home.path().join(format!("rows{number}{}", ["", ".jsonl"][number % 2]));
    // With few slots, pictures end one after the other.
    let command = |out: &Path| {
        let mut command = to_out(out, dir.path());
        command.args(["--batch", "2"]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let begun = Instant::now();
    assert!(command(&out_of(0)).status().await.unwrap().success());
    let whole = begun.elapsed();
    let (mut killed, mut ended, mut between) = (0, 1, 0);
    let mut random = Random::from_environment();
    while killed < kills {
        let out = out_of(ended);
        let before = if out.exists() { assert_each_once(&rows(&out)).len() } else { 0 };
        let mut child = command(&out).spawn().unwrap();
        let (time, new) = (whole.mul_f64(0.1 + random.fraction()), 1 + random.below(8) as usize);
        let moment = async {
            if killed % 2 == 0 { tokio::time::sleep(time).await } else { wait_for_rows(&out, before + new).await }
        };
        let ended_itself = tokio::select! {
            status = child.wait() => Some(status.unwrap()),
            () = moment => None,
        };
        let Some(status) = ended_itself else {
            child.kill().await.unwrap();
            killed += 1;
            let so_far = if out.exists() { assert_each_once(&rows(&out)) } else { BTreeSet::new() };
            assert!(so_far.len() >= before && so_far.is_subset(&expected), "rows were lost");
            between += usize::from(before < so_far.len() && so_far.len() < expected.len());
            continue;
        };
        assert!(status.success());
        assert_eq!(assert_each_once(&rows(&out)), expected);
        ended += 1;
    }
    assert!(command(&out_of(ended)).status().await.unwrap().success());
    assert_eq!(assert_each_once(&rows(&out_of(ended))), expected);
    println!("{killed} killed, {between} of them between their first and their last row; {} ended before", ended - 1);
    assert!(between * 4 >= kills, "too few runs were killed between rows: {between} of {killed}");
}

#[tokio::test]
async fn a_run_that_is_killed_and_resumed_has_each_row_once() {
    kill_runs(8).await;
}

#[tokio::test]
#[ignore = "takes minutes"]
async fn runs_that_are_killed_at_a_hundred_moments_have_each_row_once() {
    kill_runs(100).await;
}

#[tokio::test]
async fn ctrl_c_finishes_what_was_started_and_says_how_to_continue() {
    let (dir, home) = (many(60), tempfile::tempdir().unwrap());
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let out = home.path().join(format!("rows{code}.jsonl"));
        // With few slots, pictures end one after the other.
        let child = to_out(&out, dir.path()).args(["--batch", "2"]).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while !out.exists() || rows(&out).is_empty() {
            assert!(begun.elapsed() < DEADLINE, "no row");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        send_signal(child.id().unwrap(), signal);
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", stderr_of(&output));
        let so_far = rows(&out);
        assert_each_once(&so_far);
        assert!(so_far.len() < 60, "the signal came too late");
        let summary = format!("60 found: {} done, {} left, ", so_far.len(), 60 - so_far.len());
        let left = format!("{} pictures left; to continue, run the same command with --resume", 60 - so_far.len());
        assert!(stderr_of(&output).contains(&summary) && stderr_of(&output).contains(&left), "{}", stderr_of(&output));
        assert!(fs::read_to_string(&out).unwrap().ends_with('\n'));
    }
    let out = home.path().join("rows130.jsonl");
    assert!(run(&mut to_out(&out, dir.path())).await.status.success());
    assert_eq!(assert_each_once(&rows(&out)).len(), 60);
}

#[tokio::test]
async fn after_ctrl_c_a_picture_that_does_not_end_is_waited_for_only_so_long() {
    let (dir, home) = (folder(&["a.jpg", "b.jpg"]), tempfile::tempdir().unwrap());
    let out = home.path().join("rows.jsonl");
    // A web server that accepts connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut command = annotate();
    command.env("GROUNDLING__WORKER__SHUTDOWN_TIMEOUT", "100ms").env("GROUNDLING__S3__OPERATION_TIMEOUT", "1h");
    command.arg("--out").arg(&out).arg(dir.path()).arg(format!("http://{}/c.jpg", silent.local_addr().unwrap()));
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let connection = silent.accept().await.unwrap();
    wait_for_rows(&out, 2).await;
    send_signal(child.id().unwrap(), "INT");
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr_of(&output));
    for part in [
        "for at most 0.1 s (worker.shutdown_timeout)",
        "have not ended in time",
        "3 found: 2 done, 1 left, ",
        "1 picture left; to continue, run the same command with --resume",
    ] {
        assert!(stderr_of(&output).contains(part), "{part}: {}", stderr_of(&output));
    }
    assert_eq!(rows(&out).len(), 2);
    drop(connection);
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once() {
    let dir = folder(&["a.jpg"]);
    // Nothing comes on standard input, so this run never ends.
    let mut command = annotate();
    command.arg("-").arg(dir.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stdin = child.stdin.take();
    tokio::time::sleep(Duration::from_secs(2)).await;
    send_signal(child.id().unwrap(), "INT");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(child.try_wait().unwrap().is_none(), "the first one waits for the picture that was started");
    send_signal(child.id().unwrap(), "INT");
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr_of(&output));
    assert!(stderr_of(&output).contains("a second Ctrl-C exits at once"), "{}", stderr_of(&output));
    drop(stdin);
}

#[tokio::test]
async fn progress_comes_as_lines_to_a_file_and_as_a_bar_to_a_terminal() {
    let dir = many(80);
    let output = run(annotate().args(["--progress", "1", "--format", "json"]).arg(dir.path())).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let said = stderr_of(&output);
    let line = said.lines().find(|line| line.contains(" pictures/s, about ")).expect(&said);
    assert!(line.starts_with("groundling: ") && line.contains(" of 80 pictures, 0 failed, "), "{line}");
    assert!(said.lines().last().unwrap().contains("80 done, "), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains('\r'), "no bar without a terminal");

    // Python gives the program a terminal.
    let script = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
    let program = annotate();
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(program.as_std().get_program()).arg("annotate").arg("--model");
    command.arg(demo().model_dir).args(["--out"]).arg(dir.path().join("rows.jsonl")).arg(dir.path());
    let output = run(command.stdin(Stdio::null())).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("/80 ") && shown.contains("/s eta ") && shown.contains("80 done, "), "{shown}");
}
