//! The engine with the demo model gives the reference's tokens, whatever the batch and the order of arrival.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, LazyLock, Mutex};
use std::time::{Duration, Instant};

use engine::{Annotator, Engine, EngineOptions, EngineSnapshot, Pass, Request};
use futures::stream::{FuturesUnordered, StreamExt};
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::options::{FinishReason, GenerationOptions};
use kosmos2::processor::image::{DecodeOptions, PixelValues, decode};
use kosmos2::{Kosmos2, Query};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    file: String,
    prompt: String,
    new_ids: Vec<u32>,
    text: String,
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../sandbox/demo")
}

static GOLDENS: LazyLock<Vec<Golden>> =
    LazyLock::new(|| serde_json::from_slice(&std::fs::read(demo().join("scenes/goldens.json")).unwrap()).unwrap());

fn model() -> Kosmos2 {
    let compute = Compute::open(DeviceChoice::Cpu, None).unwrap();
    Kosmos2::open(&demo().join("kosmos-2-emoji"), &compute).unwrap()
}

fn start(slots: usize) -> Engine {
    Engine::start(model(), EngineOptions { slots: Some(slots), ..EngineOptions::default() }).unwrap().0
}

fn pixels(engine: &Engine, file: &str) -> PixelValues {
    let bytes = std::fs::read(demo().join("scenes").join(file)).unwrap();
    engine.processor().images().pixel_values(&decode(&bytes, &DecodeOptions::default()).unwrap())
}

fn options(max_new_tokens: usize) -> GenerationOptions {
    GenerationOptions { max_new_tokens, ..GenerationOptions::default() }
}

fn request(pixels: &PixelValues, prompts: &[&str], max_new_tokens: usize) -> Request {
    let query = |prompt: &&str| Query::generate(*prompt, options(max_new_tokens));
    Request { pixels: pixels.clone(), queries: prompts.iter().map(query).collect() }
}

/// Submits each scene prompt as its own request, all at once, in this order.
async fn all_at_once(engine: &Engine, order: &[usize]) {
    let scenes: Vec<(String, PixelValues)> = GOLDENS
        .chunk_by(|a, b| a.file == b.file)
        .map(|scene| (scene[0].file.clone(), pixels(engine, &scene[0].file)))
        .collect();
    let submit = |&index: &usize| {
        let golden = &GOLDENS[index];
        let pixels = &scenes.iter().find(|(file, _)| *file == golden.file).unwrap().1;
        async move { (golden, engine.submit(request(pixels, &[&golden.prompt], 160)).await.unwrap()) }
    };
    let mut responses: FuturesUnordered<_> = order.iter().map(submit).collect();
    let mut compared = 0;
    while let Some((golden, response)) = responses.next().await {
        assert_eq!(response.texts[0].token_ids, golden.new_ids, "{} {:?}", golden.file, golden.prompt);
        assert_eq!(response.texts[0].text, golden.text);
        compared += 1;
    }
    assert_eq!(compared, order.len());
}

#[tokio::test]
async fn the_384_scene_prompts_give_the_references_tokens_alone_and_in_any_company() {
    let in_order: Vec<usize> = (0..GOLDENS.len()).collect();
    assert_eq!(in_order.len(), 384);
    let mut shuffled = in_order.clone();
    shuffled.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(17));
    for (slots, order) in [(1, &in_order), (7, &in_order), (32, &in_order), (5, &shuffled)] {
        all_at_once(&start(slots), order).await;
    }
}

#[tokio::test]
async fn prompts_of_one_request_share_their_picture_and_answer_in_order_however_few_the_slots() {
    for slots in [1, 2, 3, 16] {
        let engine = start(slots);
        for scene in GOLDENS.chunk_by(|a, b| a.file == b.file).take(4) {
            let prompts: Vec<&str> = scene.iter().map(|golden| golden.prompt.as_str()).collect();
            let response = engine.submit(request(&pixels(&engine, &scene[0].file), &prompts, 160)).await.unwrap();
            let found: Vec<_> = response.texts.iter().map(|text| &text.token_ids).collect();
            assert_eq!(found, scene.iter().map(|golden| &golden.new_ids).collect::<Vec<_>>(), "{slots} slots");
        }
    }
}

#[tokio::test]
async fn what_the_engine_does_is_counted() {
    let engine = start(3);
    let idle = EngineSnapshot { slots_limit: 3, ..EngineSnapshot::default() };
    assert_eq!(engine.snapshot(), idle);
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&batches);
    engine.observe_batches(Box::new(move |pass, size| seen.lock().unwrap().push((pass, size))));
    let response = engine.submit(request(&pixels(&engine, "0000.jpg"), &[&GOLDENS[0].prompt], 4)).await.unwrap();
    // The last token is not computed any more.
    let (prompt_tokens, answer_tokens) = (response.texts[0].prompt_tokens as u64, 3);
    let expected = EngineSnapshot { steps: 4, prompt_tokens, answer_tokens, ..idle };
    let deadline = Instant::now() + Duration::from_secs(30);
    // The engine answers before it is idle.
    while engine.snapshot() != expected {
        assert!(Instant::now() < deadline, "{:?}", engine.snapshot());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut passes = vec![(Pass::Vision, 1)];
    passes.extend([(Pass::Decoder, 1); 4]);
    assert_eq!(*batches.lock().unwrap(), passes);
}

#[tokio::test]
async fn work_without_progress_has_an_age() {
    let engine = start(1);
    let (started, go_on) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (at_vision, hold) = (Arc::clone(&started), Arc::clone(&go_on));
    engine.observe_batches(Box::new(move |pass, _| {
        if pass == Pass::Vision {
            at_vision.wait();
            hold.wait();
        }
    }));
    let picture = pixels(&engine, "0000.jpg");
    let submitter = engine.clone();
    let answer = tokio::spawn(async move { submitter.submit(request(&picture, &[&GOLDENS[0].prompt], 1)).await });
    tokio::task::spawn_blocking(move || started.wait()).await.unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let snapshot = engine.snapshot();
    assert!(snapshot.last_progress_age.is_some_and(|age| age >= Duration::from_millis(50)), "{snapshot:?}");
    assert_eq!((snapshot.queue_size, snapshot.steps), (0, 0));
    tokio::task::spawn_blocking(move || go_on.wait()).await.unwrap();
    answer.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_without_prompts_is_answered_with_nothing() {
    let engine = start(1);
    let response = engine.submit(request(&pixels(&engine, "0000.jpg"), &[], 1)).await.unwrap();
    assert!(response.texts.is_empty());
}

#[tokio::test]
async fn a_dropped_request_leaves_its_slot_to_the_next() {
    let engine = start(1);
    let picture = pixels(&engine, "0000.jpg");
    // Sampling from a flat distribution almost never gives the end token, so this holds the slot for long.
    let endless = Query::generate(
        "<grounding> An image of",
        GenerationOptions {
            sampling: kosmos2::options::Sampling::Random { temperature: 50.0, top_k: None, top_p: 1.0, seed: 1 },
            ..options(400)
        },
    );
    let long = engine.submit(Request { pixels: picture.clone(), queries: vec![endless; 64] });
    let short = engine.submit(request(&picture, &[&GOLDENS[0].prompt], 160));
    tokio::pin!(long, short);
    // Both are queued in this order. The first is then dropped while it runs.
    let timeout = tokio::time::sleep(Duration::from_millis(300));
    tokio::select! {
        biased;
        _ = &mut long => panic!("64 long texts finished at once"),
        _ = &mut short => panic!("the second request overtook the first"),
        () = timeout => {}
    }
    long.set(engine.submit(request(&picture, &[], 1)));
    assert_eq!(short.await.unwrap().texts[0].token_ids, GOLDENS[0].new_ids);
}

#[tokio::test]
async fn what_cannot_fit_is_refused_before_it_is_queued() {
    let engine = start(2);
    let picture = pixels(&engine, "0000.jpg");
    let error = engine.submit(request(&picture, &["An image of"], 10_000)).await.unwrap_err();
    assert!(error.is_invalid_request());
    assert!(error.to_string().contains("a slot holds 512; ask for fewer new tokens"), "{error}");
    let nothing = GenerationOptions { max_new_tokens: 0, ..GenerationOptions::default() };
    let queries = vec![Query::generate("An image of", nothing)];
    let error = engine.submit(Request { pixels: picture, queries }).await.unwrap_err();
    assert!(error.is_invalid_request() && error.to_string().contains("max_new_tokens"), "{error}");
}

#[tokio::test]
async fn a_failing_request_never_harms_its_neighbours() {
    let engine = start(8);
    let good = pixels(&engine, "0000.jpg");
    let odd = PixelValues::new(vec![0.0; 3 * 10 * 10], 10).unwrap();
    let not_numbers = PixelValues::new(vec![f32::NAN; 3 * 224 * 224], 224).unwrap();
    let prompt = GOLDENS[0].prompt.as_str();
    let requests =
        [&good, &odd, &good, &not_numbers, &good].map(|picture| engine.submit(request(picture, &[prompt], 160)));
    let responses = futures::future::join_all(requests).await;
    for (index, response) in responses.iter().enumerate() {
        match (index, response) {
            (1, Err(error)) => assert!(error.to_string().contains("resized to 10 pixels"), "{error}"),
            (3, Err(error)) => assert!(error.to_string().contains("not finite"), "{error}"),
            (_, Ok(response)) => assert_eq!(response.texts[0].token_ids, GOLDENS[0].new_ids),
            (_, Err(error)) => panic!("{index}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_given_text_is_scored_beside_generations() {
    let engine = start(4);
    let golden = &GOLDENS[0];
    let picture = pixels(&engine, &golden.file);
    let generated = engine.submit(request(&picture, &[&golden.prompt], 160)).await.unwrap().texts.remove(0);
    let text = generated.raw_text.strip_prefix(golden.prompt.as_str()).unwrap();
    let wrong = text.replacen("<patch_index_0228>", "<patch_index_0000>", 1);
    assert_ne!(text, wrong);
    let score = |text: &str| Query::Score { prompt: golden.prompt.as_str().into(), text: text.into(), with_end: false };
    let queries = vec![score(text), Query::generate(golden.prompt.as_str(), options(160)), score(&wrong)];
    let texts = engine.submit(Request { pixels: picture, queries }).await.unwrap().texts;
    assert_eq!(texts[1].token_ids, golden.new_ids);
    assert_eq!(texts[0].finish_reason, FinishReason::Scored);
    assert_eq!(texts[0].token_ids.len(), texts[0].logprobs.len());
    assert!(texts[0].loss() < texts[2].loss(), "{} {}", texts[0].loss(), texts[2].loss());
    assert!(texts[0].entities[0].box_scores[0] > texts[2].entities[0].box_scores[0]);
}

#[test]
fn slots_beyond_the_machines_memory_are_refused() {
    let options = EngineOptions { slots: Some(100_000_000), ..EngineOptions::default() };
    let error = Engine::start(model(), options).err().unwrap().to_string();
    assert!(error.contains("lower engine.slots"), "{error}");
}

#[tokio::test]
async fn the_canary_is_answered_with_one_token_and_the_cpu_is_given_minutes() {
    let engine = start(1);
    let response = engine.submit(engine.canary_request().unwrap()).await.unwrap();
    assert_eq!(response.texts.len(), 1);
    assert_eq!(response.texts[0].token_ids.len(), 1);
    assert_eq!(engine.stall_timeout(), Duration::from_secs(300));
    assert_eq!(engine.canary_interval(), None, "a CPU needs no canary");
    let options = EngineOptions { stall_timeout: Some(Duration::from_secs(7)), ..EngineOptions::default() };
    assert_eq!(Engine::start(model(), options).unwrap().0.stall_timeout(), Duration::from_secs(7));
}
