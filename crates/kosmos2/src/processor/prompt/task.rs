//! The six tasks that KOSMOS-2 was tuned on, as prompts (texts by its model card).

use super::{Prompt, PromptBox, PromptError, tags};
use crate::grounding::markup::trim;

/// What to ask about a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// One sentence about the picture, grounded.
    BriefCaption,
    /// Several sentences about the picture, grounded.
    DetailedCaption,
    /// Visual question answering, grounded.
    Question(String),
    /// Where is every thing that the phrase names, such as "a snowman"?
    PhraseGrounding(String),
    /// Where is the one thing that the expression means, such as "the dog on the left"?
    ReferringExpressionComprehension(String),
    /// What is it that stands in these boxes?
    ReferringExpressionGeneration(Vec<PromptBox>),
    /// A prompt in the model's own markup.
    Raw(Prompt),
}

impl Task {
    /// The task as a prompt.
    ///
    /// # Errors
    /// [`PromptError::TagInWords`] when words hold one of the model's tags, [`PromptError::Empty`] when words or boxes
    /// are missing.
    pub fn prompt(&self) -> Result<Prompt, PromptError> {
        Ok(match self {
            Self::BriefCaption => Prompt::new("<grounding> An image of"),
            Self::DetailedCaption => Prompt::new("<grounding> Describe this image in detail:"),
            Self::Question(question) => {
                Prompt::new(format!("<grounding> Question: {} Answer:", words(question, "question")?))
            }
            Self::PhraseGrounding(phrase) => grounding(words(phrase, "phrase")?),
            Self::ReferringExpressionComprehension(expression) => grounding(words(expression, "expression")?),
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

fn words<'a>(text: &'a str, what: &'static str) -> Result<&'a str, PromptError> {
    let text = trim(text);
    match tags::found_in(text) {
        Some(tag) => Err(PromptError::TagInWords { text: text.into(), tag: tag.into() }),
        None if text.is_empty() => Err(PromptError::Empty(what)),
        None => Ok(text),
    }
}
