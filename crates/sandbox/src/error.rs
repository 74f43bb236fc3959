//! What can go wrong before a server answers.

use std::path::PathBuf;
use std::time::Duration;

/// Why a server or the demo data is not to be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The pinned tools are not installed.
    #[error("{name} was not found in {searched}; run ./deploy/install-tools.sh in the checkout of Groundling")]
    MissingExecutable {
        /// The program that was looked for.
        name: String,
        /// The places that were looked at.
        searched: String,
    },
    /// The demo model or its pictures are not where they were looked for.
    #[error(
        "the demo data (kosmos-2-emoji and scenes) was not found in {searched}; set GROUNDLING_DEMO_DATA to the folder \
         crates/sandbox/demo of a checkout of Groundling"
    )]
    MissingDemoData {
        /// The places that were looked at.
        searched: String,
    },
    /// The operating system refused something.
    #[error("could not {what}: {cause}")]
    Io {
        /// What was attempted, as a verb and its object.
        what: String,
        /// The system's answer.
        cause: std::io::Error,
    },
    /// The program ended before it was ready.
    #[error("{name} ended with {status} before it was ready; the end of its log:\n{log}")]
    EndedEarly {
        /// The program.
        name: &'static str,
        /// Its exit status.
        status: String,
        /// The last lines it wrote.
        log: String,
    },
    /// The program runs but did not answer in time.
    #[error("{name} was not ready after {} s; the end of its log:\n{log}", waited.as_secs())]
    NotReady {
        /// The program.
        name: &'static str,
        /// How long it was waited for.
        waited: Duration,
        /// The last lines it wrote.
        log: String,
    },
    /// The folder of the embedded store cannot be served.
    #[error("the S3 store cannot serve {}: {reason}", dir.display())]
    Store {
        /// The folder.
        dir: PathBuf,
        /// What the store says.
        reason: String,
    },
}

impl SandboxError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }
}
