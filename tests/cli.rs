//! The command line's contract: arguments, output and exit codes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../crates/kosmos2/tests/common/mod.rs"]
mod common;
mod support;

use std::path::Path;
use std::process::{Output, Stdio};

use candle_core::{Device, safetensors};
use common::{fixtures, json, reference_model_dir};
use sandbox::EmbeddedS3;
use serde_json::{Value, json};
use support::{Golden, demo, goldens, groundling, stderr_of, with_store};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

fn with_model() -> Command {
    let mut command = groundling();
    command.env("GROUNDLING_MODEL", demo().model_dir);
    command
}

async fn run(command: &mut Command) -> Output {
    command.output().await.unwrap()
}

async fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Some inputs are larger than the capacity of a pipe, so they are written while the output is read.
    let writing = tokio::spawn(async move { stdin.write_all(&input).await });
    let output = child.wait_with_output().await.unwrap();
    writing.await.unwrap().unwrap();
    output
}

fn json_lines(output: &Output) -> Vec<Value> {
    let lines = String::from_utf8(output.stdout.clone()).unwrap();
    lines.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_is_golden(line: &Value, golden: &Golden) {
    assert_eq!(line["prompt"], golden.prompt);
    assert_eq!(line["text"], golden.text);
    assert_eq!(line["raw_text"], golden.markup);
    assert_eq!(line["token_ids"], json!(golden.new_ids));
    assert_eq!(line["finish_reason"], "stop");
    assert_eq!(line["model"], "kosmos-2-emoji");
    let entities = line["entities"].as_array().unwrap();
    assert_eq!(entities.len(), golden.entities.len());
    for (entity, (phrase, (start, end), boxes)) in entities.iter().zip(&golden.entities) {
        assert_eq!(entity["phrase"], *phrase);
        assert_eq!((&entity["start"], &entity["end"]), (&json!(start), &json!(end)));
        assert_eq!(entity["boxes"], json!(boxes));
        assert_eq!(entity["box_scores"].as_array().unwrap().len(), boxes.len());
        let keys: Vec<_> = entity.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["box_scores", "boxes", "end", "phrase", "score", "start"]);
    }
}

#[tokio::test]
async fn annotate_answers_for_every_picture_of_a_directory_in_order() {
    let output = run(with_model().args(["annotate", "--format", "json-v0"]).arg(demo().scenes_dir)).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let lines = json_lines(&output);
    let expected: Vec<_> = goldens().into_iter().filter(|g| g.prompt == "<grounding> An image of").collect();
    assert_eq!((lines.len(), expected.len()), (48, 48));
    for (line, golden) in lines.iter().zip(&expected) {
        assert!(line["image"].as_str().unwrap().ends_with(&golden.file));
        let keys: Vec<_> = line.as_object().unwrap().keys().collect();
        let contract = ["entities", "finish_reason", "image", "model", "prompt", "raw_text", "text", "token_ids"];
        assert_eq!(keys, contract);
        assert_is_golden(line, golden);
    }
}

#[tokio::test]
async fn annotate_takes_several_prompts_and_tasks_from_several_kinds_of_sources() {
    let scene = &demo().scenes[0];
    let bytes = std::fs::read(&scene.path).unwrap();
    // The same picture as a file, on standard input, as an S3 object and behind a web address.
    let dir = tempfile::tempdir().unwrap();
    let s3 = EmbeddedS3::start(dir.path()).await.unwrap();
    std::fs::write(dir.path().join(&s3.access().bucket).join("scene.jpg"), &bytes).unwrap();
    let web = serve(bytes.clone()).await;
    let sources = [
        scene.path.display().to_string(),
        "-".into(),
        format!("s3://{}/scene.jpg", s3.access().bucket),
        format!("{web}/scene.jpg?x=1"),
    ];
    let mut command = with_model();
    with_store(&mut command, s3.access());
    command
        .args(["annotate", "--format", "json-v0", "--prompt", "An image of"])
        .args(["--task", "ground=a snowman", "--task", "detailed", "--task", "describe=596,891"])
        .args(&sources);
    let output = run_with_input(&mut command, &bytes).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let prompts =
        ["An image of", "<grounding><phrase> a snowman</phrase>", "<grounding> Describe this image in detail:"];
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 4 * sources.len());
    for (answers, source) in lines.chunks(4).zip(&sources) {
        for (line, prompt) in answers.iter().zip(prompts) {
            let golden = goldens().into_iter().find(|g| g.file == scene.file_name && g.prompt == prompt).unwrap();
            assert_eq!(line["image"], *source);
            assert_is_golden(line, &golden);
        }
        // The box is part of the prompt, so it has no score.
        assert_eq!(answers[3]["text"], "It is a fire.");
        assert_eq!(answers[3]["entities"][0]["score"], Value::Null);
        assert_eq!(answers[3]["entities"][0]["box_scores"], json!([null]));
    }
}

/// A web server that answers everything with these bytes.
async fn serve(bytes: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
            socket.write_all(head.as_bytes()).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn no_cleanup_prints_the_raw_text_and_reads_nothing_from_it() {
    let scene = &demo().scenes[0];
    let output = run(with_model().args(["annotate", "--format", "json-v0", "--no-cleanup"]).arg(&scene.path)).await;
    let line = json_lines(&output).remove(0);
    assert_eq!(line["text"], goldens()[0].markup);
    assert_eq!((&line["raw_text"], &line["entities"]), (&line["text"], &json!([])));
}

#[tokio::test]
async fn a_text_cut_by_the_limit_says_so() {
    let scene = &demo().scenes[0];
    let mut command = with_model();
    command.args(["annotate", "--format", "json-v0", "--max-new-tokens", "5"]).arg(&scene.path);
    let line = json_lines(&run(&mut command).await).remove(0);
    assert_eq!(line["finish_reason"], "length");
    assert_eq!(line["token_ids"], json!(goldens()[0].new_ids[..5]));
}

#[tokio::test]
async fn a_seed_fixes_what_is_drawn() {
    let draw = async |seed: &str| {
        let mut command = with_model();
        command.args(["annotate", "--format", "json-v0", "--temperature", "5", "--top-k", "50", "--seed", seed]);
        json_lines(&run(command.arg(&demo().scenes[0].path)).await).remove(0)["token_ids"].clone()
    };
    let (first, again, other) = (draw("1").await, draw("1").await, draw("2").await);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

#[tokio::test]
async fn a_picture_that_fails_is_named_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.jpg");
    std::fs::write(&bad, "no picture").unwrap();
    let mut command = with_model();
    command.args(["annotate", "--format", "json-v0"]).arg(&bad).arg("no/such.png").arg(&demo().scenes[0].path);
    let output = run(&mut command).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json_lines(&output).len(), 1);
    let said = stderr_of(&output);
    assert!(said.contains("bad.jpg: the picture has an unknown format") && said.contains("no/such.png: "), "{said}");
    let mut command = with_model();
    command.args(["annotate", "--max-bytes", "1000"]).arg(&demo().scenes[0].path);
    let output = run(&mut command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_of(&output).contains("more than 1000 bytes; raise --max-bytes"));
}

#[tokio::test]
async fn misuse_is_one_sentence_and_exit_code_2() {
    let scene = demo().scenes[0].path.display().to_string();
    let cases: [(&[&str], &str); 23] = [
        (&["annotate"], "required"),
        (&["annotate", ""], "an argument is empty"),
        (&["annotate", "--s3-endpoint", "127.0.0.1:8333", &scene], "an address like http://127.0.0.1:8333"),
        (&["annotate", "--out", "x.csv", &scene], "not as .csv; name a file ending in .jsonl"),
        (&["annotate", "--out", "x.jsonl", "--format", "text", &scene], "--out writes --format json only"),
        (&["annotate", "--format", "parquet", &scene], "possible values"),
        (&["annotate", "--out", "", &scene], "--out is empty"),
        (&["annotate", "--prompt", "<phrase>a</phrase>", "--boxes", "[null, null]", &scene], "1 <phrase>…</phrase>"),
        (&["annotate", "--prompt", "<phrase>a</phrase>", "--boxes", "[[[0, 0, 1, 1]]]", &scene], "write 0.0, not 0"),
        (&["annotate", "--task", "describe=50,40,120,100", &scene], "fractions from 0 to 1"),
        (&["annotate", "--task", "describe=0.1,0.2,1.5,0.9", &scene], "fractions from 0 to 1"),
        (&["annotate", "--task", "describe=0.5,0.2,0.1,0.9", &scene], "x0 below x1"),
        (&["annotate", "--task", "describe=5000,9000", &scene], "whole numbers from 0 to 1023"),
        (&["annotate", "--task", "describe=-1,3", &scene], "whole numbers from 0 to 1023"),
        (&["annotate", "--prompt", "<phrase>a</phrase>", "--boxes", "[[[0, 1024]]]", &scene], "0 to 1023"),
        (&["annotate", "--prompt", "<phrase>a</phrase>", "--boxes", "[[[0.5, 0.5, 2.0, 2.0]]]", &scene], "0 to 1"),
        (&["annotate", "--prompt", "", &scene], "--prompt is empty"),
        (&["annotate", "--prompt", "<patch_index_5000>", &scene], "<patch_index_1023>"),
        (&["annotate", "--boxes", "[]", &scene], "--boxes requires exactly one --prompt"),
        (&["annotate", "--task", "ground=a</phrase>b", &scene], "would act as markup"),
        (&["annotate", "--temperature", "-1", &scene], "temperature"),
        (&["annotate", "--device", "gpu", &scene], "expected auto, cpu, cuda"),
        (&["bench", "--pictures", "4"], "--pictures goes with"),
    ];
    for (arguments, sentence) in cases {
        let output = run(with_model().args(arguments)).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr_of(&output));
        assert!(stderr_of(&output).contains(sentence), "{arguments:?}: {}", stderr_of(&output));
        assert!(output.stdout.is_empty());
    }
    let output = run(groundling().args(["annotate", &scene])).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr_of(&output).contains("hf://microsoft/kosmos-2-patch14-224"), "{}", stderr_of(&output));
    assert_eq!(stderr_of(&output).trim_end().lines().count(), 1);
    let output = run(groundling().args(["annotate", "--model", "/no/such", &scene])).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr_of(&output));
    assert!(
        stderr_of(&output).starts_with("groundling: /no/such: there is no such model directory"),
        "{}",
        stderr_of(&output)
    );
    let output = run(with_model().env("GROUNDLING__WORKER__SLOTZ", "3").args(["worker"])).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr_of(&output).contains("slotz"), "{}", stderr_of(&output));
}

#[tokio::test]
async fn a_worker_that_could_do_no_job_does_not_start() {
    let cases = [
        ("GROUNDLING__ENGINE__SLOT_TOKENS", "66", "engine.slot_tokens is 66, but the shortest task"),
        ("GROUNDLING__NATS__URL", "ws://127.0.0.1:4222", "nats.url: \"ws://127.0.0.1:4222\" is a WebSocket address"),
        (
            "AWS_USE_DUALSTACK_ENDPOINT",
            "true",
            "s3.endpoint is set, but the environment variable AWS_USE_DUALSTACK_ENDPOINT",
        ),
        ("AWS_USE_FIPS_ENDPOINT", "true", "s3.endpoint is set, but the environment variable AWS_USE_FIPS_ENDPOINT"),
    ];
    for (name, value, sentence) in cases {
        let mut command = with_model();
        command.env("GROUNDLING__S3__ALLOW", "*").env("GROUNDLING__S3__ENDPOINT", "http://127.0.0.1:9");
        let output = run(command.env(name, value).arg("worker")).await;
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr_of(&output));
        assert!(stderr_of(&output).contains(sentence), "{name}: {}", stderr_of(&output));
    }
}

/// The goldens' tuples as the JSON that `--boxes` takes.
fn boxes_json(value: &Value) -> Value {
    match value {
        Value::Object(tuple) => tuple["box"].clone(),
        Value::Array(list) => list.iter().map(boxes_json).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn inspect_prompt_prints_the_references_ids_and_masks_without_weights() {
    let dir = reference_model_dir();
    assert!(!dir.path().join("model.safetensors").exists());
    let goldens: Value = json(fixtures().join("text/text.json"));
    let mut tried = 0;
    for case in goldens["processor"].as_array().unwrap() {
        let Some(prompt) = case["text"].as_str().filter(|_| case["add_special_tokens"].is_null()) else { continue };
        let mut command = groundling();
        command.args(["inspect", "prompt", "--prompt", prompt, "--model"]).arg(dir.path());
        if !case["bboxes"].is_null() {
            command.args(["--boxes", &boxes_json(&case["bboxes"]).to_string()]);
        }
        for (key, value, flag) in [("image", false, "--no-image"), ("add_eos_token", true, "--add-eos")] {
            if case[key] == value {
                command.arg(flag);
            }
        }
        let output = run(&mut command).await;
        if case["error"].is_string() {
            assert_eq!(output.status.code(), Some(2), "{}", case["name"]);
            continue;
        }
        let line = json_lines(&output).remove(0);
        for key in ["input_ids", "attention_mask", "image_embeds_position_mask"] {
            assert_eq!(line[key], case[key], "{} {key}", case["name"]);
        }
        tried += 1;
    }
    assert!(tried >= 25, "{tried}");
}

#[tokio::test]
async fn inspect_image_writes_the_pixel_values() {
    let (model, out) = (reference_model_dir(), tempfile::tempdir().unwrap());
    let read = async |flags: &[&str]| {
        let file = out.path().join("pixels.safetensors");
        let mut command = groundling();
        command.args(["inspect", "image", "--model"]).arg(model.path()).arg(fixtures().join("images/exif_rotated.jpg"));
        let output = run(command.arg("--out").arg(&file).args(flags)).await;
        assert!(output.status.success(), "{}", stderr_of(&output));
        let tensor = safetensors::load(&file, &Device::Cpu).unwrap().remove("pixel_values").unwrap();
        assert_eq!(tensor.dims(), [1, 3, 224, 224]);
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let golden = |kind: &str| {
        let file = fixtures().join(format!("images/expected/exif_rotated.jpg.{kind}.png"));
        let bytes = image::open(file).unwrap().into_rgb8();
        let byte = f64::from(bytes.get_pixel(100, 50).0[1]);
        ((byte / 255.0 - 0.4578275) / 0.26130258) as f32
    };
    let at = 224 * 224 + 50 * 224 + 100;
    assert!((read(&[]).await[at] - golden("oriented")).abs() < 1e-6);
    assert!((read(&["--no-exif-orientation"]).await[at] - golden("plain")).abs() < 1e-6);
}

#[tokio::test]
async fn inspect_text_answers_one_line_for_each_line() {
    let goldens: Value = json(fixtures().join("text/post.json"));
    let one_line = |case: &&Value| !case["text"].as_str().unwrap().contains('\n');
    let cases: Vec<_> = goldens["cases"].as_array().unwrap().iter().filter(one_line).collect();
    let input: String = cases.iter().map(|case| format!("{}\n", case["text"].as_str().unwrap())).collect();
    let read = json_lines(&run_with_input(groundling().args(["inspect", "text"]), input.as_bytes()).await);
    let raw = json_lines(&run_with_input(groundling().args(["inspect", "text", "--raw"]), input.as_bytes()).await);
    assert_eq!((read.len(), raw.len()), (cases.len(), cases.len()));
    for ((case, read), raw) in cases.iter().zip(&read).zip(&raw) {
        assert_eq!(read, &json!({"text": case["caption"], "entities": case["entities"]}), "{}", case["text"]);
        assert_eq!(raw, &json!({"text": case["raw"], "entities": []}), "{}", case["text"]);
    }
    assert!(cases.iter().any(|case| case["text"] == ""), "an empty line is answered too");
}

#[tokio::test]
async fn demo_shows_every_scene_and_ends_by_itself() {
    let out = tempfile::tempdir().unwrap();
    let output = run(groundling().args(["demo", "--format", "json", "--out"]).arg(out.path())).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let captions: Vec<_> = goldens().into_iter().filter(|g| g.prompt == "<grounding> An image of").collect();
    let lines = json_lines(&output);
    assert_eq!(lines.len(), 48);
    for (line, golden) in lines.iter().zip(&captions) {
        assert_eq!((&line["image"], &line["text"]), (&json!(golden.file), &json!(golden.text)));
        let picture = Path::new(&golden.file).with_extension("png");
        assert!(image::open(out.path().join(picture)).is_ok());
    }
    let page = std::fs::read_to_string(out.path().join("index.html")).unwrap();
    assert!(captions.iter().all(|golden| page.contains(&golden.file)));
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"));
}

#[tokio::test]
async fn settings_prints_a_schema_and_a_file_of_defaults_that_the_worker_reads() {
    let output = run(groundling().args(["settings", "--schema"])).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["properties"]["nats"]["$ref"], "#/$defs/NatsSettings");
    assert_eq!(schema["$defs"]["NatsSettings"]["properties"]["request_timeout"]["default"], "15s");
    let output = run(groundling().args(["settings", "--defaults"])).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("defaults.toml");
    std::fs::write(&file, &output.stdout).unwrap();
    // Nothing is wrong with the file but that a worker needs to know what it may read.
    let output = run(with_model().arg("worker").arg("--settings").arg(&file)).await;
    assert_eq!(output.status.code(), Some(2), "{}", stderr_of(&output));
    assert!(stderr_of(&output).starts_with("groundling: s3.allow "), "{}", stderr_of(&output));
    for wrong in [&["settings"][..], &["settings", "--schema", "--defaults"]] {
        assert_eq!(run(groundling().args(wrong)).await.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_worker_is_measured_beside_its_engine_on_the_same_pictures() {
    let scenes = demo().scenes;
    let mut command = with_model();
    command.args(["bench", "--device", "cpu", "--batch", "2", "--pictures", "5", "--new-tokens", "8", "--repeat", "1"]);
    command
        .args(["--warmup", "0", "--with-telemetry", "--format", "json", "--through-worker"])
        .args([&scenes[0].path, &scenes[1].path]);
    let output = run(&mut command).await;
    assert!(output.status.success(), "{}", stderr_of(&output));
    let [line] = &json_lines(&output)[..] else { panic!("one line for one batch size") };
    assert_eq!((&line["pictures"], &line["batch"]), (&json!(5), &json!(2)));
    assert_eq!((&line["engine_tokens"], &line["worker_tokens"]), (&json!(40), &json!(40)));
    assert!(line["engine_images_per_s"].as_f64().unwrap() > 0.0 && line["worker_images_per_s"].as_f64().unwrap() > 0.0);
    assert!(line["telemetry_images_per_s"].as_f64().unwrap() > 0.0 && line["telemetry_share"].as_f64().unwrap() > 0.0);
    assert!(line["job_stages"]["total_s"].as_f64().unwrap() > 0.0);
}
