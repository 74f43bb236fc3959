//! How a command ends, which determines the exit code.

use crate::errors::plain;

/// Invalid arguments or settings. The exit code is 2, as for the errors of clap.
#[derive(Debug)]
pub(crate) struct Misuse(pub(crate) anyhow::Error);

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&plain(self.0.as_ref()))
    }
}

impl std::error::Error for Misuse {}

/// The end of a command without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything was done.
    Done,
    /// Part of the work failed, and each failure was reported on stderr.
    PartlyFailed,
    /// A signal ended the work before everything was done. The exit code is 128 plus its number.
    Interrupted {
        /// The signal's number.
        signal: u8,
    },
}
