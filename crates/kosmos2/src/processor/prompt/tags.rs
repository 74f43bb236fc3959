//! The model's tags as text.

use crate::grounding::grid::GRID_CELLS;

/// Before the image placeholders.
pub(crate) const IMAGE_OPEN: &str = "<image>";
/// After the image placeholders.
pub(crate) const IMAGE_CLOSE: &str = "</image>";
/// Before a phrase.
pub(crate) const PHRASE_OPEN: &str = "<phrase>";
/// After a phrase.
pub(crate) const PHRASE_CLOSE: &str = "</phrase>";
/// Before the boxes of a phrase.
pub(crate) const OBJECT_OPEN: &str = "<object>";
/// After the boxes of a phrase.
pub(crate) const OBJECT_CLOSE: &str = "</object>";
/// Between two boxes.
pub(crate) const DELIMITER: &str = "</delimiter_of_multi_objects/>";
/// Requests grounded text.
pub(crate) const GROUNDING: &str = "<grounding>";
/// The start of a patch token.
pub(crate) const PATCH_INDEX: &str = "<patch_index_";

/// All tags except the patch tokens.
pub(crate) const ALL: [&str; 11] = [
    "</doc>",
    IMAGE_OPEN,
    IMAGE_CLOSE,
    "</chunk>",
    "</line>",
    PHRASE_OPEN,
    PHRASE_CLOSE,
    OBJECT_OPEN,
    OBJECT_CLOSE,
    DELIMITER,
    GROUNDING,
];

/// Special tokens other than tags.
const SPECIAL: [&str; 5] = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"];

/// The patch token of an index, with at least four digits.
pub(crate) fn patch(index: i64) -> String {
    format!("{PATCH_INDEX}{index:04}>")
}

/// Tags that only the processor adds to a prompt: those around the image placeholders, and special tokens. The
/// reference accepts them in a text, where they would announce a missing picture, end the text early or count as
/// padding.
const RESERVED: [&str; 7] = [IMAGE_OPEN, IMAGE_CLOSE, "<s>", "</s>", "<pad>", "<unk>", "<mask>"];

/// A reserved tag in a text, if there is one.
pub(super) fn find_reserved(text: &str) -> Option<&'static str> {
    RESERVED.into_iter().find(|tag| text.contains(tag))
}

/// A patch tag with an unknown index, or cut, if there is one. Returned up to the length of a patch tag.
pub(super) fn find_broken_patch(text: &str) -> Option<&str> {
    text.match_indices(PATCH_INDEX).find_map(|(at, _)| {
        let rest = &text[at + PATCH_INDEX.len()..];
        let number = rest.get(..4).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let known = number.and_then(|number| number.parse::<u32>().ok()).is_some_and(|number| number < GRID_CELLS);
        let is_valid = known && rest[4..].starts_with('>');
        // Four digits and a bracket, or less at the end of the text or at a character boundary.
        (!is_valid).then(|| &text[at..text.floor_char_boundary(at + PATCH_INDEX.len() + 5)])
    })
}

/// Number of tags, patch tokens and special tokens that are spelled out in a text. They cannot overlap.
pub(super) fn count(text: &str) -> usize {
    let is_patch = |rest: &str| {
        rest.starts_with(PATCH_INDEX)
            && find_broken_patch(&rest[..rest.floor_char_boundary(PATCH_INDEX.len() + 5)]).is_none()
    };
    text.match_indices('<')
        .filter(|&(at, _)| {
            let rest = &text[at..];
            ALL.iter().chain(&SPECIAL).any(|tag| rest.starts_with(tag)) || is_patch(rest)
        })
        .count()
}

/// A tag or special token in a text, if there is one.
pub(super) fn find_any(text: &str) -> Option<&'static str> {
    ALL.into_iter().chain(SPECIAL).chain([PATCH_INDEX]).find(|tag| text.contains(tag))
}
