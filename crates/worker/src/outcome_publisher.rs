//! Publishes claimed outcomes to their streams.

use std::time::{Duration, Instant};

use telemetry::Instruments;
use wire::v1::{Outcome, outcome};

use crate::delivery_info::DeliveryInfo;
use crate::job_telemetry::JobTelemetry;
use crate::outcomes::{Claim, Outcomes};
use crate::telemetry_words::{destination, outcome_error};
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
    pub(crate) instruments: Instruments,
}

impl OutcomePublisher {
    /// Publishes a claimed outcome, unless its stream already holds it. If it is too large for its stream, it is
    /// replaced by the failure that `instead` makes of the error. Returns the outcome that its stream holds.
    /// `telemetry` is that of the job's delivery, if there is one.
    ///
    /// # Errors
    /// [`PublishError`].
    pub(crate) async fn publish(
        &self,
        job: &DeliveryInfo,
        claim: Claim,
        telemetry: Option<&JobTelemetry>,
        instead: impl FnOnce(PublishError) -> Outcome,
    ) -> Result<(Claim, PublishAck), PublishError> {
        let error = match self.publish_once(&claim, telemetry).await {
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
        let receipt = self.publish_once(&claim, telemetry).await?;
        Ok((claim, receipt))
    }

    async fn publish_once(&self, claim: &Claim, telemetry: Option<&JobTelemetry>) -> Result<PublishAck, PublishError> {
        if let Some(outcome::Record::Settled(settled)) = &claim.outcome.record {
            return Ok(PublishAck::duplicate_of(settled.sequence));
        }
        // The stream may have forgotten the id of an outcome that was published before.
        if claim.age > self.duplicate_window - self.duplicate_window / WINDOW_MARGIN
            && let Some(receipt) = self.publisher.find_published(&claim.outcome, claim.age).await?
        {
            return Ok(receipt);
        }
        self.publish_now(&claim.outcome, telemetry).await
    }

    async fn publish_now(
        &self,
        outcome: &Outcome,
        telemetry: Option<&JobTelemetry>,
    ) -> Result<PublishAck, PublishError> {
        let Some(to) = destination(outcome) else {
            return self.publisher.outcome(outcome).await;
        };
        if let Some(telemetry) = telemetry {
            let publish = async |headers| self.publisher.outcome_with_headers(outcome, &headers).await;
            return telemetry.publish(to, &outcome.subject, publish).await;
        }
        let started = Instant::now();
        let published = self.publisher.outcome(outcome).await;
        let result = published.as_ref().map(drop).map_err(outcome_error);
        self.instruments.message_published(to, result, started.elapsed());
        published
    }
}
