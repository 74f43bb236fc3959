//! Failures: listing, showing, replaying and dropping them.

mod read;
mod remove;
mod replay;
mod selection;

pub use read::{Failure, Failures};
pub use remove::drop_failures;
pub use replay::{Replay, ReplayError, Replayed};
pub use selection::Selection;
