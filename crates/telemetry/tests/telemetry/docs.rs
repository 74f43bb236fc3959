//! The documentation of the metrics, generated from the table.

use std::fmt::Write;
use std::path::Path;

use telemetry::attribute_keys::{Key, Values};
use telemetry::table::{DURATION_BUCKETS, INSTRUMENTS, InstrumentInfo, Kind};

const HEAD: &str = "\
# Metrics

Written by `UPDATE_DOCS=1 cargo test -p telemetry` from the table in `crates/telemetry/src/table.rs`.

A worker serves these metrics at `worker.health_address` under `/metrics` in Prometheus' text format, unless
`telemetry.prometheus` is off, and exports them with OTLP where `telemetry.endpoint` or `OTEL_EXPORTER_OTLP_ENDPOINT`
names a collector. Both read the same instruments. In Prometheus, dots in the names of attributes are underscores.

No metric has the worker, the job or the object as an attribute. A worker is told from others by the labels that Prometheus
adds (`instance`, `pod`), and in OTLP by `service.instance.id`. The dataset is an attribute only with
`telemetry.dataset_label`.
";

fn document() -> String {
    let mut text = HEAD.to_owned();
    write!(text, "\nBuckets of durations, in seconds: {}.\n", numbers(DURATION_BUCKETS)).unwrap();
    text.push_str("\n| metric | in Prometheus | kind | unit | meaning |\n| --- | --- | --- | --- | --- |\n");
    for info in INSTRUMENTS {
        let InstrumentInfo { name, unit, help, .. } = info;
        let (link, kind) = (name.replace('.', ""), kind(info.kind));
        writeln!(text, "| [`{name}`](#{link}) | `{}` | {kind} | `{unit}` | {help} |", info.prometheus_name()).unwrap();
    }
    for info in INSTRUMENTS {
        write!(text, "\n## {}\n\n{}\n", info.name, info.help).unwrap();
        if info.kind == Kind::Histogram && info.buckets != DURATION_BUCKETS {
            write!(text, "\nBuckets: {}.\n", numbers(info.buckets)).unwrap();
        }
        if !info.attributes.is_empty() {
            text.push_str("\n| attribute | meaning | values |\n| --- | --- | --- |\n");
        }
        for Key { name, help, values } in info.attributes {
            let values = match values {
                Values::OneOf(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
                Values::Described(words) => (*words).to_owned(),
            };
            writeln!(text, "| `{name}` | {help} | {values} |").unwrap();
        }
    }
    text
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::UpDownCounter => "up-down counter (gauge)",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn numbers(numbers: &[f64]) -> String {
    numbers.iter().map(f64::to_string).collect::<Vec<_>>().join(", ")
}

#[test]
fn the_documentation_says_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, document()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == document(), "docs/metrics.md is out of date: run UPDATE_DOCS=1 cargo test -p telemetry");
}
