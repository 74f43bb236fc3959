//! Builds token ids from tasks and boxes, with the tokenizer of the published model.
#![no_main]

use std::fs::File;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use flate2::read::GzDecoder;
use kosmos2::processor::prompt::{EncodeOptions, Prompt, PromptBox, Task, TextProcessor};
use kosmos2::processor::tokenizer::KosmosTokenizer;
use libfuzzer_sys::fuzz_target;

/// Image tokens per picture in the published model.
const IMAGE_TOKENS: usize = 64;

static PROCESSOR: LazyLock<TextProcessor> = LazyLock::new(|| {
    let packed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/text/kosmos-2-patch14-224/tokenizer.json.gz");
    let dir = tempfile::tempdir().expect("a folder");
    let mut file = File::create(dir.path().join("tokenizer.json")).expect("a file");
    std::io::copy(&mut GzDecoder::new(File::open(packed).expect("the fixture")), &mut file).expect("a copy");
    TextProcessor::new(KosmosTokenizer::from_dir(dir.path()).expect("a tokenizer"), IMAGE_TOKENS)
});

#[derive(Debug, Arbitrary)]
enum InputBox {
    Patches(i64, i64),
    Fractions([f64; 4]),
}

#[derive(Debug, Arbitrary)]
enum InputTask {
    Question(String),
    Phrase(String),
    Expression(String),
    Boxes(Vec<InputBox>),
    Raw(String, Option<Vec<Vec<InputBox>>>),
    Json(String, String),
}

#[derive(Debug, Arbitrary)]
struct Input {
    task: InputTask,
    suffix: Option<String>,
    image: bool,
    add_eos: bool,
    add_special_tokens: bool,
}

fn prompt_boxes(boxes: Vec<InputBox>) -> Vec<PromptBox> {
    let prompt_box = |input| match input {
        InputBox::Patches(a, b) => PromptBox::Patches(a, b),
        InputBox::Fractions(corners) => PromptBox::Fractions(corners),
    };
    boxes.into_iter().map(prompt_box).collect()
}

fuzz_target!(|input: Input| {
    let is_text = matches!(input.task, InputTask::Question(_) | InputTask::Phrase(_) | InputTask::Expression(_));
    let task = match input.task {
        InputTask::Question(text) => Task::Question(text),
        InputTask::Phrase(text) => Task::PhraseGrounding(text),
        InputTask::Expression(text) => Task::ReferringExpressionComprehension(text),
        InputTask::Boxes(boxes) => Task::ReferringExpressionGeneration(prompt_boxes(boxes)),
        InputTask::Raw(text, boxes) => {
            Task::Raw(Prompt { text, boxes: boxes.map(|boxes| boxes.into_iter().map(prompt_boxes).collect()) })
        }
        InputTask::Json(text, boxes) => match Prompt::from_json(text, Some(&boxes)) {
            Ok(prompt) => Task::Raw(prompt),
            Err(_) => return,
        },
    };
    let Ok(mut prompt) = task.prompt() else { return };
    if let Some(suffix) = input.suffix {
        prompt = prompt.followed_by(&Prompt::new(suffix));
    } else if is_text {
        // Text cannot inject markup.
        assert_eq!(prompt.text.matches("<grounding>").count(), 1);
        assert!(!prompt.text.contains("</image>") && !prompt.text.contains("<object>"));
    }
    let Input { image, add_eos, add_special_tokens, .. } = input;
    let Ok(encoded) = PROCESSOR.encode(&prompt, &EncodeOptions { image, add_eos, add_special_tokens }) else { return };
    assert_eq!(encoded.input_ids.len(), encoded.attention_mask.len());
    let vocabulary = PROCESSOR.tokenizer().vocab_size() as u32;
    assert!(encoded.input_ids.iter().all(|&id| id < vocabulary));
    assert_eq!(encoded.image_embeds_position_mask.is_some(), image);
    if let Some(mask) = encoded.image_embeds_position_mask {
        assert_eq!(mask.len(), encoded.input_ids.len());
        assert_eq!(mask.iter().filter(|&&mark| mark == 1).count(), IMAGE_TOKENS);
    }
});
