//! The conservation test: every job that was accepted ends as exactly one annotation or exactly one failure, whatever
//! dies on the way.
//!
//! Real NATS servers and a real S3 store, worker processes, and proxies between them that break connections. An oracle
//! takes only acknowledged submissions for obligations, and reads both output streams at the end. `tests/soak.sh` runs
//! it for as long as one likes; a short run is part of the tests.
//!
//! Most runs put [`stub::Stub`] in the model's place: the test is about delivery, and a model would only be slow. It
//! stands behind the trait that the real engine stands behind, and it is this package's own program that starts it
//! (`soak worker`, which is `groundling worker` but for that, for the way it hears of its settings, and for the steps at
//! which it can be told to abort). So nothing in the program that ships can be switched to answers that are made up.
//! `--real` runs `groundling worker` itself, with the small model, and compares its texts with the reference's.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

/// Writes a line about the run to standard error. A reader that has left must not end the run.
macro_rules! progress {
    ($($argument:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($argument)*)));
    }};
}

pub mod broker;
pub mod faults;
pub mod insist;
pub mod oracle;
pub mod plan;
pub mod pool;
pub mod proxy;
pub mod routes;
pub mod run;
pub mod s3_proxy;
pub mod streams;
pub mod stub;
pub mod stub_worker;
pub mod submit;

pub use oracle::Figures;
pub use run::{Options, run};
