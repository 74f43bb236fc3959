//! Prompts: what a user asks, and what of it the model is fed.

mod boxes;
pub mod tags;
mod task;
mod text_processor;

pub use boxes::{PhraseBoxes, PromptBox};
pub use task::Task;
pub use text_processor::{EncodeOptions, EncodedPrompt, PaddingSide, TextProcessor};

use crate::processor::tokenizer::TokenizerError;

/// Text in the model's own markup, with boxes for its phrases.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The text without the picture's placeholders, such as `<grounding> An image of`. Tags in it act as tags.
    pub text: String,
    /// One entry for each `<phrase>…</phrase>` of the text, in order, whose boxes are written behind it; `None` where
    /// the text is to stay as it is.
    pub boxes: Option<Vec<PhraseBoxes>>,
}

impl Prompt {
    /// A prompt without boxes.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), boxes: None }
    }

    /// A prompt with boxes as JSON: a list with an entry for each phrase, which is null, a box or a list of boxes; a
    /// box is two patch indices (whole numbers) or four fractions (numbers with a point).
    ///
    /// # Errors
    /// [`PromptError::BoxJson`] or [`PromptError::BoxForm`].
    pub fn from_json(text: impl Into<String>, boxes: Option<&str>) -> Result<Self, PromptError> {
        Ok(Self { text: text.into(), boxes: boxes.map(boxes::from_json).transpose()?.flatten() })
    }
}

impl Prompt {
    /// Whether the model can make sense of it, for prompts that come from somebody else: as in the reference,
    /// [`TextProcessor::encode`] itself takes everything.
    ///
    /// # Errors
    /// [`PromptError::PlacedTag`], [`PromptError::BrokenPatch`], or those of [`PromptBox::check`].
    pub fn check(&self) -> Result<(), PromptError> {
        for place in self.boxes.iter().flatten().flatten() {
            place.check()?;
        }
        if let Some(tag) = tags::placed_in(&self.text) {
            return Err(PromptError::PlacedTag(tag));
        }
        match tags::broken_patch_in(&self.text) {
            Some(found) => Err(PromptError::BrokenPatch(found.to_owned())),
            None => Ok(()),
        }
    }

    /// This prompt with a text behind it, the boxes of both in their places.
    #[must_use]
    pub fn followed_by(&self, text: &Self) -> Self {
        // Where only one of the two has entries, the other's phrases take an empty one each.
        let entries = |part: &Self| {
            part.boxes.clone().unwrap_or_else(|| vec![PhraseBoxes::default(); boxes::phrases(&part.text)])
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

/// Why a prompt cannot be fed to the model. The rules are the reference's.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Boxes that are not JSON of the form asked for.
    #[error(
        "the boxes are not a JSON list with an entry for each phrase, null or a list of boxes, such as [null, [[44, 863]]]: {0}"
    )]
    BoxJson(String),
    /// A box that is neither two whole numbers nor four fractions.
    #[error(
        "the box {0} is neither two patch indices (whole numbers) nor four fractions (numbers with a point: write 0.0, not 0)"
    )]
    BoxForm(String),
    /// A box whose cells the grid does not have.
    #[error("the box {0},{1} names cells that do not exist: patch indices are whole numbers from 0 to 1023")]
    PatchRange(i64, i64),
    /// A box in fractions that is not within the picture, such as one in pixels.
    #[error(
        "the box [{}, {}, {}, {}] is not within the picture: give fractions from 0 to 1, with x0 below x1 and y0 below y1",
        .0[0], .0[1], .0[2], .0[3]
    )]
    FractionRange([f64; 4]),
    /// A box in fractions whose corners are not in order.
    #[error("the box [{}, {}, {}, {}] must have x1 above x0 and y1 above y0, all finite", .0[0], .0[1], .0[2], .0[3])]
    BoxCorners([f64; 4]),
    /// Not as many entries as phrases.
    #[error(
        "the text has {phrases} <phrase>…</phrase> and the boxes have {entries} entries; give one for each, null for none"
    )]
    BoxCount {
        /// Phrases in the text.
        phrases: usize,
        /// Entries of boxes.
        entries: usize,
    },
    /// Words for a task that hold one of the model's own tags.
    #[error("{text:?} contains the tag {tag}, which would act as markup; leave it out, or give a raw prompt")]
    TagInWords {
        /// The words.
        text: String,
        /// The tag.
        tag: String,
    },
    /// A tag that only the program itself puts into prompts.
    #[error(
        "the prompt contains {0}, which is put there for the picture and the text's ends and nowhere else; leave it out"
    )]
    PlacedTag(&'static str),
    /// What begins like a patch token and is none.
    #[error("the prompt contains {0:?}, which is none of <patch_index_0000> to <patch_index_1023>")]
    BrokenPatch(String),
    /// Characters that are no tag but become one when the tokenizer makes them alike, such as full-width brackets.
    #[error("the prompt contains characters that the tokenizer takes for the tag {0}; write it out, or leave it out")]
    DisguisedTag(String),
    /// A task that needs words, or boxes, and has none.
    #[error("the task has no {0}; give one")]
    Empty(&'static str),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
