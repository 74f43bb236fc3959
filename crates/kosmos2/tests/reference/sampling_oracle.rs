//! The sampler gives the distributions of candle-transformers' `LogitsProcessor`.
//!
//! Only for distinct logits: of equal ones, candle-transformers keeps an arbitrary one at the cut of top-k, while the
//! reference and this crate keep all. And not for top-k with top-p, where it does not normalize between the two.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as OracleSampling};
use kosmos2::decoding::Sampler;
use kosmos2::options::{GenerationOptions, Sampling};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const VOCABULARY: usize = 16;
const SAMPLES: usize = 20_000;

/// Distinct logits in random order.
fn random_logits(random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut logits: Vec<f32> =
        (0..VOCABULARY).map(|rank| rank as f32 * 0.25 + random.random_range(0.01..0.2)).collect();
    logits.shuffle(random);
    logits
}

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(&GenerationOptions { sampling, ..GenerationOptions::default() }, None).unwrap()
}

fn frequencies(mut sample: impl FnMut() -> u32) -> Vec<f64> {
    let mut counts = [0; VOCABULARY];
    (0..SAMPLES).for_each(|_| counts[sample() as usize] += 1);
    counts.iter().map(|&count| f64::from(count) / SAMPLES as f64).collect()
}

#[test]
fn greedy_tokens_are_those_of_candle_transformers() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..200 {
        let logits = random_logits(&mut random);
        let tensor = Tensor::new(logits.as_slice(), &Device::Cpu).unwrap();
        let expected = LogitsProcessor::from_sampling(0, OracleSampling::ArgMax).sample(&tensor).unwrap();
        assert_eq!(sampler(Sampling::Greedy).choose(&logits, &[]).unwrap().token, expected);
    }
}

#[test]
fn samples_have_the_distributions_of_candle_transformers() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for (temperature, top_k, top_p) in [
        (1.0, None, 1.0),
        (0.5, None, 1.0),
        (2.0, None, 1.0),
        (1.0, Some(1), 1.0),
        (1.0, Some(5), 1.0),
        (0.7, Some(VOCABULARY), 1.0),
        (1.0, None, 0.2),
        (1.0, None, 0.6),
        (1.5, None, 0.95),
    ] {
        let logits = random_logits(&mut random);
        let mut sampler = sampler(Sampling::Random { temperature, top_k, top_p, seed: 3 });
        let found = frequencies(|| sampler.choose(&logits, &[]).unwrap().token);

        let temperature = f64::from(temperature);
        let sampling = match top_k {
            Some(k) => OracleSampling::TopK { k, temperature },
            None => OracleSampling::TopP { p: f64::from(top_p), temperature },
        };
        let mut oracle = LogitsProcessor::from_sampling(4, sampling);
        let tensor = Tensor::new(logits.as_slice(), &Device::Cpu).unwrap();
        let expected = frequencies(|| oracle.sample(&tensor).unwrap());

        let name = format!("temperature {temperature}, top_k {top_k:?}, top_p {top_p}");
        for (token, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // Four standard deviations of the difference of two frequencies.
            let tolerance = 4.0 * (2.0 * expected.max(1e-4) / SAMPLES as f64).sqrt();
            assert!((found - expected).abs() < tolerance, "{name}: token {token} {found} and not {expected}");
        }
        if top_k.is_some() || top_p < 1.0 {
            let kept = |frequencies: &[f64]| frequencies.iter().filter(|&&frequency| frequency > 0.0).count();
            assert_eq!(kept(&found), kept(&expected), "{name}: number of tokens kept");
        }
    }
}
