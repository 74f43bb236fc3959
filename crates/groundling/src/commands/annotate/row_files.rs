//! The files of `--out`: a JSON row for each picture.
//!
//! Rows are appended one by one, each with one write. A process that is killed can leave a last row without its line break,
//! which is cut off when the run is resumed. A directory has files of a certain number of rows: `part-00001.jsonl.partial`
//! is renamed to `part-00001.jsonl` when it is complete, so that readers of `*.jsonl` see only complete files.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde::de::{Error, IgnoredAny};
use wire::v1::{ImageAnnotation, JobFailure};

use super::out_place;
use crate::exit::Misuse;

const PARTIAL: &str = ".partial";
/// The file in a directory whose lock keeps other runs out.
const LOCK: &str = ".groundling-lock";

/// A row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Row {
    Annotation(Box<ImageAnnotation>),
    Failure(Box<JobFailure>),
}

impl Row {
    /// Annotations have an id, and failures a reason.
    fn from_json(line: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Keys {
            annotation_id: Option<IgnoredAny>,
            reason: Option<IgnoredAny>,
        }
        let keys: Keys = serde_json::from_slice(line)?;
        match keys {
            Keys { annotation_id: Some(_), .. } => serde_json::from_slice(line).map(Self::Annotation),
            Keys { reason: Some(_), .. } => serde_json::from_slice(line).map(Self::Failure),
            Keys { .. } => Err(serde_json::Error::custom("it has neither annotation_id nor reason")),
        }
    }
}

/// The file or files of `--out`.
#[derive(Debug)]
pub(super) struct RowFiles {
    place: Place,
    /// The file that rows are appended to; `None` before the first row of a part.
    open: Option<File>,
    /// Holds the lock of a directory.
    _lock: Option<File>,
}

#[derive(Debug)]
enum Place {
    File(PathBuf),
    Directory {
        dir: PathBuf,
        /// The number of the part that rows are appended to.
        number: u64,
        /// Its rows so far.
        rows: usize,
        max_rows: usize,
    },
}

impl RowFiles {
    /// Opens `out`, a file or a directory. If the run is resumed, `keep` decides for each row whether it stays.
    ///
    /// # Errors
    /// There are rows and the run is not resumed, another run writes to `out`, a line is not a row, or the file system
    /// fails.
    pub(super) fn open(
        out: &Path,
        is_resumed: bool,
        max_rows: usize,
        mut keep: impl FnMut(Row) -> bool,
    ) -> anyhow::Result<Self> {
        if out_place::is_file(out) {
            return Self::open_file(out, is_resumed, keep);
        }
        fs::create_dir_all(out).with_context(|| format!("{}: cannot create the directory", out.display()))?;
        let lock = OpenOptions::new().create(true).append(true).open(out.join(LOCK));
        let lock = lock.with_context(|| format!("{}: cannot be written", out.display()))?;
        lock_for(&lock, out)?;
        let parts = parts(out)?;
        if !is_resumed && !parts.is_empty() {
            return Err(has_rows(out));
        }
        let (mut open, mut number, mut rows) = (None, parts.last_key_value().map_or(1, |(last, _)| last + 1), 0);
        for (part, path) in parts {
            let is_partial = path.extension().is_some_and(|end| end == "partial");
            let kept = Kept::read(&path, is_partial, &mut keep)?;
            kept.apply(&path)?;
            if is_partial {
                (open, number, rows) = (Some(append(&path)?), part, kept.rows);
            }
        }
        let place = Place::Directory { dir: out.into(), number, rows, max_rows };
        let mut files = Self { place, open, _lock: Some(lock) };
        files.end_full_part()?;
        Ok(files)
    }

    fn open_file(out: &Path, is_resumed: bool, mut keep: impl FnMut(Row) -> bool) -> anyhow::Result<Self> {
        let file = append(out)?;
        lock_for(&file, out)?;
        // Another run may have replaced the file before it was locked.
        if file.metadata()?.ino() != fs::metadata(out)?.ino() {
            return Err(is_used(out));
        }
        if !is_resumed && file.metadata()?.len() > 0 {
            return Err(has_rows(out));
        }
        let open = Kept::read(out, true, &mut keep)?.apply(out)?.unwrap_or(file);
        Ok(Self { place: Place::File(out.into()), open: Some(open), _lock: None })
    }

    /// Appends a row.
    pub(super) fn write(&mut self, row: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(row)?;
        line.push(b'\n');
        let path = self.path();
        let file = match &mut self.open {
            Some(file) => file,
            closed => closed.insert(append(&path)?),
        };
        // One write, so that a killed process leaves at most one incomplete row.
        file.write_all(&line).with_context(|| format!("{}: cannot be written", path.display()))?;
        if let Place::Directory { rows, .. } = &mut self.place {
            *rows += 1;
        }
        self.end_full_part()
    }

    /// Completes the last part, and waits until all rows are on the disk.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        match self.place {
            Place::File(ref path) => {
                let synced = self.open.as_ref().map_or(Ok(()), File::sync_data);
                synced.with_context(|| format!("{}: cannot be written", path.display()))
            }
            Place::Directory { .. } => self.end_part(),
        }
    }

    /// The file that rows are appended to.
    fn path(&self) -> PathBuf {
        match &self.place {
            Place::File(path) => path.clone(),
            Place::Directory { dir, number, .. } => dir.join(format!("{}{PARTIAL}", part_name(*number))),
        }
    }

    fn end_full_part(&mut self) -> anyhow::Result<()> {
        match self.place {
            Place::Directory { rows, max_rows, .. } if rows >= max_rows => self.end_part(),
            _ => Ok(()),
        }
    }

    /// Renames the part that rows are appended to. A part without rows is removed.
    fn end_part(&mut self) -> anyhow::Result<()> {
        let path = self.path();
        let Place::Directory { dir, number, rows, .. } = &mut self.place else { return Ok(()) };
        if let Some(file) = self.open.take() {
            let end = || {
                if *rows == 0 {
                    return fs::remove_file(&path);
                }
                file.sync_data()?;
                fs::rename(&path, dir.join(part_name(*number)))
            };
            end().with_context(|| format!("{}: cannot be written", path.display()))?;
        }
        (*number, *rows) = (*number + 1, 0);
        Ok(())
    }
}

/// What stays of a file: the byte ranges of the rows that are removed, and the end of the last complete row.
struct Kept {
    removed: Vec<Range<u64>>,
    end: u64,
    length: u64,
    /// The rows that stay.
    rows: usize,
}

impl Kept {
    /// Reads a file. Its last row may be incomplete if `may_end_early`.
    fn read(path: &Path, may_end_early: bool, keep: &mut impl FnMut(Row) -> bool) -> anyhow::Result<Self> {
        let unreadable = || format!("{}: cannot be read", path.display());
        let file = File::open(path).with_context(unreadable)?;
        let mut kept =
            Self { removed: Vec::new(), end: 0, length: file.metadata().with_context(unreadable)?.len(), rows: 0 };
        let (mut lines, mut line) = (BufReader::new(file), Vec::new());
        for number in 1.. {
            line.clear();
            let length = lines.read_until(b'\n', &mut line).with_context(unreadable)?;
            let is_complete = line.last() == Some(&b'\n');
            if length == 0 || (!is_complete && may_end_early) {
                break;
            }
            let row = Row::from_json(&line).map_err(|error| {
                Misuse(anyhow!("{}: line {number} is not a row of groundling annotate: {error}", path.display()))
            })?;
            let start = kept.end;
            kept.end += length as u64;
            if keep(row) {
                kept.rows += 1;
            } else {
                kept.removed.push(start..kept.end);
            }
        }
        Ok(kept)
    }

    /// Removes the rest of the file. Returns the new file, open and locked, if it was replaced.
    fn apply(&self, path: &Path) -> anyhow::Result<Option<File>> {
        let unwritable = || format!("{}: cannot be written", path.display());
        if !self.removed.is_empty() {
            return self.copy(path).map(Some).with_context(unwritable);
        }
        if self.end < self.length {
            append(path)?.set_len(self.end).with_context(unwritable)?;
        }
        Ok(None)
    }

    /// Replaces the file by a copy without the removed rows.
    fn copy(&self, path: &Path) -> anyhow::Result<File> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut options = tempfile::Builder::new();
        options.prefix(".groundling-").suffix(".tmp").append(true).permissions(Permissions::from_mode(0o666));
        let mut temporary = options.tempfile_in(dir)?;
        let (mut file, mut start) = (File::open(path)?, 0);
        let end = std::iter::once(self.end..self.end);
        for removed in self.removed.iter().cloned().chain(end) {
            file.seek(SeekFrom::Start(start))?;
            io::copy(&mut (&mut file).take(removed.start - start), &mut temporary)?;
            start = removed.end;
        }
        temporary.as_file().sync_data()?;
        lock_for(temporary.as_file(), path)?;
        Ok(temporary.persist(path)?)
    }
}

/// The parts of a directory by number. A part whose renaming was interrupted exists once.
fn parts(dir: &Path) -> anyhow::Result<BTreeMap<u64, PathBuf>> {
    let mut parts = BTreeMap::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}: cannot be read", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = name.strip_suffix(PARTIAL).unwrap_or(name);
        let number = stem.strip_prefix("part-").and_then(|rest| rest.strip_suffix(".jsonl")?.parse().ok());
        if let Some(number) = number
            && parts.insert(number, path).is_some()
        {
            bail!("{}: part {number} exists twice, complete and {PARTIAL}: remove one of them", dir.display());
        }
    }
    Ok(parts)
}

fn part_name(number: u64) -> String {
    format!("part-{number:05}.jsonl")
}

fn append(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("{}: cannot be written", path.display()))
}

fn lock_for(file: &File, out: &Path) -> anyhow::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(fs::TryLockError::WouldBlock) => Err(is_used(out)),
        // Some network file systems have no locks.
        Err(fs::TryLockError::Error(error)) => {
            tracing::warn!("{}: cannot be locked against other runs: {error}", out.display());
            Ok(())
        }
    }
}

fn is_used(out: &Path) -> anyhow::Error {
    Misuse(anyhow!("{}: another run writes to it", out.display())).into()
}

fn has_rows(out: &Path) -> anyhow::Error {
    Misuse(anyhow!("{}: has results already: add --resume to continue, or choose another name", out.display())).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(name: &str) -> ImageAnnotation {
        ImageAnnotation { job_id: name.into(), annotation_id: format!("id of {name}"), ..ImageAnnotation::default() }
    }

    fn failure(name: &str) -> JobFailure {
        JobFailure { job_id: Some(name.into()), reason: 3, ..JobFailure::default() }
    }

    fn name(row: &Row) -> String {
        match row {
            Row::Annotation(row) => row.job_id.clone(),
            Row::Failure(row) => format!("failed {}", row.job_id.as_deref().unwrap_or_default()),
        }
    }

    /// Opens a resumed run, and returns the names of its rows.
    fn resume(out: &Path, max_rows: usize) -> (RowFiles, Vec<String>) {
        let mut names = Vec::new();
        let files = RowFiles::open(out, true, max_rows, |row| {
            names.push(name(&row));
            matches!(row, Row::Annotation(_))
        });
        (files.unwrap(), names)
    }

    fn listed(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name != LOCK).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_keeps_its_complete_rows_and_loses_an_incomplete_one_and_those_that_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows.jsonl");
        let (mut files, names) = resume(&out, 10);
        assert!(names.is_empty());
        files.write(&annotation("a")).unwrap();
        files.write(&failure("b")).unwrap();
        files.write(&annotation("c")).unwrap();
        files.open.as_mut().unwrap().write_all(b"{\"annotation_id\": \"x").unwrap();
        drop(files);
        let (mut files, names) = resume(&out, 10);
        assert_eq!(names, ["a", "failed b", "c"]);
        files.write(&annotation("b")).unwrap();
        files.finish().unwrap();
        assert_eq!(resume(&out, 10).1, ["a", "c", "b"]);
        let error = RowFiles::open(&out, false, 10, |_| true).unwrap_err();
        assert!(error.is::<Misuse>() && error.to_string().contains("--resume"), "{error}");
        assert_eq!(listed(dir.path()), ["rows.jsonl"]);
    }

    #[test]
    fn a_directory_has_parts_that_are_complete_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rows");
        let (mut files, _) = resume(&out, 2);
        for name in ["a", "b", "c"] {
            files.write(&annotation(name)).unwrap();
        }
        assert_eq!(listed(&out), ["part-00001.jsonl", "part-00002.jsonl.partial"]);
        // Killed here.
        drop(files);
        let (mut files, names) = resume(&out, 2);
        assert_eq!(names, ["a", "b", "c"]);
        files.write(&annotation("d")).unwrap();
        files.write(&failure("e")).unwrap();
        files.finish().unwrap();
        let all = ["part-00001.jsonl", "part-00002.jsonl", "part-00003.jsonl"];
        assert_eq!(listed(&out), all);
        let (files, names) = resume(&out, 2);
        assert_eq!(names, ["a", "b", "c", "d", "failed e"]);
        files.finish().unwrap();
        assert_eq!(fs::read_to_string(out.join(all[2])).unwrap(), "", "the failure was not kept");
    }

    #[test]
    fn two_runs_do_not_write_to_the_same_place_and_other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for out in ["rows", "rows.jsonl"].map(|name| dir.path().join(name)) {
            let (files, _) = resume(&out, 2);
            let error = RowFiles::open(&out, true, 2, |_| true).unwrap_err();
            assert!(error.to_string().contains("another run writes to it"), "{error}");
            drop(files);
            resume(&out, 2);
        }
        let notes = dir.path().join("notes.json");
        fs::write(&notes, "{\"a\": 1}\n").unwrap();
        let error = RowFiles::open(&notes, true, 2, |_| true).unwrap_err();
        assert!(error.to_string().contains("line 1 is not a row"), "{error}");
        assert_eq!(fs::read_to_string(&notes).unwrap(), "{\"a\": 1}\n");
    }
}
