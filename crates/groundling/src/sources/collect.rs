//! Collects the pictures that the command line names.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use anyhow::Context;
use glob::{MatchOptions, Pattern};

use super::folder::{FolderSearch, Found, is_pattern};
use super::input::{Input, Kind, Source, extensions, kind_of, relative};
use super::objects::{ListedObject, list};
use super::reader::Reader;
use super::skipped::{Reason, Skipped};

/// How keys are matched with a pattern: `*` stays within a `/`, `**` does not.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// The pictures that the command line names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The pictures, in the order of the arguments; those of a directory or prefix sorted by path.
    pub(crate) found: Vec<Input>,
    /// Arguments and directories that could not be read or contain no pictures, and why.
    pub(crate) problems: Vec<String>,
    /// What searches left out, one message for each search.
    pub(crate) notes: Vec<String>,
    /// The number of files and objects that searches left out because they are not pictures.
    pub(crate) not_pictures: usize,
}

/// Collects pictures.
pub(crate) struct Collector<'a> {
    reader: &'a Reader,
    folders: FolderSearch,
    inputs: Inputs,
}

impl<'a> Collector<'a> {
    /// Searches of directories leave the directories `except` out.
    pub(crate) fn new(reader: &'a Reader, except: &[&Path], follow_links: bool) -> Self {
        Self { reader, folders: FolderSearch::new(except, follow_links), inputs: Inputs::default() }
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
        match &source {
            Source::File(dir) if dir.is_dir() => {
                let found = self.folders.below(dir);
                let is_empty = found.pictures.is_empty() && found.problems.is_empty();
                self.take(&text, found);
                if is_empty {
                    let problem = format!("{text}: contains no pictures (files ending in {})", extensions());
                    self.inputs.problems.push(problem);
                }
            }
            // A file whose name looks like a pattern is a file.
            Source::File(path) if is_pattern(&text) && fs::symlink_metadata(path).is_err() => {
                let found = self.folders.matching(&text).with_context(|| format!("{text}: invalid pattern"))?;
                let is_empty = found.pictures.is_empty() && found.problems.is_empty();
                self.take(&text, found);
                if is_empty {
                    self.inputs.problems.push(format!("{text}: no picture matches"));
                }
            }
            Source::Object { bucket, key } if key.is_empty() || key.ends_with('/') || is_pattern(key) => {
                self.objects(&text, bucket, key).await?;
            }
            _ => self.inputs.found.push(Input::named(source)),
        }
        Ok(())
    }

    /// Adds what each line of a file names. The lines end with NUL if there is one in the file, and otherwise with a line
    /// break; empty lines are ignored. `-` is standard input.
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
        read.with_context(|| format!("{}: the list cannot be read", list.display()))?;
        for argument in lines(&bytes) {
            self.add(&argument).await?;
        }
        Ok(())
    }

    fn take(&mut self, place: &str, found: Found) {
        let Found { pictures, skipped, problems } = found;
        self.inputs.found.extend(pictures);
        self.inputs.problems.extend(problems);
        self.note(place, &skipped);
    }

    fn note(&mut self, place: &str, skipped: &Skipped) {
        self.inputs.notes.extend(skipped.message(place));
        self.inputs.not_pictures += skipped.not_pictures();
    }

    /// Adds the objects below a prefix, or those whose keys match a pattern.
    async fn objects(&mut self, argument: &str, bucket: &str, key: &str) -> anyhow::Result<()> {
        let pattern = is_pattern(key).then(|| Pattern::new(key)).transpose();
        let pattern = pattern.with_context(|| format!("{argument}: invalid pattern"))?;
        let prefix = key.split(['*', '?', '[']).next().unwrap_or_default();
        let listed = match self.reader.store().await {
            Ok(store) => list(store, bucket, prefix, self.reader.requester_pays()).await,
            Err(error) => Err(error.into()),
        };
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.inputs.problems.push(error.to_string());
                return Ok(());
            }
        };
        let (found, skipped) = choose(listed, bucket, key, pattern.as_ref());
        if found.is_empty() {
            self.inputs.problems.push(format!("{argument}: no object is a picture by its key"));
        }
        self.inputs.found.extend(found);
        self.note(argument, &skipped);
        Ok(())
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
    for ListedObject { key, etag } in listed {
        let below = key.strip_prefix(dir).unwrap_or(&key).trim_start_matches('/').to_owned();
        let kind = kind_of(Path::new(&key));
        if below.split('/').any(|part| part.starts_with('.')) {
            skipped.add(Reason::Hidden, || below);
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
        let keys = ["p/", "p/a.jpg", "p/b", "p/.c.jpg", "p/d.json", "p/q/e.PNG", "p/*.jpg"];
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
        assert!(
            message.contains("1 file that is not a picture (d.json)") && message.contains("1 hidden name (.c.jpg)")
        );
        let (names, _) = chosen("p/*.jpg", Some("p/*.jpg"));
        assert_eq!(names, ["a.jpg", "*.jpg"].map(|key| (format!("s3://b/p/{key}"), false)));
    }

    #[tokio::test]
    async fn a_directory_without_pictures_and_a_pattern_without_a_match_are_problems() {
        let dir = tempfile::tempdir().unwrap();
        let reader = Reader::new(&worker::settings::S3Settings::default(), None);
        let mut collector = Collector::new(&reader, &[], false);
        collector.add(dir.path().as_os_str()).await.unwrap();
        collector.add(dir.path().join("*.jpg").as_os_str()).await.unwrap();
        std::fs::write(dir.path().join("[1].jpg"), "").unwrap();
        collector.add(dir.path().join("[1].jpg").as_os_str()).await.unwrap();
        let Inputs { found, problems, .. } = collector.finish();
        assert!(problems[0].contains("contains no pictures") && problems[1].contains("no picture matches"));
        assert_eq!(found.len(), 1, "a file whose name looks like a pattern");
    }
}
