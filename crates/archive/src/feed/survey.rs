//! Reading the sources without storing anything.

use futures::{StreamExt, TryStreamExt, stream};

use super::Feed;
use super::error::FeedError;
use super::plan::Counts;
use super::progress::Progress;
use super::unique::{self, Unique};
use crate::filter::{SampleRule, Sampler, Selection};
use crate::object::{Page, Position};
use crate::source::Lane;

impl Feed {
    /// What would come of the sources if they were fed now.
    ///
    /// # Errors
    /// [`FeedError`], if a source cannot be read or the tasks break rules.
    pub async fn survey(&self, progress: &Progress) -> Result<Counts, FeedError> {
        self.recipe.check()?;
        let selection = self.selection(self.find_sample(progress).await?)?;
        let (unique, mut total) = (Unique::default(), Counts::default());
        let lanes = self.lanes().await?;
        progress.has_lanes(lanes.len());
        let mut known = unique.lock().await;
        self.read(&lanes, &selection, |mut page| {
            if self.unique_etag {
                let new = unique::retain_new(&mut page.objects, &known);
                known.extend(new);
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

    /// The lanes of all sources.
    pub(super) async fn lanes(&self) -> Result<Vec<(usize, Lane)>, FeedError> {
        let mut lanes = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            let own = source.lanes(self.lanes_at_once).await?;
            lanes.extend(own.into_iter().map(|lane| (index, lane)));
        }
        Ok(lanes)
    }

    /// The threshold of the sample, by one pass over the sources.
    pub(super) async fn find_sample(&self, _progress: &Progress) -> Result<Option<SampleRule>, FeedError> {
        let Some((size, seed)) = self.sample else { return Ok(None) };
        let (mut sampler, lanes) = (Sampler::new(size, seed), self.lanes().await?);
        let selection = self.selection(None)?;
        self.read(&lanes, &selection, |page| page.objects.iter().for_each(|object| sampler.see(object))).await?;
        Ok(Some(sampler.rule()))
    }

    async fn read(
        &self,
        lanes: &[(usize, Lane)],
        selection: &Selection,
        mut each: impl FnMut(Page),
    ) -> Result<(), FeedError> {
        let mut runs = Vec::new();
        for (source, lane) in lanes {
            let Some(source) = self.sources.get(*source) else { continue };
            // Read only when it is this lane's turn.
            let pages = stream::once(async move { source.pages(lane, Position::Start, selection.clone()) });
            let pages = pages.flat_map(|pages| {
                stream::unfold(pages, |mut pages| async move { Some((pages.recv().await?, pages)) }).boxed()
            });
            runs.push(pages.boxed());
        }
        let mut pages = std::pin::pin!(stream::iter(runs).flatten_unordered(self.lanes_at_once.max(1)));
        while let Some(page) = pages.try_next().await? {
            each(page);
        }
        Ok(())
    }
}
