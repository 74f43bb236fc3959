//! The tasks that KOSMOS-2 was trained for, with the prompts of its model card.

use super::boxes::PromptBox;
use super::error::PromptError;
use super::input::Prompt;
use super::tags;
use crate::grounding::markup::trim;

/// A question about a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Describe the picture in one sentence, grounded.
    BriefCaption,
    /// Describe the picture in several sentences, grounded.
    DetailedCaption,
    /// Answer a question about the picture, grounded.
    Question(String),
    /// Find all objects that a phrase names, such as "a snowman".
    PhraseGrounding(String),
    /// Find the one object that an expression describes, such as "the dog on the left".
    ReferringExpressionComprehension(String),
    /// Describe what is in these boxes.
    ReferringExpressionGeneration(Vec<PromptBox>),
    /// A prompt in the model's markup.
    Raw(Prompt),
}

impl Task {
    /// The task as a prompt.
    ///
    /// # Errors
    /// [`PromptError::TagInWords`] if the text contains a tag, [`PromptError::Empty`] if the text or the boxes are
    /// missing.
    pub fn prompt(&self) -> Result<Prompt, PromptError> {
        Ok(match self {
            Self::BriefCaption => Prompt::new("<grounding> An image of"),
            Self::DetailedCaption => Prompt::new("<grounding> Describe this image in detail:"),
            Self::Question(question) => {
                Prompt::new(format!("<grounding> Question: {} Answer:", plain_text(question, "question")?))
            }
            Self::PhraseGrounding(phrase) => grounding(plain_text(phrase, "phrase")?),
            Self::ReferringExpressionComprehension(expression) => grounding(plain_text(expression, "expression")?),
            Self::ReferringExpressionGeneration(boxes) if boxes.is_empty() => return Err(PromptError::Empty("box")),
            Self::ReferringExpressionGeneration(boxes) => {
                Prompt { text: "<grounding><phrase> It</phrase> is".into(), boxes: Some(vec![boxes.clone()]) }
            }
            Self::Raw(prompt) => prompt.clone(),
        })
    }
}

fn grounding(phrase: &str) -> Prompt {
    Prompt::new(format!("<grounding><phrase> {phrase}</phrase>"))
}

/// Checks and trims the text of a task. `name` is used in the error.
fn plain_text<'a>(text: &'a str, name: &'static str) -> Result<&'a str, PromptError> {
    let text = trim(text);
    match tags::find_any(text) {
        Some(tag) => Err(PromptError::TagInWords { text: text.into(), tag: tag.into() }),
        None if text.is_empty() => Err(PromptError::Empty(name)),
        None => Ok(text),
    }
}
