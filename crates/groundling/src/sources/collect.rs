//! Collects the pictures that the command line names.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use glob::{MatchOptions, Pattern};
use worker::fetch::FetchError;

use super::folder::{FolderSearch, Found, is_pattern};
use super::input::{Input, Kind, Source, extensions, kind_of, relative};
use super::objects::{ListedObject, list};
use super::reader::{ReadError, Reader};
use super::skipped::{Reason, Skipped};
use crate::files::without_mark;

/// How keys are matched with a pattern: `*` stays within a `/`, `**` does not.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The pictures that the command line names.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// The pictures, in the order of the arguments; those of a directory or prefix sorted by path.
    pub(crate) found: Vec<Input>,
    /// Directories, entries and prefixes that could not be read, and why.
    pub(crate) unread: Vec<(Source, ReadError)>,
    /// A sentence for each argument and list without pictures.
    pub(crate) empty: Vec<String>,
    /// What searches left out, one message for each search.
    pub(crate) notes: Vec<String>,
    /// How many were left out, by reason.
    pub(crate) skipped: Vec<(Reason, usize)>,
    /// The names of the directories and prefixes that were searched.
    pub(crate) places: HashSet<String>,
}

/// Collects pictures.
pub(crate) struct Collector<'a> {
    reader: &'a Reader,
    folders: FolderSearch,
    inputs: Inputs,
    /// The pictures so far, and what could not be read. Paths are absolute.
    seen: HashSet<Source>,
}

impl<'a> Collector<'a> {
    /// Searches of directories leave the directories `except` out.
    pub(crate) fn new(reader: &'a Reader, except: &[&Path], follow_links: bool) -> Self {
        let folders = FolderSearch::new(except, follow_links);
        Self { reader, folders, inputs: Inputs::default(), seen: HashSet::new() }
    }

    pub(crate) fn finish(self) -> Inputs {
        self.inputs
    }

    /// Adds what an argument names: a picture, all pictures below a directory or a prefix, or those that match a pattern.
    ///
    /// # Errors
    /// The argument is not valid.
    pub(crate) async fn add(&mut self, argument: &OsStr) -> anyhow::Result<()> {
        let text = argument.to_string_lossy();
        let source = match argument.to_str() {
            Some(text) => Source::from_argument(text)?,
            None => Source::File(argument.into()),
        };
        match source {
            Source::File(dir) if dir.is_dir() => {
                let found = self.folders.below(&dir);
                if found.is_empty() {
                    let endings = extensions();
                    self.inputs.empty.push(format!("{text}: contains no pictures (files ending in {endings})"));
                }
                self.take(&text, found);
            }
            // A file whose name looks like a pattern is a file.
            Source::File(path) if is_pattern(&text) && fs::symlink_metadata(&path).is_err() => {
                let found = self.folders.matching(&text).with_context(|| format!("{text}: invalid pattern"))?;
                if found.is_empty() {
                    self.inputs.empty.push(format!("{text}: no picture matches"));
                }
                self.take(&text, found);
            }
            Source::Object { bucket, key } if key.is_empty() || key.ends_with('/') || is_pattern(&key) => {
                self.objects(&text, &bucket, &key).await?;
            }
            source => {
                let mut skipped = Skipped::default();
                self.take_pictures(vec![Input::named(source)], &mut skipped);
                self.count(&skipped);
            }
        }
        Ok(())
    }

    /// Adds what each line of a file names. The lines end with NUL if there is one in the file, and otherwise with a line
    /// break; empty lines and a byte-order mark are ignored. `-` is standard input.
    ///
    /// # Errors
    /// The list cannot be read, or a line is not valid.
    pub(crate) async fn add_list(&mut self, list: &Path) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        let read = if list == Path::new("-") {
            std::io::stdin().lock().read_to_end(&mut bytes)
        } else {
            fs::File::open(list).and_then(|mut file| file.read_to_end(&mut bytes))
        };
        let shown = list.display();
        read.with_context(|| format!("--files-from {shown}: the list cannot be read"))?;
        let text = without_mark(&bytes).map_err(|problem| anyhow!("--files-from {shown}: {problem}"))?;
        let arguments = lines(text);
        if arguments.is_empty() {
            self.inputs.empty.push(format!("--files-from {shown}: the list is empty"));
        }
        for argument in arguments {
            self.add(&argument).await?;
        }
        Ok(())
    }

    /// Adds pictures that were not added before.
    fn take_pictures(&mut self, pictures: Vec<Input>, skipped: &mut Skipped) {
        for input in pictures {
            if self.seen.insert(whole(&input.source)) {
                self.inputs.found.push(input);
            } else {
                skipped.add(Reason::Repeated, || input.source.name());
            }
        }
    }

    fn take(&mut self, place: &str, found: Found) {
        let Found { pictures, mut skipped, unread, places } = found;
        self.take_pictures(pictures, &mut skipped);
        for (path, error) in unread {
            let source = Source::File(path);
            if self.seen.insert(whole(&source)) {
                self.inputs.unread.push((source, error));
            }
        }
        self.inputs.places.extend(places.into_iter().map(|dir| Source::File(dir).name()));
        self.note(place, &skipped);
    }

    fn note(&mut self, place: &str, skipped: &Skipped) {
        self.inputs.notes.extend(skipped.message(place));
        self.count(skipped);
    }

    fn count(&mut self, skipped: &Skipped) {
        self.inputs.skipped.extend(skipped.counts());
    }

    /// Adds the objects below a prefix, or those whose keys match a pattern.
    async fn objects(&mut self, argument: &str, bucket: &str, key: &str) -> anyhow::Result<()> {
        let pattern = is_pattern(key).then(|| Pattern::new(key)).transpose();
        let pattern = pattern.with_context(|| format!("{argument}: invalid pattern"))?;
        let prefix = key.split(['*', '?', '[']).next().unwrap_or_default();
        let place = Source::Object { bucket: bucket.to_owned(), key: prefix.to_owned() };
        self.inputs.places.insert(place.name());
        let listed = match self.list(bucket, prefix).await {
            Ok(listed) => listed,
            Err(error) => {
                if self.seen.insert(place.clone()) {
                    self.inputs.unread.push((place, error));
                }
                return Ok(());
            }
        };
        let is_bare = listed.is_empty();
        let (found, mut skipped) = choose(listed, bucket, key, pattern.as_ref());
        if found.is_empty() {
            self.inputs.empty.push(match (&pattern, is_bare) {
                (Some(_), _) => format!("{argument}: no picture matches"),
                (None, true) => format!("{argument}: there are no objects with this prefix"),
                (None, false) => format!("{argument}: no object is a picture by its key"),
            });
        }
        self.take_pictures(found, &mut skipped);
        self.note(argument, &skipped);
        Ok(())
    }

    async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ListedObject>, ReadError> {
        let store = self.reader.store().await?;
        let listed: Result<_, FetchError> = list(store, bucket, prefix, self.reader.requester_pays()).await;
        Ok(listed?)
    }
}

/// A source in the form in which sources are compared: paths are absolute, without `.` and repeated slashes. Links are not
/// followed: each name of a file is a picture of its own.
fn whole(source: &Source) -> Source {
    match source {
        Source::File(path) => Source::File(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        other => other.clone(),
    }
}

/// The pictures among listed objects.
fn choose(listed: Vec<ListedObject>, bucket: &str, wanted: &str, pattern: Option<&Pattern>) -> (Vec<Input>, Skipped) {
    let (mut found, mut skipped) = (Vec::new(), Skipped::default());
    // A key that equals the pattern is meant too: keys may contain `*`.
    let is_wanted = |key: &str| pattern.is_none_or(|pattern| key == wanted || pattern.matches_with(key, MATCHING));
    // Consoles create empty objects whose keys end in `/` as folders.
    let listed = listed.into_iter().filter(|object| !object.key.ends_with('/') && is_wanted(&object.key));
    let dir = if pattern.is_some() { "" } else { wanted };
    // Like directories, a hidden prefix is one name, whatever is below it.
    let mut hidden = BTreeSet::new();
    for ListedObject { key, etag } in listed {
        let below = key.strip_prefix(dir).unwrap_or(&key).trim_start_matches('/').to_owned();
        let kind = kind_of(Path::new(&key));
        if let Some(name) = hidden_name(&below) {
            if hidden.insert(name.to_owned()) {
                skipped.add(Reason::Hidden, || name.to_owned());
            }
        } else if kind == Kind::Other {
            skipped.add(Reason::NotAPicture, || below);
        } else {
            let mirror = relative(&Path::new(bucket).join(key.trim_start_matches('/')));
            let source = Source::Object { bucket: bucket.to_owned(), key };
            found.push(Input { source, mirror, etag, is_guess: kind == Kind::Unknown });
        }
    }
    (found, skipped)
}

/// The key up to its first part that begins with a dot.
fn hidden_name(key: &str) -> Option<&str> {
    let start = if key.starts_with('.') { 0 } else { key.find("/.")? + 1 };
    let end = key[start..].find('/').map_or(key.len(), |length| start + length);
    Some(&key[..end])
}

fn lines(bytes: &[u8]) -> Vec<OsString> {
    let end = if bytes.contains(&0) { 0 } else { b'\n' };
    let line = |line: &[u8]| {
        let line = if end == b'\n' { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
        OsString::from_vec(line.to_vec())
    };
    bytes.split(|byte| *byte == end).map(line).filter(|line| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_name_for_each_line_or_for_each_nul() {
        assert_eq!(lines(b"a b.jpg\r\n\n#c.jpg\nd.jpg"), ["a b.jpg", "#c.jpg", "d.jpg"]);
        assert_eq!(lines(b"a\nb.jpg\0c.jpg\0"), ["a\nb.jpg", "c.jpg"]);
    }

    #[test]
    fn objects_are_pictures_by_their_keys() {
        let listed = |keys: &[&str]| -> Vec<ListedObject> {
            keys.iter().map(|key| ListedObject { key: (*key).into(), etag: None }).collect()
        };
        let keys = ["p/", "p/a.jpg", "p/b", "p/.c/1.jpg", "p/.c/2.jpg", "p/d.json", "p/q/e.PNG", "p/*.jpg"];
        let chosen = |wanted: &str, pattern: Option<&str>| {
            let pattern = pattern.map(|pattern| Pattern::new(pattern).unwrap());
            let (found, skipped) = choose(listed(&keys), "b", wanted, pattern.as_ref());
            let names: Vec<_> = found.iter().map(|input| (input.source.name(), input.is_guess)).collect();
            (names, skipped.message("p"))
        };
        let (names, message) = chosen("p/", None);
        let all = [("a.jpg", false), ("b", true), ("q/e.PNG", false), ("*.jpg", false)];
        assert_eq!(names, all.map(|(key, guess)| (format!("s3://b/p/{key}"), guess)));
        let message = message.unwrap();
        assert!(message.contains("1 file that is not a picture (d.json)") && message.contains("1 hidden name (.c)"));
        assert_eq!(["a/.b/c", ".a", "a/.b", "a.b/c."].map(hidden_name), [Some("a/.b"), Some(".a"), Some("a/.b"), None]);
        let (names, _) = chosen("p/*.jpg", Some("p/*.jpg"));
        assert_eq!(names, ["a.jpg", "*.jpg"].map(|key| (format!("s3://b/p/{key}"), false)));
    }

    #[tokio::test]
    async fn a_place_without_pictures_is_named_and_a_path_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let reader = Reader::new(&worker::settings::S3Settings::default(), None);
        let mut collector = Collector::new(&reader, &[], false);
        collector.add(dir.path().as_os_str()).await.unwrap();
        collector.add(dir.path().join("*.jpg").as_os_str()).await.unwrap();
        fs::write(dir.path().join("list"), b"\xef\xbb\xbf\r\n").unwrap();
        collector.add_list(&dir.path().join("list")).await.unwrap();
        fs::write(dir.path().join("[1].jpg"), "").unwrap();
        for name in ["[1].jpg", "./[1].jpg", ".//[1].jpg", ""] {
            collector.add(dir.path().join(name).as_os_str()).await.unwrap();
        }
        let Inputs { found, empty, skipped, .. } = collector.finish();
        for (sentence, part) in empty.iter().zip(["contains no pictures", "no picture matches", "the list is empty"]) {
            assert!(sentence.contains(part), "{sentence}");
        }
        assert_eq!((found.len(), empty.len()), (1, 3), "a file whose name looks like a pattern");
        let repeated = skipped.iter().filter(|(reason, _)| *reason == Reason::Repeated).map(|(_, count)| count);
        assert_eq!(repeated.sum::<usize>(), 3);
    }
}
