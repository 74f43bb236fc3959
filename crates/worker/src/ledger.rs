//! Outcomes from the moment they are claimed to the moment that their stream holds them.

use std::time::Duration;

use wire::v1::{Outcome, outcome};

use crate::attempts::Attempts;
use crate::delivery::DeliveryFacts;
use crate::outcomes::{Claim, Outcomes};
use crate::roll_up::RollUp;
use crate::standstill::Standstill;
use broker::publish::{PublishAck, PublishError, Publisher};

/// Part of the time for which streams know ids that is left to an outcome on its way there.
const WINDOW_MARGIN: u32 = 4;

/// Where outcomes are written down, and where they go.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) outcomes: Outcomes,
    pub(crate) attempts: Attempts,
    pub(crate) publisher: Publisher,
    /// How long the streams of annotations and failures know their ids.
    pub(crate) duplicate_window: Duration,
    /// Where the ends of jobs go that the server has confirmed.
    pub(crate) roll_up: RollUp,
    pub(crate) standstill: Standstill,
}

impl Ledger {
    /// Publishes the outcome that counts, unless its stream holds it. One that no stream takes gives way to the failure
    /// that `instead` makes of the error. Gives what the stream holds.
    pub(crate) async fn publish_claimed(
        &self,
        facts: &DeliveryFacts,
        claim: Claim,
        instead: impl FnOnce(PublishError) -> Outcome,
    ) -> Result<(Claim, PublishAck), PublishError> {
        let error = match self.publish(&claim).await {
            Ok(receipt) => return Ok((claim, receipt)),
            Err(error @ PublishError::TooLarge { .. }) => error,
            Err(error) => return Err(error),
        };
        // It may be there from a time when the stream took more.
        if let Some(receipt) = self.publisher.find_published(&claim.outcome, claim.age).await? {
            return Ok((claim, receipt));
        }
        let failure = instead(error);
        let claim = self.outcomes.replace(facts, &claim, failure).await?;
        let receipt = self.publish(&claim).await?;
        Ok((claim, receipt))
    }

    async fn publish(&self, claim: &Claim) -> Result<PublishAck, PublishError> {
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
