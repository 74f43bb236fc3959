//! Beam searches of a small trained checkpoint give the reference's texts. The goldens are made by
//! tests/fixtures/make_search_fixtures.py.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::sync::Arc;

use common::decoding::{demo_model, scene_pixels};
use common::{fixtures, json};
use kosmos2::decoding::{BeamSlots, Decoding, Hypothesis, TokenRoles, run_to_end};
use kosmos2::options::{BeamOptions, EarlyStopping, FinishReason, GenerationOptions, Sampling};
use kosmos2::processor::prompt::EncodeOptions;
use serde::Deserialize;
use serde_json::Value;

const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Goldens {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    prompt: String,
    options: GoldenOptions,
    /// The smallest change of a score that would change a decision of the reference's search.
    margin: f32,
    sequences: Vec<Sequence>,
}

#[derive(Deserialize, Debug)]
struct GoldenOptions {
    num_beams: usize,
    length_penalty: f32,
    early_stopping: Value,
    max_new_tokens: usize,
    no_repeat_ngram_size: usize,
    repetition_penalty: f32,
    end_tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Sequence {
    new_ids: Vec<u32>,
    score: f32,
    logprobs: Vec<f32>,
}

impl GoldenOptions {
    fn options(&self) -> GenerationOptions {
        let early_stopping = match &self.early_stopping {
            Value::Bool(true) => EarlyStopping::Yes,
            Value::Bool(false) => EarlyStopping::No,
            word => {
                assert_eq!(word, "never");
                EarlyStopping::Never
            }
        };
        let (num_beams, length_penalty) = (self.num_beams, self.length_penalty);
        GenerationOptions {
            max_new_tokens: self.max_new_tokens,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            repetition_penalty: self.repetition_penalty,
            sampling: Sampling::Beam(BeamOptions { num_beams, length_penalty, early_stopping }),
            well_formed: false,
        }
    }
}

fn near(found: &[f32], expected: &[f32]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() < TOLERANCE)
}

/// How the found texts differ from the reference's.
fn difference(found: &[Hypothesis], case: &Case) -> Option<String> {
    for (place, golden) in case.sequences.iter().enumerate() {
        let Some(found) = found.get(place) else {
            return Some(format!("text {place} is missing"));
        };
        if found.token_ids != golden.new_ids {
            return Some(format!("text {place} is {:?} and not {:?}", found.token_ids, golden.new_ids));
        }
        // A negative length penalty multiplies the sum, and its error too.
        let scale = (golden.new_ids.len() as f32).powf(-case.options.length_penalty).max(1.0);
        if (found.score - golden.score).abs() >= TOLERANCE * scale {
            return Some(format!("text {place} scores {} and not {}", found.score, golden.score));
        }
        if !near(&found.logprobs, &golden.logprobs) {
            return Some(format!("text {place} has log-probabilities {:?}", found.logprobs));
        }
    }
    None
}

fn check(found: &[Hypothesis], case: &Case) {
    assert!(found.len() <= case.options.num_beams && found.is_sorted_by(|a, b| a.score >= b.score));
    for text in found {
        let stopped = text.token_ids.last().is_some_and(|last| case.options.end_tokens.contains(last));
        assert_eq!(text.finish_reason == FinishReason::Stop, stopped);
        assert!(stopped || text.token_ids.len() == case.options.max_new_tokens);
    }
}

#[test]
fn every_search_finds_the_references_texts_and_scores_whatever_runs_beside_it() {
    let cases = json::<Goldens>(fixtures().join("search/beam.json")).cases;
    let mut model = demo_model();
    let processor = Arc::clone(model.processor());
    let (mut identical, mut texts, mut near_ties) = (0, 0, Vec::new());
    for scene in cases.chunk_by(|a, b| a.file == b.file) {
        let pixels = scene_pixels(&model, &scene[0].file);
        let embedding = Arc::new(model.model().backend().image_embeddings(&[&pixels]).unwrap().remove(0));
        let start = |case: &Case| {
            let prompt = processor.text().encode(&case.prompt.as_str().into(), &EncodeOptions::default()).unwrap();
            let end = case.options.end_tokens.clone();
            let roles = Arc::new(TokenRoles { pad: 1, end, patches: processor.text().tokenizer().patches() });
            let options = case.options.options();
            let Sampling::Beam(beam) = options.sampling else { unreachable!() };
            let beams = BeamSlots::new(&prompt, &options, beam, &roles, None).unwrap();
            (Decoding::from(beams), Some(Arc::clone(&embedding)))
        };
        // All searches of a picture run in one batch.
        let searches: Vec<_> = scene.iter().map(start).collect();
        let searches = run_to_end(model.model().backend(), searches).unwrap();
        for (case, search) in scene.iter().zip(searches) {
            let Decoding::Beams(beams) = search else { unreachable!() };
            let found = beams.into_texts();
            check(&found, case);
            let name = format!("{} {:?} {:?}", case.file, case.prompt, case.options);
            match difference(&found, case) {
                None => (identical, texts) = (identical + 1, texts + case.sequences.len()),
                // Different rounding may change a decision only if the reference's margin is small.
                Some(difference) if case.margin < 1e-3 => near_ties.push(format!("{name}: {difference}")),
                Some(difference) => panic!("{name}, margin {}: {difference}", case.margin),
            }
        }
    }
    println!("{identical} of {} searches identical, {texts} texts; near ties: {near_ties:#?}", cases.len());
    assert!(identical >= 50 && near_ties.len() * 20 <= cases.len());
}
