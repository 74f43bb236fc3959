//! Raw text with tags to clean text with phrases and boxes, as the reference's `post_process_generation` reads it.
//!
//! Malformed markup is read as the reference reads it, down to spans that come out negative or reversed.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::grid::{BoundingBox, Cell, GRID_SIDE, box_between};
use crate::processor::prompt::tags;

/// Text without tags, and what was tied to places.
#[derive(Debug, Clone, PartialEq)]
pub struct Grounded {
    /// The text without tags, trimmed.
    pub text: String,
    /// Phrases with boxes, in reading order.
    pub entities: Vec<Entity>,
}

/// A phrase tied to places.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// The phrase, trimmed; `<patch_index_44><patch_index_863>` for a box without a phrase.
    pub phrase: String,
    /// Start and end in code points of the clean text; can be negative, reversed or past the end on odd markup.
    pub span: (i64, i64),
    /// The boxes, in the order written.
    pub boxes: Vec<BoundingBox>,
    /// Bytes of the phrase in the raw text; `None` for a box without a phrase.
    pub phrase_source: Option<Range<usize>>,
    /// Bytes of each box's two patch tags in the raw text.
    pub box_sources: Vec<Range<usize>>,
}

/// What follows the last `</image>`: the text without the picture's placeholders.
pub fn caption(text: &str) -> &str {
    text.rsplit(tags::IMAGE_CLOSE).next().unwrap_or(text)
}

/// Reads the raw text of one answer.
pub fn read(raw: &str) -> Grounded {
    let without_tags = drop_tags(raw);
    let leading = leading_blanks(&without_tags);
    let mut entities = Vec::new();
    for found in mentions(raw) {
        let pairs = found.pairs.into_iter();
        match found.phrase {
            Some(source) => {
                let phrase = &raw[source.clone()];
                let (boxes, box_sources) = pairs.map(|pair| (pair.bounding_box(), pair.source)).unzip();
                let start = kept_length(&raw[..source.start]) - leading + leading_blanks(phrase);
                let end = kept_length(&raw[..source.end]) - leading - trailing_blanks(phrase);
                entities.push(Entity {
                    phrase: trim(phrase).to_owned(),
                    span: (start, end),
                    boxes,
                    phrase_source: Some(source),
                    box_sources,
                });
            }
            None => {
                let place = kept_length(&raw[..found.object_start]) - leading;
                entities.extend(pairs.map(|pair| Entity {
                    phrase: pair.stand_in_name(),
                    span: (place, place),
                    boxes: vec![pair.bounding_box()],
                    phrase_source: None,
                    box_sources: vec![pair.source],
                }));
            }
        }
    }
    Grounded { text: trim(&without_tags).to_owned(), entities }
}

/// Whether the text is what [`grammar`](super::grammar) lets a model write: all of its markup whole, boxes in order and
/// within the grid, objects without a phrase only behind a leading `<grounding>`, and no `<` or `>` besides.
///
/// The text is that of a whole row, prompt included, so an odd prompt counts as well. What stands before the first
/// `</image>` is the picture's; [`caption`] alone would not show a second one, which a model can write.
pub fn is_well_formed(decoded: &str) -> bool {
    let text = decoded.split_once(tags::IMAGE_CLOSE).map_or(decoded, |(_, text)| text).trim_start_matches(is_blank);
    let after_request = text.strip_prefix(tags::GROUNDING);
    let text = after_request.unwrap_or(text);
    let mut at = 0;
    while let Some(next) = text[at..].find(['<', '>']).map(|found| at + found) {
        let object_start = match phrase(text, next) {
            Some((source, _)) if !is_name(&text[source.clone()]) => return false,
            Some((_, end)) if !text[end..].starts_with(tags::OBJECT_OPEN) => {
                at = end;
                continue;
            }
            Some((_, end)) => end,
            None if after_request.is_some() => next,
            None => return false,
        };
        match object(text, object_start) {
            Some((pairs, end)) if pairs.iter().all(|pair| pair.is_tidy(text)) => at = end,
            _ => return false,
        }
    }
    true
}

/// Whether a phrase can be seen and holds nothing like a tag's end.
fn is_name(phrase: &str) -> bool {
    !phrase.contains('>') && !trim(phrase).is_empty()
}

/// The text without `<…>`, where no line break stands between `<` and the next `>`.
fn drop_tags(text: &str) -> String {
    kept_pieces(text).collect()
}

/// Code points of the text without tags.
fn kept_length(text: &str) -> i64 {
    kept_pieces(text).map(|piece| piece.chars().count() as i64).sum()
}

/// The pieces of a text between its tags.
fn kept_pieces(text: &str) -> impl Iterator<Item = &str> {
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
                // No `>` on the rest of this line: every `<` on it is plain text.
                Some(line_end) => from = line_end + 1,
                None => break,
            }
        }
        Some(std::mem::take(&mut rest))
    })
}

/// `<phrase>T</phrase>` directly before an object, or the object alone.
struct Mention {
    phrase: Option<Range<usize>>,
    object_start: usize,
    pairs: Vec<Pair>,
}

/// Two patch tags side by side, with their digits.
struct Pair {
    source: Range<usize>,
    upper_left: String,
    lower_right: String,
}

impl Pair {
    fn bounding_box(&self) -> BoundingBox {
        box_between(cell(&self.upper_left), cell(&self.lower_right))
    }

    /// Whether both tags are spelled as the vocabulary has them, within the grid and in order.
    fn is_tidy(&self, raw: &str) -> bool {
        let (first, second) = (cell(&self.upper_left), cell(&self.lower_right));
        let spelled = |digits: &str| digits.len() == 4 && raw[self.source.clone()].is_ascii();
        spelled(&self.upper_left)
            && spelled(&self.lower_right)
            && first.column <= second.column
            && first.row <= second.row
            && second.row < f64::from(GRID_SIDE)
    }

    /// What the reference calls a box without a phrase: its indices without leading zeros.
    fn stand_in_name(&self) -> String {
        let plain = |digits: &str| match digits.trim_start_matches('0') {
            "" => "0".to_owned(),
            number => number.to_owned(),
        };
        format!("<patch_index_{}><patch_index_{}>", plain(&self.upper_left), plain(&self.lower_right))
    }
}

/// The cell of a patch index of any number of ASCII digits. An index past the grid lies in a row below it.
fn cell(digits: &str) -> Cell {
    let side = u64::from(GRID_SIDE);
    // 32 divides 100000, so the last five digits tell the column of however long a number.
    let tail = digits.len().saturating_sub(5);
    let column = (digits[tail..].parse::<u64>().unwrap_or(0) % side) as f64;
    // The largest number rather than infinity, which neither JSON nor a reader of boxes could take.
    let index = digits.parse::<f64>().unwrap_or(f64::MAX).min(f64::MAX);
    Cell { column, row: (index - column) / side as f64 }
}

/// All mentions, left to right and not overlapping.
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

/// `<phrase>T</phrase>` at a place, T being anything but `<` and not empty: where T lies and where it all ends.
fn phrase(raw: &str, at: usize) -> Option<(Range<usize>, usize)> {
    let start = after(raw, at, tags::PHRASE_OPEN)?;
    let end = start + raw[start..].find('<')?;
    let next = after(raw, end, tags::PHRASE_CLOSE)?;
    (end > start).then_some((start..end, next))
}

/// `<object>`, pairs between delimiters, `</object>` at a place: the pairs and where it ends.
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

/// `<patch_index_D>` at a place, D being decimal digits of any script: D in ASCII and where the tag ends.
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

/// Where `tag` ends, if it stands at a place.
fn after(raw: &str, at: usize, tag: &str) -> Option<usize> {
    raw[at..].starts_with(tag).then_some(at + tag.len())
}

#[allow(clippy::expect_used, reason = "the pattern is a constant, and a test compiles it")]
static DECIMAL_DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d$").expect("a valid pattern"));

/// A decimal digit of any script as an ASCII digit. Unicode keeps each script's digits together in order from zero,
/// so the value is the distance from the start of the run of digits, in tens where runs touch.
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

/// Whether Python's `str.strip` takes the character for a blank: Unicode's white space and four separators of ASCII.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// The text without blanks around it, as Python strips it.
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
        let read = |text: &str| text.chars().map(ascii_digit).collect::<Option<String>>();
        assert_eq!(read("٣٤٥").as_deref(), Some("345"));
        assert_eq!(read("०९𝟎𝟗𝟘𝟡").as_deref(), Some("090909"));
        assert_eq!(read("²"), None);
        assert_eq!(read("½"), None);
        assert_eq!(read("Ⅷ"), None);
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
        let place = read(&raw).entities[0].boxes[0];
        assert!([place.x0, place.y0, place.x1, place.y1].iter().all(|side| side.is_finite()), "{place:?}");
    }

    #[test]
    fn a_long_text_of_opening_brackets_is_read_in_linear_time() {
        let raw = "<".repeat(1_000_000);
        assert_eq!(read(&raw).text.len(), raw.len());
        let raw = "<phrase>a<phrase>".repeat(50_000);
        assert_eq!(read(&raw).entities, []);
    }
}
