//! What was left out, and why.

use std::collections::BTreeMap;

/// How many names a message gives for each reason.
const EXAMPLES: usize = 3;

/// Why a file, an object or a directory is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
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
    /// Another argument or search has given the same path or address.
    Repeated,
    /// `--out` has its row.
    AlreadyDone,
}

impl Reason {
    /// The reason in a summary, after this number.
    pub(crate) fn words(self, count: usize) -> &'static str {
        let (one, many) = match self {
            Self::NotAPicture => ("not a picture", "not pictures"),
            Self::Hidden => ("hidden", "hidden"),
            Self::LinkedDirectory => ("link to a directory", "links to directories"),
            Self::BrokenLink => ("broken link", "broken links"),
            Self::Special => ("special file", "special files"),
            Self::Repeated => ("named before", "named before"),
            Self::AlreadyDone => ("already done", "already done"),
        };
        if count == 1 { one } else { many }
    }
}

/// What a search left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped(BTreeMap<Reason, (usize, Vec<String>)>);

impl Skipped {
    pub(crate) fn add(&mut self, reason: Reason, name: impl FnOnce() -> String) {
        let (count, examples) = self.0.entry(reason).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(name());
        }
    }

    /// The number for each reason.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Reason, usize)> + '_ {
        self.0.iter().map(|(reason, (count, _))| (*reason, *count))
    }

    /// The message of a search of `place`; `None` if nothing was left out.
    pub(crate) fn message(&self, place: &str) -> Option<String> {
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
                Reason::Repeated => ("picture that was named before", "pictures that were named before"),
                Reason::AlreadyDone => ("picture that is already done", "pictures that are already done"),
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
        assert_eq!(skipped.counts().collect::<Vec<_>>(), [(Reason::NotAPicture, 1), (Reason::Hidden, 5)]);
    }
}
