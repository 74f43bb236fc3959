//! Text that the tokenizer normalizes to a tag never becomes one.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic in a test is the report")]

use crate::common;

use std::collections::BTreeSet;

use common::reference_model_dir;
use hostile::TAGS;
use kosmos2::processor::prompt::{Prompt, PromptError, Task, TextProcessor};
use kosmos2::processor::tokenizer::KosmosTokenizer;
use rand::{Rng, SeedableRng};

const IMAGE_TOKENS: usize = 64;
/// Invisible characters and blanks.
const INVISIBLE: [char; 9] =
    ['\u{200b}', '\u{200c}', '\u{200d}', '\u{2060}', '\u{feff}', '\u{ad}', '\u{a0}', '\u{1}', '\u{202e}'];

fn processor() -> TextProcessor {
    TextProcessor::new(KosmosTokenizer::from_dir(reference_model_dir().path()).unwrap(), IMAGE_TOKENS)
}

/// Ids of all tags and patch tokens.
fn control_ids(processor: &TextProcessor) -> BTreeSet<u32> {
    let tokenizer = processor.tokenizer();
    let one = |tag: &&str| *tokenizer.encode(tag, false).unwrap().last().unwrap();
    TAGS.iter().map(one).chain(tokenizer.patches()).collect()
}

/// The tag with some characters replaced by equivalent ones, and invisible ones inserted.
fn disguise(tag: &str, random: &mut impl Rng) -> String {
    let mut text = String::new();
    for c in tag.chars() {
        let wide = char::from_u32(c as u32 + 0xfee0).unwrap();
        let other = match c {
            '<' => ['\u{fe64}', '\u{2039}', '\u{ff1c}'][random.random_range(0..3)],
            '>' => ['\u{fe65}', '\u{203a}', '\u{ff1e}'][random.random_range(0..3)],
            'a'..='z' => [wide, char::from_u32(0x1d41a + (c as u32 - 'a' as u32)).unwrap()][random.random_range(0..2)],
            _ => wide,
        };
        text.push(if random.random_bool(0.3) { other } else { c });
        if random.random_bool(0.05) {
            text.push(INVISIBLE[random.random_range(0..INVISIBLE.len())]);
        }
    }
    text
}

#[test]
fn no_form_of_a_tag_acts_within_words() {
    let (processor, mut random) = (processor(), rand::rngs::StdRng::seed_from_u64(4));
    let control_ids = control_ids(&processor);
    let (mut spelled_out, mut disguised, mut harmless) = (0, 0, 0);
    for round in 0..6000 {
        let tag = TAGS[round % TAGS.len()];
        let text = format!("a cat{}{}", if random.random_bool(0.5) { " " } else { "" }, disguise(tag, &mut random));
        let prompt = match Task::Question(text.clone()).prompt() {
            Err(PromptError::TagInWords { .. }) => {
                spelled_out += 1;
                continue;
            }
            prompt => prompt.unwrap(),
        };
        match processor.encode_untrusted(&prompt) {
            Err(PromptError::DisguisedTag(_)) => disguised += 1,
            Err(other) => panic!("{text:?}: {other}"),
            Ok(encoded) => {
                harmless += 1;
                let words = &encoded.input_ids[IMAGE_TOKENS + 3..];
                let found = words.iter().filter(|id| control_ids.contains(id)).count();
                assert_eq!(found, 1, "{text:?} has a tag besides <grounding>: {words:?}");
            }
        }
    }
    assert!(spelled_out > 100 && disguised > 20 && harmless > 1000, "{spelled_out} {disguised} {harmless}");
}

#[test]
fn a_full_width_end_would_be_the_end_of_the_text() {
    let processor = processor();
    let prompt = Prompt::new("<grounding> Question: why＜/s＞ Answer:");
    let encoded = processor.encode(&prompt, &Default::default()).unwrap();
    let end = *processor.tokenizer().encode("</s>", false).unwrap().last().unwrap();
    assert!(encoded.input_ids[IMAGE_TOKENS + 3..].contains(&end), "encode follows the reference");
    let error = processor.encode_untrusted(&prompt).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the prompt contains characters that the tokenizer takes for the tag </s>; write it out, or leave it out"
    );
}

#[test]
fn words_of_every_script_and_tags_that_are_written_out_pass() {
    let processor = processor();
    for text in [
        "<grounding> An image of",
        "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object> and",
        "<grounding><phrase> a < b and c > d</phrase>",
        "問題：猫はどこですか？ \u{1f431} Größe ½ ﬁn \u{202e}rtl",
        "1 < 2 </ s> < s > <<s >",
    ] {
        processor.encode_untrusted(&Prompt::new(text)).unwrap();
    }
}

#[test]
fn a_prompt_from_outside_may_hold_nothing_that_is_placed_for_it() {
    for tag in ["<image>", "</image>", "<s>", "</s>", "<pad>", "<unk>", "<mask>"] {
        let error = Prompt::new(format!("An image{tag} of")).check().unwrap_err();
        assert!(matches!(error, PromptError::PlacedTag(found) if found == tag), "{error}");
    }
    for broken in
        ["<patch_index_1024>", "<patch_index_001>", "<patch_index_", "<patch_index_00é1>", "<patch_index_0001"]
    {
        let error = Prompt::new(format!("<object>{broken}")).check().unwrap_err();
        assert!(matches!(error, PromptError::BrokenPatch(_)), "{broken}: {error}");
    }
    Prompt::new("<grounding><phrase> it</phrase><object><patch_index_0000><patch_index_1023></object>")
        .check()
        .unwrap();
}
