//! One module for each subcommand.

pub(crate) mod annotate;
pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod enqueue;
pub(crate) mod inspect;
mod servers;
pub(crate) mod setup;
pub(crate) mod worker;

use engine::{Engine, EngineOptions};
use kosmos2::Kosmos2;

/// Starts the engine on its own thread, which ends with the last handle.
fn start_engine(model: Kosmos2, options: EngineOptions) -> anyhow::Result<Engine> {
    let (engine, _thread) = Engine::start(model, options)?;
    Ok(engine)
}
