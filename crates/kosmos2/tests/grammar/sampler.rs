//! Sampling under the grammar.

use kosmos2::backend::LogitsRequest;
use kosmos2::decoding::Sampler;
use kosmos2::grounding::grammar::Constraint;
use kosmos2::grounding::markup;
use kosmos2::options::{GenerationOptions, Sampling};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{KIT, TAGS};

fn constraint(prompt: &[u32], options: &GenerationOptions) -> Constraint {
    Constraint::for_prompt(&KIT.grammar, prompt, options).unwrap()
}

fn well_formed(max_new_tokens: usize) -> GenerationOptions {
    GenerationOptions { max_new_tokens, well_formed: true, ..GenerationOptions::default() }
}

#[test]
fn the_best_allowed_token_is_chosen_with_its_raw_log_probability() {
    let (prompt, options) = (KIT.prompt("<grounding><phrase> It"), well_formed(60));
    assert!(Constraint::for_prompt(&KIT.grammar, &prompt, &GenerationOptions::default()).is_none());
    let mut logits = vec![0.0; KIT.tokenizer.vocab_size()];
    logits[KIT.id("<object>") as usize] = 9.0;
    logits[KIT.id("</phrase>") as usize] = 8.0;
    let mut free = Sampler::new(&options, None).unwrap();
    assert_eq!(free.choose(&logits, &prompt).unwrap().token, KIT.id("<object>"));
    let mut sampler = Sampler::new(&options, Some(constraint(&prompt, &options))).unwrap();
    let choice = sampler.choose(&logits, &prompt).unwrap();
    assert_eq!(choice.token, KIT.id("</phrase>"));
    let total: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
    assert!((f64::from(choice.logprob) - (8.0 - total.ln())).abs() < 1e-4);
    // The state has advanced: after the phrase, an object is allowed.
    assert_eq!(sampler.choose(&logits, &prompt).unwrap().token, KIT.id("<object>"));
}

#[test]
fn a_ban_gives_way_where_it_leaves_no_allowed_token() {
    let pair = "<object><patch_index_0001><patch_index_0100>";
    let prompt = KIT.prompt(&format!("{pair}</object>{pair}"));
    let options = GenerationOptions { no_repeat_ngram_size: 3, ..well_formed(1) };
    let mut logits = vec![-3.0; KIT.tokenizer.vocab_size()];
    logits[KIT.id("</object>") as usize] = -7.0;
    let mut sampler = Sampler::new(&options, Some(constraint(&prompt, &options))).unwrap();
    assert_eq!(sampler.choose(&logits, &prompt).unwrap().token, KIT.id("</object>"));
    // With enough tokens for another box, the ban holds, and the delimiter is chosen.
    let options = GenerationOptions { max_new_tokens: 5, ..options };
    for tag in ["<s>", "<pad>", "<unk>", "<mask>"] {
        logits[KIT.id(tag) as usize] = -9.0;
    }
    let mut sampler = Sampler::new(&options, Some(constraint(&prompt, &options))).unwrap();
    assert_eq!(sampler.choose(&logits, &prompt).unwrap().token, KIT.id("</delimiter_of_multi_objects/>"));
}

#[test]
fn a_drawn_row_that_is_well_formed_anyway_is_drawn_the_same_under_the_grammar() {
    let (prompt, mut random) = (KIT.prompt("<grounding> An image of"), ChaCha8Rng::seed_from_u64(5));
    let interesting: Vec<u32> = TAGS.iter().chain(&["<unk>"]).map(|tag| KIT.id(tag)).chain(300..340).collect();
    let (mut same, mut others) = (0, 0);
    for seed in 0..60 {
        let sampling = Sampling::Random { temperature: 1.0, top_k: Some(50), top_p: 0.95, seed };
        let options = GenerationOptions { sampling, ..well_formed(6) };
        let steps: Vec<Vec<f32>> = (0..6)
            .map(|_| {
                let mut logits = vec![-20.0; KIT.tokenizer.vocab_size()];
                interesting.iter().for_each(|&id| logits[id as usize] = random.random_range(-2.0..2.0));
                logits
            })
            .collect();
        let run = |constraint| {
            let mut sampler = Sampler::new(&options, constraint).unwrap();
            let mut row = prompt.clone();
            for logits in &steps {
                row.push(sampler.choose(logits, &row).unwrap().token);
                if row.last() == Some(&KIT.end) {
                    break;
                }
            }
            row
        };
        let (free, kept) = (run(None), run(Some(constraint(&prompt, &options))));
        assert!(markup::is_well_formed(&KIT.text(&kept)));
        if markup::is_well_formed(&KIT.text(&free)) {
            assert_eq!(free, kept);
            same += 1;
        } else {
            assert_ne!(free, kept);
            others += 1;
        }
    }
    assert!(same >= 5 && others >= 5, "{same} {others}");
}

#[test]
fn the_best_token_is_wanted_alone_only_where_nothing_else_decides() {
    let prompt = KIT.prompt("<grounding><phrase> It");
    let request = |options: &GenerationOptions| {
        let constraint = Constraint::for_prompt(&KIT.grammar, &prompt, options);
        Sampler::new(options, constraint).unwrap().logits_request(0..0)
    };
    let LogitsRequest::Best { mask: Some(mask), .. } = request(&well_formed(60)) else { panic!("a mask") };
    assert!(mask.allows(KIT.id("</phrase>")) && !mask.allows(KIT.id("<object>")));
    assert!(matches!(request(&GenerationOptions::default()), LogitsRequest::Best { mask: None, .. }));
    let drawn = Sampling::Random { temperature: 1.0, top_k: None, top_p: 1.0, seed: 0 };
    for others in [
        GenerationOptions { sampling: drawn, ..GenerationOptions::default() },
        GenerationOptions { no_repeat_ngram_size: 3, ..GenerationOptions::default() },
        GenerationOptions { repetition_penalty: 1.1, ..GenerationOptions::default() },
    ] {
        assert!(matches!(request(&others), LogitsRequest::Logits));
    }
}
