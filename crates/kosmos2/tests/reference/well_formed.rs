//! Under the grammar, a model with random weights generates only well-formed markup.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use candle_core::DType;
use common::{fixtures, reference_model_dir};
use kosmos2::checkpoint::random;
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::config::Config;
use kosmos2::grounding::markup::is_well_formed;
use kosmos2::options::{GenerationOptions, Sampling};
use kosmos2::processor::image::PixelValues;
use kosmos2::{Kosmos2, Query};

/// Prompts that end in text, in a phrase, after a phrase, and before the first and the second patch of a box.
const PROMPTS: [&str; 5] = [
    "<grounding> An image of",
    "<grounding><phrase> It",
    "<grounding><phrase> a dog</phrase>",
    "<grounding><phrase> a dog</phrase><object>",
    "<grounding><phrase> a dog</phrase><object><patch_index_0044>",
];
const ROUNDS: u64 = 400;

#[test]
fn of_2000_texts_of_random_weights_none_is_malformed_under_the_grammar() {
    let dir = reference_model_dir();
    std::fs::copy(fixtures().join("model/config.json"), dir.path().join("config.json")).unwrap();
    random::write_weights(dir.path(), &Config::from_dir(dir.path()).unwrap(), 0, DType::F32).unwrap();
    let mut model = Kosmos2::open(dir.path(), &Compute::open(DeviceChoice::Cpu, None).unwrap()).unwrap();
    let (mut free, mut kept, mut texts) = (0, 0, 0);
    for batch in (0..ROUNDS).collect::<Vec<_>>().chunks(20) {
        let pixels: Vec<f32> =
            (0..3 * 224 * 224).map(|at| ((at * 37 + batch[0] as usize) % 255) as f32 / 127.5 - 1.0).collect();
        let pixels = PixelValues::new(pixels, 224).unwrap();
        let mut malformed = |well_formed| {
            let query = |(seed, prompt): (u64, &str)| {
                let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: 1.0, seed };
                let max_new_tokens = 6 + (seed % 9) as usize;
                Query::generate(
                    prompt,
                    GenerationOptions { max_new_tokens, sampling, well_formed, ..Default::default() },
                )
            };
            let queries: Vec<_> = batch.iter().flat_map(|&seed| PROMPTS.map(|prompt| query((seed, prompt)))).collect();
            let answers = model.annotate(&pixels, &queries).unwrap();
            answers.iter().filter(|text| !is_well_formed(&text.raw_text)).count()
        };
        free += malformed(false);
        kept += malformed(true);
        texts += batch.len() * PROMPTS.len();
    }
    println!("{texts} texts: {free} malformed when decoded freely, {kept} under the grammar");
    assert_eq!((texts, kept), (2000, 0));
    assert!(free > texts / 2, "{free}");
}
