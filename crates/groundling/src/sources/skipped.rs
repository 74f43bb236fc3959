//! What a search left out, and why.

use std::collections::BTreeMap;

/// How many names a message gives for each reason.
const EXAMPLES: usize = 3;

/// Why a search leaves a file, an object or a directory out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Neither its name nor its content is that of a picture.
    NotAPicture,
    /// Its name begins with a dot.
    Hidden,
    /// A symbolic link to a directory.
    LinkedDirectory,
    /// A symbolic link to something that does not exist.
    BrokenLink,
    /// A pipe, a socket or a device.
    Special,
}

/// What a search left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Skipped(BTreeMap<Reason, (usize, Vec<String>)>);

impl Skipped {
    pub(super) fn add(&mut self, reason: Reason, name: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(reason).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(name());
        }
    }

    /// The number of files and objects that are not pictures.
    pub(super) fn not_pictures(&self) -> usize {
        self.0.get(&Reason::NotAPicture).map_or(0, |(count, _)| *count)
    }

    /// The message of a search of `place`; `None` if nothing was left out.
    pub(super) fn message(&self, place: &str) -> Option<String> {
        let group = |(reason, (count, examples)): (&Reason, &(usize, Vec<String>))| {
            let (one, many) = match reason {
                Reason::NotAPicture => ("file that is not a picture", "files that are not pictures"),
                Reason::Hidden => ("hidden name", "hidden names"),
                Reason::LinkedDirectory => (
                    "link to a directory, which --follow-links searches",
                    "links to directories, which --follow-links searches",
                ),
                Reason::BrokenLink => ("broken link", "broken links"),
                Reason::Special => ("special file", "special files"),
            };
            let more = if *count > examples.len() { ", …" } else { "" };
            format!("{count} {} ({}{more})", if *count == 1 { one } else { many }, examples.join(", "))
        };
        let groups: Vec<_> = self.0.iter().map(group).collect();
        (!groups.is_empty()).then(|| format!("{place}: skipped {}", groups.join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_number_and_some_names_for_each_reason() {
        let mut skipped = Skipped::default();
        assert_eq!(skipped.message("photos"), None);
        for number in 0..5 {
            skipped.add(Reason::Hidden, || format!(".{number}"));
        }
        skipped.add(Reason::NotAPicture, || "a.txt".into());
        let message = "photos: skipped 1 file that is not a picture (a.txt); 5 hidden names (.0, .1, .2, …)";
        assert_eq!(skipped.message("photos").as_deref(), Some(message));
        assert_eq!(skipped.not_pictures(), 1);
    }
}
