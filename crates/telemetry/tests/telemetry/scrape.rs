//! Scrapes, compared with the table of instruments.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use telemetry::attribute_keys::{Key, Values};
use telemetry::attributes::{JobOutcome, Reason};
use telemetry::settings::TelemetrySettings;
use telemetry::table::{INSTRUMENTS, Kind};

use crate::everything::{do_job, received, record, start};

/// A metric in a scrape.
#[derive(Debug, Default, Clone, PartialEq)]
struct Family {
    help: String,
    kind: String,
    /// Labels and values of the lines, by the end of their name: nothing, `_bucket`, `_sum`, `_count`.
    lines: Vec<(String, BTreeMap<String, String>, f64)>,
}

fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            last = name.to_owned();
            families.entry(last.clone()).or_default().help = help.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, last);
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
            let labels = labels.split("\",").filter(|label| !label.is_empty()).map(|label| {
                let (key, value) = label.split_once("=\"").unwrap();
                (key.to_owned(), value.trim_end_matches('"').to_owned())
            });
            let end = name.strip_prefix(&last).unwrap().to_owned();
            families.get_mut(&last).unwrap().lines.push((end, labels.collect(), value.parse().unwrap()));
        }
    }
    families
}

fn scrape(settings: &TelemetrySettings) -> String {
    let telemetry = start(settings);
    record(&telemetry);
    telemetry.scraper().unwrap().render().unwrap()
}

#[test]
fn a_scrape_has_every_instrument_of_the_table_with_its_help_and_type_and_nothing_else() {
    let families = parse(&scrape(&TelemetrySettings::default()));
    // Exports are counted only where there are any.
    let expected: Vec<_> = INSTRUMENTS.iter().filter(|info| info.name != "groundling.telemetry.exports").collect();
    let names: BTreeSet<_> = expected.iter().map(|info| info.prometheus_name()).collect();
    assert_eq!(families.keys().cloned().collect::<BTreeSet<_>>(), names);
    for info in expected {
        let family = &families[&info.prometheus_name()];
        assert_eq!(family.help, info.help, "{}", info.name);
        assert_eq!(family.kind, info.kind.prometheus_type(), "{}", info.name);
        if info.kind == Kind::Histogram {
            let bounds: BTreeSet<_> = family.lines.iter().filter_map(|(_, labels, _)| labels.get("le")).collect();
            let expected: Vec<_> = info.buckets.iter().map(f64::to_string).chain(["+Inf".to_owned()]).collect();
            assert_eq!(bounds, expected.iter().collect(), "{}", info.name);
        }
    }
}

#[test]
fn every_label_and_its_value_is_one_of_the_table() {
    let families = parse(&scrape(&TelemetrySettings { dataset_label: true, ..Default::default() }));
    for info in INSTRUMENTS {
        let Some(family) = families.get(&info.prometheus_name()) else { continue };
        let mut seen = BTreeSet::new();
        for (key, value) in family.lines.iter().flat_map(|(_, labels, _)| labels).filter(|(key, _)| *key != "le") {
            let found = info.attributes.iter().find(|Key { name, .. }| name.replace('.', "_") == *key);
            let Key { values, .. } = found.unwrap_or_else(|| panic!("{} has a label {key}", info.name));
            if let Values::OneOf(words) = values {
                assert!(words.contains(&value.as_str()), "{} {key}={value}", info.name);
            }
            seen.insert(key.as_str());
        }
        let all: BTreeSet<_> = info.attributes.iter().map(|key| key.name.replace('.', "_")).collect();
        assert_eq!(seen, all.iter().map(String::as_str).collect(), "{}", info.name);
    }
}

#[test]
fn the_dataset_is_a_label_only_by_the_setting_and_worker_and_job_never() {
    let plain = scrape(&TelemetrySettings::default());
    assert!(!plain.contains("dataset=\"cats\""), "{plain}");
    let labelled = scrape(&TelemetrySettings { dataset_label: true, ..Default::default() });
    assert!(labelled.contains("groundling_jobs_total{dataset=\"cats\",outcome=\"annotated\"} 1"), "{labelled}");
    for text in [plain, labelled] {
        assert!(!text.contains("worker-7") && !text.contains("job-1"), "{text}");
    }
}

#[test]
fn jobs_are_counted_by_outcome_and_reason_and_timed_at_their_end_only() {
    let telemetry = start(&TelemetrySettings::default());
    let jobs = telemetry.jobs();
    do_job(jobs, received(), JobOutcome::Annotated);
    do_job(jobs, received(), JobOutcome::Parked(Reason::StoreSlow));
    do_job(jobs, received(), JobOutcome::Failed(Reason::ObjectNotFound));
    let active = jobs.start(received());
    let text = telemetry.scraper().unwrap().render().unwrap();
    for line in [
        "groundling_jobs_total{outcome=\"annotated\"} 1",
        "groundling_jobs_total{outcome=\"parked\",reason=\"store_slow\"} 1",
        "groundling_jobs_total{outcome=\"failed\",reason=\"object_not_found\"} 1",
        "groundling_jobs_in_hand 1",
        "groundling_job_age_seconds_bucket{outcome=\"annotated\",le=\"60\"} 0",
        "groundling_job_age_seconds_bucket{outcome=\"annotated\",le=\"120\"} 1",
        "groundling_job_stage_duration_seconds_count{stage=\"generate\"} 3",
        "groundling_job_stage_duration_seconds_bucket{stage=\"generate\",le=\"0.025\"} 0",
        "groundling_job_stage_duration_seconds_bucket{stage=\"generate\",le=\"0.05\"} 3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains("groundling_job_age_seconds_count{outcome=\"parked\"}"), "{text}");
    drop(active);
    assert!(telemetry.scraper().unwrap().render().unwrap().contains("groundling_jobs_in_hand 0"));
}

#[test]
fn counters_that_alerts_use_are_there_before_anything_has_happened() {
    let telemetry = start(&TelemetrySettings::default());
    telemetry.instruments().worker_started();
    let text = telemetry.scraper().unwrap().render().unwrap();
    for line in ["groundling_jobs_total{outcome=\"annotated\"} 0", "groundling_pulls_lost_total 0"] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[test]
fn a_program_shows_only_the_instruments_that_it_uses() {
    let telemetry = start(&TelemetrySettings::default());
    telemetry.instruments().ingest_rule_started("uploads");
    telemetry.instruments().ingest_webhook_started();
    let families = parse(&telemetry.scraper().unwrap().render().unwrap());
    let names: Vec<_> = families.keys().map(String::as_str).collect();
    assert_eq!(names, ["groundling_ingest_records_total", "groundling_ingest_requests_total"]);
    let statuses = families["groundling_ingest_requests_total"].lines.iter();
    assert_eq!(statuses.filter(|(_, labels, value)| labels.contains_key("status") && *value == 0.0).count(), 9);
}

#[test]
fn without_the_setting_there_is_nothing_to_scrape() {
    assert!(start(&TelemetrySettings { prometheus: false, ..Default::default() }).scraper().is_none());
}

/// Prometheus' own linter, where it is installed: `GROUNDLING_PROMTOOL`, or PATH.
#[test]
fn promtool_finds_nothing_wrong() {
    let promtool = std::env::var_os("GROUNDLING_PROMTOOL").unwrap_or_else(|| "promtool".into());
    let mut command = Command::new(Path::new(&promtool));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        assert!(std::env::var_os("GROUNDLING_PROMTOOL").is_none(), "GROUNDLING_PROMTOOL cannot be run");
        eprintln!("skipped: promtool is not installed");
        return;
    };
    child.stdin.take().unwrap().write_all(scrape(&TelemetrySettings::default()).as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
