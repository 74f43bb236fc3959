//! Git LFS pointers in place of files that were not fetched.

use kosmos2::checkpoint::ModelIdentity;

use super::*;

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 6658000000\n";

fn is_named(error: &str, file: &str) {
    assert!(
        error.contains(file) && error.contains("a Git LFS pointer, not the file itself: run git lfs pull"),
        "{error}"
    );
    assert_eq!(error.matches("LFS").count(), 1, "{error}");
}

#[test]
fn a_git_lfs_pointer_in_place_of_any_file_is_named() {
    let model = SmallModel::new();
    for file in [
        "model.safetensors",
        "pytorch_model.bin",
        "tokenizer.json",
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "processor_config.json",
    ] {
        model.with(file, POINTER, |dir| is_named(&use_model(dir).unwrap_err(), file));
    }
    let index = std::str::from_utf8(POINTER).unwrap();
    model.with_index(index, |dir| is_named(&use_model(dir).unwrap_err(), "model.safetensors.index.json"));
    let shards = r#"{"weight_map": {"any": "model-00002-of-00002.safetensors"}}"#;
    model.with_index(shards, |dir| {
        let shard = "model-00002-of-00002.safetensors";
        std::fs::write(dir.join(shard), POINTER).unwrap();
        is_named(&use_model(dir).unwrap_err(), shard);
    });
    model.with("model.safetensors", POINTER, |dir| {
        is_named(&ModelIdentity::of_dir(dir).unwrap_err().to_string(), "model.safetensors");
    });
}

#[test]
fn what_is_not_there_is_named_by_its_path() {
    let nowhere = std::path::Path::new("/nowhere/kosmos-2");
    for error in [
        use_model(nowhere).unwrap_err(),
        ModelIdentity::of_dir(nowhere).unwrap_err().to_string(),
        ModelIdentity::name_of(nowhere).unwrap_err().to_string(),
    ] {
        assert!(error.contains("/nowhere/kosmos-2"), "{error}");
    }
    let model = SmallModel::new();
    for file in ["config.json", "tokenizer.json", "model.safetensors", "preprocessor_config.json"] {
        std::fs::remove_file(model.path().join(file)).unwrap();
        let error = use_model(model.path()).unwrap_err();
        let named = error.contains(file) && error.contains(&model.path().display().to_string());
        assert!(named, "{file}: {error}");
        model.restore();
    }
}
