//! Publishes claimed outcomes to their streams.

use std::time::Duration;

use wire::v1::{Outcome, outcome};

use crate::delivery_info::DeliveryInfo;
use crate::outcomes::{Claim, Outcomes};
use broker::publish::{PublishAck, PublishError, Publisher};

/// This part of the duplicate window is left for publishing: an outcome that is older than the rest is first looked for
/// in its stream.
const WINDOW_MARGIN: u32 = 4;

/// Publishes claimed outcomes.
#[derive(Debug, Clone)]
pub(crate) struct OutcomePublisher {
    pub(crate) outcomes: Outcomes,
    pub(crate) publisher: Publisher,
    /// How long the streams of annotations and failures remember message ids.
    pub(crate) duplicate_window: Duration,
}

impl OutcomePublisher {
    /// Publishes a claimed outcome, unless its stream already holds it. If it is too large for its stream, it is
    /// replaced by the failure that `instead` makes of the error. Returns the outcome that its stream holds.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(crate) async fn publish(
        &self,
        job: &DeliveryInfo,
        claim: Claim,
        instead: impl FnOnce(PublishError) -> Outcome,
    ) -> Result<(Claim, PublishAck), PublishError> {
        let error = match self.publish_once(&claim).await {
            Ok(receipt) => return Ok((claim, receipt)),
            Err(error @ PublishError::TooLarge { .. }) => error,
            Err(error) => return Err(error),
        };
        // The stream may hold it from a time when its limit was higher.
        if let Some(receipt) = self.publisher.find_published(&claim.outcome, claim.age).await? {
            return Ok((claim, receipt));
        }
        let failure = instead(error);
        let claim = self.outcomes.replace(job, &claim, failure).await?;
        let receipt = self.publish_once(&claim).await?;
        Ok((claim, receipt))
    }

    async fn publish_once(&self, claim: &Claim) -> Result<PublishAck, PublishError> {
        if let Some(outcome::Record::Settled(settled)) = &claim.outcome.record {
            return Ok(PublishAck::duplicate_of(settled.sequence));
        }
        // The stream may have forgotten the id of an outcome that was published before.
        if claim.age > self.duplicate_window - self.duplicate_window / WINDOW_MARGIN
            && let Some(receipt) = self.publisher.find_published(&claim.outcome, claim.age).await?
        {
            return Ok(receipt);
        }
        self.publisher.outcome(&claim.outcome).await
    }
}
