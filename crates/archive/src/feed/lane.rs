//! Feeds one lane: turns pages of objects into batches of jobs.

use bytes::Bytes;
use tokio::sync::mpsc;
use wire::Message;

use super::annotated::Annotated;
use super::control::Control;
use super::cursors::{Cursors, Stored};
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

/// What all lanes share.
pub(crate) struct LaneFeeder<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) cursors: &'a Cursors,
    pub(crate) watermark: Watermark,
    pub(crate) control: Control,
    pub(crate) seen_etags: Option<SeenEtags>,
    pub(crate) annotated: Option<Annotated>,
    pub(crate) progress: &'a Progress,
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

impl LaneFeeder<'_> {
    /// Stores the jobs of a lane up to its end. Returns the counts of what was stored.
    pub(crate) async fn run(
        &self,
        lane: usize,
        mut cursor: Stored<Cursor>,
        mut pages: mpsc::Receiver<Result<Page, SourceError>>,
    ) -> Result<Counts, FeedError> {
        let (mut pending, mut stored) = (PendingPages::default(), Counts::default());
        while pending.after != Position::End {
            let next = match pages.try_recv() {
                Ok(page) => Some(page),
                // The source is slow: store what has been read.
                Err(_) if !pending.objects.is_empty() => None,
                Err(_) => pages.recv().await,
            };
            if let Some(page) = next {
                let page = page?;
                if pending.objects.len() + page.objects.len() > PAGE_SIZE {
                    stored += self.store(lane, &mut cursor, std::mem::take(&mut pending)).await?;
                }
                pending.add(page);
                if pending.after != Position::End && pending.pages < MAX_PAGES_PER_BATCH {
                    continue;
                }
            } else if pages.is_closed() && pending.objects.is_empty() {
                return Err(SourceError::file("the source", "reading stopped before its end").into());
            }
            let is_end = pending.after == Position::End;
            stored += self.store(lane, &mut cursor, std::mem::take(&mut pending)).await?;
            if is_end {
                break;
            }
        }
        self.cursors.remove_old(&lane.to_string()).await;
        self.progress.lane_done();
        Ok(stored)
    }

    async fn store(
        &self,
        lane: usize,
        cursor: &mut Stored<Cursor>,
        pending: PendingPages,
    ) -> Result<Counts, FeedError> {
        let PendingPages { mut objects, seen, after, .. } = pending;
        self.control.wait_while_paused().await;
        let mut seen_etags = match &self.seen_etags {
            Some(seen_etags) => Some(seen_etags.lock().await),
            None => None,
        };
        let new_etags = seen_etags.as_deref().map(|seen| retain_new(&mut objects, seen));
        // Afterwards, so that an object with the ETag of an annotated one is skipped too.
        if let Some(annotated) = &self.annotated {
            objects.retain(|object| !annotated.contains(object));
        }
        let jobs: Vec<Bytes> = objects.iter().map(|object| self.recipe.job(object).encode_to_vec().into()).collect();
        let bytes = objects.iter().filter_map(|object| object.size).sum();
        let counts = Counts { seen, jobs: jobs.len() as u64, bytes };
        let mut next = cursor.value.clone();
        next.batches += 1;
        next.position = after;
        next.counts += counts;
        if !jobs.is_empty() {
            self.watermark.reserve(counts.jobs, self.progress).await;
            // The dataset may have been paused meanwhile.
            self.control.wait_while_paused().await;
        }
        let sequence = self.cursors.commit(lane, &jobs, &next, cursor.sequence).await?;
        self.watermark.stored(counts.jobs).await;
        if let (Some(seen), Some(new)) = (&mut seen_etags, new_etags) {
            seen.extend(new);
        }
        drop(seen_etags);
        if next.batches.is_multiple_of(BATCHES_PER_CLEANUP) {
            self.cursors.remove_old(&lane.to_string()).await;
        }
        self.progress.add(counts);
        *cursor = Stored { value: next, sequence };
        Ok(counts)
    }
}
