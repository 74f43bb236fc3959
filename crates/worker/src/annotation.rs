//! Converts the model's answers to results in annotations, for jobs and for the command line.

use kosmos2::grounding::{BoundingBox, markup};
use kosmos2::options::{FinishReason, GroundedText, ScoredEntity};
use kosmos2::processor::image::PictureFacts;

use wire::identity::sha256_hex;
use wire::v1;

/// What an annotation states about a picture. `bytes` are those of its file; `object` is the object that was read, if
/// there is one.
pub fn picture_facts(facts: &PictureFacts, bytes: &[u8], object: Option<v1::ObjectIdentity>) -> v1::PictureFacts {
    v1::PictureFacts {
        format: facts.format.as_str().to_owned(),
        width: facts.width,
        height: facts.height,
        size_bytes: bytes.len() as u64,
        sha256: sha256_hex(bytes),
        orientation: u32::from(facts.orientation),
        orientation_applied: facts.orientation_applied,
        object,
    }
}

/// The result of a task.
///
/// `width` and `height` are the size of the upright picture in pixels. Token ids and log-probabilities, which take most
/// of the bytes, are included only `with_tokens`.
pub fn task_result(task_id: &str, answer: GroundedText, width: u32, height: u32, with_tokens: bool) -> v1::TaskResult {
    let entities = answer.entities.iter().map(|found| entity(found, &answer.text, width, height)).collect();
    let finish_reason = match answer.finish_reason {
        FinishReason::Stop => v1::FinishReason::Stop,
        FinishReason::Length => v1::FinishReason::Length,
        FinishReason::Scored => v1::FinishReason::Scored,
    };
    let answer_text = without_prompt(&answer);
    let loss = (answer.finish_reason == FinishReason::Scored).then(|| answer.loss());
    let generated_tokens = saturating_u32(answer.token_ids.len());
    let (token_ids, logprobs) =
        if with_tokens { (answer.token_ids, answer.logprobs) } else { (Vec::new(), Vec::new()) };
    v1::TaskResult {
        task_id: task_id.to_owned(),
        prompt: answer.prompt,
        text: answer.text,
        answer: answer_text,
        raw_text: answer.raw_text,
        entities,
        finish_reason: finish_reason.into(),
        prompt_tokens: saturating_u32(answer.prompt_tokens),
        generated_tokens,
        token_ids,
        logprobs,
        loss,
    }
}

/// The text without that of the prompt.
fn without_prompt(answer: &GroundedText) -> String {
    let prompt = markup::parse(&answer.prompt).text;
    if let Some(rest) = after_prefix(&answer.text, &prompt) {
        return rest.trim().to_owned();
    }
    // A prompt that ends within a tag has other text alone than with its answer.
    markup::parse(answer.raw_text.strip_prefix(&answer.prompt).unwrap_or(&answer.raw_text)).text
}

/// The rest of a text behind a prefix. Blanks do not count: a prompt has some around its boxes that the text lacks.
fn after_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let mut rest = text.chars();
    for wanted in prefix.chars().filter(|character| !character.is_whitespace()) {
        if rest.find(|character| !character.is_whitespace()) != Some(wanted) {
            return None;
        }
    }
    Some(rest.as_str())
}

fn entity(found: &ScoredEntity, text: &str, width: u32, height: u32) -> v1::Entity {
    let (start, end) = found.span;
    let scores = found.box_scores.iter().copied().chain(std::iter::repeat(None));
    let refined = found.refined_boxes.iter().map(Option::as_ref).chain(std::iter::repeat(None));
    let places = found.boxes.iter().zip(scores).zip(refined);
    v1::Entity {
        phrase: found.phrase.clone(),
        span: Some(v1::CodePointSpan { start: saturating_i32(start), end: saturating_i32(end) }),
        byte_span: byte_span(text, start, end),
        boxes: places.map(|((place, score), refined)| grounded_box(place, score, refined, width, height)).collect(),
        score: found.score,
    }
}

fn grounded_box(
    place: &BoundingBox,
    score: Option<f32>,
    refined: Option<&BoundingBox>,
    width: u32,
    height: u32,
) -> v1::GroundedBox {
    let fractions = |&BoundingBox { x0, y0, x1, y1 }: &BoundingBox| v1::FractionBox { x0, y0, x1, y1 };
    let BoundingBox { x0, y0, x1, y1 } = *place;
    let (width, height) = (f64::from(width), f64::from(height));
    v1::GroundedBox {
        fractions: Some(fractions(place)),
        pixels: Some(v1::PixelBox { x0: x0 * width, y0: y0 * height, x1: x1 * width, y1: y1 * height }),
        score,
        refined: refined.map(fractions),
    }
}

/// The byte span of a code point span. `None` if it is reversed or exceeds the text.
fn byte_span(text: &str, start: i64, end: i64) -> Option<v1::ByteSpan> {
    let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
    if start > end {
        return None;
    }
    let mut offsets = text.char_indices().map(|(offset, _)| offset).chain([text.len()]);
    let first = offsets.nth(start)?;
    let last = if end == start { first } else { offsets.nth(end - start - 1)? };
    Some(v1::ByteSpan { start: u32::try_from(first).ok()?, end: u32::try_from(last).ok()? })
}

fn saturating_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn saturating_i32(position: i64) -> i32 {
    i32::try_from(position).unwrap_or(if position < 0 { i32::MIN } else { i32::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> GroundedText {
        GroundedText {
            prompt: "<grounding> An image of".into(),
            prompt_tokens: 72,
            text: "An image of a café dog".into(),
            raw_text: "raw".into(),
            token_ids: vec![5, 2],
            logprobs: vec![-0.5, -0.25],
            entities: vec![ScoredEntity {
                phrase: "a café".into(),
                span: (12, 18),
                boxes: vec![BoundingBox { x0: 0.5, y0: 0.25, x1: 1.0, y1: 0.125 }],
                score: Some(0.5),
                box_scores: vec![Some(0.75)],
                refined_boxes: vec![Some(BoundingBox { x0: 0.51, y0: 0.26, x1: 0.99, y1: 0.13 })],
            }],
            finish_reason: FinishReason::Length,
        }
    }

    #[test]
    fn boxes_come_as_fractions_and_as_pixels_and_reversed_corners_stay() {
        let result = task_result("t", answer(), 640, 480, true);
        let place = &result.entities[0].boxes[0];
        assert_eq!(place.fractions, Some(v1::FractionBox { x0: 0.5, y0: 0.25, x1: 1.0, y1: 0.125 }));
        assert_eq!(place.pixels, Some(v1::PixelBox { x0: 320.0, y0: 120.0, x1: 640.0, y1: 60.0 }));
        assert_eq!(place.score, Some(0.75));
        assert_eq!(place.refined, Some(v1::FractionBox { x0: 0.51, y0: 0.26, x1: 0.99, y1: 0.13 }));
        assert_eq!(result.finish_reason(), v1::FinishReason::Length);
    }

    #[test]
    fn the_answer_is_the_text_without_the_prompt() {
        let of = |prompt: &str, raw_text: &str| {
            let text = markup::parse(raw_text).text;
            let answer = GroundedText { prompt: prompt.into(), raw_text: raw_text.into(), text, ..answer() };
            task_result("t", answer, 1, 1, false).answer
        };
        let fox = "<phrase> a fox</phrase><object><patch_index_0001><patch_index_0040></object>";
        let of_fox = |prompt: &str, end: &str| of(prompt, &format!("{prompt}{fox}{end}"));
        assert_eq!(of_fox("<grounding> An image of", " at home."), "a fox at home.");
        assert_eq!(of("<grounding> Question: Who? Answer:", "<grounding> Question: Who? Answer: Nobody"), "Nobody");
        assert_eq!(of(&format!("<grounding>{fox} is"), &format!("<grounding>{fox} is red")), "red");
        assert_eq!(of("<phrase> a fox</phrase>", fox), "", "the box is all of the answer");
        assert_eq!(of("", fox), "a fox");
        let spaced = "<phrase> It</phrase><object> <patch_index_0001> <patch_index_0040> </object> is";
        let raw = format!("<phrase> It</phrase><object><patch_index_0001><patch_index_0040></object> is{fox}");
        assert_eq!(of(spaced, &raw), "a fox");
    }

    #[test]
    fn spans_come_as_code_points_and_as_bytes() {
        let result = task_result("t", answer(), 1, 1, true);
        let entity = &result.entities[0];
        assert_eq!(entity.span, Some(v1::CodePointSpan { start: 12, end: 18 }));
        let bytes = entity.byte_span.unwrap();
        assert_eq!(&result.text[bytes.start as usize..bytes.end as usize], "a café");
    }

    #[test]
    fn a_span_that_is_reversed_or_leaves_the_text_has_no_bytes() {
        for (start, end) in [(-1, -2), (-1, 2), (2, 1), (0, 4), (4, 4)] {
            assert_eq!(byte_span("äbc", start, end), None, "{start}..{end}");
        }
        for (start, end, first, last) in [(0, 0, 0, 0), (0, 1, 0, 2), (1, 3, 2, 4), (3, 3, 4, 4), (0, 3, 0, 4)] {
            assert_eq!(byte_span("äbc", start, end), Some(v1::ByteSpan { start: first, end: last }), "{start}..{end}");
        }
    }

    #[test]
    fn a_box_without_a_score_stays_without_one() {
        let mut found = answer();
        found.entities[0].box_scores.clear();
        assert_eq!(task_result("t", found, 1, 1, true).entities[0].boxes[0].score, None);
    }

    #[test]
    fn tokens_are_counted_even_where_they_are_not_published() {
        let result = task_result("t", answer(), 1, 1, false);
        assert_eq!((result.prompt_tokens, result.generated_tokens), (72, 2));
        assert!(result.token_ids.is_empty() && result.logprobs.is_empty());
        assert_eq!(task_result("t", answer(), 1, 1, true).token_ids, [5, 2]);
    }
}
