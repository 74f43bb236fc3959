//! Results as the command line prints them.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::Path;

use kosmos2::options::{FinishReason, GroundedText, ScoredEntity};
use review::{Finish, Labelled};
use serde::Serialize;

use crate::args::Format;
use crate::stderr::escape_control;
use crate::stdout;

/// One picture × prompt, as `annotate --format json` prints it. Scripts hold the program to these names.
#[derive(Debug, Serialize)]
pub(crate) struct Result<'a> {
    image: &'a str,
    prompt: &'a str,
    text: &'a str,
    raw_text: &'a str,
    token_ids: &'a [u32],
    entities: Vec<Entity<'a>>,
    finish_reason: &'static str,
    model: &'a str,
    /// The file of `--draw`.
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

impl<'a> Result<'a> {
    /// Without clean-up the text is the raw text, and no entities are read from it.
    pub(crate) fn new(image: &'a str, model: &'a str, answer: &'a GroundedText, clean_up: bool) -> Self {
        let entities = if clean_up { answer.entities.iter().map(Entity::new).collect() } else { Vec::new() };
        Self {
            image,
            prompt: &answer.prompt,
            text: if clean_up { &answer.text } else { &answer.raw_text },
            raw_text: &answer.raw_text,
            token_ids: &answer.token_ids,
            entities,
            finish_reason: finish_word(answer.finish_reason),
            model,
            drawing: None,
        }
    }

    /// With the path of the picture that was drawn.
    pub(crate) fn with_drawing(self, path: Option<&'a Path>) -> Self {
        Self { drawing: path.map(Path::to_string_lossy), ..self }
    }

    /// Writes the result to stdout.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => stdout::write_json(self),
            Format::Text => Ok(stdout::write(format_args!("{}", self.for_people()))?),
        }
    }

    fn for_people(&self) -> String {
        let cut = if self.finish_reason == "length" { " […cut by --max-new-tokens]" } else { "" };
        let [image, prompt, text] = [self.image, self.prompt, self.text].map(escape_control);
        let mut lines = format!("{image}  {prompt}\n  {text}{cut}\n");
        for entity in &self.entities {
            let _ = write!(lines, "    {}{}", escape_control(entity.phrase), percent(entity.score));
            for (corners, score) in entity.boxes.iter().zip(entity.box_scores) {
                let _ = write!(lines, "  {}{}", box_text(corners), percent(*score));
            }
            lines.push('\n');
        }
        if let Some(drawing) = &self.drawing {
            let _ = writeln!(lines, "    drawn: {}", escape_control(drawing));
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

/// `[left top right bottom]`, three decimals: finer than a cell of the grid.
pub(crate) fn box_text([x0, y0, x1, y1]: &[f64; 4]) -> String {
    format!("[{x0:.3} {y0:.3} {x1:.3} {y1:.3}]")
}

/// ` 97%`, or nothing where no score is known.
pub(crate) fn percent(score: Option<f32>) -> String {
    score.map(|score| format!(" {:.0}%", score * 100.0)).unwrap_or_default()
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

/// Entities as the review draws them.
pub(crate) fn labelled(answer: &GroundedText) -> Vec<Labelled> {
    let labelled = |entity: &ScoredEntity| Labelled {
        phrase: entity.phrase.clone(),
        boxes: corners(entity),
        span: entity.span,
        score: entity.score,
        box_scores: entity.box_scores.clone(),
    };
    answer.entities.iter().map(labelled).collect()
}

/// The end of a text as the review shows it.
pub(crate) fn finish(cut: bool) -> Finish {
    if cut { Finish::Length } else { Finish::Stop }
}
