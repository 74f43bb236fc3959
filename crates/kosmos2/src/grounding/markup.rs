//! Parses text with tags into clean text with phrases and boxes, like the reference's `post_process_generation`.
//!
//! Malformed markup is parsed as the reference parses it, including negative or reversed spans.
//!
//! ```
//! use kosmos2::grounding::markup;
//!
//! let raw = "<grounding> An image of<phrase> a snowman</phrase><object><patch_index_0044><patch_index_0863></object>.";
//! let parsed = markup::parse(raw);
//! assert_eq!(parsed.text, "An image of a snowman.");
//! assert_eq!(parsed.entities[0].phrase, "a snowman");
//! assert_eq!(parsed.entities[0].span, (12, 21));
//! assert_eq!(parsed.entities[0].boxes[0].x0, 0.390625);
//! assert!(markup::is_well_formed(raw));
//! ```

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::grid::{BoundingBox, Cell, GRID_SIDE, box_between};
use crate::processor::prompt::tags;

/// Clean text with its entities.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedText {
    /// The text without tags, trimmed.
    pub text: String,
    /// Phrases with boxes, in order of appearance.
    pub entities: Vec<Entity>,
}

/// A phrase with its boxes.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// The phrase, trimmed; `<patch_index_44><patch_index_863>` for a box without a phrase.
    pub phrase: String,
    /// Start and end in code points of the clean text. Malformed markup can give negative or reversed spans, or spans
    /// beyond the end.
    pub span: (i64, i64),
    /// The boxes, in order of appearance.
    pub boxes: Vec<BoundingBox>,
    /// Byte range of the phrase in the raw text; `None` for a box without a phrase.
    pub phrase_source: Option<Range<usize>>,
    /// Byte range of each box's two patch tags in the raw text.
    pub box_sources: Vec<Range<usize>>,
}

/// The text after the last `</image>`, which is the text without the image placeholders.
pub fn caption(text: &str) -> &str {
    text.rsplit(tags::IMAGE_CLOSE).next().unwrap_or(text)
}

/// Parses the raw text of one answer.
pub fn parse(raw: &str) -> ParsedText {
    let without_tags = remove_tags(raw);
    let leading = leading_blanks(&without_tags);
    let mut entities = Vec::new();
    for mention in mentions(raw) {
        let pairs = mention.pairs.into_iter();
        match mention.phrase {
            Some(source) => {
                let phrase = &raw[source.clone()];
                let (boxes, box_sources) = pairs.map(|pair| (pair.bounding_box(), pair.source)).unzip();
                let start = length_without_tags(&raw[..source.start]) - leading + leading_blanks(phrase);
                let end = length_without_tags(&raw[..source.end]) - leading - trailing_blanks(phrase);
                entities.push(Entity {
                    phrase: trim(phrase).to_owned(),
                    span: (start, end),
                    boxes,
                    phrase_source: Some(source),
                    box_sources,
                });
            }
            None => {
                let at = length_without_tags(&raw[..mention.object_start]) - leading;
                entities.extend(pairs.map(|pair| Entity {
                    phrase: pair.name(),
                    span: (at, at),
                    boxes: vec![pair.bounding_box()],
                    phrase_source: None,
                    box_sources: vec![pair.source],
                }));
            }
        }
    }
    ParsedText { text: trim(&without_tags).to_owned(), entities }
}

/// Whether the text is well formed by the rules of [`grammar`](super::grammar): all markup is complete, boxes are in
/// order and within the grid, objects without a phrase follow a leading `<grounding>`, and there is no other `<` or
/// `>`.
///
/// The text includes the prompt, so a malformed prompt makes it malformed. Text up to the first `</image>` is ignored.
/// ([`caption`] would also remove the text before a second one, which a model can generate.)
pub fn is_well_formed(decoded: &str) -> bool {
    let text = decoded.split_once(tags::IMAGE_CLOSE).map_or(decoded, |(_, text)| text).trim_start_matches(is_blank);
    let grounded = text.strip_prefix(tags::GROUNDING);
    let text = grounded.unwrap_or(text);
    let mut at = 0;
    while let Some(next) = text[at..].find(['<', '>']).map(|found| at + found) {
        let object_start = match phrase(text, next) {
            Some((source, _)) if !is_valid_phrase(&text[source.clone()]) => return false,
            Some((_, end)) if !text[end..].starts_with(tags::OBJECT_OPEN) => {
                at = end;
                continue;
            }
            Some((_, end)) => end,
            None if grounded.is_some() => next,
            None => return false,
        };
        match object(text, object_start) {
            Some((pairs, end)) if pairs.iter().all(|pair| pair.is_well_formed(text)) => at = end,
            _ => return false,
        }
    }
    true
}

/// Whether a phrase has text other than blanks, and no `>`.
fn is_valid_phrase(phrase: &str) -> bool {
    !phrase.contains('>') && !trim(phrase).is_empty()
}

/// Removes every `<…>` without a line break in it.
fn remove_tags(text: &str) -> String {
    pieces_between_tags(text).collect()
}

/// Number of code points of the text without tags.
fn length_without_tags(text: &str) -> i64 {
    pieces_between_tags(text).map(|piece| piece.chars().count() as i64).sum()
}

/// The pieces of a text between its tags.
fn pieces_between_tags(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some(open) = rest[from..].find('<').map(|at| from + at) {
            match rest[open..].find(['>', '\n']).map(|at| open + at) {
                Some(close) if rest[close..].starts_with('>') => {
                    let piece = &rest[..open];
                    rest = &rest[close + 1..];
                    return Some(piece);
                }
                // Without a `>` on the rest of the line, every `<` on it is plain text.
                Some(line_end) => from = line_end + 1,
                None => break,
            }
        }
        Some(std::mem::take(&mut rest))
    })
}

/// A phrase directly followed by an object, or an object alone.
struct Mention {
    phrase: Option<Range<usize>>,
    object_start: usize,
    pairs: Vec<Pair>,
}

/// Two consecutive patch tags with their digits.
struct Pair {
    source: Range<usize>,
    upper_left: String,
    lower_right: String,
}

impl Pair {
    fn bounding_box(&self) -> BoundingBox {
        box_between(cell(&self.upper_left), cell(&self.lower_right))
    }

    /// Whether both tags are spelled as in the vocabulary, within the grid and in order.
    fn is_well_formed(&self, raw: &str) -> bool {
        let (first, second) = (cell(&self.upper_left), cell(&self.lower_right));
        let is_spelled_right = |digits: &str| digits.len() == 4 && raw[self.source.clone()].is_ascii();
        is_spelled_right(&self.upper_left)
            && is_spelled_right(&self.lower_right)
            && first.column <= second.column
            && first.row <= second.row
            && second.row < f64::from(GRID_SIDE)
    }

    /// The reference's name of a box without a phrase: its patch tags without leading zeros.
    fn name(&self) -> String {
        let plain = |digits: &str| match digits.trim_start_matches('0') {
            "" => "0".to_owned(),
            number => number.to_owned(),
        };
        format!("<patch_index_{}><patch_index_{}>", plain(&self.upper_left), plain(&self.lower_right))
    }
}

/// The cell of a patch index with any number of ASCII digits. Indices beyond the grid are in rows below it.
fn cell(digits: &str) -> Cell {
    let side = u64::from(GRID_SIDE);
    // 32 divides 100000, so the last five digits determine the column.
    let tail = digits.len().saturating_sub(5);
    let column = (digits[tail..].parse::<u64>().unwrap_or(0) % side) as f64;
    // Finite, since JSON has no infinity.
    let index = digits.parse::<f64>().unwrap_or(f64::MAX).min(f64::MAX);
    Cell { column, row: (index - column) / side as f64 }
}

/// All mentions from left to right, without overlaps.
fn mentions(raw: &str) -> Vec<Mention> {
    let (mut found, mut from) = (Vec::new(), 0);
    while let Some(at) = raw[from..].find('<').map(|at| from + at) {
        let mention = phrase(raw, at).and_then(|(source, after)| Some((Some(source), after, object(raw, after)?)));
        let mention = mention.or_else(|| Some((None, at, object(raw, at)?)));
        match mention {
            Some((phrase, object_start, (pairs, end))) => {
                found.push(Mention { phrase, object_start, pairs });
                from = end;
            }
            None => from = at + 1,
        }
    }
    found
}

/// Parses `<phrase>T</phrase>` at `at`, where T is not empty and has no `<`. Returns the range of T and the end.
fn phrase(raw: &str, at: usize) -> Option<(Range<usize>, usize)> {
    let start = after(raw, at, tags::PHRASE_OPEN)?;
    let end = start + raw[start..].find('<')?;
    let next = after(raw, end, tags::PHRASE_CLOSE)?;
    (end > start).then_some((start..end, next))
}

/// Parses `<object>`, pairs separated by delimiters, and `</object>` at `at`. Returns the pairs and the end.
fn object(raw: &str, at: usize) -> Option<(Vec<Pair>, usize)> {
    let mut next = after(raw, at, tags::OBJECT_OPEN)?;
    let mut pairs = Vec::new();
    loop {
        let start = next;
        let (upper_left, middle) = patch(raw, start)?;
        let (lower_right, end) = patch(raw, middle)?;
        pairs.push(Pair { source: start..end, upper_left, lower_right });
        if let Some(end) = after(raw, end, tags::OBJECT_CLOSE) {
            return Some((pairs, end));
        }
        next = after(raw, end, tags::DELIMITER)?;
    }
}

/// Parses `<patch_index_D>` at `at`, where D are decimal digits of any script. Returns D in ASCII and the end.
fn patch(raw: &str, at: usize) -> Option<(String, usize)> {
    let start = after(raw, at, tags::PATCH_INDEX)?;
    let mut digits = String::new();
    for (index, c) in raw[start..].char_indices() {
        match ascii_digit(c) {
            Some(digit) => digits.push(digit),
            None if c == '>' && !digits.is_empty() => return Some((digits, start + index + 1)),
            None => return None,
        }
    }
    None
}

/// The end of `tag`, if the text has it at `at`.
fn after(raw: &str, at: usize, tag: &str) -> Option<usize> {
    raw[at..].starts_with(tag).then_some(at + tag.len())
}

#[allow(clippy::expect_used, reason = "the pattern is a constant, and a test compiles it")]
static DECIMAL_DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("a valid pattern"));

/// Converts a decimal digit of any script to ASCII. Unicode has the digits of a script in consecutive order from zero,
/// so the value is the distance from the start of a run of digits, modulo ten where runs are adjacent.
fn ascii_digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let is_digit = |c: char| DECIMAL_DIGIT.is_match(c.encode_utf8(&mut [0; 4]));
    if !is_digit(c) {
        return None;
    }
    let before = |back: u32| (c as u32).checked_sub(back).and_then(char::from_u32);
    let distance = (1..).take_while(|&back| before(back).is_some_and(is_digit)).count() as u32;
    char::from_digit(distance % 10, 10)
}

/// Whether Python's `str.strip` removes the character: Unicode white space and four ASCII separators.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Removes leading and trailing blanks like Python's `str.strip`.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_blank)
}

fn leading_blanks(text: &str) -> i64 {
    text.chars().take_while(|&c| is_blank(c)).count() as i64
}

fn trailing_blanks(text: &str) -> i64 {
    text.chars().rev().take_while(|&c| is_blank(c)).count() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_any_script_have_their_value() {
        let digits = |text: &str| text.chars().map(ascii_digit).collect::<Option<String>>();
        assert_eq!(digits("٣٤٥").as_deref(), Some("345"));
        assert_eq!(digits("०९𝟎𝟗𝟘𝟡").as_deref(), Some("090909"));
        assert_eq!(digits("²"), None);
        assert_eq!(digits("½"), None);
        assert_eq!(digits("Ⅷ"), None);
    }

    #[test]
    fn an_index_of_any_length_has_its_column() {
        assert_eq!(cell("1023"), Cell { column: 31.0, row: 31.0 });
        assert_eq!(cell("00001024"), Cell { column: 0.0, row: 32.0 });
        assert_eq!(cell(&"9".repeat(400)).column, f64::from(99_999 % 32));
    }

    #[test]
    fn an_index_beyond_every_number_still_gives_a_finite_box() {
        let raw = format!("<phrase>a</phrase><object><patch_index_0000><patch_index_{}></object>", "9".repeat(400));
        let found = parse(&raw).entities[0].boxes[0];
        assert!([found.x0, found.y0, found.x1, found.y1].iter().all(|side| side.is_finite()), "{found:?}");
    }

    #[test]
    fn a_long_text_of_opening_brackets_is_read_in_linear_time() {
        let raw = "<".repeat(1_000_000);
        assert_eq!(parse(&raw).text.len(), raw.len());
        let raw = "<phrase>a<phrase>".repeat(50_000);
        assert_eq!(parse(&raw).entities, []);
    }
}
