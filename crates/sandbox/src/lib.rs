//! Real servers on free loopback ports, and the demo data, for `groundling demo` and the end-to-end tests.
//!
//! Every server keeps its data in a folder of its own and logs to a file, whose end is part of start-up errors. It stops
//! when its value is dropped or this process ends.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

mod child_test;
pub mod demo_data;
mod embedded_s3;
mod error;
mod http_probe;
mod model_hub;
mod nats;
mod nats_cluster;
mod nats_leaf;
mod ports;
mod postgres;
mod process;
mod s3_access;
mod seaweed;
mod shifted_clock;
pub mod tools;
mod usage;

pub use child_test::child_test;
pub use demo_data::DemoData;
pub use embedded_s3::EmbeddedS3;
pub use error::SandboxError;
pub use model_hub::{HubFile, HubRequest, HubState, ModelHub};
pub use nats::{NatsOptions, NatsServer, NatsTraffic};
pub use nats_cluster::{NatsCluster, NodeRoutes};
pub use nats_leaf::NatsLeaf;
pub use ports::{free_address, free_ports};
pub use postgres::{PostgresOptions, PostgresServer};
pub use s3_access::S3Access;
pub use seaweed::{SeaweedFs, Webhook};
pub use shifted_clock::ShiftedClock;
pub use usage::{disk_bytes, resident_bytes};
