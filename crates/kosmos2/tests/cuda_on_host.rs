//! The CUDA backend, with kernels compiled for the host, gives the results of the CPU backend.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

mod common;

use std::sync::Arc;

use common::decoding::{demo, demo_model, scene_pixels};
use kernels::cuda::Device;
use kosmos2::compute::{Compute, CudaFormat};
use kosmos2::decoding::{common_prefix, run_to_end};
use kosmos2::options::{BeamOptions, EarlyStopping, GenerationOptions, GroundedText, Sampling};
use kosmos2::processor::image::PixelValues;
use kosmos2::processor::prompt::Prompt;
use kosmos2::{Kosmos2, Query};
use serde::Deserialize;

const SCENE: &str = "0000.jpg";

#[derive(Deserialize)]
struct Golden {
    file: String,
    prompt: String,
    new_ids: Vec<u32>,
}

fn on_cuda(format: CudaFormat) -> Kosmos2 {
    let device = Arc::new(Device::open(0).unwrap());
    Kosmos2::open(&demo().join("kosmos-2-emoji"), &Compute::Cuda { device, format }).unwrap()
}

fn goldens() -> Vec<Golden> {
    let all: Vec<Golden> = serde_json::from_slice(&std::fs::read(demo().join("scenes/goldens.json")).unwrap()).unwrap();
    all.into_iter().filter(|golden| golden.file == SCENE).collect()
}

fn greedy(max_new_tokens: usize) -> GenerationOptions {
    GenerationOptions { max_new_tokens, ..GenerationOptions::default() }
}

fn answers(model: &mut Kosmos2, picture: &PixelValues, queries: &[Query]) -> Vec<GroundedText> {
    model.annotate(picture, queries).unwrap()
}

fn assert_alike(found: &[GroundedText], expected: &[GroundedText]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found.token_ids, expected.token_ids);
        assert_eq!(found.finish_reason, expected.finish_reason);
        for (a, b) in found.logprobs.iter().zip(&expected.logprobs) {
            assert!((a - b).abs() < 1e-3, "log-probabilities {a} and {b}");
        }
        for (a, b) in found.entities.iter().zip(&expected.entities) {
            assert_eq!((&a.phrase, &a.boxes), (&b.phrase, &b.boxes));
            for (a, b) in a.refined_boxes.iter().flatten().zip(b.refined_boxes.iter().flatten()) {
                let difference = [a.x0 - b.x0, a.y0 - b.y0, a.x1 - b.x1, a.y1 - b.y1].map(f64::abs);
                assert!(difference.into_iter().all(|difference| difference < 1e-3), "refined boxes {a:?} and {b:?}");
            }
        }
    }
}

#[test]
fn every_kind_of_query_is_answered_as_on_the_cpu() {
    let (mut cpu, mut cuda) = (demo_model(), on_cuda(CudaFormat::F32));
    let picture = scene_pixels(&cpu, SCENE);
    let goldens = goldens();
    // Eight sequences decode in a recorded pass of eight, then fewer as they finish.
    let mut queries: Vec<_> =
        goldens.iter().map(|golden| Query::generate(golden.prompt.as_str(), greedy(160))).collect();
    let found = answers(&mut cuda, &picture, &queries);
    for (found, golden) in found.iter().zip(&goldens) {
        assert_eq!(found.token_ids, golden.new_ids, "{}", golden.prompt);
    }
    assert_alike(&found, &answers(&mut cpu, &picture, &queries));

    queries.truncate(1);
    for cut in [3, 6, 7] {
        let options = GenerationOptions { well_formed: true, ..greedy(cut) };
        queries.push(Query::generate("<grounding> An image of", options));
    }
    let beams = BeamOptions { num_beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::No };
    queries.push(Query::generate("<grounding>", GenerationOptions { sampling: Sampling::Beam(beams), ..greedy(8) }));
    queries.push(Query::generate("<grounding>", GenerationOptions { no_repeat_ngram_size: 2, ..greedy(6) }));
    let text = Prompt::from("<phrase> a snowman</phrase><object><patch_index_0228><patch_index_0687></object>");
    queries.push(Query::Score { prompt: "<grounding> An image of".into(), text, with_end: true });
    assert_alike(&answers(&mut cuda, &picture, &queries), &answers(&mut cpu, &picture, &queries));
}

#[test]
fn a_prefix_taken_over_from_another_slot_changes_nothing() {
    let mut cuda = on_cuda(CudaFormat::F32);
    let picture = scene_pixels(&cuda, SCENE);
    let processor = Arc::clone(cuda.processor());
    let prompts = ["<grounding> An image of", "<grounding>", "<grounding> An image of a"];
    let queries = prompts.map(|prompt| processor.encode(&Query::generate(prompt, greedy(4))).unwrap());
    let mut tokens = |share: bool| {
        let backend = cuda.model().backend();
        let image = backend.image_embeddings(&[&picture]).unwrap().pop().map(Arc::new);
        let mut decodings: Vec<_> =
            queries.iter().map(|query| (processor.decoding(query).unwrap(), image.clone())).collect();
        let first = decodings[0].0.prompt().to_vec();
        if share {
            for (decoding, _) in &mut decodings[1..] {
                let columns = common_prefix(decoding.prompt(), &first);
                assert!(columns > 64, "the picture's rows are shared");
                decoding.share_prefix(Some(0), columns);
            }
        }
        let finished = run_to_end(backend, decodings).unwrap();
        finished.into_iter().map(|decoding| decoding.finish().token_ids).collect::<Vec<_>>()
    };
    assert_eq!(tokens(true), tokens(false));
}

#[test]
fn half_formats_give_the_texts_of_f32() {
    let goldens = goldens();
    let queries: Vec<_> = goldens.iter().map(|golden| Query::generate(golden.prompt.as_str(), greedy(160))).collect();
    for format in [CudaFormat::Bf16, CudaFormat::F16, CudaFormat::Bf16Kv8] {
        let mut cuda = on_cuda(format);
        let picture = scene_pixels(&cuda, SCENE);
        let found = answers(&mut cuda, &picture, &queries);
        let same = found.iter().zip(&goldens).filter(|(found, golden)| found.token_ids == golden.new_ids).count();
        println!("{format:?}: {same} of {} texts are those of f32", goldens.len());
        assert!(same + 1 >= goldens.len(), "{format:?}: {same} of {}", goldens.len());
    }
}
