//! Writes results to standard output.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use serde::Serialize;

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StdoutError {
    /// The reader closed its end, as `head` does.
    #[error("standard output was closed")]
    Closed,
    /// Any other error, such as a full disk.
    #[error("standard output cannot be written: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for StdoutError {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe { Self::Closed } else { Self::Failed(error) }
    }
}

/// Writes a text unchanged.
pub(crate) fn write(text: Arguments<'_>) -> Result<(), StdoutError> {
    let mut out = io::stdout().lock();
    out.write_fmt(text)?;
    // Only complete lines are flushed automatically, and errors at the end of the program would go unnoticed.
    Ok(out.flush()?)
}

/// Writes a text and a line break.
pub(crate) fn write_line(text: Arguments<'_>) -> Result<(), StdoutError> {
    write(format_args!("{text}\n"))
}

/// Writes a value as one line of JSON.
pub(crate) fn write_json(value: &impl Serialize) -> anyhow::Result<()> {
    let line = serde_json::to_string(value)?;
    Ok(write_line(format_args!("{line}"))?)
}
