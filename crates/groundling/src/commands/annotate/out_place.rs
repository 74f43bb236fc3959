//! What `--out` names: a file or a directory.

use std::ffi::OsStr;
use std::path::Path;

use anyhow::{bail, ensure};

/// Whether rows go into one file, and not into the files of a directory: the file exists, or its name ends in `.jsonl` or
/// `.json`.
pub(super) fn is_file(out: &Path) -> bool {
    out.is_file() || (!names_directory(out) && !out.is_dir() && has_ending_of_rows(out))
}

/// Checks the name before pictures are annotated.
///
/// # Errors
/// The name ends like that of another format, or is that of something else than a file or a directory.
pub(super) fn check(out: &Path) -> anyhow::Result<()> {
    let shown = out.display();
    ensure!(!out.as_os_str().is_empty(), "--out is empty; name a file or a directory");
    if out.is_dir() || names_directory(out) {
        let without_slash = out.components().as_path();
        ensure!(!without_slash.is_file(), "--out {shown}: is a file; leave out the / at the end of its name");
        return Ok(());
    }
    ensure!(!out.exists() || out.is_file(), "--out {shown}: is neither a file nor a directory");
    let extension = out.extension().unwrap_or_default().to_string_lossy().into_owned();
    // A directory may be called `run.2`.
    if !has_ending_of_rows(out) && extension.chars().any(char::is_alphabetic) && !out.is_file() {
        bail!(
            "--out {shown}: rows are written as JSON lines, not as .{extension}; name a file ending in .jsonl or .json, or end the name of a directory with /"
        );
    }
    Ok(())
}

fn has_ending_of_rows(out: &Path) -> bool {
    let is_rows = |extension: &OsStr| extension.eq_ignore_ascii_case("jsonl") || extension.eq_ignore_ascii_case("json");
    out.extension().is_some_and(is_rows)
}

/// Whether the name ends in `/`.
fn names_directory(out: &Path) -> bool {
    out.as_os_str().as_encoded_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_file_a_directory_or_neither() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("there.csv")).unwrap();
        std::fs::write(dir.path().join("tmp.Xa"), "").unwrap();
        let kind = |name: &str| {
            let out = dir.path().join(name);
            check(&out).map(|()| is_file(&out)).map_err(|error| error.to_string())
        };
        for file in ["rows.jsonl", "rows.json", "rows.JSONL", "tmp.Xa"] {
            assert_eq!(kind(file), Ok(true), "{file}");
        }
        for directory in ["rows", "run.2024", "rows.csv/", "rows.json/", "there.csv"] {
            assert_eq!(kind(directory), Ok(false), "{directory}");
        }
        for (other, part) in [("rows.csv", "not as .csv"), ("rows.parquet", ".jsonl"), ("tmp.Xa/", "is a file")] {
            assert!(kind(other).unwrap_err().contains(part), "{other}");
        }
        assert!(check(Path::new("")).unwrap_err().to_string().contains("--out is empty"));
        assert!(check(Path::new("/dev/null")).unwrap_err().to_string().contains("neither a file nor a directory"));
    }
}
