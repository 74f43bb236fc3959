//! The grammar on the reference's answers, on malformed texts and on random token sequences.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

#[path = "../common/mod.rs"]
mod common;
mod random_rows;
mod sampler;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use common::{fixtures, json};
use kosmos2::grounding::grammar::Grammar;
use kosmos2::grounding::markup;
use kosmos2::processor::tokenizer::KosmosTokenizer;
use serde::Deserialize;

struct Kit {
    tokenizer: KosmosTokenizer,
    grammar: Arc<Grammar>,
    end: u32,
}

/// The published vocabulary of 65,037 tokens.
static KIT: LazyLock<Kit> = LazyLock::new(|| Kit::open(common::reference_model_dir().path()));

impl Kit {
    fn open(dir: &Path) -> Self {
        let tokenizer = KosmosTokenizer::from_dir(dir).unwrap();
        let end = tokenizer.encode("</s>", false).unwrap()[0];
        Self { grammar: Arc::new(Grammar::new(&tokenizer, &[end])), tokenizer, end }
    }

    fn ids(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(text, false).unwrap()
    }

    /// The token of a tag or a patch.
    fn id(&self, token: &str) -> u32 {
        let ids = self.ids(token);
        assert_eq!(ids.len(), 1, "{token}");
        ids[0]
    }

    /// A prompt after a picture with a single placeholder.
    fn prompt(&self, text: &str) -> Vec<u32> {
        self.ids(&format!("<s><image> the</image> {text}"))
    }

    fn text(&self, ids: &[u32]) -> String {
        self.tokenizer.decode(ids, true, true).unwrap()
    }

    /// Whether every token of an answer is allowed.
    fn allows(&self, prompt: &[u32], answer: &[u32], budget: usize) -> bool {
        let mut state = self.grammar.start(prompt, budget);
        answer.iter().all(|&token| {
            let allowed = self.grammar.allows(&state, token);
            self.grammar.advance(&mut state, token);
            allowed
        })
    }

    /// Which of these tokens are allowed after a prompt.
    fn allowed(&self, prompt: &str, budget: usize, tokens: &[&'static str]) -> Vec<&'static str> {
        let state = self.grammar.start(&self.prompt(prompt), budget);
        tokens.iter().copied().filter(|token| self.grammar.allows(&state, self.id(token))).collect()
    }
}

#[test]
fn every_golden_answer_is_accepted_even_where_it_just_fits() {
    #[derive(Deserialize)]
    struct Golden {
        text_ids: Vec<u32>,
        new_ids: Vec<u32>,
        markup: String,
    }
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sandbox/demo");
    let kit = Kit::open(&demo.join("kosmos-2-emoji"));
    let goldens: Vec<Golden> = json(demo.join("scenes/goldens.json"));
    assert_eq!(goldens.len(), 384);
    for golden in goldens {
        for budget in [golden.new_ids.len(), 160] {
            assert!(kit.allows(&golden.text_ids, &golden.new_ids, budget), "{}", golden.markup);
        }
        assert!(kit.grammar.accepts(&golden.text_ids, &golden.new_ids), "{}", golden.markup);
        assert!(markup::is_well_formed(&golden.markup), "{}", golden.markup);
    }
}

/// On the cases of the reference's tests and on random mixtures of tags, blanks and scripts.
#[test]
fn an_answer_is_accepted_if_and_only_if_its_text_is_well_formed() {
    #[derive(Deserialize)]
    struct Goldens {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        text: String,
    }
    let mut counts = BTreeMap::<_, usize>::new();
    for file in ["post.json", "mixtures.json"] {
        let goldens: Goldens = json(fixtures().join("text").join(file));
        for case in &goldens.cases {
            for (prompt, text) in
                [("<grounding>", case.text.trim_start().trim_start_matches("<grounding>")), ("An image of", &case.text)]
            {
                let prompt = KIT.prompt(prompt);
                let answer = KIT.ids(text);
                let answer = answer.split(|&id| id == KIT.end).next().unwrap();
                let text = KIT.text(&[&prompt, answer].concat());
                let well_formed = markup::is_well_formed(&text);
                assert_eq!(KIT.grammar.accepts(&prompt, answer), well_formed, "{text:?}");

                *counts.entry((file, well_formed)).or_default() += 1;
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.len() == 4 && counts.values().all(|&count| count >= 10), "{counts:?}");
}

const TAGS: [&str; 9] = [
    "<phrase>",
    "</phrase>",
    "<object>",
    "<patch_index_0044>",
    "<patch_index_0863>",
    "</delimiter_of_multi_objects/>",
    "</object>",
    "</s>",
    "<grounding>",
];

#[test]
fn tags_come_only_where_they_mean_something() {
    let allowed = |prompt: &str| KIT.allowed(prompt, 60, &TAGS);
    assert_eq!(allowed("An image of"), ["<phrase>", "</s>"]);
    assert_eq!(allowed("<grounding> An image of"), ["<phrase>", "<object>", "</s>"]);
    assert_eq!(allowed("<phrase>"), <[&str; 0]>::default());
    assert_eq!(allowed("<phrase> It"), ["</phrase>"]);
    assert_eq!(allowed("<phrase> It</phrase>"), ["<phrase>", "<object>", "</s>"]);
    assert_eq!(allowed("<phrase> It</phrase> is"), ["<phrase>", "</s>"]);
    let object = "<phrase> It</phrase><object>";
    let patches = ["<patch_index_0044>", "<patch_index_0863>"];
    assert_eq!(allowed(object), patches);
    assert_eq!(allowed(&format!("{object}<patch_index_0044>")), patches);
    assert_eq!(allowed(&format!("{object}<patch_index_0045>")), ["<patch_index_0863>"]);
    assert_eq!(allowed(&format!("{object}<patch_index_0863>")), ["<patch_index_0863>"]);
    let pair = format!("{object}<patch_index_0044><patch_index_0863>");
    assert_eq!(allowed(&pair), ["</delimiter_of_multi_objects/>", "</object>"]);
    assert_eq!(allowed(&format!("{pair}</delimiter_of_multi_objects/>")), patches);
    assert_eq!(allowed(&format!("{pair}</object> is")), ["<phrase>", "</s>"]);
}

#[test]
fn nothing_is_opened_that_the_tokens_left_cannot_close() {
    let allowed = |prompt: &str, budget| KIT.allowed(prompt, budget, &TAGS);
    let plain = "<grounding> An image of";
    assert_eq!(allowed(plain, 2), ["</s>"]);
    assert_eq!(allowed(plain, 3), ["<phrase>", "</s>"]);
    assert_eq!(allowed(plain, 4), ["<phrase>", "<object>", "</s>"]);
    let pair = "<object><patch_index_0044><patch_index_0863>";
    assert_eq!(allowed(pair, 3), ["</object>"]);
    assert_eq!(allowed(pair, 4), ["</delimiter_of_multi_objects/>", "</object>"]);
    // A text token in a phrase needs one more token for its end.
    let text = KIT.id("the");
    let accepts = |prompt: &str, budget| KIT.grammar.allows(&KIT.grammar.start(&KIT.prompt(prompt), budget), text);
    assert_eq!([1, 2].map(|budget| accepts("<phrase> It", budget)), [false, true]);
    // If the markup cannot be closed in time, only the shortest way is allowed.
    assert_eq!(allowed("<object>", 1), ["<patch_index_0044>", "<patch_index_0863>"]);
    assert_eq!(allowed("<phrase> It", 0), ["</phrase>"]);
}

#[test]
fn an_odd_prompt_starts_where_its_reader_would_be() {
    let allowed = |prompt: &str| KIT.allowed(prompt, 60, &TAGS);
    let text = ["<phrase>", "</s>"];
    for odd in [
        "</phrase>",
        "</object></object>",
        "<phrase></phrase>",
        "<phrase> a</doc>",
        "<object><patch_index_0001></object>",
        "<object> a",
        "<patch_index_0001>",
        "<grounding> <image></image>",
        "a < b > c",
        "<phrase> It</phrase><object><patch_index_1024>",
    ] {
        assert_eq!(allowed(odd), text, "{odd}");
    }
    assert_eq!(allowed("<phrase> a<phrase> b"), ["</phrase>"]);
    assert_eq!(allowed("<phrase> a > b"), ["</phrase>"]);
    assert_eq!(allowed("<phrase>a</s>"), ["</phrase>"]);
    assert_eq!(allowed("<phrase> a<object>"), ["<patch_index_0044>", "<patch_index_0863>"]);
    let reversed = "<object><patch_index_0863><patch_index_0044>";
    assert_eq!(allowed(reversed), ["</delimiter_of_multi_objects/>", "</object>"]);
    let state = KIT.grammar.start(&[u32::MAX, 0, 65_037], 5);
    assert!(KIT.grammar.allows(&state, KIT.end) && !KIT.grammar.allows(&state, u32::MAX));
}

#[test]
fn text_with_brackets_is_banned_and_other_text_is_not() {
    let state = KIT.grammar.start(&KIT.prompt("An image of"), 60);
    let (mut banned, mut free) = (0, 0);
    for id in 0..KIT.tokenizer.vocab_size() as u32 {
        let text = KIT.tokenizer.decode(&[KIT.end, id], true, false).unwrap();
        let is_phrase = text == "<phrase>";
        assert_eq!(KIT.grammar.allows(&state, id), is_phrase || !text.contains(['<', '>']), "{text:?}");
        *if text.contains(['<', '>']) { &mut banned } else { &mut free } += 1;
    }
    assert!(banned >= 1024 + 11 + 13 && free > 60_000, "{banned} {free}");
}

/// Prompts and the minimum number of tokens that close them.
const STARTS: [(&str, usize); 12] = [
    ("An image of", 0),
    ("<grounding> An image of", 0),
    ("<grounding> Describe this image in detail:", 0),
    ("<grounding><phrase> It</phrase><object><patch_index_0044><patch_index_0863></object> is", 0),
    ("<grounding><phrase> a snowman</phrase>", 0),
    ("<grounding><phrase> It", 1),
    ("<grounding><phrase>", 2),
    ("<phrase> a fire</phrase><object>", 3),
    ("<grounding><object><patch_index_0700>", 2),
    ("<phrase> two</phrase><object><patch_index_0001><patch_index_0100>", 1),
    ("<phrase> two</phrase><object><patch_index_0001><patch_index_0100></delimiter_of_multi_objects/>", 3),
    ("<grounding> a<phrase> b</phrase> c", 0),
];

#[test]
fn the_mask_bans_exactly_what_is_not_allowed() {
    let vocabulary = KIT.tokenizer.vocab_size();
    for (prompt, _) in STARTS {
        for budget in [1, 2, 3, 5, 60] {
            let state = KIT.grammar.start(&KIT.prompt(prompt), budget);
            // Two more scores than the vocabulary has tokens.
            let mut scores = vec![1.0; vocabulary + 2];
            assert!(KIT.grammar.mask(&state, &mut scores));
            let mask = KIT.grammar.token_mask(&state);
            for (id, &score) in scores.iter().enumerate() {
                let expected = if KIT.grammar.allows(&state, id as u32) { 1.0 } else { f32::NEG_INFINITY };
                assert_eq!(score, expected, "{prompt} {budget} {id}");
                assert_eq!(mask.allows(id as u32), expected == 1.0, "{prompt} {budget} {id}");
            }
        }
    }
}
