//! Files that are written whole or not at all.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// Writes a file by `write` under a temporary name beside `path`, and then renames it. What was there before is
/// replaced, and stays as it was where writing fails.
///
/// # Errors
/// Those of `write`, and of the file system; each names the path.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let attempt = || {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The process's umask applies, as for any new file.
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
