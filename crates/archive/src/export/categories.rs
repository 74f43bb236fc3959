//! From phrases to categories, for formats with a fixed list of them.

use std::collections::HashMap;
use std::sync::Arc;

use super::error::ExportError;
use super::head_noun::head_noun;

/// Most phrases whose categories are kept in memory.
const CACHED: usize = 50_000;

/// The category of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Category {
    /// Its place in the list, from 0. Meaningless without a list.
    pub(crate) index: usize,
    pub(crate) name: Arc<str>,
}

/// The rule by which phrases get their categories.
#[derive(Debug, Clone)]
pub(crate) struct Categories {
    /// Names by their index; `None` if every head noun is a category.
    list: Option<Vec<Arc<str>>>,
    /// Phrases and nouns, in lower case, with the index of their category.
    known: HashMap<String, usize>,
    cache: HashMap<String, Option<Category>>,
}

/// Checks the text of a categories file.
///
/// # Errors
/// [`ExportError::Categories`] with the name of the file and the line.
pub fn check_categories(file: &str, text: &str) -> Result<(), ExportError> {
    Categories::parse(file, text).map(drop)
}

impl Categories {
    /// Every head noun is a category.
    pub(crate) fn open() -> Self {
        Self { list: None, known: HashMap::new(), cache: HashMap::new() }
    }

    /// The categories of a file: in each line a name, or a name, `=`, and the phrases and nouns that belong to it, separated
    /// by commas. Lines that begin with `#` are comments. A byte-order mark is not part of the first name.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, ExportError> {
        let (mut list, mut known) = (Vec::<Arc<str>>::new(), HashMap::new());
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = (1_u64..).zip(text.lines().map(str::trim));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let invalid =
                |problem: String| ExportError::Categories { place: format!("{file}, line {number}:"), problem };
            let (name, others) = line.split_once('=').unwrap_or((line, ""));
            let name = name.trim();
            if name.is_empty() {
                return Err(invalid(format!("{line:?} has no name")));
            }
            let index = list.len();
            list.push(name.into());
            let others = others.split(',').map(str::trim).filter(|other| !other.is_empty());
            for other in std::iter::once(name).chain(others) {
                if known.insert(other.to_lowercase(), index).is_some_and(|earlier| earlier != index) {
                    return Err(invalid(format!("{other:?} belongs to two categories")));
                }
            }
        }
        if list.is_empty() {
            return Err(ExportError::Categories { place: file.to_owned(), problem: "has no categories".to_owned() });
        }
        Ok(Self::of(list, known))
    }

    /// These head nouns are the categories.
    pub(crate) fn listed(names: &[String]) -> Self {
        let list: Vec<Arc<str>> = names.iter().map(|name| name.as_str().into()).collect();
        let known = names.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        Self::of(list, known)
    }

    fn of(list: Vec<Arc<str>>, known: HashMap<String, usize>) -> Self {
        Self { list: Some(list), known, cache: HashMap::new() }
    }

    /// All names by their index. Empty if every head noun is a category.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().flatten().map(AsRef::as_ref)
    }

    /// The category of a phrase: that of the whole phrase if the list has it, else that of its head noun. `None` if the
    /// list has neither.
    pub(crate) fn of_phrase(&mut self, phrase: &str) -> Option<Category> {
        if let Some(found) = self.cache.get(phrase) {
            return found.clone();
        }
        let found = self.find(phrase);
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        self.cache.insert(phrase.to_owned(), found.clone());
        found
    }

    fn find(&self, phrase: &str) -> Option<Category> {
        let noun = head_noun(phrase);
        let Some(list) = &self.list else {
            return (!noun.is_empty()).then(|| Category { index: 0, name: noun.into() });
        };
        let index = self.known.get(&phrase.to_lowercase()).or_else(|| self.known.get(&noun))?;
        Some(Category { index: *index, name: Arc::clone(list.get(*index)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phrase_has_the_category_of_the_whole_or_else_of_its_noun() {
        let mut categories = Categories::parse("f", "dog = puppy, a very good boy\n\nhot dog\n").unwrap();
        let mut name = |phrase: &str| categories.of_phrase(phrase).map(|found| (found.index, found.name.to_string()));
        assert_eq!(name("two puppies"), Some((0, "dog".into())));
        assert_eq!(name("A very good boy"), Some((0, "dog".into())));
        assert_eq!(name("hot dog"), Some((1, "hot dog".into())));
        assert_eq!(name("a hot dog"), Some((0, "dog".into())), "only whole phrases are longer than a noun");
        assert_eq!(name("a cat"), None);
        let mut open = Categories::open();
        assert_eq!(&*open.of_phrase("a cat").unwrap().name, "cat");
        assert_eq!(open.of_phrase("!"), None);
    }

    #[test]
    fn a_file_that_is_not_a_list_of_categories_is_refused() {
        let cases = [
            ("", "list.txt has no categories"),
            ("# nothing\n", "list.txt has no categories"),
            ("\n= a", "list.txt, line 2: \"= a\" has no name"),
            ("a = c\n# d\nb = C", "list.txt, line 3: \"C\" belongs to two categories"),
        ];
        for (text, problem) in cases {
            assert_eq!(Categories::parse("list.txt", text).unwrap_err().to_string(), problem);
        }
    }

    #[test]
    fn a_byte_order_mark_and_comments_are_no_part_of_a_name() {
        let categories = Categories::parse("f", "\u{feff}dog\r\n# comment\r\ncat").unwrap();
        assert_eq!(categories.names().collect::<Vec<_>>(), ["dog", "cat"]);
    }
}
