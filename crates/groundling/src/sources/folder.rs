//! Finds the pictures below a directory, or those that a pattern matches.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, FileType};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use glob::MatchOptions;
use kosmos2::processor::image::{DecodeOptions, Header};

use super::input::{Input, Kind, Source, kind_of, relative};
use super::reader::ReadError;
use super::skipped::{Reason, Skipped};

/// The bytes by which a file without an extension is recognized.
const RECOGNIZED_BYTES: u64 = 4096;

/// How files are matched with a pattern: `*` stays within a directory, `**` matches any number of directories. Hidden names
/// are left out afterwards: glob panics on names that are not UTF-8 if it has to look for dots.
const MATCHING: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// What a search found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The pictures, sorted by path.
    pub(super) pictures: Vec<Input>,
    pub(super) skipped: Skipped,
    /// Directories and entries that could not be read, and why.
    pub(super) unread: Vec<(PathBuf, ReadError)>,
    /// The directories that were searched, or could not be.
    pub(super) places: Vec<PathBuf>,
}

impl Found {
    /// Whether there is neither a picture nor a place that could not be searched.
    pub(super) fn is_empty(&self) -> bool {
        self.pictures.is_empty() && self.unread.is_empty()
    }

    fn file(&mut self, root: &Path, path: PathBuf) {
        let is_picture = match kind_of(&path) {
            Kind::Picture => true,
            Kind::Unknown => is_picture(&path),
            Kind::Other => false,
        };
        if is_picture {
            let mirror = relative(path.strip_prefix(root).unwrap_or(&path));
            self.pictures.push(Input { source: Source::File(path), mirror, etag: None, is_guess: false });
        } else {
            self.skip(Reason::NotAPicture, root, &path);
        }
    }

    fn skip(&mut self, reason: Reason, root: &Path, path: &Path) {
        let name = || path.strip_prefix(root).unwrap_or(path).display().to_string();
        tracing::debug!(path = %path.display(), ?reason, "skipped");
        self.skipped.add(reason, name);
    }

    fn sorted(mut self) -> Self {
        self.pictures.sort_by(|a, b| match (&a.source, &b.source) {
            (Source::File(a), Source::File(b)) => a.cmp(b),
            _ => std::cmp::Ordering::Equal,
        });
        self
    }
}

/// Searches directories.
#[derive(Debug, Clone, Default)]
pub(super) struct FolderSearch {
    /// Directories that are not searched.
    except: Vec<PathBuf>,
    follow_links: bool,
}

impl FolderSearch {
    /// A search that leaves the directories `except` out, which need not exist.
    pub(super) fn new(except: &[&Path], follow_links: bool) -> Self {
        Self { except: except.iter().filter_map(|dir| dir.canonicalize().ok()).collect(), follow_links }
    }

    /// All pictures below a directory. Hidden names are left out.
    pub(super) fn below(&self, root: &Path) -> Found {
        let (mut found, mut open) = (Found::default(), VecDeque::from([root.to_path_buf()]));
        // Links can lead back to a directory that contains them.
        let mut searched: HashSet<PathBuf> = root.canonicalize().into_iter().collect();
        while let Some(dir) = open.pop_front() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) => {
                    found.places.push(dir.clone());
                    found.unread.push((dir, ReadError::Directory(error)));
                    continue;
                }
            };
            // In order, so that equal searches give equal messages.
            let mut entries: Vec<_> = entries.collect();
            entries.sort_by_key(|entry| entry.as_ref().ok().map(fs::DirEntry::file_name));
            for entry in entries {
                match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
                    Ok((path, _)) if is_hidden(&path) => found.skip(Reason::Hidden, root, &path),
                    Ok((path, kind)) => self.entry(&mut found, root, path, kind, &mut open, &mut searched),
                    Err(error) => found.unread.push((dir.clone(), ReadError::Directory(error))),
                }
            }
            found.places.push(dir);
        }
        found.sorted()
    }

    fn entry(
        &self,
        found: &mut Found,
        root: &Path,
        path: PathBuf,
        kind: FileType,
        open: &mut VecDeque<PathBuf>,
        searched: &mut HashSet<PathBuf>,
    ) {
        if kind.is_dir() {
            let canonical = path.canonicalize().ok();
            let is_excluded = canonical.as_ref().is_some_and(|dir| self.except.contains(dir));
            if !is_excluded && (!self.follow_links || canonical.is_none_or(|dir| searched.insert(dir))) {
                open.push_back(path);
            }
            return;
        }
        let target = if kind.is_symlink() { fs::metadata(&path).map(|target| target.file_type()) } else { Ok(kind) };
        match target {
            Ok(target) if target.is_file() => found.file(root, path),
            Ok(target) if target.is_dir() && self.follow_links => {
                let canonical = path.canonicalize().ok();
                let is_new = canonical.is_some_and(|dir| !self.except.contains(&dir) && searched.insert(dir));
                if is_new {
                    open.push_back(path);
                }
            }
            Ok(target) if target.is_dir() => found.skip(Reason::LinkedDirectory, root, &path),
            Ok(_) => found.skip(Reason::Special, root, &path),
            Err(error) if error.kind() == ErrorKind::PermissionDenied && kind_of(&path) == Kind::Picture => {
                found.unread.push((path, error.into()));
            }
            Err(_) => found.skip(Reason::BrokenLink, root, &path),
        }
    }

    /// The pictures that a pattern matches. Directories that it matches are not searched.
    ///
    /// # Errors
    /// The pattern is not valid.
    pub(super) fn matching(&self, pattern: &str) -> Result<Found, glob::PatternError> {
        let root = pattern_root(pattern);
        let mut found = Found::default();
        for entry in glob::glob_with(pattern, MATCHING)? {
            match entry {
                Ok(path) if path.is_dir() || self.is_excluded(&path) || has_hidden_part(&path, pattern) => {}
                Ok(path) if path.is_file() => found.file(&root, path),
                Ok(path) if path.exists() => found.skip(Reason::Special, &root, &path),
                Ok(path) => found.skip(Reason::BrokenLink, &root, &path),
                Err(error) => {
                    let dir = error.path().to_path_buf();
                    found.places.push(dir.clone());
                    found.unread.push((dir, ReadError::Directory(error.into())));
                }
            }
        }
        Ok(found.sorted())
    }

    fn is_excluded(&self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|path| self.except.iter().any(|dir| path.starts_with(dir)))
    }
}

/// Whether a text has characters that a pattern uses.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The directory of a pattern up to its first component with a special character.
fn pattern_root(pattern: &str) -> PathBuf {
    let plain = |part: &std::path::Component<'_>| !is_pattern(&part.as_os_str().to_string_lossy());
    Path::new(pattern).components().take_while(plain).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether a path has a hidden name that is not written in the pattern.
fn has_hidden_part(path: &Path, pattern: &str) -> bool {
    let written: HashSet<_> = Path::new(pattern).iter().collect();
    let dots = [OsStr::new("."), OsStr::new("..")];
    path.iter().any(|part| {
        let may_be_hidden = part.as_encoded_bytes().starts_with(b".") && !dots.contains(&part);
        may_be_hidden && !written.contains(part) && !written.iter().any(|written| is_dotted_pattern(written))
    })
}

/// Whether a component of a pattern asks for hidden names, such as `.*`.
fn is_dotted_pattern(component: &OsStr) -> bool {
    component.as_encoded_bytes().starts_with(b".") && is_pattern(&component.to_string_lossy())
}

/// Whether the first bytes of a file are those of a picture, in a supported format or another one. A file that cannot be
/// read counts as one, so that its error is reported.
fn is_picture(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(RECOGNIZED_BYTES).read_to_end(&mut bytes));
    read.is_err() || !Header::read(&bytes, &DecodeOptions::default()).is_err_and(|error| error.is_no_picture())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The smallest GIF header.
    const GIF: &[u8] = b"GIF89a\x01\x00\x01\x00\x00\x00\x00";

    fn mirrors(found: &Found) -> Vec<String> {
        found.pictures.iter().map(|input| input.mirror.display().to_string()).collect()
    }

    #[test]
    fn a_directory_gives_its_pictures_in_order() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        for name in ["c.PNG", "a.jpg", "b/d.webp", "e.tif", "f.TIFF", "g.avif", "h.heic", "notes.txt", "letter"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::write(dir.path().join("i"), GIF).unwrap();
        // A format that is not supported is one of pictures.
        fs::write(dir.path().join("j"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
        fs::write(dir.path().join("k"), b"<!DOCTYPE html><title>404</title>").unwrap();
        let all = ["a.jpg", "b/d.webp", "c.PNG", "e.tif", "f.TIFF", "g.avif", "h.heic", "i", "j"];
        let found = FolderSearch::default().below(dir.path());
        assert_eq!(mirrors(&found), all);
        let message = found.skipped.message("dir").unwrap();
        assert!(message.contains("3 files that are not pictures") && message.contains("notes.txt"), "{message}");
        let except = dir.path().join("b");
        let found = FolderSearch::new(&[&except], false).below(dir.path());
        assert_eq!(mirrors(&found), [&all[..1], &all[2..]].concat());
        let found = FolderSearch::new(&[dir.path()], false).below(dir.path());
        assert_eq!(mirrors(&found), all, "the folder named is searched");
    }

    #[test]
    fn hidden_names_and_links_to_directories_are_left_out_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for folder in ["root/.cache", "root/sub", "elsewhere"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        for name in ["root/a.jpg", "root/._a.jpg", "root/.cache/b.jpg", "root/sub/c.jpg", "elsewhere/d.jpg"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        symlink(dir.path().join("elsewhere"), root.join("more")).unwrap();
        symlink(dir.path(), root.join("sub/up")).unwrap();
        symlink("nowhere", root.join("broken.jpg")).unwrap();
        symlink(root.join("a.jpg"), root.join("b.jpg")).unwrap();
        let found = FolderSearch::default().below(&root);
        assert_eq!(mirrors(&found), ["a.jpg", "b.jpg", "sub/c.jpg"]);
        let message = found.skipped.message("root").unwrap();
        for part in ["2 hidden names", "2 links to directories, which --follow-links searches", "1 broken link"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        let found = FolderSearch::new(&[], true).below(&root);
        // The link that leads up leads to the directory that was searched first, which is not searched again.
        assert_eq!(mirrors(&found), ["a.jpg", "b.jpg", "more/d.jpg", "sub/c.jpg"]);
        assert!(found.unread.is_empty(), "{:?}", found.unread);
        assert_eq!(found.places.len(), 4);
    }

    #[test]
    fn a_folder_that_cannot_be_read_is_named_and_the_others_are_searched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jpg"), "").unwrap();
        fs::write(dir.path().join("z.jpg"), "").unwrap();
        // A path that is too long cannot be opened, not even by root.
        let half = |name: &str| dir.path().join(name).join(["d".repeat(250).as_str(); 10].iter().collect::<PathBuf>());
        fs::create_dir_all(half("upper")).unwrap();
        fs::create_dir_all(half("lower")).unwrap();
        fs::rename(dir.path().join("lower"), half("upper").join("lower")).unwrap();
        let found = FolderSearch::default().below(dir.path());
        assert_eq!(found.pictures.len(), 2);
        assert_eq!(found.unread.len(), 1);
        let (dir, error) = &found.unread[0];
        assert!(dir.ends_with("d".repeat(250)), "{}", dir.display());
        assert_eq!(error.to_string(), "the directory cannot be searched: File name too long");
    }

    #[test]
    fn a_pattern_finds_pictures_and_keeps_their_tree() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("x/y")).unwrap();
        for name in ["x/a.jpg", "x/b.png", "x/.c.jpg", "x/y/d.jpg", "x/e.txt"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let matching = |pattern: &str| {
            let found = FolderSearch::default().matching(dir.path().join(pattern).to_str().unwrap()).unwrap();
            (mirrors(&found), found.skipped.counts().map(|(_, count)| count).sum::<usize>())
        };
        assert_eq!(matching("x/*.jpg").0, ["a.jpg"]);
        assert_eq!(matching("x/**/*.jpg").0, ["a.jpg", "y/d.jpg"]);
        assert_eq!(matching("*/*"), (vec!["x/a.jpg".to_owned(), "x/b.png".to_owned()], 1));
        assert!(FolderSearch::default().matching("a[").is_err());
    }
}
