//! Where pictures come from: messy folders, patterns, lists, buckets.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};

use sandbox::SeaweedFs;
use tokio::io::AsyncWriteExt;
use worker::fetch::s3::ObjectStore;
use worker::settings::{S3Settings, Secret};

use crate::support::demo;
use crate::{annotate, folder, json_lines, said};

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
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let mut expected = set(&pictures);
    expected.extend(set(&["not\\xffutf8.jpg", "empty.jpg", "cut.png"]));
    assert_eq!(names(&output, prefix), expected);
    for part in [
        "skipped 5 files that are not pictures (",
        "4 hidden names (",
        "2 links to directories, which --follow-links searches (",
        "1 broken link (broken.jpg)",
        "7 done, 2 failed, 5 skipped (not pictures), ",
    ] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
    }

    let mut command = annotate();
    command.args(["--format", "json", "--follow-links", "--draw"]).arg(out.path()).arg(root);
    let output = command.output().await.unwrap();
    expected.extend(set(&["link/linked.jpg"]));
    assert_eq!(names(&output, prefix), expected, "the loop is followed once: {}", said(&output));
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
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
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
    assert!(said(&output).contains("*.gif: no picture matches"), "{}", said(&output));
    let output = annotate().args(["--files-from", "no/such/list"]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
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
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(names(&output, &prefix), set(&keys[..4]));
    for part in [
        "1 file that is not a picture (notes.txt)",
        "1 hidden name (.hidden.jpg)",
        "4 done, 2 skipped (not pictures), ",
    ] {
        assert!(said(&output).contains(part), "{part}: {}", said(&output));
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
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    assert!(resumed().await.contains("4 done, "));
    let said = resumed().await;
    assert!(said.contains("0 done, 4 already done, "), "{said}");
    upload("p/a.jpg", fs::read(&scenes[7].path).unwrap()).await;
    let said = resumed().await;
    assert!(said.contains("1 done, 3 already done, "), "{said}");

    let output = command("missing/").output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(crate::said(&output).contains("missing/: no object is a picture by its key"), "{}", crate::said(&output));
    let output = annotate()
        .env("GROUNDLING__S3__ENDPOINT", &access.endpoint)
        .env("GROUNDLING__S3__ANONYMOUS", "true")
        .env("GROUNDLING__S3__PATH_STYLE", "true")
        .arg(format!("s3://{bucket}/p/"))
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(crate::said(&output).contains("/p/: cannot be listed: "), "{}", crate::said(&output));
}
