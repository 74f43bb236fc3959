//! Prompts are encoded as by the reference.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use crate::common;

use common::{fixtures, json, reference_model_dir};
use kosmos2::processor::prompt::{
    EncodeOptions, EncodedPrompt, PaddingSide, Prompt, PromptBox, PromptError, Task, TextProcessor,
};
use kosmos2::processor::tokenizer::KosmosTokenizer;
use rand::{Rng, SeedableRng};
use serde_json::Value;

fn tokenizer() -> KosmosTokenizer {
    KosmosTokenizer::from_dir(reference_model_dir().path()).unwrap()
}

fn processor() -> TextProcessor {
    TextProcessor::new(tokenizer(), 64)
}

/// The goldens have boxes as `{"box": […]}`, for Python's tuples; here they are lists of numbers.
fn plain_boxes(value: &Value) -> Value {
    match value {
        Value::Object(tuple) => tuple["box"].clone(),
        Value::Array(list) => list.iter().map(plain_boxes).collect(),
        other => other.clone(),
    }
}

/// The prompt of a golden, or the prompts of a batch.
fn prompts(case: &Value) -> Vec<Result<Prompt, PromptError>> {
    let one = |text: &Value, boxes: &Value| {
        let boxes = (!boxes.is_null()).then(|| plain_boxes(boxes).to_string());
        Prompt::from_json(text.as_str().unwrap(), boxes.as_deref())
    };
    match &case["text"] {
        Value::Array(texts) => texts.iter().enumerate().map(|(i, text)| one(text, &case["bboxes"][i])).collect(),
        text => vec![one(text, &case["bboxes"])],
    }
}

fn encode(processor: &TextProcessor, case: &Value) -> Result<Vec<EncodedPrompt>, PromptError> {
    let options = EncodeOptions {
        image: case["image"].as_bool().unwrap_or(true),
        add_eos: case["add_eos_token"].as_bool().unwrap_or(false),
        add_special_tokens: case["add_special_tokens"].as_bool().unwrap_or(true),
    };
    let mut rows = prompts(case)
        .into_iter()
        .map(|prompt| processor.encode(&prompt?, &options))
        .collect::<Result<Vec<_>, PromptError>>()?;
    if case["text"].is_array() {
        let side = if case["padding_side"] == "left" { PaddingSide::Left } else { PaddingSide::Right };
        processor.pad(&mut rows, side, case["max_length"].as_u64().unwrap_or(0) as usize);
    }
    Ok(rows)
}

#[test]
fn every_processor_case_gives_the_references_ids_and_masks() {
    let (processor, goldens) = (processor(), json::<Value>(fixtures().join("text/text.json")));
    let cases = goldens["processor"].as_array().unwrap();
    let mut errors = 0;
    for case in cases {
        let name = case["name"].as_str().unwrap();
        if case["error"].is_string() {
            let error = encode(&processor, case).expect_err(name).to_string();
            assert!(!error.contains('\n'), "{error}");
            errors += 1;
            continue;
        }
        let rows = encode(&processor, case).expect(name);
        let batched = case["text"].is_array();
        let listed = |values: Vec<Value>| if batched { Value::Array(values) } else { values[0].clone() };
        assert_eq!(listed(rows.iter().map(|row| row.input_ids.clone().into()).collect()), case["input_ids"], "{name}");
        let masks = listed(rows.iter().map(|row| row.attention_mask.clone().into()).collect());
        assert_eq!(masks, case["attention_mask"], "{name}");
        let places = match rows[0].image_embeds_position_mask {
            Some(_) => listed(rows.iter().map(|row| row.image_embeds_position_mask.clone().into()).collect()),
            None => Value::Null,
        };
        assert_eq!(places, case["image_embeds_position_mask"], "{name}");
        for (i, row) in rows.iter().enumerate() {
            let preprocessed = if batched { &case["preprocessed_text"][i] } else { &case["preprocessed_text"] };
            assert!(preprocessed.as_str().unwrap().ends_with(&row.text), "{name}");
            let decoded = processor.tokenizer().decode(&row.input_ids, true, true).unwrap();
            assert_eq!(decoded, case["decoded"][i], "{name}");
        }
    }
    println!("{} cases, {errors} of them refused as the reference refuses them", cases.len());
    assert!(errors > 0 && cases.len() > 40);
}

#[test]
fn every_tokenizer_case_encodes_and_decodes_as_the_references() {
    let (tokenizer, goldens) = (tokenizer(), json::<Value>(fixtures().join("text/text.json")));
    for case in goldens["tokenizer"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(Value::from(ids.clone()), case["ids"], "{text:?}");
        assert_eq!(Value::from(tokenizer.encode(text, true).unwrap()), case["ids_with_special"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true, true).unwrap(), case["decoded"], "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true, false).unwrap(), case["decoded_no_cleanup"], "{text:?}");
    }
    for case in goldens["decode"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.decode(&ids, true, true).unwrap(), case["skip_special"], "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, false, true).unwrap(), case["keep_special"], "{ids:?}");
        assert_eq!(tokenizer.decode(&ids, true, false).unwrap(), case["skip_special_no_cleanup"], "{ids:?}");
    }
}

#[test]
fn decoding_with_offsets_gives_the_same_text_and_whole_ranges() {
    let tokenizer = tokenizer();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    // Blanks, punctuation and contractions, which the clean-up changes, are frequent.
    let joined = tokenizer.encode("a . b ? c ! d , e ' f n't 'm 's 've 're ▁ .", false).unwrap();
    for _ in 0..3000 {
        let length = random.random_range(0..24);
        let any = |random: &mut rand_chacha::ChaCha8Rng| match random.random_bool(0.6) {
            true => joined[random.random_range(0..joined.len())],
            false => random.random_range(0..66_000),
        };
        let ids: Vec<u32> = (0..length).map(|_| any(&mut random)).collect();
        let decoded = tokenizer.decode_with_offsets(&ids);
        assert_eq!(decoded.text, tokenizer.decode(&ids, true, true).unwrap(), "{ids:?}");
        assert_eq!(decoded.token_ranges.len(), ids.len());
        let mut end = 0;
        for range in &decoded.token_ranges {
            assert_eq!(range.start, end, "{ids:?}");
            end = range.end;
        }
        assert_eq!(end, decoded.text.len());
    }
}

#[test]
fn tasks_are_the_model_cards_prompts() {
    let text = |task: Task| {
        let prompt = task.prompt().unwrap();
        processor().encode(&prompt, &EncodeOptions::default()).unwrap().text
    };
    assert_eq!(text(Task::BriefCaption), "<grounding> An image of");
    assert_eq!(text(Task::DetailedCaption), "<grounding> Describe this image in detail:");
    assert_eq!(text(Task::Question(" Where? ".into())), "<grounding> Question: Where? Answer:");
    assert_eq!(text(Task::PhraseGrounding("a snowman".into())), "<grounding><phrase> a snowman</phrase>");
    let found = text(Task::ReferringExpressionComprehension("the dog on the left".into()));
    assert_eq!(found, "<grounding><phrase> the dog on the left</phrase>");
    let boxes = vec![PromptBox::Patches(44, 863), PromptBox::Fractions([0.0, 0.0, 1.0, 1.0])];
    assert_eq!(
        text(Task::ReferringExpressionGeneration(boxes)),
        "<grounding><phrase> It</phrase><object> <patch_index_0044> <patch_index_0863> \
         </delimiter_of_multi_objects/> <patch_index_0000> <patch_index_1023> </object> is"
    );
}

#[test]
fn words_with_tags_and_missing_words_are_refused() {
    for words in ["a</phrase>", "<patch_index_0001>", "x <grounding>", "</s>"] {
        let error = Task::PhraseGrounding(words.into()).prompt().unwrap_err().to_string();
        assert!(error.contains("would act as markup"), "{error}");
    }
    assert!(Task::PhraseGrounding("a < b, b > c".into()).prompt().is_ok());
    assert_eq!(Task::Question("  ".into()).prompt().unwrap_err().to_string(), "the task has no question; give one");
    let error = Task::ReferringExpressionGeneration(vec![]).prompt().unwrap_err();
    assert_eq!(error.to_string(), "the task has no box; give one");
}

#[test]
fn boxes_that_are_no_json_boxes_are_refused_in_a_sentence() {
    for json in
        ["{", "7", "{\"a\": 1}", "[7]", "[[1, 2, 3]]", "[[0, 0, 1, 1]]", "[[[null]]]", "[[1.5, 2.5]]", "[\"x\"]"]
    {
        let error = Prompt::from_json("<phrase>a</phrase>", Some(json)).unwrap_err().to_string();
        assert!(error.contains("box") && !error.contains('\n'), "{json}: {error}");
    }
    let given = Prompt::from_json("t", Some("[null, [[44, 863]], [0.1, 0.2, 0.3, 0.4], [3, 4], []]")).unwrap();
    let expected = vec![
        vec![],
        vec![PromptBox::Patches(44, 863)],
        vec![PromptBox::Fractions([0.1, 0.2, 0.3, 0.4])],
        vec![PromptBox::Patches(3, 4)],
        vec![],
    ];
    assert_eq!(given.boxes, Some(expected));
}

#[test]
fn a_directory_without_a_kosmos_tokenizer_is_refused_by_what_it_lacks() {
    let empty = tempfile::tempdir().unwrap();
    let error = KosmosTokenizer::from_dir(empty.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("needs its tokenizer.json"), "{error}");
    let dir = reference_model_dir();
    let path = dir.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("<patch_index_0777>", "<patch_index_x777>")).unwrap();
    let error = KosmosTokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.ends_with("has no token <patch_index_0777>; it is not the tokenizer of a KOSMOS-2 model"), "{error}");
}
