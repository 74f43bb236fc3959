//! How a command ends, which determines the exit code.

use broker::causes::causes;

/// Invalid arguments or settings. The exit code is 2, as for the errors of clap.
#[derive(Debug)]
pub(crate) struct Misuse(pub(crate) anyhow::Error);

impl std::fmt::Display for Misuse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&causes(self.0.as_ref()))
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
}
