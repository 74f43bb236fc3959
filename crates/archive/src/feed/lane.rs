//! Feeds one lane: turns pages of objects into batches of jobs.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::sync::{MutexGuard, Semaphore, SemaphorePermit, mpsc};
use wire::Message;

use super::annotated::Annotated;
use super::batch::BatchJob;
use super::control::Control;
use super::cursors::{Cursors, SentJobs, Versioned};
use super::error::FeedError;
use super::progress::Progress;
use super::records::{Counts, Cursor};
use super::seen_etags::{SeenEtags, retain_new};
use super::watermark::Watermark;
use crate::object::{PAGE_SIZE, Page, Position, SourceObject};
use crate::recipe::Recipe;
use crate::source::error::SourceError;

/// The number of pages after which the cursor is moved even if no job was created for their objects.
const MAX_PAGES_PER_BATCH: usize = 64;
/// The number of batches after which old cursors are removed.
const BATCHES_PER_CLEANUP: u64 = 16;

/// Maximum number of batches that are sent and not committed. A server allows 50 for a stream, unless it is configured
/// otherwise, and several feeders may run.
pub(crate) const MAX_OPEN_BATCHES: usize = 32;

/// What all lanes share.
pub(crate) struct LaneFeeder<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) cursors: &'a Cursors,
    pub(crate) watermark: Watermark,
    pub(crate) control: Control,
    pub(crate) seen_etags: Option<SeenEtags>,
    pub(crate) annotated: Option<Annotated>,
    pub(crate) progress: &'a Progress,
    /// Permits for [`MAX_OPEN_BATCHES`].
    pub(crate) open_batches: Semaphore,
}

/// Pages that are stored in one batch.
#[derive(Default)]
struct PendingPages {
    objects: Vec<SourceObject>,
    seen: u64,
    pages: usize,
    after: Position,
}

impl PendingPages {
    fn add(&mut self, page: Page) {
        self.objects.extend(page.objects);
        self.seen += page.seen;
        self.pages += 1;
        self.after = page.after;
    }
}

/// The pages of a lane.
struct LanePages {
    pages: mpsc::Receiver<Result<Page, SourceError>>,
    /// A page that did not fit into the last batch.
    next: Option<Page>,
}

impl LanePages {
    /// The pages of the next batch: fewer than fit if the source is slow.
    async fn pending(&mut self) -> Result<PendingPages, SourceError> {
        let mut pending = PendingPages::default();
        loop {
            let page = match self.next.take() {
                Some(page) => page,
                None => match self.pages.try_recv() {
                    Ok(page) => page?,
                    Err(_) if !pending.objects.is_empty() => return Ok(pending),
                    Err(_) => {
                        let stopped = || SourceError::file("the source", "reading stopped before its end");
                        self.pages.recv().await.ok_or_else(stopped)??
                    }
                },
            };
            if !pending.objects.is_empty() && pending.objects.len() + page.objects.len() > PAGE_SIZE {
                self.next = Some(page);
                return Ok(pending);
            }
            pending.add(page);
            if pending.after == Position::End || pending.pages >= MAX_PAGES_PER_BATCH {
                return Ok(pending);
            }
        }
    }
}

/// Jobs that were sent, and the lane's cursor after them.
struct SentBatch<'a> {
    jobs: SentJobs,
    cursor: Cursor,
    counts: Counts,
    /// The ETags seen so far and the new ones, until the jobs are stored.
    etags: Option<(MutexGuard<'a, HashSet<u128>>, HashSet<u128>)>,
    _permit: Option<SemaphorePermit<'a>>,
}

impl LaneFeeder<'_> {
    /// Stores the jobs of a lane up to its end. Returns the counts of what was stored.
    ///
    /// The jobs of a batch are sent while the batch before is committed, whose sequence only the end of a batch needs.
    pub(crate) async fn run(
        &self,
        lane: usize,
        mut cursor: Versioned<Cursor>,
        pages: mpsc::Receiver<Result<Page, SourceError>>,
    ) -> Result<Counts, FeedError> {
        let (mut pages, mut stored) = (LanePages { pages, next: None }, Counts::default());
        let mut next = Some(self.send(&cursor.value, pages.pending().await?).await);
        while let Some(sent) = next.take() {
            stored += sent.counts;
            cursor.value = sent.cursor.clone();
            let following = async {
                if cursor.value.position == Position::End {
                    return Ok(None);
                }
                Ok::<_, FeedError>(Some(self.send(&cursor.value, pages.pending().await?).await))
            };
            let (committed, following) = tokio::join!(self.commit(lane, sent, cursor.sequence), following);
            (cursor.sequence, next) = (committed?, following?);
        }
        self.cursors.remove_old(&lane.to_string()).await;
        self.progress.lane_done();
        Ok(stored)
    }

    /// Stores the jobs of one page, which is not the last one of its lane.
    pub(crate) async fn append(
        &self,
        lane: usize,
        cursor: &mut Versioned<Cursor>,
        page: Page,
    ) -> Result<Counts, FeedError> {
        let mut pending = PendingPages::default();
        pending.add(page);
        let sent = self.send(&cursor.value, pending).await;
        let (value, counts) = (sent.cursor.clone(), sent.counts);
        let sequence = self.commit(lane, sent, cursor.sequence).await?;
        *cursor = Versioned { value, sequence };
        Ok(counts)
    }

    /// Sends the jobs of a batch that follows the cursor at `before`.
    async fn send(&self, before: &Cursor, pending: PendingPages) -> SentBatch<'_> {
        let PendingPages { mut objects, seen, after, .. } = pending;
        self.control.wait_while_paused().await;
        let seen_etags = match &self.seen_etags {
            Some(seen_etags) => Some(seen_etags.lock().await),
            None => None,
        };
        let etags = seen_etags.map(|seen| {
            let new = retain_new(&mut objects, &seen);
            (seen, new)
        });
        // Afterwards, so that an object with the ETag of an annotated one is skipped too.
        if let Some(annotated) = &self.annotated {
            objects.retain(|object| !annotated.contains(object));
        }
        let encoded = |object: &SourceObject| Bytes::from(self.recipe.job(object).encode_to_vec());
        let jobs: Vec<BatchJob> = objects.iter().map(|object| encoded(object).into()).collect();
        let bytes = objects.iter().filter_map(|object| object.size).sum();
        let counts = Counts { seen, jobs: jobs.len() as u64, bytes };
        let mut cursor = before.clone();
        cursor.batches += 1;
        cursor.position = after;
        cursor.counts += counts;
        if !jobs.is_empty() {
            self.watermark.reserve(counts.jobs, self.progress).await;
        }
        // Fails only if the semaphore is closed, which never happens.
        let permit = self.open_batches.acquire().await.ok();
        SentBatch { jobs: self.cursors.send(jobs).await, cursor, counts, etags, _permit: permit }
    }

    /// Stores the jobs of a batch that follows the cursor with the sequence `last_sequence`. Returns the sequence of its
    /// cursor.
    async fn commit(&self, lane: usize, sent: SentBatch<'_>, last_sequence: u64) -> Result<u64, FeedError> {
        let SentBatch { jobs, cursor, counts, etags, _permit } = sent;
        // The dataset may have been paused meanwhile.
        self.control.wait_while_paused().await;
        let sequence = self.cursors.commit(lane, jobs, &cursor, last_sequence).await?;
        self.watermark.stored(counts.jobs).await;
        if let Some((mut seen, new)) = etags {
            seen.extend(new);
        }
        if cursor.batches.is_multiple_of(BATCHES_PER_CLEANUP) {
            self.cursors.remove_old(&lane.to_string()).await;
        }
        self.progress.add(counts);
        Ok(sequence)
    }
}
