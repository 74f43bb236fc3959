//! Events of jobs, for progress displays and tests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wire::v1::{FailureReason, ImageAnnotation};

/// An event of a job.
#[derive(Debug, Clone)]
pub enum JobEvent {
    /// The job is done: its annotation is in its stream.
    Finished {
        /// The annotation.
        annotation: Arc<ImageAnnotation>,
        /// Whether an earlier delivery had published it already.
        duplicate: bool,
    },
    /// The job has failed permanently: its failure is in its stream.
    Failed {
        /// The job's id, if it could be read.
        job_id: Option<String>,
        /// The job's subject.
        subject: String,
        /// The reason.
        reason: FailureReason,
        /// The error in a sentence.
        message: String,
    },
    /// The job is requeued: retried, parked, released, or left to other workers.
    Retried {
        /// The job's subject.
        subject: String,
        /// The delay before it is delivered again.
        delay: Duration,
        /// The error in a sentence.
        message: String,
    },
}

/// Defines the steps together with [`Step::ALL`], so that the list is complete.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident,)+) => {
        /// The steps of a job: every point after which it has waited for something outside the worker.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step {
            $($(#[$doc])* $step,)+
        }

        impl Step {
            /// All steps, in the order of processing.
            pub const ALL: [Self; [$(Self::$step),+].len()] = [$(Self::$step),+];
        }
    };
}

steps! {
    /// The job was received.
    Received,
    /// The outcomes stream has no outcome of an earlier delivery.
    LookedUp,
    /// The picture's bytes were read.
    Fetched,
    /// The picture was decoded.
    Decoded,
    /// The engine has answered.
    Answered,
    /// The annotation was claimed as the outcome.
    AnnotationClaimed,
    /// The annotation was published.
    AnnotationPublished,
    /// The job was acknowledged.
    Acknowledged,
    /// The failure was claimed as the outcome.
    FailureClaimed,
    /// The failure was published.
    FailurePublished,
    /// The job was terminated.
    Terminated,
    /// A copy of the job was published to the retries stream.
    RetryPublished,
    /// The copy was deleted, because its job has ended.
    CopyDeleted,
    /// The job was requeued: its copy has replaced it, or it was nacked.
    Requeued,
}

/// Called at each step of each job, on the job's task.
type OnStep = Arc<dyn Fn(Step) + Send + Sync>;

/// Sends events. If the receiver is too slow, events are dropped, so that they never delay jobs.
#[derive(Clone, Default)]
pub struct Events {
    channel: Option<mpsc::Sender<JobEvent>>,
    on_step: Option<OnStep>,
}

impl Events {
    /// Sends events to this channel.
    pub fn to(channel: mpsc::Sender<JobEvent>) -> Self {
        Self { channel: Some(channel), on_step: None }
    }

    /// Discards all events.
    pub fn none() -> Self {
        Self::default()
    }

    /// The same, which also calls `on_step` at each step of each job. It must not block.
    #[must_use]
    pub fn with_steps(self, on_step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self { on_step: Some(Arc::new(on_step)), ..self }
    }

    pub(crate) fn send(&self, event: JobEvent) {
        if let Some(channel) = &self.channel
            && channel.try_send(event).is_err()
        {
            tracing::trace!("dropped an event: the receiver is too slow");
        }
    }

    pub(crate) fn step(&self, step: Step) {
        if let Some(on_step) = &self.on_step {
            on_step(step);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("channel", &self.channel).finish_non_exhaustive()
    }
}
