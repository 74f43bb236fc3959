//! What happens to jobs, for whoever wants to watch: a progress display, a test.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use wire::v1::{FailureReason, ImageAnnotation};

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

/// The steps, and the list of them all, from one listing: a test over [`Step::ALL`] misses none.
macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident,)+) => {
        /// How far a job has come: every point at which it has waited for something outside the worker.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Step {
            $($(#[$doc])* $step,)+
        }

        impl Step {
            /// All of them, in the order of a job's way.
            pub const ALL: [Self; [$(Self::$step),+].len()] = [$(Self::$step),+];
        }
    };
}

steps! {
    /// It was received.
    Received,
    /// It was looked up what an earlier delivery wrote down.
    LookedUp,
    /// The picture's bytes are here.
    Fetched,
    /// The picture is decoded.
    Decoded,
    /// The engine has answered.
    Answered,
    /// The annotation is written down as the outcome.
    AnnotationClaimed,
    /// The annotation is in its stream.
    AnnotationPublished,
    /// The job is off the queue as done.
    Acknowledged,
    /// The failure is written down as the outcome.
    FailureClaimed,
    /// The failure is in its stream.
    FailurePublished,
    /// The job is off the queue as given up.
    Terminated,
    /// A copy of the job is in the stream of retries.
    RetryPublished,
    /// The job is sent back, to be delivered again.
    SentBack,
}

/// Called at each step of each job, on the job's own task.
type OnStep = Arc<dyn Fn(Step) + Send + Sync>;

/// Where events go. They are dropped, not waited for, when nobody reads them fast enough: watching never slows the
/// work.
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

    /// Sends events nowhere.
    pub fn none() -> Self {
        Self::default()
    }

    /// Also calls this at each step of each job. It must not block.
    #[must_use]
    pub fn with_steps(self, on_step: impl Fn(Step) + Send + Sync + 'static) -> Self {
        Self { on_step: Some(Arc::new(on_step)), ..self }
    }

    pub(crate) fn send(&self, event: JobEvent) {
        if let Some(channel) = &self.channel
            && channel.try_send(event).is_err()
        {
            tracing::trace!("an event was dropped");
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
