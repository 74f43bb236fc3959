//! Where pictures come from: messy folders, patterns, lists, buckets.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use sandbox::SeaweedFs;
use tokio::io::AsyncWriteExt;
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};

use crate::support::{demo, stderr_of};
use crate::{annotate, files_below, folder, json_lines};

/// The names of the pictures of JSON rows, without the folder.
fn names(output: &Output, folder: &str) -> BTreeSet<String> {
    let rows = json_lines(output);
    let names: BTreeSet<_> = rows
        .iter()
        .map(|row| row["job_id"].as_str().unwrap().strip_prefix(folder).unwrap().trim_start_matches('/').to_owned())
        .collect();
    assert_eq!(names.len(), rows.len(), "a picture occurs twice");
    names
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn a_messy_folder_gives_its_pictures_and_an_account_of_the_rest() {
    let pictures = ["a.jpg", "b.JPEG", "sub/deep/c.jfif", "no_ending", "ende.0001", "犬 und 'x'.jpg"];
    let dir = folder(&pictures);
    let root = dir.path();
    let picture = fs::read(root.join("a.jpg")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not\xffutf8.jpg")), &picture).unwrap();
    for hidden in [".hidden.jpg", "._a.jpg", ".git/x.jpg", "sub/.DS_Store"] {
        fs::create_dir_all(root.join(hidden).parent().unwrap()).unwrap();
        fs::write(root.join(hidden), &picture).unwrap();
    }
    for other in ["notes.txt", "a.jpg.json", "README", "movie.mp4", "sub/list.csv"] {
        fs::write(root.join(other), "text").unwrap();
    }
    fs::write(root.join("empty.jpg"), "").unwrap();
    fs::write(root.join("cut.png"), &picture[..100]).unwrap();
    let elsewhere = folder(&["linked.jpg"]);
    symlink(elsewhere.path(), root.join("link")).unwrap();
    symlink(root, root.join("sub/loop")).unwrap();
    symlink("nowhere", root.join("broken.jpg")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let prefix = root.to_str().unwrap();

    let output = annotate().args(["--format", "json"]).arg(root).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    let mut expected = set(&pictures);
    expected.extend(set(&["not\\xffutf8.jpg", "empty.jpg", "cut.png"]));
    assert_eq!(names(&output, prefix), expected);
    for part in [
        "skipped 5 files that are not pictures (",
        "4 hidden names (",
        "2 links to directories, which --follow-links searches (",
        "1 broken link (broken.jpg)",
        "21 found: 7 done, 2 failed, 12 skipped (5 not pictures, 4 hidden, 2 links to directories, 1 broken link), ",
    ] {
        assert!(stderr_of(&output).contains(part), "{part}: {}", stderr_of(&output));
    }

    let mut command = annotate();
    command.args(["--format", "json", "--follow-links", "--draw"]).arg(out.path()).arg(root);
    let output = command.output().await.unwrap();
    expected.extend(set(&["link/linked.jpg"]));
    assert_eq!(names(&output, prefix), expected, "the loop is followed once: {}", stderr_of(&output));
    assert!(out.path().join("run-1/link/linked.jpg.png").is_file() && out.path().join("run-1/no_ending.png").is_file());
}

#[tokio::test]
async fn patterns_and_lists_name_pictures() {
    let dir = folder(&["a.jpg", "b.png", "sub/c.jpg", "sub/[d].jpg", "line\nbreak.jpg"]);
    fs::write(dir.path().join("sub/notes.txt"), "").unwrap();
    let prefix = dir.path().to_str().unwrap();
    let found = async |arguments: &[&str], input: &[u8]| {
        let mut command = annotate();
        command.current_dir(dir.path()).args(["--format", "json"]).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).await.unwrap();
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr_of(&output));
        names(&output, "")
    };
    assert_eq!(found(&["*.jpg"], b"").await, set(&["a.jpg", "line\nbreak.jpg"]));
    assert_eq!(found(&["**/*"], b"").await.len(), 5, "notes.txt is skipped");
    assert_eq!(found(&["sub/[d].jpg"], b"").await, set(&["sub/[d].jpg"]), "a file goes before a pattern");
    let absolute =
        names(&annotate().args(["--format", "json", &format!("{prefix}/s*/*")]).output().await.unwrap(), prefix);
    assert_eq!(absolute, set(&["sub/c.jpg", "sub/[d].jpg"]));
    assert_eq!(found(&["--files-from", "-"], b"a.jpg\n\nsub\n").await, set(&["a.jpg", "sub/c.jpg", "sub/[d].jpg"]));
    assert_eq!(found(&["--files-from", "-", "b.png"], b"line\nbreak.jpg\0").await, set(&["b.png", "line\nbreak.jpg"]));
    let output = annotate().arg(format!("{prefix}/*.gif")).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_of(&output).contains("*.gif: no picture matches"), "{}", stderr_of(&output));
    let output = annotate().args(["--files-from", "no/such/list"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr_of(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_listed_matched_and_resumed_by_etag() {
    let store = SeaweedFs::start().await.unwrap();
    let access = store.admin();
    let uploads = ObjectStore::open(&S3Settings {
        endpoint: Some(access.endpoint.clone()),
        path_style: true,
        access_key: Some(access.access_key.clone()),
        secret_key: Some(Secret::new(access.secret_key.clone())),
        ..S3Settings::default()
    })
    .await
    .unwrap();
    let scenes = demo().scenes;
    let upload = async |key: &str, bytes: Vec<u8>| {
        let put = uploads.client().put_object().bucket(&access.bucket).key(key).body(bytes.into());
        put.send().await.unwrap();
    };
    let keys = ["p/a.jpg", "p/b", "p/ä ö.png", "p/q/c.jpg", "other/d.jpg"];
    for (key, scene) in keys.iter().zip(&scenes) {
        upload(key, fs::read(&scene.path).unwrap()).await;
    }
    for other in ["p/notes.txt", "p/README", "p/.hidden.jpg"] {
        upload(other, b"text".to_vec()).await;
    }
    let (bucket, home) = (&access.bucket, tempfile::tempdir().unwrap());
    let command = |source: &str| {
        let mut command = annotate();
        command.args(["--s3-endpoint", &access.endpoint]).arg(format!("s3://{bucket}/{source}"));
        // The variables of the AWS tools, as the help says.
        command.env("AWS_ACCESS_KEY_ID", &access.access_key).env("AWS_SECRET_ACCESS_KEY", &access.secret_key);
        command.env("GROUNDLING__S3__PATH_STYLE", "true");
        command
    };
    let prefix = format!("s3://{bucket}");
    let output = command("p/").args(["--format", "json"]).output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    assert_eq!(names(&output, &prefix), set(&keys[..4]));
    for part in [
        "1 file that is not a picture (notes.txt)",
        "1 hidden name (.hidden.jpg)",
        "names without an extension: skipped 1 file that is not a picture (s3://",
        "7 found: 4 done, 3 skipped (2 not pictures, 1 hidden), ",
    ] {
        assert!(stderr_of(&output).contains(part), "{part}: {}", stderr_of(&output));
    }
    let etag = |row: &serde_json::Value| row["picture"]["object"]["etag"].as_str().map(str::len);
    assert!(json_lines(&output).iter().all(|row| etag(row) == Some(32)));
    let output = command("p/*.jpg").args(["--format", "json"]).output().await.unwrap();
    assert_eq!(names(&output, &prefix), set(&["p/a.jpg"]));
    let output = command("**/*.jpg").args(["--format", "json"]).output().await.unwrap();
    assert_eq!(names(&output, &prefix), set(&["p/a.jpg", "p/q/c.jpg", "other/d.jpg"]));

    let out = home.path().join("rows.jsonl");
    let resumed = async || {
        let output = command("p/").args(["--resume", "--out"]).arg(&out).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        stderr_of(&output)
    };
    assert!(resumed().await.contains("4 done, "));
    let said = resumed().await;
    assert!(said.contains("7 found: 0 done, 7 skipped (2 not pictures, 1 hidden, 4 already done), "), "{said}");
    upload("p/a.jpg", fs::read(&scenes[7].path).unwrap()).await;
    let said = resumed().await;
    assert!(said.contains("1 done, 6 skipped (2 not pictures, 1 hidden, 3 already done), "), "{said}");

    let output = command("missing/").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr_of(&output);
    assert!(
        said.contains("missing/: there are no objects with this prefix") && said.contains("0 found: 0 done"),
        "{said}"
    );
    // Without a slash at its end, an address is that of one object.
    let output = command("p").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let advice = "there are objects below it: end the address with / to annotate them";
    assert!(stderr_of(&output).contains(advice), "{}", stderr_of(&output));
    let output = command("p/none.jpg").output().await.unwrap();
    assert!(!stderr_of(&output).contains(advice), "{}", stderr_of(&output));

    // A listing that fails is a row, and a sentence that names the place, the problem and the remedy.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with_tls = access.endpoint.replace("http://", "https://");
    let place = format!("s3://{bucket}/p/");
    let none = "s3://no-such-bucket/p/".to_owned();
    let cases: [(&str, &str, &str, &str, [&str; 2]); 6] = [
        (
            "GROUNDLING__S3__ANONYMOUS",
            "true",
            &place,
            "FORBIDDEN",
            ["denied", "allow the access key to list the bucket"],
        ),
        ("AWS_ACCESS_KEY_ID", "other", &place, "RETRIES_EXHAUSTED", ["rejects the access key", "check s3.access_key"]),
        ("AWS_SECRET_ACCESS_KEY", "other", &place, "RETRIES_EXHAUSTED", ["signature", "check s3.secret_key"]),
        ("LANG", "C", &none, "NOT_FOUND", ["its bucket does not exist", "correct the bucket's name"]),
        (
            "endpoint",
            &format!("http://{dead}"),
            &place,
            "RETRIES_EXHAUSTED",
            ["connection refused", "check s3.endpoint"],
        ),
        ("endpoint", &with_tls, &place, "RETRIES_EXHAUSTED", ["does not speak TLS", "http://"]),
    ];
    for (name, value, place, reason, parts) in cases {
        let mut command = annotate();
        command.env("GROUNDLING__S3__PATH_STYLE", "true").env("GROUNDLING__S3__ATTEMPTS", "1");
        if name != "GROUNDLING__S3__ANONYMOUS" {
            command.env("AWS_ACCESS_KEY_ID", &access.access_key).env("AWS_SECRET_ACCESS_KEY", &access.secret_key);
        }
        let endpoint = if name == "endpoint" { value } else { access.endpoint.as_str() };
        command.env(name, value).args(["--format", "json", "--s3-endpoint", endpoint, place]);
        let output = command.output().await.unwrap();
        let said = stderr_of(&output);
        assert_eq!(output.status.code(), Some(1), "{name} {value}: {said}");
        let sentence = said.lines().next().unwrap_or_default();
        for part in parts.iter().chain([&place]) {
            assert!(sentence.contains(part), "{name} {value}: {part}: {said}");
        }
        assert_eq!(sentence.matches(place).count(), 1, "{said}");
        assert!(!said.contains("os error") && !said.contains("dispatch"), "{said}");
        let [row] = &json_lines(&output)[..] else { panic!("one row: {said}") };
        assert_eq!(row["job_id"], place);
        assert!(row["reason"].as_str().unwrap().ends_with(reason), "{row}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_has_a_row_and_what_is_not_supported_fails() {
    let dir = folder(&["a.jpg", "sub/b.jpg", "locked/c.jpg", "unreadable.jpg"]);
    let root = dir.path();
    // Not even root can open a path that is too long; an ordinary user also meets permissions.
    let half = |name: &str| root.join([name].into_iter().chain(["d".repeat(250).as_str(); 10]).collect::<PathBuf>());
    fs::create_dir_all(half("upper")).unwrap();
    fs::create_dir_all(half("lower")).unwrap();
    fs::rename(root.join("lower"), half("upper").join("lower")).unwrap();
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    for (name, bytes) in
        [("i.heic", &heic[..]), ("no_ending", heic), ("page", b"<!DOCTYPE html>"), ("p.jpg", b"<html>")]
    {
        fs::write(root.join(name), bytes).unwrap();
    }
    for private in ["locked", "unreadable.jpg"] {
        fs::set_permissions(root.join(private), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let is_root = fs::File::open(root.join("unreadable.jpg")).is_ok();
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("rows.jsonl");
    for run in 0..2 {
        let output = annotate().args(["--resume", "--out"]).arg(&out).arg(root).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
        let text = fs::read_to_string(&out).unwrap();
        assert_eq!(text.contains("FORBIDDEN"), !is_root, "{text}");
        let rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let reason = |end: &str| {
            let of = rows.iter().filter(|row| row["job_id"].as_str().unwrap().ends_with(end));
            let reasons: Vec<_> = of.map(|row| row["reason"].as_str().unwrap_or("none").to_owned()).collect();
            assert_eq!(reasons.len(), 1, "{end}, run {run}: {reasons:?}");
            reasons[0].clone()
        };
        for name in ["i.heic", "no_ending", "p.jpg"] {
            assert_eq!(reason(name), "FAILURE_REASON_UNSUPPORTED_PICTURE");
        }
        assert_eq!(reason(&"d".repeat(250)), "FAILURE_REASON_OBJECT_NOT_FOUND");
        if !is_root {
            assert_eq!(reason("unreadable.jpg"), "FAILURE_REASON_OBJECT_FORBIDDEN");
            assert_eq!(reason("locked"), "FAILURE_REASON_OBJECT_FORBIDDEN");
        }
        let said = stderr_of(&output);
        assert!(said.contains("p.jpg: the file is an HTML page, not a picture") && !said.contains("HTML page, which"));
        assert!(said.contains("HEIC (HEIF) file, which is not supported; convert it to JPEG"), "{said}");
        assert!(said.contains("skipped 1 file that is not a picture (page)"), "{said}");
        assert!(said.contains("9 found: "), "{said}");
    }
    // What can be read again has no failure any more.
    for private in ["locked", "unreadable.jpg"] {
        fs::set_permissions(root.join(private), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::remove_dir_all(root.join("upper")).unwrap();
    let output = annotate().args(["--resume", "--out"]).arg(&out).arg(root).output().await.unwrap();
    assert!(!fs::read_to_string(&out).unwrap().contains("FORBIDDEN"), "{}", stderr_of(&output));
}

#[tokio::test]
async fn a_place_without_pictures_is_named_and_the_exit_code_is_1() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("list"), "\u{feff}\r\n").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (arguments, sentence) in [
        (&["--files-from", "list"][..], "--files-from list: the list is empty"),
        (&["empty"], "empty: contains no pictures"),
        (&["*.jpg"], "*.jpg: no picture matches"),
    ] {
        let output = annotate().current_dir(dir.path()).args(arguments).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
        assert!(
            stderr_of(&output).contains(sentence) && stderr_of(&output).contains("0 found: 0 done, "),
            "{}",
            stderr_of(&output)
        );
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn each_path_is_annotated_once_and_has_a_name_of_its_own() {
    let dir = folder(&["a.jpg", "sub/b.jpg", "c\\xff.jpg", "-"]);
    let root = dir.path();
    let picture = fs::read(root.join("a.jpg")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"c\xff.jpg")), &picture).unwrap();
    symlink("a.jpg", root.join("link.jpg")).unwrap();
    // As an editor on Windows writes it.
    fs::write(root.join("list"), "\u{feff}a.jpg\r\nsub/b.jpg\r\n./a.jpg\r\n").unwrap();
    let mut command = annotate();
    command.current_dir(root).args(["--format", "json", "--draw", "drawn", "--files-from", "list"]);
    command.args([".", "sub", "*.jpg", "sub//b.jpg", "-"]).arg(root.join("a.jpg"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&picture).await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    // Arguments come before the list.
    let all = set(&["./a.jpg", "./sub/b.jpg", "./c\\xff.jpg", "./c\\x5cxff.jpg", "./link.jpg", "./-", "-"]);
    assert_eq!(names(&output, ""), all);
    assert!(
        stderr_of(&output).contains("7 done, 10 skipped (1 not a picture, 9 named before), "),
        "{}",
        stderr_of(&output)
    );
    assert_eq!(files_below(&root.join("drawn")).len(), all.len());
}
