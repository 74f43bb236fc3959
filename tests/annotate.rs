//! `groundling annotate` on directories: nothing is lost, overwritten or added.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "annotate/page.rs"]
mod page;
#[path = "annotate/resume.rs"]
mod resume;
#[path = "annotate/rows.rs"]
mod rows;
#[path = "annotate/schema.rs"]
mod schema;
#[path = "annotate/sources.rs"]
mod sources;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;
use support::{demo, groundling, stderr_of};
use tokio::process::Command;

fn annotate() -> Command {
    let mut command = groundling();
    command.env("GROUNDLING_MODEL", demo().model_dir).arg("annotate");
    command
}

fn json_lines(output: &Output) -> Vec<Value> {
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A directory with pictures of the demo under these names.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, scene) in names.iter().zip(demo().scenes) {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(scene.path, path).unwrap();
    }
    dir
}

fn files_below(dir: &Path) -> BTreeSet<PathBuf> {
    let (mut files, mut open) = (BTreeSet::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path);
            }
        }
    }
    files
}

#[tokio::test]
async fn a_drawing_replaces_neither_a_picture_nor_another_drawing() {
    let names = ["a.jpg", "a.png", "a~2.png", "sub/a.jpg", "sub/deep/a.jpg"];
    let dir = folder(&names);
    let before: Vec<_> = names.iter().map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
    let mut command = annotate();
    command.args(["--format", "json-v0", "--max-new-tokens", "4", "--task", "brief", "--task", "detailed"]);
    command.args(["--replace-drawings", "--draw"]);
    // The drawings go into the directory of the pictures.
    let output = command.arg(dir.path()).arg(dir.path()).output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    for (name, before) in names.iter().zip(before) {
        assert_eq!(fs::read(dir.path().join(name)).unwrap(), before, "{name}");
    }
    let lines = json_lines(&output);
    let drawings: BTreeSet<_> = lines.iter().map(|line| PathBuf::from(line["drawing"].as_str().unwrap())).collect();
    assert_eq!((lines.len(), drawings.len()), (10, 10));
    for drawing in &drawings {
        assert!(image::open(drawing).is_ok(), "{}", drawing.display());
    }
    let pictures = names.iter().map(|name| dir.path().join(name)).collect();
    assert_eq!(files_below(dir.path()), drawings.union(&pictures).cloned().collect());
}

#[tokio::test]
async fn drawings_mirror_the_tree_and_are_no_pictures_of_the_next_run() {
    let dir = folder(&["a.jpg", "sub/a.jpg"]);
    let drawn = dir.path().join("boxes");
    for _ in 0..2 {
        let mut command = annotate();
        command.args(["--format", "json-v0", "--replace-drawings", "--draw"]).arg(&drawn);
        let output = command.arg(dir.path()).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        let drawings: Vec<_> = json_lines(&output).iter().map(|line| line["drawing"].clone()).collect();
        let expected = ["a.jpg.png", "sub/a.jpg.png"].map(|name| drawn.join(name).display().to_string());
        assert_eq!(drawings, expected);
        assert_eq!(files_below(&drawn).len(), 2);
    }
    let plain = image::open(dir.path().join("a.jpg")).unwrap().into_rgb8();
    assert_ne!(image::open(drawn.join("a.jpg.png")).unwrap().into_rgb8(), plain, "boxes are drawn");
}

#[tokio::test]
async fn a_drawing_that_cannot_be_written_is_one_pictures_failure() {
    let dir = folder(&["a.jpg", "sub/a.jpg"]);
    let drawn = dir.path().join("boxes");
    // A file has the name of a directory of drawings.
    fs::create_dir(&drawn).unwrap();
    fs::write(drawn.join("sub"), "").unwrap();
    let mut command = annotate();
    command.args(["--format", "json-v0", "--replace-drawings", "--draw"]).arg(&drawn);
    let output = command.arg(dir.path()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    assert_eq!(json_lines(&output).len(), 2);
    assert!(
        stderr_of(&output).contains("sub: cannot create the directory")
            && stderr_of(&output).contains("1 done, 1 failed, ")
    );
}

#[tokio::test]
async fn what_cannot_be_searched_or_read_is_named_and_counted_and_the_others_are_annotated() {
    let dir = folder(&["a.jpg", "z.jpg"]);
    fs::create_dir(dir.path().join("empty")).unwrap();
    // A path that is too long cannot be opened, not even by root.
    let half = |name: &str| [name].into_iter().chain(["d".repeat(250).as_str(); 10]).collect::<PathBuf>();
    fs::create_dir_all(dir.path().join(half("upper"))).unwrap();
    fs::create_dir_all(dir.path().join(half("lower"))).unwrap();
    fs::rename(dir.path().join("lower"), dir.path().join(half("upper")).join("lower")).unwrap();
    let mut command = annotate();
    command.args(["--format", "json-v0", "no/such.jpg"]).arg(dir.path().join("empty"));
    let output = command.arg(dir.path()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    assert_eq!(json_lines(&output).len(), 2);
    for sentence in [
        "dddd: the directory cannot be searched: File name too long",
        "empty: contains no pictures",
        "no/such.jpg: there is no such file",
        "4 found: 2 done, 2 failed, ",
    ] {
        assert!(stderr_of(&output).contains(sentence), "{sentence}: {}", stderr_of(&output));
    }
}

#[tokio::test]
async fn the_advice_about_a_limit_names_an_option_that_raises_it() {
    let dir = folder(&["a.jpg"]);
    for (option, too_low, enough) in [
        ("--max-bytes", "1000", "1000000"),
        ("--max-pixels", "409599", "409600"),
        ("--max-side", "639", "640"),
        ("--max-decode-bytes", "1000", "100000000"),
    ] {
        let output = annotate().args([option, too_low]).arg(dir.path()).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{option}: {}", stderr_of(&output));
        assert!(
            stderr_of(&output).contains(&format!("raise {option} to allow it")),
            "{option}: {}",
            stderr_of(&output)
        );
        let output = annotate().args([option, enough]).arg(dir.path()).output().await.unwrap();
        assert!(output.status.success(), "{option}: {}", stderr_of(&output));
    }
}

#[tokio::test]
async fn control_characters_of_names_do_not_reach_the_terminal() {
    let names = ["a\x1b]0;owned\x07\x1b[2J.jpg", "line\nbreak.jpg", "bad\x1b[31m\n.png"];
    let dir = folder(&names[..2]);
    fs::write(dir.path().join(names[2]), "no picture").unwrap();
    let output = annotate().arg(dir.path()).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (results, said) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr_of(&output));
    for text in [&results, &said] {
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
    }
    assert!(
        results.contains(r"line\nbreak.jpg") && said.contains(r"bad\u{1b}[31m\n.png: the picture"),
        "{results}{said}"
    );
    let output = annotate().args(["--format", "json-v0"]).arg(dir.path()).output().await.unwrap();
    let lines = json_lines(&output);
    assert_eq!(lines[1]["image"].as_str().unwrap(), dir.path().join(names[1]).to_str().unwrap(), "JSON is exact");
}

#[tokio::test]
async fn a_file_whose_name_begins_with_a_dash_is_distinguished_from_an_option() {
    let dir = folder(&["-x.jpg"]);
    let output = annotate().current_dir(dir.path()).arg("-x.jpg").output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr_of(&output).contains("for the file '-x.jpg', write './-x.jpg', or '--' before it"),
        "{}",
        stderr_of(&output)
    );
    for arguments in [&["./-x.jpg"][..], &["--", "-x.jpg"]] {
        let output = annotate().current_dir(dir.path()).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
    }
}

#[tokio::test]
async fn pixel_values_are_never_written_over_the_picture() {
    let dir = folder(&["a.jpg"]);
    let picture = dir.path().join("a.jpg");
    let before = fs::read(&picture).unwrap();
    let mut command = groundling();
    command.args(["inspect", "image", "--model"]).arg(demo().model_dir).arg(&picture).arg("--out");
    let output = command.arg(dir.path().join("./a.jpg")).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr_of(&output));
    assert_eq!(fs::read(&picture).unwrap(), before);
}
