//! The status as text.

use archive::status::{Cost, DatasetStatus, Interval, SourceStatus, Status, Workers};

use crate::commands::enqueue::report::{duration, size};
use crate::stderr::escape_control;

const UNKNOWN: &str = "unknown";

/// A block of lines for each dataset.
pub(super) fn view(status: &Status) -> String {
    if status.datasets.is_empty() {
        return "no dataset has a job, an annotation or a failure\n".to_owned();
    }
    status.datasets.iter().map(dataset).collect::<Vec<_>>().join("\n")
}

fn dataset(status: &DatasetStatus) -> String {
    let rates = &status.images_per_second;
    let rate = |rate: Option<f64>| or_unknown(rate, |rate| format!("{rate:.2}"));
    let number = |number: Option<u64>| or_unknown(number, |number| number.to_string());
    let mut failed = status.failed.to_string();
    if status.failed > 0 {
        let by_reason =
            status.failed_by_reason.iter().map(|(reason, count)| format!("{} {count}", escape_control(reason)));
        failed += &format!(" ({})", by_reason.collect::<Vec<_>>().join(", "));
    }
    let mut rows = vec![
        ("source", or_unknown(status.source.as_ref(), source)),
        (
            "jobs",
            format!(
                "{} waiting, {} in flight, {} retrying",
                number(status.waiting),
                number(status.in_flight),
                status.retrying
            ),
        ),
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
    ];
    if let Some(Cost { per_thousand, so_far }) = status.cost {
        let cost = |cost| or_unknown(cost, |cost: f64| format!("{cost:.2}"));
        rows.push(("cost", format!("about {} so far, {} per 1000 images", cost(so_far), cost(per_thousand))));
    }
    let mut text = format!("{}\n", escape_control(&status.dataset));
    for (name, value) in rows {
        text += &format!("  {name:<12}{value}\n");
    }
    text
}

fn or_unknown<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), text)
}

fn source(source: &SourceStatus) -> String {
    let total = or_unknown(source.total_jobs, |total| total.to_string());
    format!(
        "{} of {} lanes read: {} objects, {} of {total} jobs stored, pictures of {}",
        source.lanes_done,
        source.lanes,
        source.objects,
        source.jobs,
        size(source.bytes)
    )
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
        let status = Status { datasets: vec![DatasetStatus { dataset: "cats".into(), ..DatasetStatus::default() }] };
        let text = view(&status);
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
            source: Some(SourceStatus { jobs: 5, lanes: 2, lanes_done: 1, ..SourceStatus::default() }),
            ..DatasetStatus::default()
        };
        let text = view(&Status { datasets: vec![status] });
        for line in [
            "cats\\u{1b}\n",
            "1 of 2 lanes read: 0 objects, 5 of unknown jobs stored, pictures of 0 B\n",
            "90 waiting, 10 in flight, 0 retrying\n",
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
