//! Sets up providers, readers and exporters, and shuts them down.

use std::time::Duration;

use opentelemetry::metrics::MeterProvider;
use opentelemetry::trace::TracerProvider;
use opentelemetry::{Context, Key, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use prometheus::Registry;
use tokio::sync::oneshot;

use crate::environment::ExportPlan;
use crate::error::TelemetryError;
use crate::export_runtime::ExportRuntime;
use crate::export_state::ExportState;
use crate::exporters::Exporters;
use crate::instruments::{InstrumentOptions, Instruments, SCOPE};
use crate::job_span::JobSpans;
use crate::logs::LogLayer;
use crate::sampler::JobSampler;
use crate::scrape::Scraper;
use crate::settings::TelemetrySettings;

/// How long the last export may take.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);
/// The SDK's name for a service without one.
const UNNAMED: &str = "unknown_service";

/// Identity of the process that sends the telemetry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceIdentity {
    /// Version of the program.
    pub version: String,
    /// Distinguishes this worker from others: `service.instance.id` of exports. It is not a label of any metric.
    pub instance: String,
}

/// The telemetry of a program. Dropped without [`Telemetry::shutdown`], it loses what was not exported yet.
pub struct Telemetry {
    instruments: Instruments,
    jobs: JobSpans,
    scraper: Option<Scraper>,
    providers: Providers,
    _runtime: Option<ExportRuntime>,
}

#[derive(Clone, Default)]
struct Providers {
    metrics: SdkMeterProvider,
    traces: Option<SdkTracerProvider>,
    logs: Option<SdkLoggerProvider>,
}

impl Providers {
    /// Exports what was recorded, all signals at once. Each receiver tells whether it succeeded.
    fn shutdown(self) -> [oneshot::Receiver<bool>; 3] {
        let Self { metrics, traces, logs } = self;
        [
            in_thread(move || metrics.shutdown_with_timeout(SHUTDOWN_LIMIT).is_ok()),
            in_thread(move || traces.is_none_or(|traces| traces.shutdown_with_timeout(SHUTDOWN_LIMIT).is_ok())),
            in_thread(move || logs.is_none_or(|logs| logs.shutdown_with_timeout(SHUTDOWN_LIMIT).is_ok())),
        ]
    }
}

impl Telemetry {
    /// Starts telemetry as the settings and the `OTEL_*` variables say; `variable` returns the value of a variable. If
    /// logs are exported, `logs` is connected to their exporter.
    ///
    /// # Errors
    /// [`TelemetryError`]. A collector that does not answer is no error: exports are tried again with each batch.
    pub fn start(
        settings: &TelemetrySettings,
        instruments: InstrumentOptions,
        service: &ServiceIdentity,
        logs: &LogLayer,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, TelemetryError> {
        let plan = ExportPlan::new(settings, variable);
        for warning in &plan.warnings {
            tracing::warn!("{warning}");
        }
        let runtime = plan.exports().then(ExportRuntime::start).transpose()?;
        let mut exporters = runtime.as_ref().map(|runtime| Exporters::new(runtime.handle()));
        let resource = resource(service);
        let (registry, mut metrics) = (Registry::new(), SdkMeterProvider::builder().with_resource(resource.clone()));
        if plan.prometheus {
            // Scope and resource would be labels of every time series, and the worker's id a new one at each start.
            let reader = opentelemetry_prometheus::exporter()
                .with_registry(registry.clone())
                .scope_info_enabled(false)
                .without_target_info();
            metrics = metrics.with_reader(reader.build()?);
        }
        let mut providers = Providers::default();
        if let Some(exporters) = &mut exporters {
            if let Some(target) = &plan.metrics {
                let reader = PeriodicReader::builder(exporters.metrics(target)?);
                metrics = metrics.with_reader(reader.with_interval(plan.metrics_interval).build());
            }
            if let Some(target) = &plan.traces {
                let provider = SdkTracerProvider::builder()
                    .with_resource(resource.clone())
                    .with_sampler(JobSampler::new(plan.sampler))
                    .with_batch_exporter(exporters.spans(target)?);
                providers.traces = Some(provider.build());
            }
            if let Some(target) = &plan.logs {
                let provider = SdkLoggerProvider::builder().with_resource(resource);
                let provider = provider.with_batch_exporter(exporters.logs(target)?).build();
                logs.connect(&provider);
                providers.logs = Some(provider);
            }
        }
        providers.metrics = metrics.build();
        let instruments = Instruments::new(providers.metrics.meter(SCOPE), instruments);
        let states = exporters.map(|exporters| exporters.states).unwrap_or_default();
        tell(&states);
        if !states.is_empty() {
            instruments.observe_exports(states);
        }
        let tracer = providers.traces.as_ref().map(|provider| provider.tracer(SCOPE));
        Ok(Self {
            jobs: JobSpans::new(instruments.clone(), tracer, settings.submitter),
            instruments,
            scraper: plan.prometheus.then(|| Scraper::new(registry)),
            providers,
            _runtime: runtime,
        })
    }

    /// The instruments.
    pub fn instruments(&self) -> &Instruments {
        &self.instruments
    }

    /// The spans of jobs.
    pub fn jobs(&self) -> &JobSpans {
        &self.jobs
    }

    /// Renders the answer to `GET /metrics`; `None` if `telemetry.prometheus` is off.
    pub fn scraper(&self) -> Option<&Scraper> {
        self.scraper.as_ref()
    }

    /// Exports what was recorded, and ends. Takes at most 5 s, whatever the collector does.
    pub async fn shutdown(mut self) {
        let ends = std::mem::take(&mut self.providers).shutdown();
        let ended = tokio::time::timeout(SHUTDOWN_LIMIT, async {
            let mut all = true;
            for end in ends {
                all &= end.await.unwrap_or(false);
            }
            all
        });
        match ended.await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("the last telemetry was not exported: the collector did not take it"),
            Err(_) => tracing::warn!(
                "the last telemetry was not exported: the collector did not answer within {SHUTDOWN_LIMIT:?}"
            ),
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // Otherwise dropping the last clone of a provider would wait for its exporter.
        drop(std::mem::take(&mut self.providers).shutdown());
    }
}

/// Runs blocking work on a detached thread. Dropping a runtime waits for its `spawn_blocking` tasks, so a hanging
/// collector would delay the end of the program.
fn in_thread(work: impl FnOnce() -> bool + Send + 'static) -> oneshot::Receiver<bool> {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("telemetry-end".to_owned());
    let started = thread.spawn(move || {
        // Its log lines cannot be exported any more.
        let _suppressed = Context::enter_telemetry_suppressed_scope();
        // Nobody may be waiting any more.
        let _ = sender.send(work());
    });
    if let Err(error) = started {
        tracing::warn!("the last telemetry is lost: the system gives no thread: {error}");
    }
    receiver
}

/// Environment variables override the program's own values.
fn resource(service: &ServiceIdentity) -> Resource {
    let detected = Resource::builder().build();
    let is_named =
        detected.get_ref(&Key::from_static_str("service.name")).is_some_and(|name| !name.as_str().starts_with(UNNAMED));
    let own = [
        ("service.name", (!is_named).then(|| SCOPE.to_owned())),
        ("service.version", Some(service.version.clone())),
        ("service.instance.id", Some(service.instance.clone())),
    ];
    let own = own.into_iter().filter_map(|(key, value)| {
        let is_overridden = key != "service.name" && detected.get_ref(&Key::from_static_str(key)).is_some();
        value.filter(|_| !is_overridden).map(|value| KeyValue::new(key, value))
    });
    Resource::builder().with_attributes(own).build()
}

fn tell(states: &[ExportState]) {
    for state in states {
        tracing::info!(endpoint = state.endpoint(), "exporting {}", state.signal().as_str());
    }
}
