//! Reading the sources without storing jobs.

use futures::{StreamExt, TryStreamExt, stream};

use super::annotated::Annotated;
use super::error::FeedError;
use super::progress::Progress;
use super::records::Counts;
use super::seen_etags::{SeenEtags, retain_new};
use super::types::Feed;
use crate::filter::{SampleRule, Sampler, Selection};
use crate::object::{Page, Position};
use crate::source::Lane;

impl Feed {
    /// Counts the objects of the sources, and the jobs that would be created for them. Objects in `annotated` are
    /// skipped.
    ///
    /// # Errors
    /// [`FeedError`] if a source cannot be read, or the tasks or options are invalid.
    pub async fn survey(&self, annotated: Option<&Annotated>, progress: &Progress) -> Result<Counts, FeedError> {
        self.recipe.max_job_bytes()?;
        progress.watch_stores(&self.sources);
        let selection = self.selection(self.find_sample().await?)?;
        let (etags, mut total) = (SeenEtags::default(), Counts::default());
        let lanes = self.lanes().await?;
        progress.set_lanes(lanes.len());
        let mut seen = etags.lock().await;
        self.read(&lanes, &selection, |mut page| {
            if self.unique_etag {
                let new = retain_new(&mut page.objects, &seen);
                seen.extend(new);
            }
            if let Some(annotated) = annotated {
                page.objects.retain(|object| !annotated.contains(object));
            }
            let bytes = page.objects.iter().filter_map(|object| object.size).sum();
            let counts = Counts { seen: page.seen, jobs: page.objects.len() as u64, bytes };
            progress.add(counts);
            total += counts;
            if page.after == Position::End {
                progress.lane_done();
            }
        })
        .await?;
        Ok(total)
    }

    /// Calls `each` with the objects that the filter and `sample` select from the sources.
    pub(crate) async fn each_page(&self, sample: Option<SampleRule>, each: impl FnMut(Page)) -> Result<(), FeedError> {
        let (lanes, selection) = (self.lanes().await?, self.selection(sample)?);
        self.read(&lanes, &selection, each).await
    }

    /// Divides all sources into lanes. Each lane has the index of its source.
    pub(super) async fn lanes(&self) -> Result<Vec<(usize, Lane)>, FeedError> {
        let mut lanes = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let of_source = source.lanes(self.parallel_lanes).await?;
            lanes.extend(of_source.into_iter().map(|lane| (index, lane)));
        }
        Ok(lanes)
    }

    /// Whether these lanes have an object, selected or not. Reads no more than their first pages.
    pub(super) async fn has_object(&self, lanes: &[(usize, Lane)]) -> Result<bool, FeedError> {
        for (source, lane) in lanes {
            let Some(source) = self.sources.get(*source) else { continue };
            let mut pages = source.pages(lane, Position::Start, Selection::default());
            while let Some(page) = pages.recv().await {
                if page?.seen > 0 {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Finds the threshold of the sample, in one pass over the sources. `None` without a sample.
    pub(super) async fn find_sample(&self) -> Result<Option<SampleRule>, FeedError> {
        let Some((size, seed)) = self.sample else { return Ok(None) };
        let (mut sampler, lanes) = (Sampler::new(size, seed), self.lanes().await?);
        let selection = self.selection(None)?;
        self.read(&lanes, &selection, |page| page.objects.iter().for_each(|object| sampler.add(object))).await?;
        Ok(Some(sampler.rule()))
    }

    async fn read(
        &self,
        lanes: &[(usize, Lane)],
        selection: &Selection,
        mut each: impl FnMut(Page),
    ) -> Result<(), FeedError> {
        let mut readers = Vec::new();
        for (source, lane) in lanes {
            let Some(source) = self.sources.get(*source) else { continue };
            // The lane is read only when the stream is polled.
            let pages = stream::once(async move { source.pages(lane, Position::Start, selection.clone()) });
            let pages = pages.flat_map(|pages| {
                stream::unfold(pages, |mut pages| async move { Some((pages.recv().await?, pages)) }).boxed()
            });
            readers.push(pages.boxed());
        }
        let mut pages = std::pin::pin!(stream::iter(readers).flatten_unordered(self.parallel_lanes.max(1)));
        while let Some(page) = pages.try_next().await? {
            each(page);
        }
        Ok(())
    }
}
