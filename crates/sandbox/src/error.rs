//! Errors of the sandbox.

use std::path::PathBuf;
use std::time::Duration;

/// Why a server could not be started, or the demo data not be located.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The pinned tools are not installed.
    #[error(
        "{name} was not found in {searched}; run ./deploy/install-tools.sh{} in the checkout of Groundling",
        option(name)
    )]
    MissingExecutable {
        /// The program.
        name: String,
        /// The folders that were searched.
        searched: String,
    },
    /// The demo model or its pictures were not found.
    #[error(
        "the demo data (kosmos-2-emoji and scenes) was not found in {searched}; set GROUNDLING_DEMO_DATA to the folder \
         crates/sandbox/demo of a checkout of Groundling"
    )]
    MissingDemoData {
        /// The folders that were searched.
        searched: String,
    },
    /// An operation of the operating system failed.
    #[error("could not {what}: {cause}")]
    Io {
        /// The operation, as a verb with its object.
        what: String,
        /// The operating system's error.
        cause: std::io::Error,
    },
    /// The program exited before it was ready.
    #[error("{name} exited with {status} before it was ready; the end of its log:\n{log}")]
    EndedEarly {
        /// The program.
        name: &'static str,
        /// Its exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// The program did not become ready in time.
    #[error("{name} was not ready after {} s; the end of its log:\n{log}", waited.as_secs())]
    NotReady {
        /// The program.
        name: &'static str,
        /// The timeout.
        waited: Duration,
        /// The end of its log.
        log: String,
    },
    /// The folder of the embedded store cannot be served.
    #[error("the S3 store cannot serve {}: {reason}", dir.display())]
    Store {
        /// The folder.
        dir: PathBuf,
        /// The error of the store.
        reason: String,
    },
}

/// The option of `install-tools.sh` that installs a program.
fn option(name: &str) -> &'static str {
    if name == "postgres" { " --postgres" } else { "" }
}

impl SandboxError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }
}
