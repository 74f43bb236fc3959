//! The cost of well-formed decoding per token: `cargo run --release -p kosmos2 --example grammar_cost -- MODEL_DIR`.
//!
//! Only tokenizer.json is read. Every token costs `allows` and `advance`; `mask` is needed only for tokens that would
//! not be allowed.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a program that only prints")]

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use kosmos2::grounding::grammar::Grammar;
use kosmos2::processor::tokenizer::KosmosTokenizer;

const PAIR: &str = "<object><patch_index_0044><patch_index_0863>";

fn main() {
    let dir = std::env::args().nth(1).expect("the directory of a model, as the only argument");
    let tokenizer = KosmosTokenizer::from_dir(Path::new(&dir)).expect("a tokenizer.json");
    let encode = |text: &str| tokenizer.encode(text, false).expect("a text");
    let built = Instant::now();
    let grammar = Grammar::new(&tokenizer, &encode("</s>"));
    println!("{} tokens, built in {:.1} ms", tokenizer.vocab_size(), built.elapsed().as_secs_f64() * 1e3);
    let logits = vec![0.5f32; tokenizer.vocab_size()];
    let mut scores = logits.clone();
    let pairs = PAIR.len();
    for (place, prompt) in [
        ("text", "<grounding> An image of"),
        ("phrase", "<grounding><phrase> It"),
        ("first corner", &PAIR[..8]),
        ("second corner", &PAIR[..pairs - 18]),
        ("after a pair", PAIR),
    ] {
        let prompt = encode(prompt);
        let state = grammar.start(&prompt, 60);
        let copy = median_ns(21, 100, || scores.copy_from_slice(black_box(&logits)));
        let mask = median_ns(21, 100, || {
            scores.copy_from_slice(black_box(&logits));
            black_box(grammar.mask(&state, &mut scores));
        });
        let follow = median_ns(21, 100_000, || {
            let mut state = black_box(state);
            let token = black_box(4);
            black_box(grammar.allows(&state, token));
            grammar.advance(&mut state, token);
            black_box(state);
        });
        println!("{place:>14}: mask {:.1} µs, allows and advance {follow:.1} ns", (mask - copy) / 1e3);
    }
}

/// Median over `runs` of the mean time of `times` calls, in ns.
fn median_ns(runs: usize, times: u32, mut call: impl FnMut()) -> f64 {
    let mut run = || {
        let start = Instant::now();
        (0..times).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(times)
    };
    let mut found: Vec<f64> = (0..runs).map(|_| run()).collect();
    found.sort_by(f64::total_cmp);
    found[runs / 2]
}
