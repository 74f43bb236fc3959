//! What happens to jobs, for whoever wants to watch: a progress display, a test.

use std::sync::Arc;
use std::time::Duration;

use protocol::v1::{FailureReason, ImageAnnotation};
use tokio::sync::mpsc;

/// One thing that happened to a job.
#[derive(Debug, Clone)]
pub enum JobEvent {
    /// It is done: the annotation is in the stream.
    Finished {
        /// What was published.
        annotation: Arc<ImageAnnotation>,
        /// Whether an earlier delivery had published it already.
        duplicate: bool,
    },
    /// It is given up: a failure is in the stream.
    Failed {
        /// The job's id, where it could be read.
        job_id: Option<String>,
        /// The subject it came from.
        subject: String,
        /// Why.
        reason: FailureReason,
        /// The same in a sentence.
        message: String,
    },
    /// It goes back to the queue.
    Retried {
        /// The subject it came from.
        subject: String,
        /// When it may be handed out again.
        delay: Duration,
        /// Why, in a sentence.
        message: String,
    },
}

/// Where events go. They are dropped, not waited for, when nobody reads them fast enough: watching never slows the
/// work.
#[derive(Debug, Clone, Default)]
pub struct Events(Option<mpsc::Sender<JobEvent>>);

impl Events {
    /// Sends events to this channel.
    pub fn to(channel: mpsc::Sender<JobEvent>) -> Self {
        Self(Some(channel))
    }

    /// Sends events nowhere.
    pub fn none() -> Self {
        Self(None)
    }

    pub(crate) fn send(&self, event: JobEvent) {
        if let Some(channel) = &self.0
            && channel.try_send(event).is_err()
        {
            tracing::trace!("an event was dropped");
        }
    }
}
