//! Indexing from the stream to the database.

use std::time::Duration;

use async_nats::jetstream::stream::{Info, Stream};
use broker::backoff::{Backoff, Delays};
use futures::FutureExt;
use futures::future::Shared;
use wire::subjects::{ANNOTATIONS_WILDCARD, Dataset};

use super::batch::{Batch, BatchReader};
use super::database::{Database, Step};
use super::error::IndexError;
use super::progress::Progress;
use super::target::Target;
use crate::pool::{Pool, PoolError, time_text};

/// How often a run that follows the stream looks for new messages.
const POLL: Duration = Duration::from_secs(1);
/// Delays after the stream or the database was not available.
const RETRY_DELAY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// The name of the cursor of all datasets. It is not the name of a dataset.
const ALL: &str = "*";

/// What is indexed, and where.
#[derive(Debug, Clone)]
pub struct Index {
    /// The streams.
    pub pool: Pool,
    /// The datasets. Empty for all, also those that come later.
    pub datasets: Vec<Dataset>,
    /// The database.
    pub target: Target,
    /// Whether to go on with annotations that come later, until told to stop, and to wait for a database or stream that is
    /// not available.
    pub follow: bool,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Whether it was stopped before it had read what was in the stream at the start.
    pub is_interrupted: bool,
}

/// How far the stream was read for a dataset or for all.
struct Cursor {
    datasets: String,
    subject: String,
    /// The sequence in the database.
    stored: u64,
    /// The sequence up to which the stream was read. Ahead of `stored` if there was nothing to write.
    read: u64,
}

/// A connection to the database, and the stream as it was when the cursors were read.
struct Session<'a> {
    index: &'a Index,
    progress: &'a Progress,
    database: Database,
    stream: Stream<Info>,
    /// The stream's row in the database.
    key: i32,
    created: String,
    cursors: Vec<Cursor>,
}

impl Index {
    /// Indexes what is in the stream, from the cursors on. With `follow`, goes on until `stop`, which commits the batch that
    /// was begun.
    ///
    /// # Errors
    /// [`IndexError`]. What was committed stays, and a later call goes on from there.
    pub async fn run(&self, progress: &Progress, stop: impl Future<Output = ()>) -> Result<Summary, IndexError> {
        let stop = stop.shared();
        let (mut delays, mut is_known) = (Delays::of(RETRY_DELAY), false);
        loop {
            let commits = progress.snapshot().commits;
            let error = match self.session(progress, &stop, &mut is_known).await {
                Ok(summary) => return Ok(summary),
                Err(error) if self.follow && error.is_temporary(is_known) => error,
                Err(error) => return Err(error),
            };
            if progress.snapshot().commits > commits {
                delays.reset();
            }
            let delay = delays.after_failure();
            tracing::warn!(%error, retry_in = ?delay, "indexing was interrupted and will go on from the cursor");
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = stop.clone() => return Ok(Summary { is_interrupted: false }),
            }
        }
    }

    /// Indexes over one connection to the database. Sets `is_known` when stream and database were there.
    async fn session(
        &self,
        progress: &Progress,
        stop: &Shared<impl Future<Output = ()>>,
        is_known: &mut bool,
    ) -> Result<Summary, IndexError> {
        let name = &self.pool.streams.annotations;
        let opened = async {
            let database = Database::open(&self.target).await?;
            Ok::<_, IndexError>((database, self.pool.stream(name).await?))
        };
        let (database, stream) = tokio::select! {
            opened = opened => opened?,
            () = stop.clone() => return Ok(Summary { is_interrupted: !self.follow }),
        };
        let created = String::new();
        let mut session = Session { index: self, progress, database, stream, key: 0, created, cursors: Vec::new() };
        loop {
            let is_stopped = session.update(stop).await?;
            *is_known = true;
            if !self.follow {
                return Ok(Summary { is_interrupted: is_stopped });
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = stop.clone() => return session.end().await,
            }
            let info = session.stream.info().await;
            info.map_err(|error| PoolError::broker(format!("reading the state of the stream {name}"), &error))?;
        }
    }
}

impl Session<'_> {
    /// Indexes what has come since the last update. Returns whether it was stopped.
    async fn update(&mut self, stop: &Shared<impl Future<Output = ()>>) -> Result<bool, IndexError> {
        let last = self.stream.cached_info().state.last_sequence;
        self.progress.ends_at(last);
        if time_text(self.stream.cached_info().created) != self.created {
            self.look_up().await?;
        }
        for place in 0..self.cursors.len() {
            if self.read(place, last, stop).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks up the stream and the cursors in the database.
    async fn look_up(&mut self) -> Result<(), IndexError> {
        let info = self.stream.cached_info();
        let (name, created, last) = (&info.config.name, time_text(info.created), info.state.last_sequence);
        let known = self.database.stream(name, &created).await?;
        if let Some(earlier) = known.replaces {
            tracing::warn!(
                "the stream {name} was created again at {created}, and the database has annotations of the one created at {earlier}: it is read from its beginning, and annotations that are in the database stay"
            );
        }
        let names: Vec<(String, String)> = match self.index.datasets.as_slice() {
            [] => vec![(ALL.to_owned(), ANNOTATIONS_WILDCARD.to_owned())],
            datasets => datasets.iter().map(|dataset| (dataset.to_string(), dataset.annotations_subject())).collect(),
        };
        let mut cursors = Vec::new();
        for (datasets, subject) in names {
            let stored = self.database.cursor(known.stream, &datasets).await?;
            let mut read = stored;
            if stored > last {
                tracing::warn!(
                    "the stream {name} ends at the sequence {last}, and the database has read it up to {stored}: it was restored from an earlier state, and is read from its beginning"
                );
                read = 0;
            }
            cursors.push(Cursor { datasets, subject, stored, read });
        }
        (self.key, self.created, self.cursors) = (known.stream, created, cursors);
        Ok(())
    }

    /// Reads one of the cursors up to `last`. Returns whether it was stopped.
    async fn read(
        &mut self,
        place: usize,
        last: u64,
        stop: &Shared<impl Future<Output = ()>>,
    ) -> Result<bool, IndexError> {
        while let Some(cursor) = self.cursors.get(place).filter(|cursor| cursor.read < last) {
            let (after, subject) = (cursor.read, cursor.subject.clone());
            let mut reader = BatchReader::open(&self.index.pool, &subject, after, last).await?;
            let mut next = next_batch(&mut reader, stop).await?;
            loop {
                let batch = match next {
                    Next::End => break,
                    Next::Batch(batch) => batch,
                    Next::Stopped(batch) => {
                        self.write(place, batch).await?;
                        return Ok(true);
                    }
                };
                // The next batch is read while this one is written.
                let (written, read) = tokio::join!(self.write(place, batch), next_batch(&mut reader, stop));
                if !written? {
                    break;
                }
                next = read?;
            }
        }
        Ok(false)
    }

    /// Writes a batch. Returns `false` if another process has moved the cursor: the batch was not written, and is read again
    /// from the new cursor.
    async fn write(&mut self, place: usize, batch: Batch) -> Result<bool, IndexError> {
        let Some(cursor) = self.cursors.get_mut(place) else { return Ok(false) };
        let (messages, unreadable, to) = (batch.messages, batch.unreadable, batch.last);
        if messages == 0 && self.index.follow {
            cursor.read = to;
            self.progress.read_to(to);
            return Ok(true);
        }
        let step = Step {
            stream: self.key,
            datasets: cursor.datasets.clone(),
            from: i64::try_from(cursor.stored).unwrap_or(i64::MAX),
            to: i64::try_from(to).unwrap_or(i64::MAX),
        };
        let Some(new) = self.database.write(step, batch).await? else {
            let stored = self.database.cursor(self.key, &cursor.datasets).await?;
            tracing::warn!(
                datasets = cursor.datasets,
                "another groundling index writes to this database: going on from its cursor"
            );
            (cursor.stored, cursor.read) = (stored, stored);
            return Ok(false);
        };
        (cursor.stored, cursor.read) = (to, to);
        self.progress.committed(messages, unreadable, new);
        self.progress.read_to(to);
        Ok(true)
    }

    /// Stores the cursors that are ahead of the database.
    async fn end(&mut self) -> Result<Summary, IndexError> {
        for cursor in &self.cursors {
            if cursor.read > cursor.stored {
                let step = Step {
                    stream: self.key,
                    datasets: cursor.datasets.clone(),
                    from: i64::try_from(cursor.stored).unwrap_or(i64::MAX),
                    to: i64::try_from(cursor.read).unwrap_or(i64::MAX),
                };
                self.database.write(step, Batch::empty(cursor.read)).await?;
            }
        }
        Ok(Summary { is_interrupted: false })
    }
}

enum Next {
    Batch(Batch),
    /// What was read when the run was stopped.
    Stopped(Batch),
    End,
}

async fn next_batch(
    reader: &mut BatchReader,
    stop: &Shared<impl Future<Output = ()>>,
) -> Result<Next, broker::read::ReadError> {
    tokio::select! {
        biased;
        () = stop.clone() => Ok(Next::Stopped(reader.take())),
        batch = reader.next() => Ok(batch?.map_or(Next::End, Next::Batch)),
    }
}
