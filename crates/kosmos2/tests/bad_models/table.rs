//! Changed files with the expected error.

use mutations::with_header;
use serde_json::{Value, json};

use super::*;

/// A file with another value at a path of its JSON; `None` removes the key.
fn set(whole: &[u8], path: &str, value: Option<Value>) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(whole).unwrap();
    let (parent, key) = path.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(parent.insert(key.into(), value)),
        None => drop(parent.remove(key).unwrap()),
    }
    document.to_string().into_bytes()
}

/// Checks rows of description, contents of the file and part of the error.
fn check(model: &SmallModel, file: &str, rows: Vec<(String, Vec<u8>, &str)>) {
    let mut wrong = Vec::new();
    for (what, bytes, sentence) in rows {
        model.with(file, &bytes, |dir| match fault(dir, &[file]) {
            Some(fault) => wrong.push(format!("{what}: {fault}")),
            None => match use_model(dir) {
                Err(found) if found.contains(sentence) => {}
                other => wrong.push(format!("{what}: {other:?}")),
            },
        });
    }
    assert!(wrong.is_empty(), "{file}\n{}", wrong.join("\n"));
}

#[test]
fn configurations_beyond_reason_are_refused_by_their_key() {
    let model = SmallModel::new();
    let whole = model.file("config.json");
    let row =
        |path: &str, value: Option<Value>, sentence| (format!("{path} {value:?}"), set(whole, path, value), sentence);
    let mut rows = Vec::new();
    for path in [
        "/text_config/vocab_size",
        "/text_config/max_position_embeddings",
        "/text_config/embed_dim",
        "/text_config/layers",
        "/text_config/ffn_dim",
        "/text_config/attention_heads",
        "/vision_config/hidden_size",
        "/vision_config/intermediate_size",
        "/vision_config/num_hidden_layers",
        "/vision_config/num_attention_heads",
        "/vision_config/image_size",
        "/vision_config/patch_size",
        "/latent_query_num",
    ] {
        rows.push(row(path, Some(json!(0)), " is 0, but a number from 1 to "));
        rows.push(row(path, Some(json!(1_000_000_000)), " is 1000000000, but a number from 1 to "));
        rows.push(row(path, Some(json!(u64::MAX)), " is 18446744073709551615, but a number from 1 to "));
        rows.push(row(path, Some(json!(-1)), "expected usize"));
        rows.push(row(path, Some(json!("8")), "expected usize"));
        rows.push(row(path, Some(json!(2.5)), "expected usize"));
    }
    rows.extend([
        row("/text_config/attention_heads", Some(json!(7)), "is 7, but a divisor of the width 64"),
        row("/vision_config/num_attention_heads", Some(json!(7)), "is 7, but a divisor of the width 64"),
        row("/vision_config/patch_size", Some(json!(15)), "is 15, but a divisor of image_size"),
        row("/text_config/layer_norm_eps", Some(json!(-1e-5)), "a number above 0 and at most 1"),
        row("/vision_config/layer_norm_eps", Some(json!(0)), "a number above 0 and at most 1"),
        row("/text_config/pad_token_id", Some(json!(4_000_000_000u64)), "an id below vocab_size"),
        row("/model_type", Some(json!("blip")), "model_type is \"blip\""),
        row("/model_type", None, "model_type is absent"),
        row("/text_config", Some(json!([])), "but config.json requires [65037, 2048]"),
        row("/text_config", Some(json!(null)), "is not a KOSMOS-2 configuration"),
        row("/text_config/layers", None, "layers.2"),
        row("/text_config/layers", Some(json!(3)), "which config.json requires, is missing"),
        row("/latent_query_num", Some(json!(4096)), "but config.json requires [4096, 64]"),
        row("/text_config/ffn_dim", Some(json!(1 << 18)), "but config.json requires [262144, 64]"),
        ("cut".into(), whole[..whole.len() / 2].to_vec(), "is not a KOSMOS-2 configuration"),
        ("empty".into(), Vec::new(), "is not a KOSMOS-2 configuration"),
        ("nested".into(), "[".repeat(1 << 20).into_bytes(), "is not a KOSMOS-2 configuration"),
        ("large".into(), vec![b' '; (16 << 20) + 1], "larger than 16 MiB"),
    ]);
    check(&model, "config.json", rows);
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let model = SmallModel::new();
    let whole = model.file("model.safetensors");
    let name = "text_model.model.layer_norm.bias";
    let field =
        |key: &str, value: Value| with_header(whole, |header| set(header, &format!("/{name}/{key}"), Some(value)));
    let length = |length: u64| [&length.to_le_bytes()[..], &whole[8..]].concat();
    let again = |header: &[u8]| {
        let entry = serde_json::from_slice::<Value>(header).unwrap()[name].to_string();
        [format!("{{\"{name}\":{entry},").as_bytes(), &header[1..]].concat()
    };
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "is cut short: 8 bytes were expected and 0 found"),
        ("five bytes", whole[..5].to_vec(), "is cut short: 8 bytes were expected and 5 found"),
        ("cut in its header", whole[..100].to_vec(), "is cut short"),
        ("cut in its data", whole[..whole.len() - 1].to_vec(), "is cut short"),
        ("longer than it says", [whole, &[0; 9]].concat(), "is not a readable safetensors file"),
        ("header of no bytes", length(0), "is not a readable safetensors file"),
        ("header as long as can be said", length(u64::MAX), "its header would have"),
        ("header of a gigabyte", length(1 << 30), "its header would have"),
        ("header beyond the end", length(50_000_000), "is cut short"),
        ("header that is not JSON", with_header(whole, |_| vec![b'x'; 64]), "is not a readable safetensors file"),
        ("header that is a list", with_header(whole, |_| b"[1]".to_vec()), "tensors by name"),
        ("header without tensors", with_header(whole, |_| b"{}".to_vec()), "is not a readable safetensors file"),
        ("one name twice", with_header(whole, again), "it names text_model.model.layer_norm.bias twice"),
        ("offsets beyond the end", field("data_offsets", json!([0, 1u64 << 40])), "is cut short"),
        ("offsets that overflow", field("data_offsets", json!([0, u64::MAX])), "is cut short"),
        ("offsets backwards", field("data_offsets", json!([256, 0])), "is not a readable safetensors file"),
        ("offsets over others", field("data_offsets", json!([0, 256])), "is not a readable safetensors file"),
        ("offsets below zero", field("data_offsets", json!([-1, 255])), "is not a readable safetensors file"),
        ("a shape that overflows", field("shape", json!([1u64 << 62, 1u64 << 62])), "is not a readable"),
        ("a shape larger than its data", field("shape", json!([1_000_000_000])), "is not a readable"),
        ("a shape of another form", field("shape", json!([64, 1])), "has shape [64, 1], but config.json requires [64]"),
        ("another dtype of the same size", field("dtype", json!("I32")), "is stored as i32, but f32, f16 or bf16"),
        ("a smaller dtype", field("dtype", json!("F16")), "is not a readable safetensors file"),
        ("an unknown dtype", field("dtype", json!("F7")), "is not a readable safetensors file"),
    ];
    check(
        &model,
        "model.safetensors",
        rows.into_iter().map(|(what, bytes, part)| (what.into(), bytes, part)).collect(),
    );
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let model = SmallModel::new();
    let whole = model.file("tokenizer.json");
    let words = json!({"type": "WordLevel", "unk_token": "<unk>", "vocab": {"<unk>": u32::MAX, "<s>": 0}});
    let rows: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "cannot be read as a tokenizer"),
        ("cut", whole[..whole.len() / 2].to_vec(), "cannot be read as a tokenizer"),
        ("another thing", b"[]".to_vec(), "cannot be read as a tokenizer"),
        ("no model", set(whole, "/model", None), "cannot be read as a tokenizer"),
        ("no words", set(whole, "/model/vocab", Some(json!([]))), "cannot be read as a tokenizer"),
        ("unknown word beyond", set(whole, "/model/unk_id", Some(json!(1u64 << 40))), "cannot be read as a tokenizer"),
        ("no tags", set(whole, "/added_tokens", Some(json!([]))), "has no token "),
        ("ids at the end of numbers", set(whole, "/model", Some(words)), "ids must be consecutive from 0"),
        (
            "a template with ids beyond",
            set(whole, "/post_processor/special_tokens/<s>/ids", Some(json!([4_000_000_000u64]))),
            "ids must be consecutive from 0",
        ),
        (
            "a word list of characters that is none",
            set(whole, "/normalizer", Some(json!({"type": "Precompiled", "precompiled_charsmap": "////"}))),
            "cannot be read as a tokenizer",
        ),
    ];
    check(&model, "tokenizer.json", rows.into_iter().map(|(what, bytes, part)| (what.into(), bytes, part)).collect());
}

#[test]
fn small_configurations_with_numbers_that_are_none_are_refused() {
    let model = SmallModel::new();
    let whole = model.file("preprocessor_config.json");
    let row = |path: &str, value: Value, part| (format!("{path} {value}"), set(whole, path, Some(value)), part);
    check(
        &model,
        "preprocessor_config.json",
        vec![
            row("/size", json!({"shortest_edge": 1_000_000_000}), "but a square"),
            row("/size", json!({"shortest_edge": 0}), "but a square"),
            row("/size", json!({"shortest_edge": -224}), "but a square"),
            row("/image_mean", json!([1e300, 0, 0]), "but a list of finite numbers is expected"),
            row("/image_std", json!([0.5, 0, 0.5]), "but a list of finite numbers without a zero"),
            row("/image_std", json!([0.5, 1e-300, 0.5]), "but a list of finite numbers without a zero"),
            row("/image_std", json!([0.5]), "is not an image processor's configuration"),
            row("/rescale_factor", json!(0), "but a finite number other than 0"),
            row("/rescale_factor", json!(1e300), "but a finite number other than 0"),
            row("/resample", json!(-3), "is not an image processor's configuration"),
        ],
    );
    let many = json!({"eos_token_id": vec![5; 1000]}).to_string().into_bytes();
    let ids = |text: &str, part| (text.to_owned(), text.as_bytes().to_vec(), part);
    check(
        &model,
        "generation_config.json",
        vec![
            ("a thousand ends".into(), many, "eos_token_id is a list of 1000, but at most 64 ids"),
            ids(r#"{"eos_token_id": -2}"#, "is not a KOSMOS-2 configuration"),
            ids(r#"{"eos_token_id": "</s>"}"#, "is not a KOSMOS-2 configuration"),
            ids("", "is not a KOSMOS-2 configuration"),
        ],
    );
}

#[test]
fn an_index_leads_to_no_file_outside_its_directory() {
    let model = SmallModel::new();
    let index = "model.safetensors.index.json";
    let shard = |name: &str| json!({"weight_map": {"a": name}}).to_string();
    let mut wrong = Vec::new();
    for (text, part) in [
        (shard("../model.safetensors"), "is not a plain file name"),
        (shard("/etc/passwd"), "is not a plain file name"),
        (shard("a/../../b"), "is not a plain file name"),
        (shard(".."), "is not a plain file name"),
        (shard(""), "is not a plain file name"),
        (shard("model-00002-of-00001.safetensors"), "model-00002-of-00001.safetensors: cannot be read"),
        (shard("a\0b"), "cannot be read"),
        (shard(&"x".repeat(5000)), "cannot be read"),
        (shard("config.json"), "config.json: is not a readable safetensors file"),
        ("{}".into(), "is not a readable safetensors index file"),
        (r#"{"weight_map": {}}"#.into(), "is missing; the file is not a complete KOSMOS-2 checkpoint"),
        (r#"{"weight_map": {"a": 7}}"#.into(), "is not a readable safetensors index file"),
        (r#"{"weight_map": [1]}"#.into(), "is not a readable safetensors index file"),
        (String::new(), "is not a readable safetensors index file"),
    ] {
        let (fault, found) =
            model.with_index(&text, |dir| (fault(dir, &[".json", ": cannot be read"]), use_model(dir)));
        let is_right = fault.is_none() && found.as_ref().is_err_and(|sentence| sentence.contains(part));
        if !is_right {
            wrong.push(format!("{text:.80}: {fault:?} {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{index}\n{}", wrong.join("\n"));
}

#[test]
fn two_shards_with_the_same_tensor_are_refused() {
    let model = SmallModel::new();
    std::fs::write(model.path().join("other.safetensors"), model.file("model.safetensors")).unwrap();
    let index = json!({"weight_map": {"a": "model-00001-of-00001.safetensors", "b": "other.safetensors"}});
    let sentence = model.with_index(&index.to_string(), use_model).unwrap_err();
    assert!(sentence.contains("other.safetensors: tensor"), "{sentence}");
    assert!(sentence.contains("is also in") && sentence.contains("not of one checkpoint"), "{sentence}");
}
