//! Tasks and boxes to token ids, with the tokenizer of the published model.
#![no_main]

use std::fs::File;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use flate2::read::GzDecoder;
use kosmos2::processor::prompt::{EncodeOptions, Prompt, PromptBox, Task, TextProcessor};
use kosmos2::processor::tokenizer::KosmosTokenizer;
use libfuzzer_sys::fuzz_target;

/// Embeddings of a picture in the published model.
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
enum Place {
    Patches(i64, i64),
    Fractions([f64; 4]),
}

#[derive(Debug, Arbitrary)]
enum Asked {
    Question(String),
    Phrase(String),
    Expression(String),
    Boxes(Vec<Place>),
    Raw(String, Option<Vec<Vec<Place>>>),
    Json(String, String),
}

#[derive(Debug, Arbitrary)]
struct Input {
    asked: Asked,
    behind: Option<String>,
    image: bool,
    add_eos: bool,
    add_special_tokens: bool,
}

fn places(places: Vec<Place>) -> Vec<PromptBox> {
    let place = |place| match place {
        Place::Patches(a, b) => PromptBox::Patches(a, b),
        Place::Fractions(corners) => PromptBox::Fractions(corners),
    };
    places.into_iter().map(place).collect()
}

fuzz_target!(|input: Input| {
    let is_worded = matches!(input.asked, Asked::Question(_) | Asked::Phrase(_) | Asked::Expression(_));
    let task = match input.asked {
        Asked::Question(text) => Task::Question(text),
        Asked::Phrase(text) => Task::PhraseGrounding(text),
        Asked::Expression(text) => Task::ReferringExpressionComprehension(text),
        Asked::Boxes(boxes) => Task::ReferringExpressionGeneration(places(boxes)),
        Asked::Raw(text, boxes) => {
            Task::Raw(Prompt { text, boxes: boxes.map(|boxes| boxes.into_iter().map(places).collect()) })
        }
        Asked::Json(text, boxes) => match Prompt::from_json(text, Some(&boxes)) {
            Ok(prompt) => Task::Raw(prompt),
            Err(_) => return,
        },
    };
    let Ok(mut prompt) = task.prompt() else { return };
    if let Some(behind) = input.behind {
        prompt = prompt.followed_by(&Prompt::new(behind));
    } else if is_worded {
        // Words cannot break out of their place.
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
