//! The status as text.

use archive::feed::SourceState;
use archive::status::{Cost, DatasetStatus, Interval, STALLED_AFTER, SourceStatus, Status, Total, Workers};

use crate::commands::enqueue::report::{duration, size};
use crate::stderr::escape_control;

const UNKNOWN: &str = "unknown";

/// A block of lines for each dataset, and one for all of them.
pub(super) fn view(status: &Status) -> String {
    if status.datasets.is_empty() {
        return "no dataset has a job, an annotation or a failure\n".to_owned();
    }
    status.datasets.iter().map(dataset).chain(status.total.iter().map(total)).collect::<Vec<_>>().join("\n")
}

fn total(total: &Total) -> String {
    let Total { waiting, in_flight, retrying, done, failed, .. } = *total;
    let rows =
        [("jobs", jobs(waiting, in_flight, retrying)), ("done", done.to_string()), ("failed", failed.to_string())];
    block("all datasets", rows)
}

fn jobs(waiting: Option<u64>, in_flight: Option<u64>, retrying: u64) -> String {
    let number = |number: Option<u64>| or_unknown(number, |number| number.to_string());
    format!("{} waiting, {} in flight, {retrying} retrying", number(waiting), number(in_flight))
}

fn block(title: &str, rows: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut text = format!("{}\n", escape_control(title));
    for (name, value) in rows {
        text += &format!("  {name:<12}{value}\n");
    }
    text
}

fn dataset(status: &DatasetStatus) -> String {
    let rates = &status.images_per_second;
    let rate = |rate: Option<f64>| or_unknown(rate, |rate| format!("{rate:.2}"));
    let mut failed = status.failed.to_string();
    if status.failed > 0 {
        let by_reason =
            status.failed_by_reason.iter().map(|(reason, count)| format!("{} {count}", escape_control(reason)));
        failed += &format!(" ({})", by_reason.collect::<Vec<_>>().join(", "));
    }
    let mut jobs = jobs(status.waiting, status.in_flight, status.retrying);
    if status.stalled {
        jobs += &format!("; stalled: no job has ended for {} minutes", STALLED_AFTER.whole_minutes());
    }
    let mut rows = Vec::new();
    if let Some(source) = &status.source {
        rows.extend(of_feeding(source));
    }
    // The counts of one pass do not tell of all jobs.
    let name = if status.source.as_ref().is_some_and(|source| source.pass > 0) { "this pass" } else { "source" };
    rows.push((name, or_unknown(status.source.as_ref(), source)));
    rows.extend([
        ("jobs", jobs),
        ("done", status.done.to_string()),
        ("failed", failed),
        (
            "images/s",
            format!(
                "{} now, {} in 1 min, {} in 5 min, {} in 30 min",
                rate(rates.now),
                rate(rates.one_minute),
                rate(rates.five_minutes),
                rate(rates.thirty_minutes)
            ),
        ),
        ("time left", or_unknown(status.eta_seconds, interval)),
        ("workers", or_unknown(status.workers, workers)),
        ("worker time", or_unknown(status.device_seconds, |seconds| format!("about {}", duration(seconds)))),
    ]);
    if let Some(Cost { per_thousand, so_far }) = status.cost {
        let cost = |cost| or_unknown(cost, |cost: f64| format!("{cost:.2}"));
        rows.push(("cost", format!("about {} so far, {} per 1000 images", cost(so_far), cost(per_thousand))));
    }
    block(&status.dataset, rows)
}

/// The state of the dataset, and the feeder while there is something to read.
fn of_feeding(source: &SourceStatus) -> Vec<(&'static str, String)> {
    let Some(state) = source.state else { return Vec::new() };
    let reason = source.reason.as_ref().map(|reason| format!(": {}", escape_control(reason)));
    let mut rows = vec![("state", format!("{}{}", state.as_str(), reason.unwrap_or_default()))];
    if let (SourceState::Active | SourceState::Paused, Some(feeder), Some(age)) =
        (state, &source.feeder, source.feeder_age_seconds)
    {
        rows.push(("feeder", format!("{}, stored something {} ago", escape_control(feeder), duration(age))));
    }
    rows
}

fn or_unknown<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), text)
}

fn source(source: &SourceStatus) -> String {
    let SourceStatus { lanes, lanes_done, objects, jobs, .. } = source;
    let jobs = match source.total_jobs {
        Some(_) => format!("all {jobs} jobs stored"),
        None => format!("{jobs} jobs stored so far"),
    };
    format!("{lanes_done} of {lanes} lanes read: {objects} objects, {jobs}, pictures of {}", size(source.bytes))
}

fn interval(interval: Interval) -> String {
    let least = duration(interval.least);
    match interval.most.map(duration) {
        Some(most) if most == least => least,
        Some(most) => format!("{least} to {most}"),
        None => format!("at least {least}"),
    }
}

fn workers(workers: Workers) -> String {
    let at_least = if workers.at_least { "at least " } else { "" };
    format!("{at_least}{} in the last minute", workers.seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_unknown() {
        let cats = DatasetStatus { dataset: "cats".into(), ..DatasetStatus::default() };
        let text = view(&Status { datasets: vec![cats], total: None });
        assert_eq!(
            text,
            "cats\n  source      unknown\n  jobs        unknown waiting, unknown in flight, 0 retrying\n  done        0\n  \
             failed      0\n  images/s    unknown now, unknown in 1 min, unknown in 5 min, unknown in 30 min\n  time left   \
             unknown\n  workers     unknown\n  worker time unknown\n"
        );
    }

    #[test]
    fn a_dataset_is_told_with_its_reasons_time_and_cost() {
        let status = DatasetStatus {
            dataset: "cats\u{1b}".into(),
            waiting: Some(90),
            in_flight: Some(10),
            failed: 3,
            failed_by_reason: [("internal".to_owned(), 1), ("object_not_found".to_owned(), 2)].into(),
            eta_seconds: Some(Interval { least: 61.0, most: Some(7260.0) }),
            workers: Some(Workers { seen: 2, at_least: false }),
            device_seconds: Some(30.0),
            cost: Some(Cost { per_thousand: None, so_far: Some(1.5) }),
            source: Some(SourceStatus {
                state: Some(SourceState::Paused),
                reason: Some("too many jobs failed".into()),
                pass: 1,
                jobs: 5,
                lanes: 2,
                lanes_done: 1,
                feeder: Some("host process 7".into()),
                feeder_age_seconds: Some(61.0),
                ..SourceStatus::default()
            }),
            stalled: true,
            ..DatasetStatus::default()
        };
        let total = Total { waiting: None, in_flight: Some(10), done: 7, failed: 3, ..Total::default() };
        let text = view(&Status { datasets: vec![status], total: Some(total) });
        for line in [
            "cats\\u{1b}\n",
            "  state       paused: too many jobs failed\n",
            "  feeder      host process 7, stored something 1 min 1 s ago\n",
            "  this pass   1 of 2 lanes read: 0 objects, 5 jobs stored so far, pictures of 0 B\n",
            "90 waiting, 10 in flight, 0 retrying; stalled: no job has ended for 5 minutes\n",
            "\nall datasets\n  jobs        unknown waiting, 10 in flight, 0 retrying\n  done        7\n  failed      3\n",
            "3 (internal 1, object_not_found 2)\n",
            "1 min 1 s to 2 h 1 min\n",
            "2 in the last minute\n",
            "about 1.50 so far, unknown per 1000 images\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert_eq!(interval(Interval { least: 5.0, most: None }), "at least 5 s");
    }
}
