//! Runs the jobs that intake has taken, until the worker has stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;
use crate::job::JobContext;
use crate::report::WorkerReport;
use crate::settle::Settled;

/// How long the last acknowledgements may take to be sent.
pub(crate) const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// How the work ended.
pub(crate) struct Worked {
    pub(crate) report: WorkerReport,
    pub(crate) engine_stopped: bool,
    pub(crate) refused: bool,
}

/// Runs a job for each delivery until intake has closed the channel and all jobs are settled. If the server has
/// `refused` this worker for too long, the jobs are dropped instead, because nothing can be acknowledged.
pub(crate) async fn run_jobs(
    context: Arc<JobContext>,
    mut deliveries: mpsc::Receiver<Delivery>,
    stop: &CancellationToken,
    shutdown_timeout: Duration,
    refused: impl Future<Output = ()>,
) -> Worked {
    let mut jobs = JoinSet::new();
    let mut worked = Worked { report: WorkerReport::default(), engine_stopped: false, refused: false };
    let mut is_open = true;
    let stopped = async {
        stop.cancelled().await;
        tokio::time::sleep(shutdown_timeout).await;
    };
    let abandon = context.abandon.clone();
    let abandoned = async {
        abandon.cancelled().await;
        tokio::time::sleep(FLUSH_TIMEOUT).await;
    };
    tokio::pin!(stopped, abandoned, refused);
    while is_open || !jobs.is_empty() {
        tokio::select! {
            delivery = deliveries.recv(), if is_open => match delivery {
                Some(delivery) => {
                    let context = Arc::clone(&context);
                    jobs.spawn(async move { context.run(delivery).await });
                }
                None => is_open = false,
            },
            Some(ended) = jobs.join_next() => match ended {
                Ok(settled) => {
                    worked.report.count(settled);
                    if settled == Settled::EngineStopped {
                        worked.engine_stopped = true;
                        stop.cancel();
                    }
                }
                // The panic dropped the delivery, which nacked the job.
                Err(error) => {
                    tracing::error!("a job was released because its task failed; this is a bug, please report it with the panic logged above: {error}");
                    worked.report.count(Settled::Requeued);
                }
            },
            () = &mut refused => {
                tracing::error!(
                    jobs = jobs.len(),
                    "the NATS server refuses this worker's credentials: the worker exits, and its active jobs are redelivered"
                );
                worked.refused = true;
                stop.cancel();
                jobs.shutdown().await;
                break;
            }
            () = &mut stopped, if !context.abandon.is_cancelled() => {
                tracing::warn!(jobs = jobs.len(), "releasing jobs that were not finished within worker.shutdown_timeout");
                context.abandon.cancel();
            }
            () = &mut abandoned => {
                // Jobs that cannot be released in time are dropped, which nacks them.
                worked.report.retried += jobs.len() as u64;
                jobs.shutdown().await;
                break;
            }
        }
    }
    worked
}
