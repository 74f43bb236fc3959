//! The model's tags, as text.

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

/// A tag that plain words hold, if they do.
pub(crate) fn found_in(words: &str) -> Option<&'static str> {
    ALL.into_iter().chain(SPECIAL).chain([PATCH_INDEX]).find(|tag| words.contains(tag))
}
