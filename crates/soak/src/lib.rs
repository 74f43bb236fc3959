//! The soak test: under faults of processes, servers and connections, every accepted job ends as exactly one annotation
//! or exactly one failure.
//!
//! A run starts real NATS servers, a real S3 store, worker processes, and proxies between them that break connections.
//! An oracle reads both output streams at the end and compares them with the acknowledged submissions. `tests/soak.sh`
//! makes runs of any length; short runs are part of the tests.
//!
//! Most runs use [`stub_engine::StubEngine`] in place of the model, since the test is about delivery and a model would
//! only be slow. It implements the same trait as the real engine, and only this package's own program uses it: `soak
//! worker` is `groundling worker` with the stub, another way to read its settings, and steps at which it can abort. So
//! the shipped program contains no stub. `--real` runs `groundling worker` itself with the small model, and compares its
//! texts with the reference's.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

/// Writes a line to standard error. A closed standard error must not end the run.
macro_rules! progress {
    ($($argument:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($argument)*)));
    }};
}

mod child_process;
pub mod claims;
pub mod faults;
pub mod feeder;
pub mod ingest;
pub mod oracle;
pub mod plan;
pub mod pool;
mod process_cost;
pub mod proxy;
pub mod retry;
pub mod routes;
pub mod run;
pub mod s3_proxy;
pub mod scale;
pub mod servers;
pub mod storage;
pub mod streams;
pub mod stub_engine;
pub mod stub_worker;
pub mod submit;

pub use oracle::Summary;
pub use run::{Options, run};
