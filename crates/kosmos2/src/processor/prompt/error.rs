//! Errors of prompts.

use crate::processor::tokenizer::TokenizerError;

/// Why a prompt is invalid.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The boxes are not JSON of the required form.
    #[error(
        "the boxes are not a JSON list with an entry for each phrase, null or a list of boxes, such as [null, [[44, 863]]]: {0}"
    )]
    BoxJson(String),
    /// A box is neither two whole numbers nor four fractions.
    #[error(
        "the box {0} is neither two patch indices (whole numbers) nor four fractions (numbers with a point: write 0.0, not 0)"
    )]
    BoxForm(String),
    /// A box has patch indices beyond the grid.
    #[error("the box {0},{1} names cells that do not exist: patch indices are whole numbers from 0 to 1023")]
    PatchRange(i64, i64),
    /// A box in fractions is not within the picture, for example because it is in pixels.
    #[error(
        "the box [{}, {}, {}, {}] is not within the picture: give fractions from 0 to 1, with x0 below x1 and y0 below y1",
        .0[0], .0[1], .0[2], .0[3]
    )]
    FractionRange([f64; 4]),
    /// The corners of a box in fractions are out of order or not finite.
    #[error("the box [{}, {}, {}, {}] must have x1 above x0 and y1 above y0, all finite", .0[0], .0[1], .0[2], .0[3])]
    BoxCorners([f64; 4]),
    /// The number of entries differs from the number of phrases.
    #[error(
        "the text has {phrases} <phrase>…</phrase> and the boxes have {entries} entries; give one for each, null for none"
    )]
    BoxCount {
        /// Phrases in the text.
        phrases: usize,
        /// Entries of boxes.
        entries: usize,
    },
    /// The text of a task contains a tag.
    #[error("{text:?} contains the tag {tag}, which would act as markup; leave it out, or give a raw prompt")]
    TagInWords {
        /// The text.
        text: String,
        /// The tag.
        tag: String,
    },
    /// The prompt contains a tag that is only added by [`TextProcessor`](super::TextProcessor).
    #[error(
        "the prompt contains {0}, which is reserved for the picture and the start and end of the text; leave it out"
    )]
    PlacedTag(&'static str),
    /// The prompt contains the start of a patch token that does not exist.
    #[error("the prompt contains {0:?}, which is none of <patch_index_0000> to <patch_index_1023>")]
    BrokenPatch(String),
    /// The prompt contains characters that the tokenizer normalizes to a tag, such as full-width brackets.
    #[error("the prompt contains characters that the tokenizer takes for the tag {0}; write it out, or leave it out")]
    DisguisedTag(String),
    /// A task has no text or no boxes.
    #[error("the task has no {0}; give one")]
    Empty(&'static str),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
