//! A complete model directory that opens in milliseconds: the fixture's configuration, random weights, and the
//! published tokenizer reduced to its first words and all tags.

use std::fs;
use std::path::Path;

use candle_core::DType;
use kosmos2::checkpoint::random;
use kosmos2::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{self, fixtures};
use crate::pickled::{self, Pickled};

/// Number of words kept of the vocabulary, special tokens included.
const WORDS: usize = 400;

/// The directory with the valid contents of its files.
pub(crate) struct SmallModel {
    dir: TempDir,
    pub(crate) files: Vec<(&'static str, Vec<u8>)>,
    /// The weights as a PyTorch file.
    pub(crate) pickled: Pickled,
    /// The image processor's configuration in the newer format.
    processor: Vec<u8>,
}

const FILES: [&str; 5] =
    ["config.json", "generation_config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"];

impl SmallModel {
    pub(crate) fn new() -> Self {
        let dir = common::reference_model_dir();
        let path = dir.path();
        let mut tokenizer: Value = common::json(path.join("tokenizer.json"));
        let vocabulary = cut_down(&mut tokenizer);
        fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let mut config: Value = common::json(fixtures().join("model/config.json"));
        config["text_config"]["vocab_size"] = vocabulary.into();
        fs::write(path.join("config.json"), config.to_string()).unwrap();
        random::write_weights(path, &Config::from_dir(path).unwrap(), 7, DType::F32).unwrap();
        let files = FILES.map(|name| (name, fs::read(path.join(name)).unwrap())).to_vec();
        let pickled = pickled::of_safetensors(&fs::read(path.join("model.safetensors")).unwrap());
        let image_processor: Value = common::json(path.join("preprocessor_config.json"));
        let processor = json!({"processor_class": "Kosmos2Processor", "image_processor": image_processor});
        Self { dir, files, pickled, processor: processor.to_string().into_bytes() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self, name: &str) -> &[u8] {
        match name {
            "pytorch_model.bin" => &self.pickled.bytes,
            "processor_config.json" => &self.processor,
            _ => &self.files.iter().find(|(file, _)| *file == name).unwrap().1,
        }
    }

    /// Calls `run` while one file is replaced or added.
    pub(crate) fn with<T>(&self, name: &str, bytes: &[u8], run: impl FnOnce(&Path) -> T) -> T {
        if name == "pytorch_model.bin" {
            // The file is only used without model.safetensors.
            fs::remove_file(self.path().join("model.safetensors")).unwrap();
        }
        fs::write(self.path().join(name), bytes).unwrap();
        let result = run(self.path());
        self.restore();
        result
    }

    /// Restores all files and removes added ones.
    pub(crate) fn restore(&self) {
        for entry in fs::read_dir(self.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (name, bytes) in &self.files {
            fs::write(self.path().join(name), bytes).unwrap();
        }
    }

    /// Calls `run` with the weights in a shard with this index, without `model.safetensors`.
    pub(crate) fn with_index<T>(&self, index: &str, run: impl FnOnce(&Path) -> T) -> T {
        let whole = self.path().join("model.safetensors");
        fs::rename(&whole, self.path().join("model-00001-of-00001.safetensors")).unwrap();
        self.with("model.safetensors.index.json", index.as_bytes(), run)
    }
}

/// Keeps the first words and the tags with new ids, and returns their number.
fn cut_down(tokenizer: &mut Value) -> usize {
    let words = tokenizer["model"]["vocab"].as_array_mut().unwrap();
    let mask = words.pop().unwrap();
    words.truncate(WORDS - 1);
    words.push(mask);
    let kept: Vec<String> = words.iter().map(|word| word[0].as_str().unwrap().to_owned()).collect();
    let mut next = kept.len();
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        let index = kept.iter().position(|word| token["content"] == json!(word));
        token["id"] = index.unwrap_or(next).into();
        next += usize::from(index.is_none());
    }
    next
}
