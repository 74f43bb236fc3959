//! The model's tags, as text.

use crate::grounding::grid::GRID_CELLS;

/// Before the picture's placeholders.
pub const IMAGE_OPEN: &str = "<image>";
/// Behind them.
pub const IMAGE_CLOSE: &str = "</image>";
/// Before a phrase.
pub const PHRASE_OPEN: &str = "<phrase>";
/// Behind it.
pub const PHRASE_CLOSE: &str = "</phrase>";
/// Before the boxes of a phrase.
pub const OBJECT_OPEN: &str = "<object>";
/// Behind them.
pub const OBJECT_CLOSE: &str = "</object>";
/// Between two boxes.
pub const DELIMITER: &str = "</delimiter_of_multi_objects/>";
/// Asks for grounded text.
pub const GROUNDING: &str = "<grounding>";
/// How a patch token begins.
pub const PATCH_INDEX: &str = "<patch_index_";

/// Every tag but the patch tokens.
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

/// Tokens with a meaning of their own besides the tags.
const SPECIAL: [&str; 5] = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"];

/// The patch token of an index, which has at least four digits.
pub fn patch(index: i64) -> String {
    format!("{PATCH_INDEX}{index:04}>")
}

/// What only the program itself puts into a prompt: the tags around the picture, and the tokens that mean something at
/// the ends of a text or in its place. The reference feeds them where a text has them; then a picture is announced that
/// is not there, a text ends before its end, or a token counts as padding.
const PLACED: [&str; 7] = [IMAGE_OPEN, IMAGE_CLOSE, "<s>", "</s>", "<pad>", "<unk>", "<mask>"];

/// A tag that no prompt from outside may hold, markup of its own or not.
pub(super) fn placed_in(text: &str) -> Option<&'static str> {
    PLACED.into_iter().find(|tag| text.contains(tag))
}

/// What begins like a patch token and is none, up to where its number would end.
pub(super) fn broken_patch_in(text: &str) -> Option<&str> {
    text.match_indices(PATCH_INDEX).find_map(|(at, _)| {
        let rest = &text[at + PATCH_INDEX.len()..];
        let number = rest.get(..4).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let known = number.and_then(|number| number.parse::<u32>().ok()).is_some_and(|number| number < GRID_CELLS);
        let whole = known && rest[4..].starts_with('>');
        // Four digits and a bracket; fewer bytes where the text ends or a character would be cut.
        (!whole).then(|| &text[at..text.floor_char_boundary(at + PATCH_INDEX.len() + 5)])
    })
}

/// How many tokens with a meaning of their own a text holds, as the tokenizer finds them: where they stand letter by
/// letter. None can begin within another.
pub(super) fn count_in(text: &str) -> usize {
    let is_patch = |rest: &str| {
        rest.starts_with(PATCH_INDEX)
            && broken_patch_in(&rest[..rest.floor_char_boundary(PATCH_INDEX.len() + 5)]).is_none()
    };
    text.match_indices('<')
        .filter(|&(at, _)| {
            let rest = &text[at..];
            ALL.iter().chain(&SPECIAL).any(|tag| rest.starts_with(tag)) || is_patch(rest)
        })
        .count()
}

/// A tag that plain words hold, if they do.
pub(crate) fn found_in(words: &str) -> Option<&'static str> {
    ALL.into_iter().chain(SPECIAL).chain([PATCH_INDEX]).find(|tag| words.contains(tag))
}
