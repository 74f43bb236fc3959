//! From a phrase to the noun that it is about: `two small dogs lying on a couch` to `dog`.
//!
//! The rule: leave out articles and numerals in front, cut at the first preposition or participle, take the last word, and
//! make it singular. It knows English only; the last word of other phrases stays as it is.

/// Words in front of a noun that are not part of its name.
const DETERMINERS: [&str; 40] = [
    "a", "an", "the", "this", "that", "these", "those", "some", "any", "each", "every", "all", "both", "many", "few",
    "several", "another", "other", "no", "his", "her", "its", "their", "my", "your", "our", "one", "two", "three",
    "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "various", "multiple",
];

/// Prepositions and other words that end a noun chunk.
const ENDS: [&str; 46] = [
    "of",
    "in",
    "on",
    "at",
    "with",
    "without",
    "by",
    "to",
    "from",
    "for",
    "over",
    "under",
    "above",
    "below",
    "behind",
    "beside",
    "between",
    "near",
    "next",
    "inside",
    "outside",
    "into",
    "onto",
    "through",
    "across",
    "along",
    "around",
    "against",
    "among",
    "beneath",
    "beyond",
    "during",
    "off",
    "toward",
    "towards",
    "underneath",
    "upon",
    "within",
    "like",
    "that",
    "which",
    "who",
    "whose",
    "where",
    "and",
    "or",
];

/// Adjectives after which a word in -ing or -ed is another adjective: `a red flying kite`.
const ADJECTIVES: [&str; 31] = [
    "red",
    "blue",
    "green",
    "yellow",
    "orange",
    "purple",
    "pink",
    "brown",
    "black",
    "white",
    "gray",
    "grey",
    "golden",
    "silver",
    "big",
    "large",
    "small",
    "little",
    "tiny",
    "huge",
    "tall",
    "short",
    "long",
    "old",
    "young",
    "new",
    "dark",
    "light",
    "bright",
    "wooden",
    "beautiful",
];

/// Words that look like participles.
const NOT_PARTICIPLES: [&str; 25] = [
    "bed", "red", "shed", "seed", "weed", "sled", "feed", "bread", "thread", "reed", "steed", "hundred", "thing",
    "ring", "king", "wing", "string", "swing", "spring", "sling", "ceiling", "building", "painting", "clothing",
    "railing",
];

/// Plurals without a rule, and words in -s that are singular.
const IRREGULAR: [(&str, &str); 41] = [
    ("people", "person"),
    ("men", "man"),
    ("women", "woman"),
    ("children", "child"),
    ("feet", "foot"),
    ("teeth", "tooth"),
    ("mice", "mouse"),
    ("geese", "goose"),
    ("oxen", "ox"),
    ("leaves", "leaf"),
    ("knives", "knife"),
    ("wolves", "wolf"),
    ("shelves", "shelf"),
    ("loaves", "loaf"),
    ("halves", "half"),
    ("calves", "calf"),
    ("scarves", "scarf"),
    ("lives", "life"),
    ("wives", "wife"),
    ("thieves", "thief"),
    ("elves", "elf"),
    ("hooves", "hoof"),
    ("potatoes", "potato"),
    ("tomatoes", "tomato"),
    ("heroes", "hero"),
    ("buses", "bus"),
    ("shoes", "shoe"),
    ("horses", "horse"),
    ("houses", "house"),
    ("vases", "vase"),
    ("roses", "rose"),
    ("axes", "axe"),
    ("cacti", "cactus"),
    ("lens", "lens"),
    ("gas", "gas"),
    ("glasses", "glasses"),
    ("scissors", "scissors"),
    ("jeans", "jeans"),
    ("pants", "pants"),
    ("shorts", "shorts"),
    ("cookies", "cookie"),
];

/// A phrase without what follows its noun: `a man wearing a hat` becomes `a man`. A slice of the phrase.
pub(crate) fn noun_chunk(phrase: &str) -> &str {
    let (mut before, mut end) = (None::<String>, phrase.len());
    let words: Vec<(usize, &str)> = words(phrase).collect();
    for (index, (offset, word)) in words.iter().enumerate() {
        let word = word.to_lowercase();
        if before.is_none() && (DETERMINERS.contains(&word.as_str()) || word.chars().all(|c| c.is_ascii_digit())) {
            continue;
        }
        let is_last = index + 1 == words.len();
        if let Some(before) = &before
            && (ENDS.contains(&word.as_str()) || (!is_last && is_participle(&word, before)))
        {
            end = *offset;
            break;
        }
        before = Some(word);
    }
    phrase.get(..end).unwrap_or(phrase).trim_end()
}

/// The noun of a phrase, in lower case and singular. Empty if the phrase has no letters or digits.
pub fn head_noun(phrase: &str) -> String {
    let last = words(noun_chunk(phrase)).last().map(|(_, word)| word.to_lowercase());
    last.map(|word| singular(&word)).unwrap_or_default()
}

/// Words with their offsets, without punctuation around them.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_edge = |c: char| !c.is_alphanumeric();
    text.split_whitespace().filter_map(move |part| {
        let word = part.trim_matches(is_edge);
        let offset = (word.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
        (!word.is_empty()).then_some((offset, word))
    })
}

fn is_participle(word: &str, before: &str) -> bool {
    let has_ending = word.len() > 4 && (word.ends_with("ing") || word.ends_with("ed"));
    has_ending && !NOT_PARTICIPLES.contains(&word) && !ADJECTIVES.contains(&before)
}

fn singular(word: &str) -> String {
    if let Some((_, singular)) = IRREGULAR.iter().find(|(plural, _)| *plural == word) {
        return (*singular).to_owned();
    }
    let cut = |end: &str| word.strip_suffix(end);
    if let Some(stem) = cut("ies").filter(|stem| stem.len() > 1) {
        return format!("{stem}y");
    }
    if ["sses", "shes", "ches", "xes", "zes"].iter().any(|end| word.ends_with(end)) {
        return cut("es").unwrap_or(word).to_owned();
    }
    if word.len() < 3 || ["ss", "us", "is"].iter().any(|end| word.ends_with(end)) {
        return word.to_owned();
    }
    cut("s").unwrap_or(word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_noun_is_the_last_word_before_a_preposition_or_participle() {
        for (phrase, noun) in [
            ("a snowman", "snowman"),
            ("Two small dogs lying on a couch", "dog"),
            ("the man wearing a red hat", "man"),
            ("a cup of tea", "cup"),
            ("3 boxes", "box"),
            ("a red flying kite", "kite"),
            ("a smiling woman", "woman"),
            ("a parked car", "car"),
            ("a diamond ring", "ring"),
            ("an old wooden bed", "bed"),
            ("some people", "person"),
            ("the cherries", "cherry"),
            ("a bus", "bus"),
            ("a glass", "glass"),
            ("glasses", "glasses"),
            ("the largest object", "object"),
            ("the object on the right", "object"),
            ("a fire.", "fire"),
            ("ein Hündchen", "hündchen"),
            ("It", "it"),
            ("…", ""),
            ("", ""),
        ] {
            assert_eq!(head_noun(phrase), noun, "{phrase}");
        }
    }

    #[test]
    fn a_noun_chunk_is_a_part_of_its_phrase() {
        assert_eq!(noun_chunk("a man in a red shirt"), "a man");
        assert_eq!(noun_chunk("a café dog"), "a café dog");
        assert_eq!(noun_chunk("on the table"), "on the table");
    }
}
