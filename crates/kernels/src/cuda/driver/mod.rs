//! What runs the kernels: a card or, to check everything above without one, the host. Both offer the same few calls.
//! Addresses and sizes in bytes; nothing is checked here.

#[cfg(feature = "cuda")]
mod card;
#[cfg(not(feature = "cuda"))]
mod host;

#[cfg(feature = "cuda")]
pub(super) use card::{Driver, Event, Memory, Pinned, Recording};
#[cfg(not(feature = "cuda"))]
pub(super) use host::{Driver, Event, Memory, Pinned, Recording};

use super::format::Kind;

/// What went wrong, in the driver's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {reason}")]
pub struct DriverError {
    /// What was asked for.
    pub call: &'static str,
    /// What came back.
    pub reason: String,
}

/// `y [rows, outputs] = x [rows, inner] Wᵀ`, W [outputs, inner], rows of y `stride` values apart; sums in f32.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product {
    pub(super) weights: u64,
    pub(super) x: u64,
    pub(super) y: u64,
    pub(super) kind: Kind,
    pub(super) result: Kind,
    pub(super) outputs: i32,
    pub(super) rows: i32,
    pub(super) inner: i32,
    pub(super) stride: i32,
}

/// Blocks in three dimensions, and threads of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) grid: (u32, u32, u32),
    pub(super) threads: u32,
}
