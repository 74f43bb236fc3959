//! The programs that the formats are for load the exports and find the same boxes.

use std::path::{Path, PathBuf};

use sandbox::tools::SearchPaths;
use serde_json::{Value, json};
use tokio::process::Command;
use wire::Message;

use crate::filled_stream::{TestEnv, Truth, files};
use crate::support::stderr_of;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The programs that `deploy/install-tools.sh` installs beside the servers with the option `--loaders` or `--client`.
fn installed(name: &str) -> PathBuf {
    let servers = SearchPaths::from_environment().executable("weed").unwrap();
    // `.rig/bin/weed` as it was found.
    let path = servers.ancestors().nth(2).unwrap().join(name);
    assert!(path.is_dir(), "{} does not exist: run ./deploy/install-tools.sh --{name}", path.display());
    path.join("bin")
}

#[tokio::test(flavor = "multi_thread")]
async fn other_programs_load_every_format_and_find_the_boxes_of_the_scenes() {
    let env = TestEnv::start().await;
    let truth = env.fill_with_scenes().await;
    truth.write(&env.path("truth.json"));
    truth.write_categories(&env.path("categories.txt"));
    let categories = env.path("categories.txt");
    let with_categories = ["--categories", &categories];
    let pictures = ["--pictures"];
    let hub = ["--layout", "hub"];
    let cases: [(&str, &str, &[&str]); 13] = [
        ("parquet", "parquet", &[]),
        ("parquet-pictures", "parquet", &pictures),
        ("hub", "parquet", &[hub, with_categories].concat()),
        ("jsonl", "jsonl", &[]),
        ("coco", "coco", &with_categories),
        ("coco-nouns", "coco", &[]),
        ("webdataset", "webdataset", &pictures),
        ("label-studio", "label-studio", &with_categories),
        ("grit", "grit", &[]),
        ("yolo", "yolo", &[&pictures[..], &with_categories].concat()),
        ("cvat", "cvat", &with_categories),
        ("fiftyone", "fiftyone", &with_categories),
        ("opensearch", "opensearch", &[]),
    ];
    for (out, format, arguments) in cases {
        // Several shards of each.
        let arguments = [&["--format", format, "--shard-size", "20"], arguments].concat();
        let summary = env.exported(out, &arguments).await;
        let counts = ["annotations", "results", "boxes", "shards", "boxes_unmapped", "pictures_missing"];
        let found = counts.map(|name| summary[name].as_u64().unwrap());
        assert_eq!(found, [48, 144, truth.boxes() as u64, 3, 0, 0], "{out}: {summary}");
    }
    messages_are_in_the_json_form_of_protobuf(&env, &truth).await;

    let version = Command::new("python3").arg("--version").output().await.unwrap();
    if !String::from_utf8_lossy(&version.stdout).starts_with("Python 3.11.") {
        eprintln!("not compared with other programs, because they are pinned for Python 3.11");
        return;
    }
    let loaders = installed("loaders");
    let script = root().join("tests/loaders/load_exports.py");
    let mut command = Command::new(loaders.join("python"));
    command.arg(script).arg(env.dir.path()).arg(root().join("crates/sandbox/demo/scenes"));
    command.env("HF_HOME", env.path("hf")).env("HF_HUB_OFFLINE", "1").env("MPLCONFIGDIR", env.path("mpl"));
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let loaded: Vec<_> = found.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "coco: nouns",
        "coco: pycocotools",
        "coco: supervision",
        "cvat: datumaro",
        "fiftyone: layout",
        "grit: datasets",
        "hub: datasets",
        "jsonl: datasets",
        "label-studio: label-studio-sdk",
        "opensearch: layout",
        "parquet: datasets",
        "parquet: duckdb",
        "parquet: polars",
        "parquet: pyarrow",
        "parquet-pictures: pyarrow",
        "webdataset: datasets",
        "webdataset: webdataset",
        "yolo: supervision",
    ];
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(loaded, expected);
}

/// The Python implementation of protobuf reads each line as the message that is in the stream.
async fn messages_are_in_the_json_form_of_protobuf(env: &TestEnv, truth: &Truth) {
    let (client, modules) = (installed("client"), env.path("modules"));
    std::fs::create_dir(&modules).unwrap();
    let protos = ["job", "annotation"].map(|name| format!("groundling/v1/{name}.proto"));
    let mut protoc = Command::new(client.join("protoc"));
    protoc.current_dir(root().join("proto")).arg(format!("--python_out={modules}")).args(protos);
    assert!(protoc.status().await.unwrap().success());
    let messages: Vec<_> = truth.messages.values().map(|message| json!(message.encode_to_vec())).collect();
    std::fs::write(env.path("messages.json"), json!(messages).to_string()).unwrap();
    let mut command = Command::new(client.join("python"));
    command.arg(root().join("tests/loaders/compare_json.py")).arg(modules).arg(env.path("messages.json"));
    let output = command.arg(env.path("jsonl")).output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "48");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_to_s3_has_the_same_files_as_one_to_a_directory() {
    let env = TestEnv::start().await;
    env.fill_with_scenes().await;
    let bucket = env.s3.access().bucket.clone();
    for (format, pictures) in [("parquet", true), ("coco", false)] {
        let arguments = ["--format", format, "--shard-size", "20", "--pictures"];
        let arguments = if pictures { &arguments[..] } else { &arguments[..4] };
        env.exported(format, arguments).await;
        env.exported(&format!("s3://{bucket}/exports/{format}"), arguments).await;
        let local = files(Path::new(&env.path(format)));
        let stored = files(&env.objects.path().join(&bucket).join("exports").join(format));
        let names = |files: &std::collections::BTreeMap<String, Vec<u8>>| {
            files.keys().filter(|name| !name.contains(".s3s-fs")).cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(&stored), names(&local));
        assert!(local.iter().all(|(name, bytes)| stored.get(name) == Some(bytes)), "{format}");
    }
}
