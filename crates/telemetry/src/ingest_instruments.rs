//! The instruments of `groundling ingest`.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter};

use crate::attribute_keys::{INGEST_OUTCOME, INGEST_REASON, INGEST_RULE, INGEST_STATUS};
use crate::ingest_attributes::{IngestOutcome, IngestReason, IngestStatus};
use crate::instruments::{Instruments, counter, histogram, word};
use crate::table::{INGEST_LAG, INGEST_RECORDS, INGEST_REQUESTS};

pub(crate) struct IngestInstruments {
    records: Counter<u64>,
    lag: Histogram<f64>,
    requests: Counter<u64>,
}

impl IngestInstruments {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            records: counter(meter, &INGEST_RECORDS),
            lag: histogram(meter, &INGEST_LAG),
            requests: counter(meter, &INGEST_REQUESTS),
        }
    }
}

impl Instruments {
    /// Begins the counters of a rule at 0: a rate misses the first increase of a counter that appears with it.
    pub fn ingest_rule_started(&self, rule: &str) {
        for outcome in [IngestOutcome::Submitted, IngestOutcome::Duplicate] {
            self.count_record(Some(rule), outcome, None, 0);
        }
        for reason in [IngestReason::Unreadable, IngestReason::InvalidKey, IngestReason::JobTooLarge] {
            self.count_record(Some(rule), IngestOutcome::Failed, Some(reason), 0);
        }
        for reason in [IngestReason::StreamFull, IngestReason::Unavailable] {
            self.count_record(Some(rule), IngestOutcome::SentBack, Some(reason), 0);
        }
    }

    /// Begins the counters of the webhook server at 0, like those of a rule.
    pub fn ingest_webhook_started(&self) {
        for status in IngestStatus::ALL {
            self.ingest().requests.add(0, &[word(INGEST_STATUS, status.as_str())]);
        }
    }

    /// The webhook server has answered a request.
    pub fn ingest_request_answered(&self, status: IngestStatus) {
        self.ingest().requests.add(1, &[word(INGEST_STATUS, status.as_str())]);
    }

    /// A record of an event was handled. `rule`: the rule that got it, if one could read it.
    pub fn record_ingested(&self, rule: Option<&str>, outcome: IngestOutcome, reason: Option<IngestReason>) {
        self.count_record(rule, outcome, reason, 1);
    }

    /// The job of a record was stored this long after the event.
    pub fn ingest_lag(&self, rule: &str, lag: Duration) {
        self.ingest().lag.record(lag.as_secs_f64(), &[KeyValue::new(INGEST_RULE.name, rule.to_owned())]);
    }

    fn count_record(&self, rule: Option<&str>, outcome: IngestOutcome, reason: Option<IngestReason>, count: u64) {
        let mut attributes = vec![word(INGEST_OUTCOME, outcome.as_str())];
        attributes.extend(rule.map(|rule| KeyValue::new(INGEST_RULE.name, rule.to_owned())));
        attributes.extend(reason.map(|reason| word(INGEST_REASON, reason.as_str())));
        self.ingest().records.add(count, &attributes);
    }
}
