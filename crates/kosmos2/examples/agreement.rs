//! Compares the reduced number formats of the CPU, or the formats of CUDA, with f32 on the CPU.
//!
//! `cargo run --release -p kosmos2 --example agreement -- MODEL_DIR SCENES_DIR` answers the prompts of SCENES_DIR's
//! goldens.json and compares tokens and boxes with those of f32 and of the reference. With `--random CONFIG_DIR` it
//! compares the logits after one prompt, for random weights of that configuration. `--device cuda` at the end compares
//! CUDA's formats.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a program that only prints")]

use std::path::Path;

use kernels::cpu::{WeightFormat, argmax};
use kosmos2::backend::{ImagePlaces, Segment};
use kosmos2::compute::{Compute, DeviceChoice};
use kosmos2::config::Config;
use kosmos2::options::{GenerationOptions, GroundedText};
use kosmos2::processor::image::{DecodeOptions, PixelValues, decode};
use kosmos2::{Kosmos2, Model, Query};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    file: String,
    prompt: String,
    new_ids: Vec<u32>,
    /// The smallest gap between the reference's two best logits.
    margin: f32,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (arguments, device, formats) = match &arguments[..] {
        [rest @ .., flag, device] if flag == "--device" => {
            (rest, device.as_str(), &["f32", "bf16", "f16", "bf16-kv8"][..])
        }
        all => (all, "cpu", &["bf16", "int8", "w8a8"][..]),
    };
    let device: DeviceChoice = device.parse().expect("a device");
    let open = |format: &&str| ((*format).to_owned(), Compute::open(device, Some(format)).expect("a device"));
    match arguments {
        [flag, config] if flag == "--random" => logits(Path::new(config), formats.iter().map(open)),
        [model, scenes] => texts(Path::new(model), Path::new(scenes), formats.iter().map(open)),
        _ => println!("usage: agreement (MODEL_DIR SCENES_DIR | --random CONFIG_DIR) [--device cuda]"),
    }
}

fn goldens(scenes: &Path) -> Vec<Golden> {
    serde_json::from_slice(&std::fs::read(scenes.join("goldens.json")).expect("goldens.json"))
        .expect("a list of prompts")
}

/// The image embeddings of all scenes, and the answers.
fn answers(model: &Path, scenes: &Path, compute: &Compute) -> (Vec<Vec<f32>>, Vec<GroundedText>) {
    let goldens = goldens(scenes);
    let mut model = Kosmos2::open(model, compute).expect("a model");
    let options = GenerationOptions { max_new_tokens: 160, ..GenerationOptions::default() };
    let (mut embeddings, mut found) = (Vec::new(), Vec::new());
    for scene in goldens.chunk_by(|a, b| a.file == b.file) {
        let bytes = std::fs::read(scenes.join(&scene[0].file)).expect("a scene");
        let picture = decode(&bytes, &DecodeOptions::default()).expect("a picture");
        let pixels = model.processor().images().pixel_values(&picture);
        let embedding = model.model().backend().image_embeddings(&[&pixels]).expect("an embedding").remove(0);
        embeddings.push(embedding.as_slice().to_vec());
        let queries: Vec<_> = scene.iter().map(|g| Query::generate(g.prompt.as_str(), options.clone())).collect();
        found.extend(model.annotate(&pixels, &queries).expect("answers"));
    }
    (embeddings, found)
}

fn texts(model: &Path, scenes: &Path, computes: impl Iterator<Item = (String, Compute)>) {
    let (exact_embeddings, exact) = answers(model, scenes, &Compute::Cpu(WeightFormat::F32));
    let goldens = goldens(scenes);
    println!("{} prompts, compared with f32 on the CPU", exact.len());
    for (name, compute) in computes {
        let (embeddings, found) = answers(model, scenes, &compute);
        let error = relative_error(exact_embeddings.iter().zip(&embeddings));
        println!("{name}: relative error of the image embeddings {error:.5}");
        let same = exact.iter().zip(&found).filter(|(a, b)| a.token_ids == b.token_ids).count();
        let tokens: usize = exact.iter().map(|text| text.token_ids.len()).sum();
        let agreeing: usize = exact
            .iter()
            .zip(&found)
            .map(|(a, b)| a.token_ids.iter().zip(&b.token_ids).take_while(|(a, b)| a == b).count())
            .sum();
        let (mut overlap, mut boxes) = (0.0, 0);
        for (a, b) in exact.iter().zip(&found) {
            let boxes_of = |text: &GroundedText| text.entities.iter().flat_map(|e| e.boxes.clone()).collect::<Vec<_>>();
            let (a, b) = (boxes_of(a), boxes_of(b));
            boxes += a.len();
            overlap += a.iter().zip(&b).map(|(a, b)| a.intersection_over_union(b)).sum::<f64>();
        }
        println!(
            "{name}: {same} identical texts ({:.1} %), {:.2} % of tokens before the first difference, mean box IoU {:.4}",
            100.0 * same as f64 / exact.len() as f64,
            100.0 * agreeing as f64 / tokens as f64,
            overlap / boxes as f64,
        );
        let others: Vec<_> =
            goldens.iter().zip(&found).filter(|(golden, found)| golden.new_ids != found.token_ids).collect();
        println!("{name}: {} of {} texts are the reference's", goldens.len() - others.len(), goldens.len());
        for (golden, found) in others {
            let at = golden.new_ids.iter().zip(&found.token_ids).take_while(|(a, b)| a == b).count();
            println!("  {} {:?}: differs at token {at}, margin {}", golden.file, golden.prompt, golden.margin);
        }
    }
}

/// Compares the logits after every token of a prompt, for random weights of this configuration.
fn logits(config_dir: &Path, computes: impl Iterator<Item = (String, Compute)>) {
    let config = Config::from_dir(config_dir).expect("config.json");
    let exact = random_logits(&config, &Compute::Cpu(WeightFormat::F32));
    for (name, compute) in computes {
        let found = random_logits(&config, &compute);
        let error = relative_error(exact.iter().zip(&found));
        let best = exact.iter().zip(&found).filter(|(exact, found)| argmax(exact) == argmax(found)).count();
        println!(
            "{name}: relative error of the logits {error:.5}, the best token is the same after {best} of {} tokens",
            exact.len()
        );
    }
}

/// The root mean square of the differences, relative to the standard deviation of the exact values.
fn relative_error<'a>(pairs: impl Iterator<Item = (&'a Vec<f32>, &'a Vec<f32>)>) -> f64 {
    let (mut squares, mut errors) = (0.0, 0.0);
    for (exact, found) in pairs {
        let mean = exact.iter().map(|&x| f64::from(x)).sum::<f64>() / exact.len() as f64;
        squares += exact.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
        errors += exact.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    }
    (errors / squares).sqrt()
}

fn random_logits(config: &Config, compute: &Compute) -> Vec<Vec<f32>> {
    let mut model = Model::random(config.clone(), 0, compute).expect("a model");
    let (side, queries) = (config.vision_config.image_size, config.latent_query_num);
    let pixels = (0..3 * side * side).map(|at| ((at * 37) % 255) as f32 / 127.5 - 1.0).collect();
    let pixels = PixelValues::new(pixels, side).expect("three planes");
    let backend = model.backend();
    let embedding = backend.image_embeddings(&[&pixels]).expect("an embedding").remove(0);
    let vocabulary = config.text_config.vocab_size as u32;
    let tokens: Vec<u32> = (0..queries as u32 + 7).map(|at| (at * 911 + 5) % vocabulary).collect();
    let mask: Vec<u8> = (0..tokens.len()).map(|at| u8::from((2..2 + queries).contains(&at))).collect();
    backend.reserve(1, tokens.len()).expect("memory for a slot");
    let image = Some(ImagePlaces { embedding: &embedding, mask: &mask });
    let logits = 0..tokens.len();
    let segment = Segment {
        slot: 0,
        cached: 0,
        copy: None,
        tokens: &tokens,
        preceding_non_pad: 0,
        image,
        logits: logits.clone(),
    };
    backend.forward(&[segment]).expect("logits").rows(logits).into_iter().map(<[f32]>::to_vec).collect()
}
