//! Whether a decoding has finished.

/// Whether a decoding has more tokens to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It takes part in the next step.
    Unfinished,
    /// It has ended; [`Decoding::finish`](crate::decoding::Decoding::finish) returns the result.
    Finished,
}

impl Progress {
    pub(super) fn finished_if(finished: bool) -> Self {
        if finished { Self::Finished } else { Self::Unfinished }
    }
}
