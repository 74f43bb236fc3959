//! Follows the state of a dataset while it is being fed: pauses lanes, pauses the dataset if too many jobs fail, and ends a
//! feeder that has been replaced.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::cursors::Cursors;
use super::error::FeedError;
use super::failure_rate::FailureRate;
use super::progress::Progress;
use super::records::{Cursor, DatasetState, FeederRecord, StateRecord};

/// How often the state is read.
const STATE_INTERVAL: Duration = Duration::from_secs(1);
/// How often the failure rate is computed.
const RATE_INTERVAL: Duration = Duration::from_secs(5);

/// The state of a dataset, as last read.
#[derive(Debug, Clone)]
pub(crate) struct Control(watch::Receiver<DatasetState>);

/// Reads the state of a dataset regularly.
#[derive(Debug)]
pub(crate) struct StateReader {
    cursors: Cursors,
    failure_rate: Option<FailureRate>,
    sender: watch::Sender<DatasetState>,
    fence: Fence,
}

/// What tells a feeder that another one has replaced it.
#[derive(Debug)]
pub(crate) struct Fence {
    /// The feeder itself.
    pub(crate) own: FeederRecord,
    /// The lane whose cursor the other one writes; `None` for the record of the feeder that was started last.
    pub(crate) lane: Option<usize>,
}

impl Control {
    /// Waits while the dataset is paused.
    pub(crate) async fn wait_while_paused(&self) {
        // Fails only if the reader has ended, and then the feeder ends.
        drop(self.0.clone().wait_for(|state| *state != DatasetState::Paused).await);
    }
}

impl StateReader {
    /// A reader whose last known state is `state`.
    pub(crate) fn new(
        cursors: Cursors,
        failure_rate: Option<FailureRate>,
        state: DatasetState,
        fence: Fence,
    ) -> (Self, Control) {
        let (sender, receiver) = watch::channel(state);
        (Self { cursors, failure_rate, sender, fence }, Control(receiver))
    }

    /// Reads the state until the feeder has been replaced. Errors are retried. A cancellation replaces the feeder, too.
    pub(crate) async fn run(mut self, progress: &Progress) -> FeedError {
        let mut rate_computed = Instant::now();
        let mut is_first = true;
        loop {
            let before = *self.sender.borrow();
            if self.failure_rate.is_some() && (is_first || rate_computed.elapsed() >= RATE_INTERVAL) {
                rate_computed = Instant::now();
                self.check_failure_rate(before).await;
            }
            match self.cursors.state().await {
                Ok(StateRecord { state, reason }) => {
                    if state != before || is_first {
                        self.changed(state, reason.as_deref(), progress, is_first);
                    }
                    is_first = false;
                }
                Err(error) => tracing::debug!("the dataset's state could not be read: {error}"),
            }
            // Lanes that wait store nothing, and would not notice it.
            match self.last_feeder().await {
                Ok(Some(last)) if last.generation > self.fence.own.generation => {
                    return self.cursors.fenced_out_by(&last);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!("the last feeder could not be read: {error}"),
            }
            tokio::time::sleep(STATE_INTERVAL).await;
        }
    }

    async fn last_feeder(&self) -> Result<Option<FeederRecord>, FeedError> {
        Ok(match self.fence.lane {
            None => self.cursors.last::<FeederRecord>("feeder").await?.map(|last| last.value),
            Some(lane) => self.cursors.last::<Cursor>(&lane.to_string()).await?.map(|last| last.value.feeder),
        })
    }

    fn changed(&mut self, state: DatasetState, reason: Option<&str>, progress: &Progress, is_first: bool) {
        let dataset = self.cursors.dataset.as_str();
        match state {
            DatasetState::Paused => tracing::warn!(
                dataset,
                "the dataset is paused: {}; continue with `groundling datasets resume {dataset}`",
                reason.unwrap_or("by an operator")
            ),
            DatasetState::Active if !is_first => {
                tracing::info!(dataset, "the dataset was resumed");
                if let Some(rate) = &mut self.failure_rate {
                    rate.reset();
                }
            }
            DatasetState::Active | DatasetState::Cancelled => {}
        }
        progress.set_paused(state == DatasetState::Paused);
        self.sender.send_replace(state);
    }

    /// Pauses an active dataset if its failure rate is above the maximum.
    async fn check_failure_rate(&mut self, state: DatasetState) {
        let Some(rate) = &mut self.failure_rate else { return };
        match rate.exceeded().await {
            Ok(Some(reason)) if state == DatasetState::Active => {
                let paused = StateRecord { state: DatasetState::Paused, reason: Some(reason) };
                if let Err(error) = self.cursors.set_state(&paused).await {
                    tracing::warn!("the dataset could not be paused: {error}");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::debug!("the failure rate could not be computed: {error}"),
        }
    }
}
