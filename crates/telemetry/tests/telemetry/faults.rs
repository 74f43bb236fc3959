//! Collectors that are down, hang or refuse: jobs are not delayed, and shutdown ends in time.

use std::time::{Duration, Instant};

use http::StatusCode;
use sandbox::child_test;
use telemetry::attributes::JobOutcome;
use telemetry::settings::{Protocol, TelemetrySettings};
use tokio::net::TcpListener;

use crate::collector::Collector;
use crate::everything::{do_job, received, record, start};

/// The limit of 5 s, and what a busy machine adds.
const AT_MOST: Duration = Duration::from_secs(7);

async fn ends_in_time(url: &str) {
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let settings = TelemetrySettings {
            endpoint: Some(url.to_owned()),
            protocol,
            sample_ratio: 1.0,
            metrics_interval: Duration::from_millis(50),
            ..TelemetrySettings::default()
        };
        let telemetry = start(&settings);
        let began = Instant::now();
        record(&telemetry);
        // More spans than the queue of the exporter holds.
        for _ in 0..1000 {
            do_job(telemetry.jobs(), received(), JobOutcome::Annotated);
        }
        assert!(began.elapsed() < Duration::from_secs(3), "jobs waited for {:?}", began.elapsed());
        let text = telemetry.scraper().unwrap().render().unwrap();
        assert!(text.contains("groundling_jobs_total{outcome=\"annotated\"} 1001"), "{text}");
        let began = Instant::now();
        telemetry.shutdown().await;
        assert!(began.elapsed() < AT_MOST, "{protocol:?} ended after {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_collector_that_is_down_does_not_delay_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    ends_in_time(&url).await;
}

#[tokio::test]
async fn a_collector_that_hangs_does_not_delay_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let _silent = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    ends_in_time(&url).await;
}

#[tokio::test]
async fn a_collector_that_refuses_does_not_delay_shutdown() {
    ends_in_time(&Collector::refusing(StatusCode::SERVICE_UNAVAILABLE).await.url).await;
}

#[tokio::test]
async fn failed_exports_are_counted() {
    let collector = Collector::refusing(StatusCode::BAD_REQUEST).await;
    let settings = TelemetrySettings {
        endpoint: Some(collector.url.clone()),
        metrics_interval: Duration::from_millis(50),
        ..TelemetrySettings::default()
    };
    let telemetry = start(&settings);
    let is_counted = || {
        let text = telemetry.scraper().unwrap().render().unwrap();
        let line = text.lines().find(|line| line.contains("exports_total{result=\"failed\",signal=\"metrics\"}"));
        line.unwrap().rsplit_once(' ').unwrap().1 != "0"
    };
    collector.received.until("a refused export is counted", |_| is_counted()).await;
}

#[tokio::test]
async fn telemetry_that_is_dropped_does_not_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = TelemetrySettings {
        endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
        sample_ratio: 1.0,
        ..TelemetrySettings::default()
    };
    let telemetry = start(&settings);
    record(&telemetry);
    let began = Instant::now();
    drop(telemetry);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

const DEAD_COLLECTOR: &str = "GROUNDLING_TEST_DEAD_COLLECTOR";

/// Exports metrics to a closed port twice. The exporters log on threads of their own, so the log has to be the whole
/// process's.
#[tokio::test]
#[ignore = "another test of this file starts it"]
async fn exports_to_a_closed_port() {
    // It is missing if someone runs all ignored tests.
    let Ok(url) = std::env::var(DEAD_COLLECTOR) else { return };
    tracing_subscriber::fmt().with_ansi(false).init();
    for protocol in [Protocol::HttpProtobuf, Protocol::Grpc] {
        let settings = TelemetrySettings {
            endpoint: Some(url.clone()),
            protocol,
            timeout: Duration::from_millis(200),
            metrics_interval: Duration::from_millis(50),
            traces: false,
            logs: false,
            ..TelemetrySettings::default()
        };
        let telemetry = start(&settings);
        tokio::time::sleep(Duration::from_secs(2)).await;
        telemetry.shutdown().await;
    }
}

#[tokio::test]
async fn a_collector_that_is_down_is_logged_once_with_its_address_and_the_cause() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut child = child_test("faults::exports_to_a_closed_port");
    child.env(DEAD_COLLECTOR, &url);
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let logged: Vec<_> = said.lines().filter(|line| line.contains("metrics cannot be exported")).collect();
    assert_eq!(logged.len(), 2, "{said}");
    for line in logged {
        assert!(line.contains("Connection refused") && line.contains(&url) && line.contains(" WARN "), "{line}");
    }
}
