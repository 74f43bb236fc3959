//! Atomic replacement of files, and the marks at their beginning.

use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// Writes a temporary file in the directory of `path` and renames it to `path`. If writing fails, an existing file is left
/// unchanged.
///
/// # Errors
/// The errors of `write` and of the file system, with the path as context.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let attempt = || {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Temporary files are private by default; these are created like any other, with the umask applied.
        let mut options = tempfile::Builder::new();
        options.prefix(".groundling-").suffix(".tmp").permissions(Permissions::from_mode(0o666));
        // The name of the temporary file means nothing to users.
        let temporary = options.tempfile_in(dir).map_err(|error| io::Error::from(error.kind()))?;
        let mut buffer = BufWriter::new(temporary.as_file());
        write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        temporary.persist(path)?;
        anyhow::Ok(())
    };
    attempt().with_context(|| format!("{}: cannot be written", path.display()))
}

/// Checks that files can be created in the directory of `path`.
///
/// # Errors
/// The error of the file system.
pub(crate) fn check_writable(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::tempfile_in(dir).map(drop).map_err(|error| io::Error::from(error.kind()))
}

/// The bytes of a text file without a byte-order mark.
///
/// # Errors
/// The text is not UTF-8 but UTF-16: what to do, in a few words.
pub(crate) fn without_mark(bytes: &[u8]) -> Result<&[u8], &'static str> {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err("the file is UTF-16; save it as UTF-8"),
        [0xef, 0xbb, 0xbf, rest @ ..] => Ok(rest),
        _ => Ok(bytes),
    }
}
