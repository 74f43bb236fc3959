//! Settings: groundling.toml, then `GROUNDLING__SECTION__KEY`, then flags, each going before the last.

use std::path::{Path, PathBuf};

use anyhow::Context;
use config::{Config, Environment, File};
use engine::EngineOptions;
use serde::Deserialize;
use worker::settings::{NatsSettings, S3Settings, StreamSettings, WorkerSettings};
use worker::settings_check::SettingsProblems;

use crate::Misuse;
use crate::args::{ModelArgs, StoreArgs};

const DEFAULT_FILE: &str = "groundling.toml";

/// Everything that can be set.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) model: ModelSettings,
    pub(crate) engine: EngineSettings,
    pub(crate) nats: NatsSettings,
    pub(crate) streams: StreamSettings,
    pub(crate) s3: S3Settings,
    pub(crate) worker: WorkerSettings,
}

/// Which model, and where it computes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelSettings {
    /// Model directory.
    pub(crate) path: Option<PathBuf>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub(crate) device: String,
    /// `f32`, `bf16`, `int8` or `w8a8` on the CPU, `bf16`, `f16` or `f32` on CUDA, or `fastest`; left out: f32 on the
    /// CPU, bf16 on CUDA.
    pub(crate) dtype: Option<String>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self { path: None, device: "auto".into(), dtype: None }
    }
}

/// How prompts share the device.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EngineSettings {
    /// Prompts decoded at once; left out: as many as fit the device's memory, up to 16 on
    /// the CPU and 1024 on CUDA.
    pub(crate) slots: Option<usize>,
    /// Tokens that each of them has room for: picture, prompt and answer.
    pub(crate) slot_tokens: usize,
    /// Pictures that go through the vision tower together; left out: 8 on the CPU, 64 on CUDA.
    pub(crate) vision_batch: Option<usize>,
    /// Most prompt tokens of a step; more wait for the next one, so that running prompts do not wait long.
    /// Left out: 1024 on the CPU, 8192 on CUDA.
    pub(crate) prompt_tokens: Option<usize>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        let EngineOptions { slots, slot_tokens, vision_batch, prompt_tokens } = EngineOptions::default();
        Self { slots, slot_tokens, vision_batch, prompt_tokens }
    }
}

impl EngineSettings {
    pub(crate) fn options(&self) -> EngineOptions {
        let Self { slots, slot_tokens, vision_batch, prompt_tokens } = *self;
        EngineOptions { slots, slot_tokens, vision_batch, prompt_tokens }
    }
}

impl Settings {
    /// Reads the file and the environment.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        Self::read(file, Environment::with_prefix("GROUNDLING")).map_err(|error| Misuse(error).into())
    }

    fn read(file: Option<&Path>, environment: Environment) -> anyhow::Result<Self> {
        let (file, required) = (file.unwrap_or(Path::new(DEFAULT_FILE)), file.is_some());
        let environment = environment
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true)
            .list_separator(",")
            .with_list_parse_key("s3.allow");
        Config::builder()
            .add_source(File::from(file).required(required))
            .add_source(environment)
            .build()
            .and_then(Config::try_deserialize)
            .with_context(|| format!("the settings ({} and GROUNDLING__… variables) cannot be used", file.display()))
    }

    /// Lets flags go before.
    pub(crate) fn with_model(mut self, flags: &ModelArgs) -> Self {
        let model = &mut self.model;
        model.path = flags.model.clone().or(model.path.take());
        model.device = flags.device.clone().unwrap_or(std::mem::take(&mut model.device));
        model.dtype = flags.dtype.clone().or(model.dtype.take());
        self.engine.slots = flags.batch.or(self.engine.slots);
        self
    }

    /// Lets flags go before.
    pub(crate) fn with_stores(mut self, flags: &StoreArgs) -> Self {
        if let Some(url) = &flags.nats_url {
            self.nats.url.clone_from(url);
        }
        if let Some(endpoint) = &flags.s3_endpoint {
            self.s3.endpoint = Some(endpoint.clone());
        }
        self
    }

    /// The worker's part, checked: every problem is told at once.
    pub(crate) fn for_worker(&self) -> anyhow::Result<worker::settings::Settings> {
        let settings = worker::settings::Settings {
            nats: self.nats.clone(),
            streams: self.streams.clone(),
            s3: self.s3.clone(),
            worker: self.worker.clone(),
        };
        settings.validate().map_err(|problems| Misuse(problems.into()))?;
        Ok(settings)
    }

    /// What `setup` needs, checked alike; it reads no pictures, so nothing about S3 has to be set.
    pub(crate) fn for_setup(self) -> anyhow::Result<(NatsSettings, StreamSettings)> {
        let problems = [self.nats.problems(), self.streams.problems()].concat();
        if problems.is_empty() {
            Ok((self.nats, self.streams))
        } else {
            Err(Misuse(SettingsProblems(problems).into()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let source = variables.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Environment::with_prefix("GROUNDLING").source(Some(source))
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
    fn unknown_keys_are_errors_that_name_them() {
        let (_dir, path) = file("[worker]\nslotz = 3\n");
        let error = format!("{:#}", Settings::read(Some(&path), environment(&[])).unwrap_err());
        assert!(error.contains("slotz") && error.contains("groundling.toml"), "{error}");
        let (_dir, empty) = file("");
        let error = Settings::read(Some(&empty), environment(&[("GROUNDLING__NATS__ULR", "x")])).unwrap_err();
        assert!(format!("{error:#}").contains("ulr"), "{error:#}");
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
    fn secrets_never_print() {
        let (_dir, path) = file("[s3]\naccess_key = \"AK\"\nsecret_key = \"hush\"\n[nats]\ntoken = \"hush\"\n");
        let settings = Settings::read(Some(&path), environment(&[])).unwrap();
        assert!(!format!("{settings:?}").contains("hush"));
    }
}
