//! The two streams that jobs are delivered from.

/// The stream that a job was delivered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The stream of jobs.
    Jobs,
    /// The stream of retries, see the module `retries`.
    Retries,
}
