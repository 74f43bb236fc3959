//! Settings: groundling.toml, then `GROUNDLING__SECTION__KEY`, then flags; later sources override earlier ones.

pub(crate) mod check;
mod error;
mod ingest;
mod layers;
mod model;
pub(crate) mod reference;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use archive::ingest::settings::{EventsSettings, IngestRule};
use broker::settings::DurationText;
use broker::settings_check::Problems;
use engine::EngineOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use telemetry::TelemetrySettings;
use worker::fetch::environment::environment_problems;
use worker::settings::{NatsSettings, S3Settings, StreamSettings, WorkerSettings};
use worker::settings_validation::InvalidSettings;

use crate::args::StoreArgs;
use crate::exit::Misuse;
use crate::model_args::ModelArgs;
use layers::Layered;
pub(crate) use model::ModelSettings;

/// The settings file if none is named.
pub(crate) const DEFAULT_FILE: &str = "groundling.toml";
/// The minimum of `engine.stall_timeout`.
const MIN_STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) model: ModelSettings,
    pub(crate) engine: EngineSettings,
    pub(crate) nats: NatsSettings,
    pub(crate) streams: StreamSettings,
    pub(crate) s3: S3Settings,
    pub(crate) worker: WorkerSettings,
    pub(crate) events: EventsSettings,
    pub(crate) ingest: Vec<IngestRule>,
    pub(crate) telemetry: TelemetrySettings,
}

/// Continuous batching.
#[derive(Debug, Clone, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EngineSettings {
    /// Maximum number of sequences decoded together. If unset: as many as fit the device's memory, up to 32 on the CPU and
    /// 1024 on CUDA.
    pub(crate) slots: Option<usize>,
    /// Maximum tokens per slot: image, prompt and answer.
    pub(crate) slot_tokens: usize,
    /// Maximum number of pictures that go through the vision tower together. If unset: 8 on the CPU, 64 on CUDA.
    pub(crate) vision_batch: Option<usize>,
    /// Maximum prompt tokens per step. Further prompts wait for the next step, so that a step does not delay the running
    /// sequences for long. If unset: 1024 on the CPU, 8192 on CUDA.
    pub(crate) prompt_tokens: Option<usize>,
    /// How long the engine may make no progress with work in hand. If unset: 120 s on CUDA; on the CPU 20 times its longest
    /// pass so far, but at least 5 minutes. After that `/livez` answers 503, the worker releases its jobs without counting
    /// an attempt, and it exits with code 70.
    #[serde(with = "humantime_serde::option")]
    #[schemars(with = "Option<DurationText>")]
    pub(crate) stall_timeout: Option<Duration>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        let EngineOptions { slots, slot_tokens, vision_batch, prompt_tokens, stall_timeout } = EngineOptions::default();
        Self { slots, slot_tokens, vision_batch, prompt_tokens, stall_timeout }
    }
}

impl EngineSettings {
    pub(crate) fn options(&self) -> EngineOptions {
        let Self { slots, slot_tokens, vision_batch, prompt_tokens, stall_timeout } = *self;
        EngineOptions { slots, slot_tokens, vision_batch, prompt_tokens, stall_timeout }
    }

    fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        if let Some(timeout) = self.stall_timeout {
            found.require(
                timeout >= MIN_STALL_TIMEOUT,
                format!("engine.stall_timeout is {timeout:?}, and the longest pass of the model must fit into it: set it to {MIN_STALL_TIMEOUT:?} or more"),
            );
        }
        found.0
    }
}

/// Bytes of a settings file at most. Larger files are something else, which would take minutes to parse.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Reads the text of a settings file.
///
/// # Errors
/// The file cannot be read, or is too large.
pub(crate) fn read_file(file: &Path) -> std::io::Result<String> {
    let bytes = std::fs::metadata(file)?.len();
    if bytes > MAX_FILE_BYTES {
        let problem = format!("it has {bytes} bytes, and a settings file has {MAX_FILE_BYTES} at most");
        return Err(std::io::Error::other(problem));
    }
    std::fs::read_to_string(file)
}

impl Settings {
    /// Reads the file and the environment.
    ///
    /// # Errors
    /// The file cannot be read, or a value in the file or the environment is not valid.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        Self::read(file, std::env::vars_os()).map_err(|error| Misuse(error).into())
    }

    fn read(file: Option<&Path>, variables: impl IntoIterator<Item = (OsString, OsString)>) -> anyhow::Result<Self> {
        // Deployment templates write an empty name for a missing one.
        let named = file.filter(|file| !file.as_os_str().is_empty());
        let file = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match read_file(file) {
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => String::new(),
            text => text.with_context(|| format!("cannot read the settings file {}", file.display()))?,
        };
        let mut layers = Layered::from_toml(file, &text)?;
        layers.overlay(variables)?;
        Ok(Self::deserialize(layers)?)
    }

    /// Applies flags, which override the settings.
    pub(crate) fn with_model(mut self, flags: &ModelArgs) -> Self {
        let model = &mut self.model;
        model.path = flags.model.clone().filter(|path| !path.as_os_str().is_empty()).or(model.path.take());
        model.offline |= flags.offline;
        model.device = flags.device.clone().unwrap_or(std::mem::take(&mut model.device));
        model.dtype = flags.dtype.clone().or(model.dtype.take());
        self.engine.slots = flags.batch.or(self.engine.slots);
        self
    }

    /// Applies flags, which override the settings.
    pub(crate) fn with_stores(mut self, flags: &StoreArgs) -> Self {
        if let Some(url) = &flags.nats_url {
            self.nats.url.clone_from(url);
        }
        if let Some(endpoint) = &flags.s3_endpoint {
            self.s3.endpoint = Some(endpoint.clone());
        }
        self
    }

    /// Applies the flag, which overrides the setting.
    pub(crate) fn with_s3_endpoint(mut self, endpoint: Option<&String>) -> Self {
        self.s3.endpoint = endpoint.cloned().or(self.s3.endpoint.take());
        self
    }

    fn of_worker(&self) -> worker::settings::Settings {
        worker::settings::Settings {
            nats: self.nats.clone(),
            streams: self.streams.clone(),
            s3: self.s3.clone(),
            worker: self.worker.clone(),
        }
    }

    /// The problems for which a worker refuses the settings, each one sentence that begins with the name of a setting.
    pub(crate) fn problems(&self) -> Vec<String> {
        let invalid = self.of_worker().validate().err();
        let of_worker = invalid.map_or_else(Vec::new, |InvalidSettings(problems)| problems);
        let of_environment = environment_problems(&self.s3, |name| std::env::var(name).ok());
        [of_worker, self.model.problems(), self.engine.problems(), self.telemetry.problems(), of_environment].concat()
    }

    /// The validated settings of the worker.
    ///
    /// # Errors
    /// All problems at once.
    pub(crate) fn for_worker(&self) -> anyhow::Result<worker::settings::Settings> {
        let settings = self.of_worker();
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(Misuse(InvalidSettings(problems).into()).into());
        }
        Ok(settings)
    }

    /// The validated settings of `setup`, which needs no S3 store.
    ///
    /// # Errors
    /// All problems at once.
    pub(crate) fn for_setup(self) -> anyhow::Result<(NatsSettings, StreamSettings)> {
        let problems = [self.nats.problems(), self.streams.problems()].concat();
        if problems.is_empty() {
            Ok((self.nats, self.streams))
        } else {
            Err(Misuse(InvalidSettings(problems).into()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        variables.iter().map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("groundling.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn the_environment_goes_before_the_file_and_flags_before_both() {
        let (_dir, path) = file("[nats]\nurl = \"nats://file:1\"\n[worker]\nslots = 3\n[s3]\nregion = \"eu\"\n");
        let variables = [
            ("GROUNDLING__NATS__URL", "nats://environment:2"),
            ("GROUNDLING__S3__ALLOW", "a,b/c"),
            ("GROUNDLING__WORKER__SLOTS", "5"),
        ];
        let settings = Settings::read(Some(&path), environment(&variables)).unwrap();
        assert_eq!(settings.nats.url, "nats://environment:2");
        assert_eq!((settings.worker.slots, settings.s3.region.as_str()), (Some(5), "eu"));
        assert_eq!(settings.s3.allow, ["a", "b/c"]);
        let flags = StoreArgs { nats_url: Some("nats://flag:3".into()), s3_endpoint: None };
        assert_eq!(settings.with_stores(&flags).nats.url, "nats://flag:3");
    }

    #[test]
    fn a_variable_has_the_type_of_its_setting_whatever_its_value_looks_like() {
        for text in
            ["0123", "12e3", "12345678", "1.50", "true", "off", "-1", "0x10", "\"quoted\"", " a,b ", "null", "[x]"]
        {
            let (_dir, empty) = file("");
            let read = |name: &str| Settings::read(Some(&empty), environment(&[(name, text)])).unwrap();
            assert_eq!(read("GROUNDLING__S3__ACCESS_KEY").s3.access_key.unwrap(), text);
            assert_eq!(read("GROUNDLING__S3__SECRET_KEY").s3.secret_key.unwrap().expose(), text);
            assert_eq!(read("GROUNDLING__NATS__PASSWORD").nats.password.unwrap().expose(), text);
            assert_eq!(read("GROUNDLING__WORKER__ID").worker.id.unwrap(), text);
            assert_eq!(read("GROUNDLING__MODEL__PATH").model.path.unwrap(), Path::new(text));
            assert_eq!(read("GROUNDLING__STREAMS__JOBS").streams.jobs, text);
        }
    }

    #[test]
    fn a_variable_that_does_not_fit_its_setting_is_refused_by_name() {
        let wrong = [
            ("GROUNDLING__WORKER__SLOTS", "true"),
            ("GROUNDLING__WORKER__SLOTS", "12e3"),
            ("GROUNDLING__WORKER__SLOTS", "-1"),
            ("GROUNDLING__WORKER__SLOTS", "4.5"),
            ("GROUNDLING__WORKER__SLOTS", "4,5"),
            ("GROUNDLING__WORKER__MAX_PICTURE_SIDE", "4294967296"),
            ("GROUNDLING__STREAMS__MAX_DELIVER", "99999999999999999999"),
            ("GROUNDLING__S3__PATH_STYLE", "2"),
            ("GROUNDLING__S3__PATH_STYLE", "maybe"),
            ("GROUNDLING__NATS__CONNECT_TIMEOUT", "5"),
            ("GROUNDLING__WORKER__HEALTH_ADDRESS", "8080"),
            ("GROUNDLING__S3", "x"),
            ("GROUNDLING__S3__REGION__NAME", "x"),
            ("GROUNDLING__", "x"),
            ("GROUNDLING__S3__REGIONS", "x"),
        ];
        let (_dir, path) = file("[s3]\nregion = \"eu\"\n");
        for (name, value) in wrong {
            let error = format!("{:#}", Settings::read(Some(&path), environment(&[(name, value)])).unwrap_err());
            assert!(error.starts_with(name) && !error.contains('\n'), "{name}={value}: {error}");
        }
    }

    #[test]
    fn numbers_truth_values_durations_and_lists_are_read_from_variables() {
        let (_dir, empty) = file("");
        let read = |name: &str, value: &str| Settings::read(Some(&empty), environment(&[(name, value)])).unwrap();
        for (value, slots) in [("5", 5), ("0005", 5), (" 5 ", 5), ("5\n", 5)] {
            assert_eq!(read("GROUNDLING__WORKER__SLOTS", value).worker.slots, Some(slots));
        }
        assert_eq!(read("groundling__worker__slots", "5").worker.slots, Some(5));
        assert_eq!(read("GROUNDLING__STREAMS__MAX_DELIVER", "-1").streams.max_deliver, -1);
        for (value, expected) in
            [("true", true), ("TRUE", true), ("1", true), ("on", true), ("no", false), ("0", false)]
        {
            assert_eq!(read("GROUNDLING__S3__PATH_STYLE", value).s3.path_style, expected);
        }
        assert_eq!(read("GROUNDLING__NATS__PING_INTERVAL", "1m 30s").nats.ping_interval.as_secs(), 90);
        assert_eq!(read("GROUNDLING__WORKER__HEALTH_ADDRESS", "[::1]:80").worker.health_address.unwrap().port(), 80);
        for (value, allow) in
            [("0123", vec!["0123"]), ("a, b/c,,", vec!["a", "b/c"]), ("true,1e3", vec!["true", "1e3"])]
        {
            assert_eq!(read("GROUNDLING__S3__ALLOW", value).s3.allow, allow);
        }
    }

    #[test]
    fn an_empty_variable_counts_as_unset() {
        let (_dir, path) = file("[s3]\nregion = \"eu\"\nallow = [\"a\"]\n[worker]\nslots = 3\n");
        let names =
            ["S3__REGION", "S3__ALLOW", "S3__ACCESS_KEY", "S3__PATH_STYLE", "WORKER__SLOTS", "NATS__TLS__CA_FILE"];
        let names = names.map(|name| format!("GROUNDLING__{name}"));
        let empty: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        let settings = Settings::read(Some(&path), environment(&empty)).unwrap();
        let without = Settings::read(Some(&path), environment(&[])).unwrap();
        assert_eq!(format!("{settings:?}"), format!("{without:?}"));
        assert_eq!((settings.s3.region.as_str(), settings.worker.slots, settings.s3.access_key), ("eu", Some(3), None));
    }

    #[test]
    fn the_files_values_keep_their_types_and_errors_name_the_line() {
        let wrong = [
            ("[worker]\n\nslots = true\n", "line 3: worker.slots: "),
            ("[worker]\nslots = 4.5\n", "line 2: worker.slots: "),
            ("[worker]\nslots = \"4\"\n", "line 2: worker.slots: "),
            ("[s3]\nsecret_key = 123\n", "line 2: s3.secret_key: the secret was read as a number: put it in quotes"),
            ("[s3]\nregion = 1\n", "line 2: s3.region: "),
            ("[s3]\nregion = 2026-01-01\n", "line 2: s3.region: no setting takes a date"),
            ("[s3\nregion = 1\n", "line 1: "),
            ("[s3]\nallow = [\"a\", 1]\n", "line 2: s3.allow: "),
            ("[worker]\nslots = 99999999999999999999\n", "line 2: worker.slots: the number is too large"),
        ];
        for (text, expected) in wrong {
            let (_dir, path) = file(text);
            let error = format!("{:#}", Settings::read(Some(&path), environment(&[])).unwrap_err());
            assert!(error.contains(&format!("groundling.toml {expected}")) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn an_empty_name_of_a_settings_file_counts_as_none() {
        assert!(Settings::read(Some(Path::new("")), environment(&[])).is_ok());
    }

    #[test]
    fn unknown_keys_are_errors_that_name_them() {
        let (_dir, path) = file("[worker]\nslotz = 3\n");
        let error = format!("{:#}", Settings::read(Some(&path), environment(&[])).unwrap_err());
        assert!(error.contains("slotz") && error.contains("groundling.toml"), "{error}");
        let (_dir, empty) = file("");
        let error = Settings::read(Some(&empty), environment(&[("GROUNDLING__NATS__ULR", "x")])).unwrap_err();
        assert!(format!("{error:#}").contains("GROUNDLING__NATS__ULR"), "{error:#}");
    }

    #[test]
    fn a_settings_file_that_was_named_must_be_there() {
        assert!(Settings::read(Some(Path::new("/nowhere/groundling.toml")), environment(&[])).is_err());
    }

    #[test]
    fn setup_needs_nothing_of_the_store_that_the_worker_needs() {
        let settings = Settings::default();
        assert!(settings.for_worker().unwrap_err().to_string().contains("s3.allow"));
        assert!(settings.for_setup().is_ok());
        let (_dir, path) = file("[nats]\nurl = \"\"\n[streams]\nreplicas = 2\n");
        let problems = Settings::read(Some(&path), environment(&[])).unwrap().for_setup().unwrap_err().to_string();
        assert!(problems.contains("nats.url") && problems.contains("streams.replicas"), "{problems}");
    }

    #[test]
    fn problems_of_the_worker_and_of_telemetry_are_reported_at_once() {
        let (_dir, path) = file("[telemetry]\nendpoint = \"collector\"\n");
        let error = Settings::read(Some(&path), environment(&[])).unwrap().for_worker().unwrap_err().to_string();
        assert!(error.contains("s3.allow") && error.contains("telemetry.endpoint"), "{error}");
    }

    #[test]
    fn settings_of_telemetry_are_read_from_variables_whatever_their_type() {
        let (_dir, empty) = file("");
        let variables = [
            ("GROUNDLING__TELEMETRY__HEADERS__AUTHORIZATION", "123"),
            ("GROUNDLING__TELEMETRY__PROTOCOL", "grpc"),
            ("GROUNDLING__TELEMETRY__SAMPLE_RATIO", "1"),
        ];
        let telemetry = Settings::read(Some(&empty), environment(&variables)).unwrap().telemetry;
        assert_eq!(telemetry.headers["authorization"].expose(), "123");
        assert_eq!((telemetry.protocol, telemetry.sample_ratio), (telemetry::settings::Protocol::Grpc, 1.0));
    }

    #[test]
    fn secrets_never_print() {
        let (_dir, path) = file("[s3]\naccess_key = \"AK\"\nsecret_key = \"hush\"\n[nats]\ntoken = \"hush\"\n");
        let settings = Settings::read(Some(&path), environment(&[])).unwrap();
        assert!(!format!("{settings:?}").contains("hush"));
    }
}
