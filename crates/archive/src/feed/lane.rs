//! One lane: from pages of objects to batches of jobs.

use bytes::Bytes;
use tokio::sync::mpsc;
use wire::Message;

use super::cursors::{Cursors, Stored};
use super::error::FeedError;
use super::plan::{Counts, Cursor};
use super::progress::Progress;
use super::unique::{self, Unique};
use super::watermark::Watermark;
use crate::object::{PAGE, Page, Position, SourceObject};
use crate::recipe::Recipe;
use crate::source::error::SourceError;

/// Pages after which the cursor is moved even if no object of them became a job.
const PAGES_WITHOUT_JOBS: usize = 64;
/// Batches after which old cursors are removed.
const BATCHES_BETWEEN_CLEANING: u64 = 16;

/// What all lanes have in common.
pub(crate) struct Feeding<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) cursors: &'a Cursors,
    pub(crate) watermark: Watermark,
    pub(crate) unique: Option<Unique>,
    pub(crate) progress: &'a Progress,
}

/// Pages that are to be stored together.
#[derive(Default)]
struct Pending {
    objects: Vec<SourceObject>,
    seen: u64,
    pages: usize,
    after: Position,
}

impl Pending {
    fn take(&mut self, page: Page) {
        self.objects.extend(page.objects);
        self.seen += page.seen;
        self.pages += 1;
        self.after = page.after;
    }
}

impl Feeding<'_> {
    /// Stores a lane's pages to their end; gives the counts of what was stored.
    pub(crate) async fn run(
        &self,
        index: usize,
        mut cursor: Stored<Cursor>,
        mut pages: mpsc::Receiver<Result<Page, SourceError>>,
    ) -> Result<Counts, FeedError> {
        let (mut pending, mut stored) = (Pending::default(), Counts::default());
        while pending.after != Position::End {
            let next = match pages.try_recv() {
                Ok(page) => Some(page),
                // While the source is slow, what there is goes.
                Err(_) if !pending.objects.is_empty() => None,
                Err(_) => pages.recv().await,
            };
            if let Some(page) = next {
                let page = page?;
                if pending.objects.len() + page.objects.len() > PAGE {
                    stored += self.store(index, &mut cursor, std::mem::take(&mut pending)).await?;
                }
                pending.take(page);
                let is_due = pending.after == Position::End || pending.pages >= PAGES_WITHOUT_JOBS;
                if !is_due {
                    continue;
                }
            } else if pages.is_closed() && pending.objects.is_empty() {
                return Err(SourceError::file("the source", "it ended before its end was told").into());
            }
            let is_end = pending.after == Position::End;
            stored += self.store(index, &mut cursor, std::mem::take(&mut pending)).await?;
            if is_end {
                break;
            }
        }
        self.cursors.remove_old(&index.to_string()).await;
        self.progress.lane_done();
        Ok(stored)
    }

    /// Stores the objects of one page, which is not the end of its lane.
    pub(crate) async fn append(
        &self,
        index: usize,
        cursor: &mut Stored<Cursor>,
        page: Page,
    ) -> Result<Counts, FeedError> {
        let mut pending = Pending::default();
        pending.take(page);
        self.store(index, cursor, pending).await
    }

    async fn store(&self, index: usize, cursor: &mut Stored<Cursor>, pending: Pending) -> Result<Counts, FeedError> {
        let Pending { mut objects, seen, after, .. } = pending;
        let mut known = match &self.unique {
            Some(unique) => Some(unique.lock().await),
            None => None,
        };
        let new = known.as_deref().map(|known| unique::retain_new(&mut objects, known));
        let jobs: Vec<Bytes> = objects.iter().map(|object| self.recipe.job(object).encode_to_vec().into()).collect();
        let bytes = objects.iter().filter_map(|object| object.size).sum();
        let counts = Counts { seen, jobs: jobs.len() as u64, bytes };
        let mut next = cursor.value.clone();
        next.batches += 1;
        next.position = after;
        next.counts += counts;
        if !jobs.is_empty() {
            self.watermark.admit(counts.jobs, |waits| self.progress.waits(waits)).await;
        }
        let sequence = self.cursors.commit(index, &jobs, &next, cursor.sequence).await?;
        self.watermark.stored(counts.jobs).await;
        if let (Some(known), Some(new)) = (&mut known, new) {
            known.extend(new);
        }
        drop(known);
        if next.batches.is_multiple_of(BATCHES_BETWEEN_CLEANING) {
            self.cursors.remove_old(&index.to_string()).await;
        }
        self.progress.add(counts);
        *cursor = Stored { value: next, sequence };
        Ok(counts)
    }
}
