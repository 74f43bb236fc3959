//! Scored texts have the reference's log-probabilities and training losses. The goldens are made by
//! tests/fixtures/make_search_fixtures.py.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;

use candle_core::DType;
use common::decoding::{demo_model, scene_pixels};
use common::{fixtures, json, reference_model_dir};
use kosmos2::backend::ImageEmbedding;
use kosmos2::checkpoint::random;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::config::Config;
use kosmos2::decoding::{Decoding, TeacherForcing, TokenRoles, run_to_end};
use kosmos2::processor::image::{DecodeOptions, ImageProcessor, decode};
use kosmos2::processor::prompt::EncodedPrompt;
use kosmos2::{Model, Query};
use serde::Deserialize;
use serde_json::Value;

const TOLERANCE: f32 = 1e-4;
/// `<s>`, `<image>`, 64 placeholders, `</image>`.
const BEFORE_TEXT: usize = 67;

#[derive(Deserialize)]
struct Goldens {
    emoji: Vec<Case>,
    small: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    kind: String,
    /// The ids after `</image>`.
    text_ids: Vec<u32>,
    /// Number of prompt tokens, image placeholders included.
    prompt_tokens: usize,
    logprobs: Vec<f32>,
    loss_text: f32,
    loss_with_prompt: f32,
}

fn loss(logprobs: &[f32]) -> f32 {
    -logprobs.iter().sum::<f32>() / logprobs.len() as f32
}

/// Scores the text, compares it with the golden, and returns the loss without the prompt.
fn check(model: &mut Model, embedding: &Arc<ImageEmbedding>, image_tags: (u32, u32), case: &Case) -> f32 {
    let mut input_ids = vec![0, image_tags.0];
    input_ids.extend(4..68);
    input_ids.push(image_tags.1);
    input_ids.extend(&case.text_ids);
    let whole = EncodedPrompt {
        text: String::new(),
        attention_mask: vec![1; input_ids.len()],
        image_embeds_position_mask: Some((0..input_ids.len()).map(|i| u8::from((2..66).contains(&i))).collect()),
        input_ids,
    };
    let roles = Arc::new(TokenRoles { pad: 1, end: model.end_tokens().to_vec(), patches: 0..0 });
    let mut score = |prompt_len| {
        let scoring = Decoding::Scoring(TeacherForcing::new(&whole, prompt_len, &roles).unwrap());
        let mut finished = run_to_end(model.backend(), [(scoring, Some(Arc::clone(embedding)))]).unwrap();
        finished.remove(0).finish()
    };
    let name = format!("{} {}", case.file, case.kind);
    let all = score(BEFORE_TEXT);
    assert_eq!(all.token_ids, case.text_ids);
    assert_eq!(all.logprobs.len(), case.logprobs.len());
    for (found, expected) in all.logprobs.iter().zip(&case.logprobs) {
        // The error of a large log-probability is proportional to it.
        assert!((found - expected).abs() < TOLERANCE * expected.abs().max(1.0), "{name}: {found} and not {expected}");
    }
    let (text, whole) = (loss(&score(case.prompt_tokens).logprobs), loss(&all.logprobs));
    assert!((text - case.loss_text).abs() < TOLERANCE, "{name}: loss {text} and not {}", case.loss_text);
    assert!((whole - case.loss_with_prompt).abs() < TOLERANCE, "{name}: {whole} and not {}", case.loss_with_prompt);
    text
}

#[test]
fn every_given_text_has_the_references_log_probabilities_and_losses() {
    let goldens = json::<Goldens>(fixtures().join("search/scoring.json"));
    let mut kosmos = demo_model();
    for scene in goldens.emoji.chunk_by(|a, b| a.file == b.file) {
        let pixels = scene_pixels(&kosmos, &scene[0].file);
        let embedding = Arc::new(kosmos.model().backend().image_embeddings(&[&pixels]).unwrap().remove(0));
        let losses: Vec<(&str, f32)> = scene
            .iter()
            .map(|case| (case.kind.as_str(), check(kosmos.model(), &embedding, (3104, 3105), case)))
            .collect();
        let loss = |kind| losses.iter().find(|(k, _)| *k == kind).unwrap().1;
        // Wrong labels have a larger loss.
        for (right, wrong) in [
            ("generated", "generated, wrong box"),
            ("encoded", "encoded, wrong box"),
            ("encoded", "encoded, wrong noun"),
        ] {
            assert!(loss(wrong) > loss(right) + 0.1, "{losses:?}");
        }
    }
    assert!(goldens.emoji.len() >= 24);
}

#[test]
fn a_checkpoint_of_random_weights_scores_its_texts_as_the_references() {
    let goldens = json::<Goldens>(fixtures().join("search/scoring.json"));
    let dir = reference_model_dir();
    std::fs::copy(fixtures().join("model/config.json"), dir.path().join("config.json")).unwrap();
    let seed = json::<Value>(fixtures().join("model/goldens.json"))["weights_seed"].as_u64().unwrap();
    random::write_weights(dir.path(), &Config::from_dir(dir.path()).unwrap(), seed, DType::F32).unwrap();
    let mut model = Model::load(dir.path(), &Compute::open(DeviceChoice::Cpu, None).unwrap()).unwrap();
    let images = ImageProcessor::from_dir(dir.path()).unwrap();
    for case in &goldens.small {
        let file = fixtures().join(format!("images/expected/{}.plain.png", case.file));
        let picture = images.pixel_values(&decode(&std::fs::read(file).unwrap(), &DecodeOptions::default()).unwrap());
        let embedding = Arc::new(model.backend().image_embeddings(&[&picture]).unwrap().remove(0));
        check(&mut model, &embedding, (64003, 64004), case);
    }
    assert_eq!(goldens.small.len(), 3);
}

#[test]
fn a_given_text_is_scored_as_the_tokens_that_the_model_would_write() {
    let goldens = json::<Goldens>(fixtures().join("search/scoring.json"));
    let case = goldens.emoji.iter().find(|case| case.kind == "generated").unwrap();
    let mut model = demo_model();
    let pixels = scene_pixels(&model, &case.file);
    let written = &case.text_ids[case.prompt_tokens - BEFORE_TEXT..];
    let text = model.processor().text().tokenizer().decode(written, true, true).unwrap();
    assert!(text.contains("</object>."), "{text}");
    let query = Query::Score { prompt: "<grounding> An image of".into(), text: text.as_str().into(), with_end: true };
    let scored = model.annotate(&pixels, &[query]).unwrap().remove(0);
    assert_eq!(scored.token_ids, written);
    assert!((scored.loss() - case.loss_text).abs() < TOLERANCE);
    assert_eq!(scored.entities.len(), 2);
    assert!(scored.entities.iter().all(|entity| entity.box_scores[0] > Some(0.9)));
}
