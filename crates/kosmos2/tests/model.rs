//! The tensors of a small random checkpoint against the reference's, in f32 on the CPU.
//! The goldens are made by tests/fixtures/make_model_fixtures.py.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use kosmos2::checkpoint::random;
use kosmos2::config::Config;
use kosmos2::generation::{FinishReason, GenerationOptions};
use kosmos2::model::{Batch, BatchRow, GeneratedTokens, ImagePlaces, Model};
use kosmos2::processor::image::{DecodeOptions, ImageProcessor, PixelValues, decode};
use serde::Deserialize;

const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Goldens {
    weights_seed: u64,
    rows: Vec<GoldenRow>,
    batch: GoldenBatch,
    stop_token: u32,
    stopped: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct GoldenRow {
    picture: String,
    input_ids: Vec<u32>,
    plain: GoldenRun,
    ngram3: GoldenRun,
}

#[derive(Deserialize)]
struct GoldenRun {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
}

#[derive(Deserialize)]
struct GoldenBatch {
    tokens: Vec<Vec<u32>>,
}

struct Fixture {
    model: Model,
    goldens: Goldens,
    pictures: Vec<PixelValues>,
    masks: Vec<Vec<u8>>,
    _dir: tempfile::TempDir,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

impl Fixture {
    fn load() -> Self {
        let goldens: Goldens =
            serde_json::from_slice(&std::fs::read(fixtures().join("model/goldens.json")).unwrap()).unwrap();
        let dir = common::reference_model_dir();
        std::fs::copy(fixtures().join("model/config.json"), dir.path().join("config.json")).unwrap();
        let config = Config::from_dir(dir.path()).unwrap();
        random::write_weights(dir.path(), &config, goldens.weights_seed, DType::F32).unwrap();
        let model = Model::load(dir.path(), DType::F32, &Device::Cpu).unwrap();
        let images = ImageProcessor::from_dir(dir.path()).unwrap();
        let picture = |row: &GoldenRow| {
            let file = fixtures().join(format!("images/expected/{}.plain.png", row.picture));
            images.pixel_values(&decode(&std::fs::read(file).unwrap(), &DecodeOptions::default()).unwrap())
        };
        let pictures = goldens.rows.iter().map(picture).collect();
        // The placeholders are the 64 ids after `<s>` and `<image>`.
        let mask = |row: &GoldenRow| (0..row.input_ids.len()).map(|i| u8::from((2..66).contains(&i))).collect();
        let masks = goldens.rows.iter().map(mask).collect();
        Self { model, goldens, pictures, masks, _dir: dir }
    }

    fn batch_row(&self, i: usize, options: &GenerationOptions) -> BatchRow {
        let embeddings = self.model.image_embeddings(&[&self.pictures[i]]).unwrap().squeeze(0).unwrap();
        BatchRow {
            prompt: self.goldens.rows[i].input_ids.clone(),
            image: Some(ImagePlaces { embeddings, mask: self.masks[i].clone() }),
            options: options.clone(),
        }
    }

    fn generate(&self, rows: Vec<BatchRow>) -> Vec<GeneratedTokens> {
        let mut batch = Batch::start(&self.model, rows).unwrap();
        while batch.step().unwrap() {}
        batch.finish()
    }
}

fn steps(count: usize) -> GenerationOptions {
    GenerationOptions { max_new_tokens: count, ..GenerationOptions::default() }
}

fn most_apart(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn image_embeddings_and_logits_are_the_references() {
    let fixture = Fixture::load();
    let tensors = safetensors::load(fixtures().join("model/goldens.safetensors"), &Device::Cpu).unwrap();
    for (i, row) in fixture.goldens.rows.iter().enumerate() {
        let golden = |name: &str| &tensors[&format!("{i}/{name}")];
        let embeddings = fixture.model.image_embeddings(&[&fixture.pictures[i]]).unwrap().squeeze(0).unwrap();
        let apart = most_apart(&embeddings, golden("image_embeds"));
        println!("{}: image embeddings differ by at most {apart:e}", row.picture);
        assert!(apart <= TOLERANCE);

        let places = ImagePlaces { embeddings, mask: fixture.masks[i].clone() };
        let decoder = fixture.model.decoder();
        let input = fixture.model.embed_prompt(&row.input_ids, Some(&places)).unwrap().unsqueeze(0).unwrap();
        // One column after the other through the cache: each sees itself and those before it, without a mask.
        let mut cache = decoder.new_cache();
        let columns: Vec<Tensor> = (0..row.input_ids.len())
            .map(|t| decoder.forward(&input.narrow(1, t, 1).unwrap(), None, &mut cache).unwrap())
            .collect();
        let logits = decoder.logits(&Tensor::cat(&columns, 1).unwrap()).unwrap().squeeze(0).unwrap();
        let chosen = logits.index_select(&golden("logits_columns").to_dtype(DType::U32).unwrap(), 1).unwrap();
        let apart = most_apart(&chosen, golden("logits"));
        println!("{}: logits differ by at most {apart:e}", row.picture);
        assert!(apart <= TOLERANCE);
        let apart = most_apart(&logits.log_sum_exp(1).unwrap(), golden("logsumexp"));
        assert!(apart <= TOLERANCE, "log-sum-exp differs by {apart:e}");
    }
}

#[test]
fn greedy_tokens_and_their_log_probabilities_are_the_references() {
    let fixture = Fixture::load();
    for (i, row) in fixture.goldens.rows.iter().enumerate() {
        for (golden, ngram) in [(&row.plain, 0), (&row.ngram3, 3)] {
            let options = GenerationOptions { no_repeat_ngram_size: ngram, ..steps(golden.tokens.len()) };
            let [found] = &fixture.generate(vec![fixture.batch_row(i, &options)])[..] else { panic!() };
            assert_eq!(found.token_ids, golden.tokens, "{} with ngram {ngram}", row.picture);
            assert_eq!(found.finish_reason, FinishReason::Length);
            let apart = found.logprobs.iter().zip(&golden.logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{}: log-probabilities differ by at most {apart:e}", row.picture);
            assert!(apart <= TOLERANCE);
        }
    }
}

#[test]
fn a_row_in_a_left_padded_batch_equals_the_row_alone() {
    let fixture = Fixture::load();
    let count = fixture.goldens.batch.tokens[0].len();
    let rows = || (0..3).map(|i| fixture.batch_row(i, &steps(count))).collect::<Vec<_>>();
    let together = fixture.generate(rows());
    let tokens: Vec<_> = together.iter().map(|row| row.token_ids.clone()).collect();
    assert_eq!(tokens, fixture.goldens.batch.tokens);
    for (row, batched) in rows().into_iter().zip(&together) {
        let alone = &fixture.generate(vec![row])[0];
        assert_eq!(alone.token_ids, batched.token_ids);
        let apart = alone.logprobs.iter().zip(&batched.logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart <= TOLERANCE, "log-probabilities of a batched row differ by {apart:e}");
    }
}

#[test]
fn rows_end_at_their_own_lengths_and_leave_the_others_as_they_were() {
    let fixture = Fixture::load();
    let lengths = [7, 24, 3];
    let rows = lengths.iter().enumerate().map(|(i, &n)| fixture.batch_row(i, &steps(n))).collect();
    for ((found, golden), n) in fixture.generate(rows).iter().zip(&fixture.goldens.batch.tokens).zip(lengths) {
        assert_eq!(found.token_ids, golden[..n]);
    }
}

#[test]
fn the_end_token_stops_its_row_alone() {
    // The same weights with another id named the end: the rows stop where the reference's did, whose ended rows are
    // filled up with `<pad>`.
    let fixture = Fixture::load();
    let dir = fixture._dir.path();
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["text_config"]["eos_token_id"] = fixture.goldens.stop_token.into();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let fixture = Fixture { model: Model::load(dir, DType::F32, &Device::Cpu).unwrap(), ..fixture };
    let count = fixture.goldens.batch.tokens[0].len();
    let rows = (0..3).map(|i| fixture.batch_row(i, &steps(count))).collect();
    let mut stops = 0;
    for (found, golden) in fixture.generate(rows).iter().zip(&fixture.goldens.stopped) {
        let end = golden.iter().position(|&id| id == fixture.goldens.stop_token);
        let expected = end.map_or(&golden[..], |end| &golden[..=end]);
        assert_eq!(found.token_ids, expected);
        assert_eq!(found.finish_reason == FinishReason::Stop, end.is_some());
        stops += usize::from(end.is_some());
    }
    assert!(stops > 0, "no row stopped, so nothing was shown");
}
