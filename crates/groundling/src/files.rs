//! Atomic replacement of files.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
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
        let temporary = options.tempfile_in(dir)?;
        let mut buffer = BufWriter::new(temporary.as_file());
        write(&mut buffer)?;
        buffer.flush()?;
        drop(buffer);
        temporary.persist(path)?;
        anyhow::Ok(())
    };
    attempt().with_context(|| format!("{}: cannot be written", path.display()))
}
