//! Log lines: filter and format. [`LogWriter`] writes them to standard error.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::{self, Debug};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use telemetry::LogLayer;
use tracing::field::Field;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Arguments, Command, LogFormat};
use crate::stderr::{self, LogWriter, escape_control};

/// The variable with the filter, as in most Rust programs.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// The filter of services: `worker`, `ingest` and `scaler`. async-nats also logs the events of the connection and why it
/// cannot connect, which they log themselves.
const SERVICE_FILTER: &str = "info,async_nats=warn,async_nats::connector=off";

/// The filter of the other commands, whose users wait for the results.
const DEFAULT_FILTER: &str = "warn,async_nats::connector=off";

/// Starts logging to standard error and sends panics there as well. Returns the layer that exports log lines, once
/// telemetry is started with it.
pub(crate) fn start(arguments: &Arguments) -> LogLayer {
    let default = if matches!(arguments.command, Command::Worker(_) | Command::Ingest(_) | Command::Scaler(_)) {
        SERVICE_FILTER
    } else {
        DEFAULT_FILTER
    };
    let (filter, problem) = filter(std::env::var(FILTER_VARIABLE).ok().as_deref(), default);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(LogWriter).log_internal_errors(false);
    let exported = LogLayer::default();
    match arguments.log_format {
        LogFormat::Text => {
            let fields = debug_fn(write_field).delimited(" ");
            let log = log.with_ansi(std::io::stderr().is_terminal()).fmt_fields(fields).finish();
            log.with(exported.clone()).init();
        }
        LogFormat::Json => log.json().with_ansi(false).finish().with(exported.clone()).init(),
    }
    std::panic::set_hook(Box::new(log_panic));
    if let Some(problem) = problem {
        tracing::warn!("{FILTER_VARIABLE} is invalid, using the default filter {default:?}: {problem}");
    }
    exported
}

/// The filter in the variable; if that is invalid, the default and the problem. An empty variable counts as unset.
fn filter(variable: Option<&str>, default: &str) -> (EnvFilter, Option<String>) {
    match variable.filter(|text| !text.trim().is_empty()).map(EnvFilter::try_new) {
        None => (EnvFilter::new(default), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(default), Some(error.to_string())),
    }
}

/// Logs a panic. The standard hook would write to standard error directly, and block if its reader does not read.
fn log_panic(panic: &PanicHookInfo) {
    let message = panic.payload_as_str().unwrap_or("(no message)");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("(unnamed)").to_owned();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(location, thread, %backtrace, "panicked: {message}");
    } else {
        tracing::error!(location, thread, "panicked: {message}");
    }
    if thread == "main" {
        // A panic of this thread ends the program.
        stderr::finish(&[]);
    }
}

/// Writes one field as `name=value`, or only the message, with control characters escaped: a line break in an object's
/// key must not look like the next log line.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let value = escape_control(&format!("{value:?}"));
    match field.name() {
        "message" => writer.write_str(&value),
        name if writer.has_ansi_escapes() => write!(writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m{value}"),
        name => write!(writer, "{name}={value}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn no_value_can_begin_a_line_of_its_own_or_act_on_a_terminal() {
        for ansi in [false, true] {
            let lines = Lines::default();
            let log = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(ansi);
            let log = log.fmt_fields(debug_fn(write_field).delimited(" ")).finish();
            let key = "a\n2026-01-01T00:00:00Z ERROR forged\x1b[2J";
            tracing::subscriber::with_default(log, || {
                let _span = tracing::error_span!("job", key = %key).entered();
                tracing::error!(%key, debug = ?key, text = key, "failed: {key}");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(!text.contains("\x1b[2J"), "{text}");
            assert_eq!(text.matches("forged\\u{1b}[2J").count(), 5, "{text}");
        }
    }

    #[test]
    fn an_empty_filter_counts_as_unset_and_a_wrong_one_is_named() {
        assert_eq!(filter(Some(" "), "info").0.to_string(), "info");
        assert_eq!(filter(None, "warn").0.to_string(), "warn");
        assert_eq!(filter(Some("worker=debug"), "warn").0.to_string(), "worker=debug");
        let (filter, problem) = filter(Some("worker=loud"), "warn");
        assert_eq!(filter.to_string(), "warn");
        assert!(problem.is_some());
    }
}
