//! Changing streams of an earlier version into those of this one: the stream of jobs holds the cursors of
//! `groundling enqueue` and takes atomic batches, and its consumer takes the jobs alone; the stream of failures has a
//! subject for each reason.

use async_nats::jetstream::consumer::{self, FromConsumer, pull};
use async_nats::jetstream::stream::{self, RetentionPolicy};
use wire::subjects::{CURSORS_WILDCARD, FAILED_WILDCARD, JOBS_FILTER};

use crate::api::{Broker, SetupError};
use crate::causes::causes;
use crate::settings::StreamSettings;
use crate::stream_rules::holds_reasons;

/// What is to be changed. Nothing else of the streams and the consumer changes, and no message is touched.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    /// First, so that no worker is given a cursor.
    consumer: Option<(String, pull::Config)>,
    stream: Option<stream::Config>,
    failed: Option<stream::Config>,
    steps: Vec<String>,
}

/// Why a migration cannot be planned or was not finished. It can be run again.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The stream or the consumer cannot be looked at.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The server has no atomic batches.
    #[error("the NATS server is older than 2.12, which is the first with atomic batches: upgrade it, then migrate")]
    OldServer,
    /// Another kind of stream.
    #[error("stream {0} is no work queue: it cannot be migrated, make it anew with `groundling setup`")]
    NoQueue(String),
    /// The server refused a change.
    #[error("{what} was not changed: {said}")]
    Refused {
        /// The stream or consumer.
        what: String,
        /// What the server said.
        said: String,
    },
}

impl Migration {
    /// Compares what is there with what this version needs. A stream that is not there needs no migration.
    ///
    /// # Errors
    /// [`MigrationError`], except `Refused`.
    pub async fn plan(broker: impl Into<Broker>, settings: &StreamSettings) -> Result<Self, MigrationError> {
        let broker = broker.into();
        let mut plan = Self::default();
        plan.change_jobs(&broker, settings).await?;
        plan.change_failed(&broker, settings).await?;
        Ok(plan)
    }

    async fn change_jobs(&mut self, broker: &Broker, settings: &StreamSettings) -> Result<(), MigrationError> {
        let plan = self;
        let (name, what) = (&settings.jobs, format!("stream {}", settings.jobs));
        let Some(found) = broker.request(&what, name, || broker.jetstream.get_stream(name)).await? else {
            return Ok(());
        };
        let mut config = found.cached_info().config.clone();
        let consumer_what = format!("consumer {}", settings.consumer);
        if let Some(info) =
            broker.request(&consumer_what, name, || found.consumer_info(settings.consumer.as_str())).await?
        {
            plan.filter_consumer(&consumer_what, &settings.consumer, info.config);
        }
        let has_cursors = config.subjects.iter().any(|subject| subject == CURSORS_WILDCARD);
        if !has_cursors {
            plan.steps.push(format!("{what}: add the subject {CURSORS_WILDCARD}"));
            config.subjects.push(CURSORS_WILDCARD.to_owned());
        }
        if !config.allow_atomic_publish {
            plan.steps.push(format!("{what}: allow atomic batches (allow_atomic)"));
        }
        if !has_cursors || !config.allow_atomic_publish {
            config.allow_atomic_publish = true;
            plan.stream = Some(config.clone());
        }
        if plan.steps.is_empty() {
            return Ok(());
        }
        if config.retention != RetentionPolicy::WorkQueue {
            return Err(MigrationError::NoQueue(name.clone()));
        }
        if !broker.jetstream.client().is_server_compatible(2, 12, 0) {
            return Err(MigrationError::OldServer);
        }
        Ok(())
    }

    /// The new subject includes that of earlier versions, so that their workers go on and stored failures stay.
    async fn change_failed(&mut self, broker: &Broker, settings: &StreamSettings) -> Result<(), MigrationError> {
        let (name, what) = (&settings.failed, format!("stream {}", settings.failed));
        let Some(found) = broker.request(&what, name, || broker.jetstream.get_stream(name)).await? else {
            return Ok(());
        };
        let config = &found.cached_info().config;
        if !holds_reasons(config) {
            // The server refuses subjects that overlap.
            let is_kept = |subject: &&String| !subject.starts_with("groundling.failed.");
            let mut subjects: Vec<_> = config.subjects.iter().filter(is_kept).cloned().collect();
            subjects.push(FAILED_WILDCARD.to_owned());
            self.steps.push(format!("{what}: replace the subject {} by {FAILED_WILDCARD}", config.subjects.join(", ")));
            self.failed = Some(stream::Config { subjects, ..config.clone() });
        }
        Ok(())
    }

    fn filter_consumer(&mut self, what: &str, name: &str, config: consumer::Config) {
        if !config.filter_subject.is_empty() || !config.filter_subjects.is_empty() {
            return;
        }
        if let Ok(mut config) = pull::Config::try_from_consumer_config(config) {
            config.filter_subject = JOBS_FILTER.to_owned();
            self.steps.push(format!("{what}: take the subjects {JOBS_FILTER} only"));
            self.consumer = Some((name.to_owned(), config));
        }
    }

    /// One line for each change, in order. Empty if there is nothing to do.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// Makes the changes. Workers can go on meanwhile.
    ///
    /// # Errors
    /// [`MigrationError::Refused`]; the changes before it stay.
    pub async fn apply(self, broker: impl Into<Broker>, settings: &StreamSettings) -> Result<(), MigrationError> {
        let jetstream = broker.into().jetstream;
        if let Some((name, config)) = self.consumer {
            let refused = |said| MigrationError::Refused { what: format!("consumer {name}"), said };
            jetstream
                .update_consumer_on_stream(config, settings.jobs.as_str())
                .await
                .map_err(|error| refused(causes(&error)))?;
        }
        for config in [self.stream, self.failed].into_iter().flatten() {
            let refused = |said| MigrationError::Refused { what: format!("stream {}", config.name), said };
            jetstream.update_stream(&config).await.map_err(|error| refused(causes(&error)))?;
        }
        Ok(())
    }
}
