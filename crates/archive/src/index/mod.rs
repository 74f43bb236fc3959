//! Keeps a searchable database of annotations: PostgreSQL or SQLite.
//!
//! The stream is read in batches. A batch and the *cursor*, the sequence up to which the stream was read, are written in one
//! transaction, so a process that is killed loses and repeats nothing: the next one continues at the cursor. An annotation
//! whose id is in the database already is left out, as exports do: the first message of an id is kept. So it does no harm to
//! read messages again, which happens after the answer to a commit was lost, or after the stream was created again.
//!
//! Both databases have the same tables and views, up to the types of boxes and of the full text (`rows.rs` has the model).

mod batch;
mod database;
mod error;
mod postgres;
mod progress;
mod rows;
mod run;
mod sqlite;
mod target;

pub use error::IndexError;
pub use progress::{Progress, Snapshot};
pub use run::{Index, Summary};
pub use target::{Target, TargetError};
