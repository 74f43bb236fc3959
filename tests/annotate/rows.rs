//! The rows of `--format json`: one schema, also for failures and for what workers publish.

use std::fs;
use std::path::Path;

use prost_types::{Duration, Timestamp};
use sandbox::tools::SearchPaths;
use serde_json::{Value, json};
use tokio::process::Command;
use wire::v1::{self, FailureReason};

use crate::schema::Schema;
use crate::support::{TestServers, caption, demo, goldens, stderr_of};
use crate::{annotate, folder, json_lines};

#[tokio::test]
async fn a_row_is_the_annotation_that_a_worker_publishes() {
    let dir = folder(&["a.jpg"]);
    let picture = dir.path().join("a.jpg");
    let mut command = annotate();
    command.args(["--format", "json", "--task", "brief", "--task", "ground=a snowman", "--task", "describe=596,891"]);
    let output = command.arg(&picture).output().await.unwrap();
    assert!(output.status.success(), "{}", stderr_of(&output));
    let [row] = &json_lines(&output)[..] else { panic!("one row for each picture") };
    let problems = Schema::read().problems(row);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(row["job_id"], picture.display().to_string());
    let bytes = fs::read(&picture).unwrap();
    let (width, height) = image::image_dimensions(&picture).unwrap();
    let facts = json!({
        "format": "jpeg", "width": width, "height": height, "size_bytes": bytes.len(),
        "sha256": wire::identity::sha256_hex(&bytes), "orientation": 1, "orientation_applied": false,
    });
    assert_eq!(row["picture"], facts);
    assert_eq!(row["model"]["name"], "kosmos-2-emoji");
    let results = row["results"].as_array().unwrap();
    let ids: Vec<_> = results.iter().map(|result| result["task_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["brief", "ground=a snowman", "describe=596,891"]);
    let answers: Vec<_> = results.iter().map(|result| result["answer"].as_str().unwrap()).collect();
    let golden = goldens().into_iter().find(|g| g.file == "0000.jpg" && g.prompt == "<grounding> An image of").unwrap();
    assert_eq!(answers, [golden.text.strip_prefix("An image of ").unwrap(), "", "a fire."]);
    assert_eq!(results[0]["text"], golden.text);
    assert_eq!(results[0]["raw_text"], golden.markup);
    assert_eq!(results[0]["finish_reason"], "FINISH_REASON_STOP");
    let place = &results[0]["entities"][0]["boxes"][0];
    for (side, length) in [("x0", width), ("y0", height), ("x1", width), ("y1", height)] {
        let (fraction, pixels) = (place["fractions"][side].as_f64().unwrap(), place["pixels"][side].as_f64().unwrap());
        assert_eq!(pixels, fraction * f64::from(length), "{side}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_publishes_the_answer_too() {
    let servers = TestServers::start().await;
    let worker = servers.worker();
    servers.upload("a.jpg", fs::read(&demo().scenes[0].path).unwrap()).await;
    servers.enqueue(&servers.job("j", "a.jpg", vec![caption()])).await;
    let (annotations, _) = servers.wait_for_outcomes(1).await;
    let result = &annotations[0].results[0];
    assert_eq!(format!("An image of {}", result.answer), result.text);
    let row: Value = serde_json::from_str(&serde_json::to_string(&annotations[0]).unwrap()).unwrap();
    let problems = Schema::read().problems(&row);
    assert!(problems.is_empty(), "{problems:?}");
    // The same picture on the command line.
    let mut command = servers.groundling();
    command
        .args(["annotate", "--format", "json", "--well-formed"])
        .arg(format!("s3://{}/a.jpg", servers.bucket().bucket));
    let output = command.output().await.unwrap();
    let [local] = &json_lines(&output)[..] else { panic!("one row: {}", stderr_of(&output)) };
    assert_eq!((&local["picture"], &local["model"]), (&row["picture"], &row["model"]));
    let mut results = [&row, local].map(|row| row["results"][0].clone());
    results.iter_mut().for_each(|result| result["task_id"] = json!("t"));
    assert_eq!(results[0], results[1]);
    assert!(worker.terminate().await.success());
}

#[tokio::test]
async fn a_failure_is_a_row_with_its_reason() {
    let dir = folder(&["a.jpg", "large.jpg"]);
    fs::write(dir.path().join("bad.jpg"), "no picture").unwrap();
    let bytes = fs::read(dir.path().join("a.jpg")).unwrap();
    fs::write(dir.path().join("cut.jpg"), &bytes[..bytes.len() / 2]).unwrap();
    let large = fs::File::options().append(true).open(dir.path().join("large.jpg")).unwrap();
    large.set_len(200_000).unwrap();
    let mut command = annotate();
    command.args(["--format", "json", "--max-bytes", "100000", "no/such.jpg"]).arg(dir.path());
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let rows = json_lines(&output);
    let mut schema = Schema::read();
    for row in &rows {
        let problems = schema.problems(row);
        assert!(problems.is_empty(), "{problems:?}");
    }
    let reason = |name: &str| {
        let row = rows.iter().find(|row| row["job_id"].as_str().unwrap().ends_with(name)).unwrap();
        (row["reason"].as_str().unwrap_or_default().to_owned(), row["message"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(rows.len(), 5);
    assert_eq!(reason("no/such.jpg").0, "FAILURE_REASON_OBJECT_NOT_FOUND");
    assert_eq!(reason("bad.jpg").0, "FAILURE_REASON_UNSUPPORTED_PICTURE");
    assert_eq!(reason("cut.jpg").0, "FAILURE_REASON_UNDECODABLE_PICTURE");
    let (large, message) = reason("large.jpg");
    assert_eq!(large, "FAILURE_REASON_OBJECT_TOO_LARGE");
    assert!(message.ends_with("raise --max-bytes to allow it"), "{message}");
    assert!(stderr_of(&output).contains("1 done, 4 failed, "), "{}", stderr_of(&output));
}

#[test]
fn the_schema_has_every_field_and_no_other() {
    let text = |text: &str| text.to_owned();
    let digest = "ab".repeat(32);
    let worker = Some(v1::WorkerIdentity { worker_id: text("w"), version: text("0.1.0") });
    let time = Some(Duration { seconds: 0, nanos: 1_500_000 });
    let fractions = Some(v1::FractionBox { x0: 0.0, y0: 0.0, x1: 1.0, y1: 1.0 });
    let place = v1::GroundedBox {
        fractions,
        pixels: Some(v1::PixelBox { x0: 0.0, y0: 0.0, x1: 2.0, y1: 3.0 }),
        score: Some(0.5),
        refined: fractions,
    };
    let entity = v1::Entity {
        phrase: text("a fox"),
        span: Some(v1::CodePointSpan { start: -1, end: 5 }),
        byte_span: Some(v1::ByteSpan { start: 0, end: 5 }),
        boxes: vec![place],
        score: Some(0.25),
    };
    let object =
        v1::ObjectIdentity { bucket: text("b"), key: text("k"), etag: Some(text("e")), version_id: Some(text("v")) };
    let annotation = v1::ImageAnnotation {
        annotation_id: digest.clone(),
        job_id: text("j"),
        dataset: text("d"),
        labels: [(text("a"), text("b"))].into(),
        picture: Some(v1::PictureFacts { sha256: digest.clone(), object: Some(object), ..v1::PictureFacts::default() }),
        model: Some(v1::ModelIdentity { name: text("m"), revision: Some(text("r")), digest: digest.clone() }),
        results: vec![v1::TaskResult {
            entities: vec![entity],
            finish_reason: v1::FinishReason::Scored.into(),
            token_ids: vec![1],
            logprobs: vec![-0.5, f32::NEG_INFINITY],
            loss: Some(f32::INFINITY),
            ..v1::TaskResult::default()
        }],
        timings: Some(v1::StageTimings {
            intake: time,
            fetch: time,
            decode: time,
            queue: time,
            vision: time,
            prefill: time,
            generate: time,
            total: time,
        }),
        worker: worker.clone(),
        finished_at: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
    };
    let failure = v1::JobFailure {
        job: bytes::Bytes::from_static(b"job"),
        subject: text("s"),
        job_id: Some(text("j")),
        reason: FailureReason::Internal.into(),
        message: text("m"),
        deliveries: 1,
        stream_sequence: 2,
        worker,
        failed_at: Some(Timestamp::default()),
        job_sha256: digest,
        job_omitted: true,
        bucket: Some(text("b")),
        key: Some(text("k")),
        version_id: Some(text("v")),
    };
    let mut schema = Schema::read();
    for row in [serde_json::to_value(&annotation).unwrap(), serde_json::to_value(&failure).unwrap()] {
        let problems = schema.problems(&row);
        assert!(problems.is_empty(), "{problems:?}");
    }
    assert_eq!(schema.seen(), &schema.properties());
    // Both are documented field by field.
    let protocol = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md")).unwrap();
    for property in schema.properties() {
        let field = property.split('.').nth(1).unwrap();
        assert!(protocol.contains(&format!("`{field}`")), "docs/protocol.md does not describe {property}");
    }
    // What is not valid is found.
    let mut row = serde_json::to_value(&annotation).unwrap();
    for (pointer, value) in [
        ("/annotation_id", json!("x")),
        ("/results/0/finish_reason", json!("DONE")),
        ("/results/0/entities/0/boxes/0/score", json!(2)),
        ("/picture/width", json!("9")),
        ("/results/0/loss", json!("inf")),
        ("/labels", json!({"a": 1})),
        ("/model/extra", json!(1)),
    ] {
        let before = row.clone();
        match row.pointer_mut(pointer) {
            Some(place) => *place = value,
            None => drop(row["model"].as_object_mut().unwrap().insert("extra".into(), value)),
        }
        assert!(!schema.problems(&row).is_empty(), "{pointer}");
        row = before;
    }
}

#[tokio::test]
async fn rows_are_protobufs_json() {
    let dir = folder(&["a.jpg"]);
    fs::write(dir.path().join("bad.jpg"), "no picture").unwrap();
    let output = annotate().args(["--format", "json"]).arg(dir.path()).output().await.unwrap();
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, &output.stdout).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // `deploy/install-tools.sh --client` installs Python beside the servers.
    let servers = SearchPaths::from_environment().executable("weed").unwrap();
    let client = servers.ancestors().nth(2).unwrap().join("client/bin");
    let protos = ["job", "annotation", "failure"].map(|name| format!("groundling/v1/{name}.proto"));
    let mut protoc = Command::new(client.join("protoc"));
    protoc.current_dir(root.join("proto")).arg(format!("--python_out={}", dir.path().display())).args(protos);
    assert!(protoc.status().await.unwrap().success());
    let mut python = Command::new(client.join("python"));
    python.arg(root.join("tests/annotate/read_rows.py")).arg(dir.path()).arg(&rows);
    let read = python.output().await.unwrap();
    assert!(read.status.success(), "{}", stderr_of(&read));
    let (read, rows) = (json_lines(&read), json_lines(&output));
    assert_eq!((read.len(), rows.len()), (2, 2));
    // The first one is the annotation, and the second one the failure.
    let (result, found) = (&rows[0]["results"][0], &read[0]["results"][0]);
    for field in ["task_id", "prompt", "text", "answer", "raw_text", "finish_reason", "generated_tokens"] {
        assert_eq!(found[field], result[field], "{field}");
    }
    assert_eq!(found["entities"][0]["boxes"][0]["pixels"], result["entities"][0]["boxes"][0]["pixels"]);
    assert_eq!(read[0]["picture"]["sha256"], rows[0]["picture"]["sha256"]);
    assert_eq!(read[0]["picture"]["size_bytes"], json!(rows[0]["picture"]["size_bytes"].to_string()));
    assert_eq!(read[1], rows[1]);
}

#[tokio::test]
async fn scores_and_phrases_choose_what_a_row_has() {
    let dir = folder(&["a.jpg", "b.jpg", "c.jpg"]);
    let rows = async |arguments: &[&str]| {
        let output = annotate().args(["--format", "json"]).args(arguments).arg(dir.path()).output().await.unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        json_lines(&output)
    };
    let boxes = |rows: &[Value]| -> Vec<(String, f64)> {
        let entities = rows.iter().flat_map(|row| row["results"][0]["entities"].as_array().unwrap());
        let boxes = entities.flat_map(|entity| {
            let phrase = entity["phrase"].as_str().unwrap().to_owned();
            let boxes = entity["boxes"].as_array().unwrap().iter();
            boxes.map(move |one| (phrase.clone(), one["score"].as_f64().unwrap()))
        });
        boxes.collect()
    };
    let all = boxes(&rows(&[]).await);
    let mut scores: Vec<_> = all.iter().map(|(_, score)| *score).collect();
    scores.sort_by(f64::total_cmp);
    let middle = scores[scores.len() / 2];
    let some = rows(&["--min-score", &middle.to_string()]).await;
    let kept = boxes(&some);
    assert!(!kept.is_empty() && kept.len() < all.len(), "{kept:?} of {all:?}");
    assert!(kept.iter().all(|(_, score)| *score as f32 >= middle as f32), "{kept:?}");
    assert_eq!(some[0]["labels"]["min_score"], (middle as f32).to_string());
    let file = dir.path().join("phrases.txt");
    let word = all[0].0.rsplit(' ').next().unwrap();
    fs::write(&file, format!("*{}\n", word.to_uppercase())).unwrap();
    let kept = boxes(&rows(&["--phrases", file.to_str().unwrap()]).await);
    assert!(!kept.is_empty() && kept.iter().all(|(phrase, _)| phrase.ends_with(word)), "{kept:?}");
    for wrong in [&["--min-score", "1.5"][..], &["--phrases", "no/such"]] {
        let output = annotate().args(wrong).arg(dir.path()).output().await.unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {}", stderr_of(&output));
    }
}
