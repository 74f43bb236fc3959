//! Why indexing ends early.

use broker::read::ReadError;

use super::database::DatabaseError;
use crate::pool::PoolError;

/// Indexing could not go on. What was committed stays, and the next run continues after it.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The stream does not exist or its state cannot be read.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Messages of the stream could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The database could not be opened, read or written.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl IndexError {
    /// Whether another attempt may succeed. A stream that was there before is likely to be created again.
    pub(crate) fn is_temporary(&self, was_there: bool) -> bool {
        match self {
            Self::Pool(PoolError::NoStream(_)) => was_there,
            Self::Pool(_) | Self::Read(_) => true,
            Self::Database(error) => error.is_temporary(),
        }
    }
}
