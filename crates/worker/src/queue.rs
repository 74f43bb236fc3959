//! The streams that jobs are delivered from, and their consumers.

/// The stream that a job was delivered from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// The jobs stream: jobs that have not been attempted, and jobs that were released.
    Jobs,
    /// The retries stream: jobs that wait for another attempt.
    Retries,
}

/// The consumer that an intake takes jobs from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConsumerKind {
    /// Jobs of the jobs stream that are not urgent.
    Jobs,
    /// Urgent jobs of the jobs stream.
    Urgent,
    /// The retries stream.
    Retries,
}

impl ConsumerKind {
    /// The consumer's stream.
    pub(crate) fn queue(self) -> Queue {
        match self {
            Self::Jobs | Self::Urgent => Queue::Jobs,
            Self::Retries => Queue::Retries,
        }
    }
}
