//! The text of a prompt with its boxes.

use super::boxes::{self, PhraseBoxes};
use super::error::PromptError;
use super::tags;

/// Text in the model's markup, with boxes for its phrases.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The text without image placeholders, such as `<grounding> An image of`. Tags in it are tokens.
    pub text: String,
    /// The boxes to insert after each `<phrase>…</phrase>` of the text, in order; `None` inserts nothing.
    pub boxes: Option<Vec<PhraseBoxes>>,
}

impl Prompt {
    /// A prompt without boxes.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), boxes: None }
    }

    /// A prompt with boxes in JSON: a list with an entry for each phrase, which is null, a box or a list of boxes. A
    /// box is two patch indices (whole numbers) or four fractions (numbers with a decimal point).
    ///
    /// # Errors
    /// [`PromptError::BoxJson`] if the JSON is malformed or not a list, [`PromptError::BoxForm`] if a box has another
    /// form.
    pub fn from_json(text: impl Into<String>, boxes: Option<&str>) -> Result<Self, PromptError> {
        Ok(Self { text: text.into(), boxes: boxes.map(boxes::from_json).transpose()?.flatten() })
    }

    /// Checks an untrusted prompt. [`TextProcessor::encode`](super::TextProcessor::encode) does not, as in the
    /// reference.
    ///
    /// # Errors
    /// [`PromptError::PlacedTag`] if the text has a reserved tag, [`PromptError::BrokenPatch`] if it has an unknown
    /// patch token, and the errors of [`PromptBox::check`](super::PromptBox::check) for its boxes.
    pub fn check(&self) -> Result<(), PromptError> {
        for prompt_box in self.boxes.iter().flatten().flatten() {
            prompt_box.check()?;
        }
        if let Some(tag) = tags::find_reserved(&self.text) {
            return Err(PromptError::PlacedTag(tag));
        }
        match tags::find_broken_patch(&self.text) {
            Some(found) => Err(PromptError::BrokenPatch(found.to_owned())),
            None => Ok(()),
        }
    }

    /// This prompt followed by a text, with the boxes of both.
    #[must_use]
    pub fn followed_by(&self, text: &Self) -> Self {
        // If only one of them has entries, the phrases of the other get empty ones.
        let entries = |part: &Self| {
            part.boxes.clone().unwrap_or_else(|| vec![PhraseBoxes::default(); boxes::count_phrases(&part.text)])
        };
        let boxes = (self.boxes.is_some() || text.boxes.is_some()).then(|| [entries(self), entries(text)].concat());
        Self { text: format!("{}{}", self.text, text.text), boxes }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}
