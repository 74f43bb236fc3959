//! KEDA's interface.

use std::pin::Pin;

use futures::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::external_scaler::external_scaler_server::ExternalScaler;
use crate::external_scaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use crate::metadata::Trigger;
use crate::observation::Observer;

/// The name of the metric.
pub const METRIC: &str = "drain_seconds";

/// Answers KEDA, for any number of ScaledObjects.
#[derive(Debug, Clone)]
pub(crate) struct DrainScaler {
    pub(crate) observer: Observer,
    /// Ends the streams.
    pub(crate) shutdown: CancellationToken,
}

impl DrainScaler {
    /// The jobs that have not ended.
    async fn backlog(&self) -> Result<u64, Status> {
        self.observer.backlog().await.map(|backlog| backlog.total()).map_err(Status::unavailable)
    }
}

/// The seconds that one worker takes for a backlog.
fn drain_seconds(backlog: u64, jobs_per_second: f64) -> f64 {
    backlog as f64 / jobs_per_second
}

/// One stream of answers.
struct ActiveAnswers {
    active: tokio::sync::watch::Receiver<Option<bool>>,
    last: Option<bool>,
    shutdown: CancellationToken,
}

impl ActiveAnswers {
    /// Waits until the answer is another one; `None` at the shutdown. While the broker does not answer, nothing changes.
    async fn next(&mut self) -> Option<bool> {
        let last = self.last;
        let changed = self.active.wait_for(|active| active.is_some() && *active != last);
        let active = tokio::select! {
            changed = changed => *changed.ok()?,
            () = self.shutdown.cancelled() => return None,
        };
        self.last = active;
        active
    }
}

#[tonic::async_trait]
impl ExternalScaler for DrainScaler {
    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        Trigger::read(&request.get_ref().scaler_metadata)?;
        Ok(Response::new(IsActiveResponse { result: self.backlog().await? > 0 }))
    }

    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let ScaledObjectRef { name, namespace, scaler_metadata } = request.into_inner();
        Trigger::read(&scaler_metadata)?;
        // An outage is an error of the call, and the first answer is new.
        self.backlog().await?;
        tracing::info!(name, namespace, "KEDA watches a ScaledObject");
        let answers = ActiveAnswers { active: self.observer.active(), last: None, shutdown: self.shutdown.clone() };
        let stream = futures::stream::unfold(answers, |mut answers| async move {
            let result = answers.next().await?;
            Some((Ok(IsActiveResponse { result }), answers))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let trigger = Trigger::read(&request.get_ref().scaler_metadata)?;
        let target_size_float = trigger.target_drain_seconds;
        let spec = MetricSpec { metric_name: METRIC.to_owned(), target_size: 0, target_size_float };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let GetMetricsRequest { scaled_object_ref, metric_name } = request.into_inner();
        if metric_name != METRIC {
            return Err(Status::invalid_argument(format!("there is no metric {metric_name:?}: ask for {METRIC}")));
        }
        let trigger = Trigger::read(&scaled_object_ref.unwrap_or_default().scaler_metadata)?;
        let rate = self.observer.rate().unwrap_or(trigger.initial_jobs_per_second);
        let seconds = drain_seconds(self.backlog().await?, rate);
        let value = MetricValue { metric_name, metric_value: 0, metric_value_float: seconds };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The replicas of a HorizontalPodAutoscaler for a metric with a target that is an average. Both are in thousandths.
    fn replicas(value: f64, target: f64) -> u64 {
        let thousandths = |number: f64| (number * 1000.0) as u64;
        thousandths(value).div_ceil(thousandths(target))
    }

    #[test]
    fn the_replicas_are_those_that_drain_the_backlog_in_time() {
        for (backlog, rate, target, expected) in [
            (72_000, 20.0, 900.0, 4),
            (72_100, 20.0, 900.0, 5),
            (1, 20.0, 900.0, 1),
            (0, 20.0, 900.0, 0),
            (1_000_000, 62.5, 600.0, 27),
            (10_000_000_000, 580.0, 3600.0, 4790),
        ] {
            let seconds = drain_seconds(backlog, rate);
            assert_eq!(replicas(seconds, target), expected, "{backlog} at {rate}/s in {target} s");
            assert_eq!((backlog as f64 / (rate * target)).ceil() as u64, expected);
        }
    }
}
