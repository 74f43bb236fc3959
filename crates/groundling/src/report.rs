//! Results as `annotate` and `demo` print them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use kosmos2::options::{FinishReason, GroundedText, ScoredEntity};
use review::{Finish, GroundedEntity};
use serde::Serialize;

use crate::stderr::escape_control;
use crate::stdout;

/// The result of one prompt on one picture, as `annotate --format json-v0` prints it. Scripts depend on these names.
#[derive(Debug, Serialize)]
pub(crate) struct JsonV0Row<'a> {
    image: &'a str,
    prompt: &'a str,
    text: &'a str,
    raw_text: &'a str,
    token_ids: &'a [u32],
    entities: Vec<Entity<'a>>,
    finish_reason: &'static str,
    model: &'a str,
    /// The file that `--draw` wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    drawing: Option<Cow<'a, str>>,
}

/// Spans count Unicode code points of `text`; boxes are fractions of the picture.
#[derive(Debug, Serialize)]
struct Entity<'a> {
    phrase: &'a str,
    start: i64,
    end: i64,
    boxes: Vec<[f64; 4]>,
    score: Option<f32>,
    box_scores: &'a [Option<f32>],
}

impl<'a> JsonV0Row<'a> {
    pub(crate) fn new(image: &'a str, model: &'a str, answer: &'a GroundedText) -> Self {
        Self {
            image,
            prompt: &answer.prompt,
            text: &answer.text,
            raw_text: &answer.raw_text,
            token_ids: &answer.token_ids,
            entities: answer.entities.iter().map(Entity::new).collect(),
            finish_reason: finish_word(answer.finish_reason),
            model,
            drawing: None,
        }
    }

    /// Adds the path of the drawing.
    pub(crate) fn with_drawing(self, path: Option<&'a Path>) -> Self {
        Self { drawing: path.map(Path::to_string_lossy), ..self }
    }

    /// Writes the result to stdout as JSON.
    pub(crate) fn print_json(&self) -> anyhow::Result<()> {
        stdout::write_json(self)
    }

    /// Writes the result to stdout for people.
    pub(crate) fn print_text(&self) -> anyhow::Result<()> {
        Ok(stdout::write(format_args!("{}", self.to_text()))?)
    }

    fn to_text(&self) -> String {
        let cut = if self.finish_reason == "length" { " … [cut by --max-new-tokens]" } else { "" };
        let [image, prompt, text] = [self.image, self.prompt, self.text].map(escape_control);
        let mut lines = format!("{image}  {prompt}\n  {text}{cut}\n");
        for entity in &self.entities {
            let line = entity_line(entity.phrase, entity.score, &entity.boxes, entity.box_scores);
            let _ = writeln!(lines, "    {line}");
        }
        if let Some(drawing) = &self.drawing {
            let _ = writeln!(lines, "    drawing: {}", escape_control(drawing));
        }
        lines
    }
}

impl<'a> Entity<'a> {
    fn new(entity: &'a ScoredEntity) -> Self {
        Self {
            phrase: &entity.phrase,
            start: entity.span.0,
            end: entity.span.1,
            boxes: corners(entity),
            score: entity.score,
            box_scores: &entity.box_scores,
        }
    }
}

/// A phrase with its scores and boxes: `a fox: phrase 1.00, box 0.87 [0.250 0.125 0.750 0.875]`. A box is left, top, right
/// and bottom; unknown scores are omitted.
pub(crate) fn entity_line(phrase: &str, score: Option<f32>, boxes: &[[f64; 4]], box_scores: &[Option<f32>]) -> String {
    let name = escape_control(phrase);
    let score = score.map(|score| format!("phrase {score:.2}"));
    let boxes = boxes.iter().enumerate().map(|(index, [x0, y0, x1, y1])| {
        let score = box_scores.get(index).copied().flatten().map(|score| format!(" {score:.2}")).unwrap_or_default();
        format!("box{score} [{x0:.3} {y0:.3} {x1:.3} {y1:.3}]")
    });
    let details = score.into_iter().chain(boxes).collect::<Vec<_>>().join(", ");
    if details.is_empty() { name } else { format!("{name}: {details}") }
}

fn corners(entity: &ScoredEntity) -> Vec<[f64; 4]> {
    entity.boxes.iter().map(|b| [b.x0, b.y0, b.x1, b.y1]).collect()
}

fn finish_word(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
        FinishReason::Scored => "scored",
    }
}

/// The entities in the form that `review` draws.
pub(crate) fn grounded_entities(answer: &GroundedText) -> Vec<GroundedEntity> {
    let grounded_entity = |entity: &ScoredEntity| GroundedEntity {
        phrase: entity.phrase.clone(),
        boxes: corners(entity),
        span: entity.span,
        score: entity.score,
        box_scores: entity.box_scores.clone(),
    };
    answer.entities.iter().map(grounded_entity).collect()
}

/// Why a text ended, in the form that `review` shows.
pub(crate) fn finish(cut: bool) -> Finish {
    if cut { Finish::Length } else { Finish::Stop }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_named_and_unknown_ones_left_out() {
        let corners = [0.25, 0.125, 0.75, 0.875];
        let line = entity_line("a fox", Some(0.999), &[corners, corners], &[Some(0.87)]);
        assert_eq!(line, "a fox: phrase 1.00, box 0.87 [0.250 0.125 0.750 0.875], box [0.250 0.125 0.750 0.875]");
        assert_eq!(entity_line("a\nfox", None, &[], &[]), "a\\nfox");
    }
}
