//! Limits of the server that all workers of a pool share: checks of an existing consumer and of existing streams.

use std::time::Duration;

use async_nats::jetstream::consumer;
use broker::stream_rules::ack_wait;

use crate::settings::Settings;

/// Active jobs of one worker: new jobs in job slots and in slow reads. Jobs in the retries stream have limits of their own.
pub fn active_jobs(settings: &Settings, slots: usize) -> usize {
    slots.saturating_add(crate::worker::max_slow_reads(&settings.worker, slots))
}

/// The problems of the consumer of the jobs stream for this number of workers with `active` active jobs each.
pub fn consumer_problems(settings: &Settings, found: &consumer::Config, active: usize, workers: usize) -> Vec<String> {
    let (name, all) = (found.durable_name.as_deref().unwrap_or_default(), active.saturating_mul(workers));
    let mut problems = Vec::new();
    // The server takes 0 and less for no limit.
    if found.max_ack_pending > 0 && usize::try_from(found.max_ack_pending).is_ok_and(|most| most < all) {
        problems.push(format!(
            "consumer {name} has a max_ack_pending of {}, but {workers} workers may have {all} active jobs ({active} each): raise it to {all} or more",
            found.max_ack_pending
        ));
    }
    let most = settings.worker.max_deliveries;
    if u64::try_from(found.max_deliver).is_ok_and(|found| found > 0 && found <= most) {
        problems.push(format!(
            "consumer {name} has a max_deliver of {}, which is not above worker.max_deliveries ({most}): the server would stop delivering jobs before the workers can record why they failed; set it to -1",
            found.max_deliver
        ));
    }
    problems
}

/// The problem of a stream of results whose duplicate window is too short for the consumer of the jobs stream.
pub fn window_problem(
    settings: &Settings,
    stream: &str,
    duplicate_window: Duration,
    consumer: &consumer::Config,
) -> Option<String> {
    let away = ack_wait(consumer).max(settings.worker.max_retry_delay);
    let longest = away.saturating_add(settings.worker.lease());
    (duplicate_window < longest).then(|| {
        format!(
            "stream {stream} has a duplicate window of {duplicate_window:?}, but a redelivered job can be published again up to {longest:?} later: raise the window, or lower worker.job_timeout, worker.publish_timeout or worker.max_retry_delay"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(max_ack_pending: i64, max_deliver: i64) -> consumer::Config {
        consumer::Config { max_ack_pending, max_deliver, ack_wait: Duration::from_secs(60), ..Default::default() }
    }

    #[test]
    fn a_consumer_has_room_for_the_active_jobs_of_all_workers() {
        let settings = Settings::default();
        assert_eq!(active_jobs(&settings, 8), 8 + 64);
        assert_eq!(consumer_problems(&settings, &found(720, -1), 72, 10), Vec::<String>::new());
        assert_eq!(consumer_problems(&settings, &found(-1, -1), 72, 1000), Vec::<String>::new());
        let problems = consumer_problems(&settings, &found(719, 10), 72, 10);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("max_ack_pending of 719") && problems[0].ends_with("raise it to 720 or more"));
        assert!(problems[1].contains("max_deliver of 10"));
    }

    #[test]
    fn a_window_covers_the_longest_redelivery() {
        let settings = Settings::default();
        let longest = settings.longest_redelivery();
        assert_eq!(window_problem(&settings, "S", longest, &found(1, -1)), None);
        let problem = window_problem(&settings, "S", longest - Duration::from_secs(1), &found(1, -1)).unwrap();
        assert!(problem.starts_with("stream S has a duplicate window of"), "{problem}");
    }
}
