//! Which jobs are traced.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SamplingResult, ShouldSample};

use crate::settings::TelemetrySettings;

/// Which jobs are traced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SamplerOptions {
    /// Whether a job is traced if its submitter traces it.
    pub(crate) follows_submitter: bool,
    /// Ratio of the other jobs.
    pub(crate) sample_ratio: f64,
    /// Maximum jobs per second that are traced because their submitters trace them.
    pub(crate) max_submitter_traces_per_second: f64,
}

impl SamplerOptions {
    pub(crate) fn of(settings: &TelemetrySettings) -> Self {
        let &TelemetrySettings { sample_ratio, max_submitter_traces_per_second, .. } = settings;
        Self { follows_submitter: true, sample_ratio, max_submitter_traces_per_second }
    }
}

/// Follows the submitter's decision as far as the cap allows, whether its context is the parent or a link. Jobs without
/// a trace context are sampled by ratio, and spans within the worker as their parents are.
#[derive(Debug, Clone)]
pub(crate) struct JobSampler {
    options: SamplerOptions,
    root: Sampler,
    cap: Arc<Mutex<TokenBucket>>,
}

impl JobSampler {
    pub(crate) fn new(options: SamplerOptions) -> Self {
        let cap = TokenBucket::new(options.max_submitter_traces_per_second, Instant::now());
        Self { options, root: Sampler::TraceIdRatioBased(options.sample_ratio), cap: Arc::new(Mutex::new(cap)) }
    }

    fn is_below_cap(&self) -> bool {
        self.cap.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

impl ShouldSample for JobSampler {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent_span = parent.map(|context| context.span().span_context().clone()).filter(|span| span.is_valid());
        let linked = links.iter().map(|link| &link.span_context).find(|span| span.is_remote() && span.is_valid());
        let sampled = match (&parent_span, linked) {
            (Some(parent), _) if !parent.is_remote() => parent.is_sampled(),
            (Some(submitter), _) | (None, Some(submitter)) if self.options.follows_submitter => {
                submitter.is_sampled() && self.is_below_cap()
            }
            _ => {
                // The ratio sampler would follow the context that it is given, so it gets none.
                let root = self.root.should_sample(None, trace_id, name, kind, attributes, links);
                root.decision == SamplingDecision::RecordAndSample
            }
        };
        SamplingResult {
            decision: if sampled { SamplingDecision::RecordAndSample } else { SamplingDecision::Drop },
            attributes: Vec::new(),
            trace_state: parent_span.map_or_else(TraceState::default, |span| span.trace_state().clone()),
        }
    }
}

/// Allows `per_second` on average, in bursts of at most one second's worth.
#[derive(Debug)]
struct TokenBucket {
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, tokens: Self::capacity(per_second), filled: now }
    }

    /// At least one, so that a rate below one per second allows one from time to time.
    fn capacity(per_second: f64) -> f64 {
        if per_second > 0.0 { per_second.max(1.0) } else { 0.0 }
    }

    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(Self::capacity(self.per_second));
        self.filled = now;
        let is_left = self.tokens >= 1.0;
        if is_left {
            self.tokens -= 1.0;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags};

    use super::*;

    fn span_context(sampled: bool, remote: bool) -> SpanContext {
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        SpanContext::new(TraceId::from(7), SpanId::from(7), flags, remote, TraceState::default())
    }

    fn sampler(sample_ratio: f64, cap: f64) -> JobSampler {
        let options = SamplerOptions { follows_submitter: true, sample_ratio, max_submitter_traces_per_second: cap };
        JobSampler::new(options)
    }

    fn samples(sampler: &JobSampler, parent: Option<SpanContext>, links: &[Link]) -> bool {
        let context = parent.map(|parent| Context::new().with_remote_span_context(parent)).unwrap_or_default();
        let result =
            sampler.should_sample(Some(&context), TraceId::from(7), "process", &SpanKind::Consumer, &[], links);
        result.decision == SamplingDecision::RecordAndSample
    }

    #[test]
    fn submitters_decide_up_to_the_cap() {
        let sampler = sampler(0.0, 5.0);
        let traced = (0..100).filter(|_| samples(&sampler, Some(span_context(true, true)), &[])).count();
        assert!((5..=6).contains(&traced), "{traced}");
        assert!(!samples(&sampler, Some(span_context(false, true)), &[]));
    }

    #[test]
    fn a_link_to_a_submitter_counts_like_a_parent() {
        let sampler = sampler(1.0, 2.0);
        let link = |sampled| [Link::new(span_context(sampled, true), Vec::new(), 0)];
        let traced = (0..50).filter(|_| samples(&sampler, None, &link(true))).count();
        assert!((2..=3).contains(&traced), "{traced}");
        assert!(!samples(&sampler, None, &link(false)));
    }

    #[test]
    fn spans_within_the_worker_follow_their_parent_without_a_cap() {
        let sampler = sampler(0.0, 0.0);
        assert!((0..100).all(|_| samples(&sampler, Some(span_context(true, false)), &[])));
        assert!(!samples(&sampler, Some(span_context(false, false)), &[]));
        assert!(!samples(&sampler, Some(span_context(true, true)), &[]));
    }

    #[test]
    fn jobs_without_a_context_are_traced_by_ratio() {
        let sampler = sampler(0.25, 0.0);
        let ids = (0..4000_u128).map(|i| TraceId::from(i.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)));
        let traced = ids.filter(|&id| {
            let result = sampler.should_sample(Some(&Context::new()), id, "process", &SpanKind::Consumer, &[], &[]);
            result.decision == SamplingDecision::RecordAndSample
        });
        let ratio = traced.count() as f64 / 4000.0;
        assert!((0.22..=0.28).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_sampler_that_does_not_follow_submitters_samples_every_job_by_ratio() {
        let options =
            SamplerOptions { follows_submitter: false, sample_ratio: 1.0, max_submitter_traces_per_second: 0.0 };
        let sampler = JobSampler::new(options);
        assert!(samples(&sampler, Some(span_context(false, true)), &[]));
    }

    #[test]
    fn the_bucket_fills_with_time_and_no_further_than_a_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10.0, start);
        let mut taken = |at: Duration| (0..100).filter(|_| bucket.take(start + at)).count();
        assert_eq!(taken(Duration::ZERO), 10);
        assert_eq!(taken(Duration::from_millis(550)), 5);
        assert_eq!(taken(Duration::from_secs(3600)), 10);
        let mut slow = TokenBucket::new(0.1, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!([0, 5, 10, 15, 21].map(|second| slow.take(at(second))), [true, false, true, false, true]);
    }
}
