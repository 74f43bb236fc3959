//! A small random checkpoint gives the reference's tensors and tokens, in f32 on the CPU. The goldens are made by
//! tests/fixtures/make_model_fixtures.py.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor, safetensors};
use common::fixtures;
use kosmos2::Model;
use kosmos2::backend::{ImageEmbedding, ImagePlaces, Segment};
use kosmos2::checkpoint::random;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::config::Config;
use kosmos2::decoding::{Decoding, GeneratedTokens, Sampler, Sequence, TokenRoles, run_to_end};
use kosmos2::options::{FinishReason, GenerationOptions};
use kosmos2::processor::image::{DecodeOptions, ImageProcessor, PixelValues, decode};
use kosmos2::processor::prompt::EncodedPrompt;
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
    goldens: Goldens,
    pictures: Vec<PixelValues>,
    dir: tempfile::TempDir,
}

/// The CPU's kernels and the plain candle implementation.
fn backends() -> [Compute; 2] {
    [Compute::open(DeviceChoice::Cpu, None).unwrap(), Compute::Candle { device: Device::Cpu, dtype: DType::F32 }]
}

impl Fixture {
    fn new() -> Self {
        let goldens: Goldens =
            serde_json::from_slice(&std::fs::read(fixtures().join("model/goldens.json")).unwrap()).unwrap();
        let dir = common::reference_model_dir();
        std::fs::copy(fixtures().join("model/config.json"), dir.path().join("config.json")).unwrap();
        let config = Config::from_dir(dir.path()).unwrap();
        random::write_weights(dir.path(), &config, goldens.weights_seed, DType::F32).unwrap();
        let images = ImageProcessor::from_dir(dir.path()).unwrap();
        let picture = |row: &GoldenRow| {
            let file = fixtures().join(format!("images/expected/{}.plain.png", row.picture));
            images.pixel_values(&decode(&std::fs::read(file).unwrap(), &DecodeOptions::default()).unwrap())
        };
        let pictures = goldens.rows.iter().map(picture).collect();
        Self { goldens, pictures, dir }
    }

    fn load(&self, compute: &Compute) -> Model {
        Model::load(self.dir.path(), compute).unwrap()
    }

    fn prompt(&self, i: usize) -> EncodedPrompt {
        let input_ids = self.goldens.rows[i].input_ids.clone();
        // The placeholders are the 64 ids after `<s>` and `<image>`.
        let mask = (0..input_ids.len()).map(|i| u8::from((2..66).contains(&i))).collect();
        EncodedPrompt {
            text: String::new(),
            attention_mask: vec![1; input_ids.len()],
            image_embeds_position_mask: Some(mask),
            input_ids,
        }
    }

    fn embedding(&self, model: &mut Model, i: usize) -> ImageEmbedding {
        model.backend().image_embeddings(&[&self.pictures[i]]).unwrap().remove(0)
    }

    /// Decodes the golden rows with these indices in one batch.
    fn generate(&self, model: &mut Model, rows: &[(usize, GenerationOptions)]) -> Vec<GeneratedTokens> {
        let patches = 64_013..65_037;
        let roles = Arc::new(TokenRoles { pad: 1, end: model.end_tokens().to_vec(), patches });
        let decodings: Vec<_> = rows
            .iter()
            .map(|(i, options)| {
                let sampler = Sampler::new(options, None).unwrap();
                let sequence = Sequence::new(&self.prompt(*i), options, &roles, sampler).unwrap();
                (Decoding::from(sequence), Some(Arc::new(self.embedding(model, *i))))
            })
            .collect();
        let finished = run_to_end(model.backend(), decodings).unwrap();
        finished.into_iter().map(Decoding::finish).collect()
    }
}

fn steps(count: usize) -> GenerationOptions {
    GenerationOptions { max_new_tokens: count, ..GenerationOptions::default() }
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn image_embeddings_and_logits_are_the_references() {
    let fixture = Fixture::new();
    let tensors = safetensors::load(fixtures().join("model/goldens.safetensors"), &Device::Cpu).unwrap();
    for compute in backends() {
        let mut model = fixture.load(&compute);
        for (i, row) in fixture.goldens.rows.iter().enumerate() {
            let golden = |name: &str| &tensors[&format!("{i}/{name}")];
            let embedding = fixture.embedding(&mut model, i);
            let found =
                Tensor::new(embedding.as_slice(), &Device::Cpu).unwrap().reshape(golden("image_embeds").shape());
            let difference = largest_difference(&found.unwrap(), golden("image_embeds"));
            println!("{compute:?} {}: image embeddings differ by at most {difference:e}", row.picture);
            assert!(difference <= TOLERANCE);

            let prompt = fixture.prompt(i);
            let tokens = &prompt.input_ids;
            model.backend().reserve(2, tokens.len()).unwrap();
            let mask = prompt.image_embeds_position_mask.as_deref().unwrap();
            let segment = Segment {
                slot: 1,
                cached: 0,
                copy: None,
                tokens,
                preceding_non_pad: 0,
                image: Some(ImagePlaces { embedding: &embedding, mask }),
                logits: 0..tokens.len(),
            };
            let logits = model.backend().forward(&[segment]).unwrap().rows(0..tokens.len()).concat();
            let logits = Tensor::from_vec(logits, (tokens.len(), ()), &Device::Cpu).unwrap();
            let chosen = logits.index_select(&golden("logits_columns").to_dtype(DType::U32).unwrap(), 1).unwrap();
            let difference = largest_difference(&chosen, golden("logits"));
            println!("{compute:?} {}: logits differ by at most {difference:e}", row.picture);
            assert!(difference <= TOLERANCE);
            let difference = largest_difference(&logits.log_sum_exp(1).unwrap(), golden("logsumexp"));
            assert!(difference <= TOLERANCE, "log-sum-exp differs by {difference:e}");
        }
    }
}

#[test]
fn greedy_tokens_and_their_log_probabilities_are_the_references() {
    let fixture = Fixture::new();
    for compute in backends() {
        let mut model = fixture.load(&compute);
        for (i, row) in fixture.goldens.rows.iter().enumerate() {
            for (golden, ngram) in [(&row.plain, 0), (&row.ngram3, 3)] {
                let options = GenerationOptions { no_repeat_ngram_size: ngram, ..steps(golden.tokens.len()) };
                let found = fixture.generate(&mut model, &[(i, options)]).remove(0);
                assert_eq!(found.token_ids, golden.tokens, "{} with ngram {ngram}", row.picture);
                assert_eq!(found.finish_reason, FinishReason::Length);
                let difference =
                    found.logprobs.iter().zip(&golden.logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                println!("{compute:?} {}: log-probabilities differ by at most {difference:e}", row.picture);
                assert!(difference <= TOLERANCE);
            }
        }
    }
}

#[test]
fn a_row_in_a_batch_equals_the_row_alone() {
    // The reference pads its batch on the left; here rows of different lengths run without padding.
    let fixture = Fixture::new();
    for compute in backends() {
        let mut model = fixture.load(&compute);
        let count = fixture.goldens.batch.tokens[0].len();
        let rows = [0, 1, 2].map(|i| (i, steps(count)));
        let together = fixture.generate(&mut model, &rows);
        let tokens: Vec<_> = together.iter().map(|row| row.token_ids.clone()).collect();
        assert_eq!(tokens, fixture.goldens.batch.tokens);
        for (row, batched) in rows.into_iter().zip(&together) {
            let alone = &fixture.generate(&mut model, &[row])[0];
            assert_eq!(alone.token_ids, batched.token_ids);
            let difference =
                alone.logprobs.iter().zip(&batched.logprobs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            match compute {
                Compute::Cpu(_) => assert_eq!(difference, 0.0, "the kernels compute each row by the same operations"),
                _ => assert!(difference <= TOLERANCE, "they differ by {difference:e}"),
            }
        }
    }
}

#[test]
fn a_row_in_a_batch_has_the_bits_of_the_row_alone_in_the_smaller_formats() {
    let fixture = Fixture::new();
    for format in ["bf16", "int8", "w8a8"] {
        let mut model = fixture.load(&Compute::open(DeviceChoice::Cpu, Some(format)).unwrap());
        let rows = [0, 1, 2].map(|i| (i, steps(12)));
        let together = fixture.generate(&mut model, &rows);
        for (row, batched) in rows.into_iter().zip(&together) {
            let alone = &fixture.generate(&mut model, &[row])[0];
            assert_eq!(alone.token_ids, batched.token_ids, "{format}");
            let bits = |text: &GeneratedTokens| text.logprobs.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(alone), bits(batched), "{format}");
        }
    }
}

#[test]
fn a_slot_takes_half_the_memory_in_the_smaller_formats() {
    let fixture = Fixture::new();
    let bytes = |format| {
        let compute = Compute::open(DeviceChoice::Cpu, Some(format)).unwrap();
        fixture.load(&compute).backend().slot_bytes(512)
    };
    // Keys and values of 64 f32 in two layers.
    assert_eq!(bytes("f32"), 512 * 2 * 2 * 64 * 4);
    for format in ["bf16", "int8", "w8a8"] {
        assert_eq!(bytes(format), bytes("f32") / 2, "{format}");
    }
}

#[test]
fn rows_end_at_their_own_lengths_and_leave_the_others_as_they_were() {
    let fixture = Fixture::new();
    let mut model = fixture.load(&backends()[0]);
    let lengths = [7, 24, 3];
    let rows: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| (i, steps(n))).collect();
    let found = fixture.generate(&mut model, &rows);
    for ((found, golden), n) in found.iter().zip(&fixture.goldens.batch.tokens).zip(lengths) {
        assert_eq!(found.token_ids, golden[..n]);
    }
}

#[test]
fn the_end_token_stops_its_row_alone() {
    // The same weights with another end token: rows stop where the reference's do, which are then padded with `<pad>`.
    let fixture = Fixture::new();
    let file = fixture.dir.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config["text_config"]["eos_token_id"] = fixture.goldens.stop_token.into();
    std::fs::write(&file, config.to_string()).unwrap();
    let mut model = fixture.load(&backends()[0]);
    let count = fixture.goldens.batch.tokens[0].len();
    let found = fixture.generate(&mut model, &[0, 1, 2].map(|i| (i, steps(count))));
    let mut stops = 0;
    for (found, golden) in found.iter().zip(&fixture.goldens.stopped) {
        let end = golden.iter().position(|&id| id == fixture.goldens.stop_token);
        let expected = end.map_or(&golden[..], |end| &golden[..=end]);
        assert_eq!(found.token_ids, expected);
        assert_eq!(found.finish_reason == FinishReason::Stop, end.is_some());
        stops += usize::from(end.is_some());
    }
    assert!(stops > 0, "no row stopped");
}
