//! The two streams that jobs are delivered from.

/// The stream that a job was delivered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The jobs stream: jobs that have not been attempted, and jobs that were released.
    Jobs,
    /// The retries stream: jobs that wait for another attempt.
    Retries,
}
