//! Changes the streams of an earlier version: the jobs stream, so that it stores the records of `groundling enqueue` and
//! urgent jobs, and accepts atomic batches, with a consumer that is limited to jobs; the subjects of the failed and events
//! streams; the compression of the annotations; the retention of the retries.

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{self, FromConsumer, pull};
use async_nats::jetstream::stream::{self, Compression, RetentionPolicy};
use wire::subjects::{CURSORS_WILDCARD, FAILED_WILDCARD, JOBS_FILTER, RETRIES_WILDCARD, URGENT_WILDCARD};

use crate::api::{Broker, SetupError};
use crate::causes::causes;
use crate::delete::delete_message;
use crate::settings::StreamSettings;
use crate::stream_rules::holds_reasons;

/// The changes to make. Other settings of the stream and its consumer stay as they are, and so do all messages.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    /// Applied first, so that workers never receive cursors.
    consumer: Option<(String, pull::Config)>,
    stream: Option<stream::Config>,
    failed: Option<stream::Config>,
    annotations: Option<stream::Config>,
    events: Option<stream::Config>,
    /// The retries stream with the subjects that it should have.
    reopened: Option<stream::Config>,
    /// The stream that replaces the one of the same name, whose retention the server cannot change, and its consumer.
    retries: Option<(stream::Config, Option<pull::Config>)>,
    steps: Vec<String>,
    postponed: Vec<String>,
}

/// Why a migration could not be planned or completed. It can be run again.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The stream or the consumer cannot be read.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The server does not support atomic batches.
    #[error("the NATS server is older than 2.12 and has no atomic batches: upgrade the server, then migrate")]
    OldServer,
    /// The stream has another retention.
    #[error(
        "stream {0} is not a work queue and cannot be migrated: delete it and create it again with `groundling setup`"
    )]
    NoQueue(String),
    /// Retries were published to the stream while it was replaced.
    #[error("stream {0} received retries in the meantime and was not replaced: run `groundling setup --migrate` again")]
    NotEmpty(String),
    /// The server rejected a change.
    #[error("{what} could not be changed: {reason}")]
    Refused {
        /// The stream or consumer.
        what: String,
        /// The server's error.
        reason: String,
    },
}

impl Migration {
    /// Compares the stream and its consumer with what this version needs. If the stream does not exist, there is nothing
    /// to change.
    ///
    /// # Errors
    /// [`MigrationError`], except `Refused`.
    pub async fn plan(broker: impl Into<Broker>, settings: &StreamSettings) -> Result<Self, MigrationError> {
        let broker = broker.into();
        let mut plan = Self::default();
        plan.change_jobs(&broker, settings).await?;
        plan.change_failed(&broker, settings).await?;
        plan.change_annotations(&broker, settings).await?;
        plan.change_retries(&broker, settings).await?;
        Ok(plan)
    }

    /// Adds the change of the events stream to these subjects, those of the rules of `groundling ingest`.
    ///
    /// # Errors
    /// [`MigrationError::Setup`].
    pub async fn plan_events(
        &mut self,
        broker: impl Into<Broker>,
        settings: &StreamSettings,
        subjects: &[String],
    ) -> Result<(), MigrationError> {
        let (broker, name, what) = (broker.into(), &settings.events, format!("stream {}", settings.events));
        if subjects.is_empty() {
            return Ok(());
        }
        let Some(found) = broker.request(&what, name, || broker.jetstream.get_stream(name)).await? else {
            return Ok(());
        };
        let config = &found.cached_info().config;
        let missing: Vec<_> = subjects.iter().filter(|subject| !config.subjects.contains(subject)).collect();
        let unused: Vec<_> = config.subjects.iter().filter(|subject| !subjects.contains(subject)).collect();
        let steps = missing.iter().map(|subject| format!("{what}: add the subject {subject}"));
        self.steps.extend(steps.chain(unused.iter().map(|subject| format!("{what}: remove the subject {subject}"))));
        if !missing.is_empty() || !unused.is_empty() {
            self.events = Some(stream::Config { subjects: subjects.to_vec(), ..config.clone() });
        }
        Ok(())
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
        let before = config.clone();
        for subject in [CURSORS_WILDCARD, URGENT_WILDCARD] {
            if !config.subjects.iter().any(|found| found == subject) {
                plan.steps.push(format!("{what}: add the subject {subject}"));
                config.subjects.push(subject.to_owned());
            }
        }
        if !config.allow_atomic_publish {
            plan.steps.push(format!("{what}: allow atomic batches (allow_atomic)"));
            config.allow_atomic_publish = true;
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
        if config != before {
            plan.stream = Some(config);
        }
        Ok(())
    }

    /// The new subject includes those of earlier versions, so their workers keep running and stored failures stay.
    async fn change_failed(&mut self, broker: &Broker, settings: &StreamSettings) -> Result<(), MigrationError> {
        let (name, what) = (&settings.failed, format!("stream {}", settings.failed));
        let Some(found) = broker.request(&what, name, || broker.jetstream.get_stream(name)).await? else {
            return Ok(());
        };
        let config = &found.cached_info().config;
        if !holds_reasons(config) {
            // The server rejects subjects that overlap.
            let is_kept = |subject: &&String| !subject.starts_with("groundling.failed.");
            let mut subjects: Vec<_> = config.subjects.iter().filter(is_kept).cloned().collect();
            subjects.push(FAILED_WILDCARD.to_owned());
            let before = config.subjects.join(", ");
            self.steps.push(format!("{what}: replace the subject {before} with {FAILED_WILDCARD}"));
            self.failed = Some(stream::Config { subjects, ..config.clone() });
        }
        Ok(())
    }

    /// Earlier versions did not compress annotations. Stored messages are compressed when the server rewrites their files.
    async fn change_annotations(&mut self, broker: &Broker, settings: &StreamSettings) -> Result<(), MigrationError> {
        let (name, what) = (&settings.annotations, format!("stream {}", settings.annotations));
        let Some(found) = broker.request(&what, name, || broker.jetstream.get_stream(name)).await? else {
            return Ok(());
        };
        let (config, wanted) = (&found.cached_info().config, Compression::from(settings.annotations_compression));
        if *config.compression.as_ref().unwrap_or(&Compression::None) != wanted {
            self.steps.push(format!("{what}: set the compression to {wanted:?}"));
            self.annotations = Some(stream::Config { compression: Some(wanted), ..config.clone() });
        }
        Ok(())
    }

    /// The retries stream was a work queue in earlier versions. The server does not change that, so the stream is replaced as
    /// soon as it is empty.
    async fn change_retries(&mut self, broker: &Broker, settings: &StreamSettings) -> Result<(), MigrationError> {
        let (name, what) = (&settings.retries, format!("stream {}", settings.retries));
        let Some(found) = broker.request(&what, name, || broker.jetstream.get_stream(name)).await? else {
            return Ok(());
        };
        let (config, messages) = (&found.cached_info().config, found.cached_info().state.messages);
        if config.retention != RetentionPolicy::WorkQueue {
            return Ok(());
        }
        let subjects = vec![RETRIES_WILDCARD.to_owned()];
        if messages > 0 {
            // A migration that was killed has left it without them.
            if config.subjects != subjects {
                self.steps.push(format!("{what}: restore the subject {RETRIES_WILDCARD}"));
                self.reopened = Some(stream::Config { subjects, ..config.clone() });
            }
            self.postponed.push(format!(
                "{what} remains a work queue, because it is not empty (messages: {messages}): run `groundling setup --migrate` again when it is empty"
            ));
            return Ok(());
        }
        let consumer = settings.consumer.as_str();
        let info = broker.request(&format!("consumer {consumer}"), name, || found.consumer_info(consumer)).await?;
        let consumer = info.and_then(|info| pull::Config::try_from_consumer_config(info.config).ok());
        let wanted = stream::Config { retention: RetentionPolicy::Limits, subjects, ..config.clone() };
        self.steps.push(format!("{what}: replace it, which is empty, by one with the retention Limits"));
        self.retries = Some((wanted, consumer));
        Ok(())
    }

    fn filter_consumer(&mut self, what: &str, name: &str, config: consumer::Config) {
        if !config.filter_subject.is_empty() || !config.filter_subjects.is_empty() {
            return;
        }
        if let Ok(mut config) = pull::Config::try_from_consumer_config(config) {
            config.filter_subject = JOBS_FILTER.to_owned();
            self.steps.push(format!("{what}: limit to the subjects {JOBS_FILTER}"));
            self.consumer = Some((name.to_owned(), config));
        }
    }

    /// A line for each change, in the order in which [`Self::apply`] makes them. Empty if there is nothing to change.
    pub fn steps(&self) -> &[String] {
        &self.steps
    }

    /// A line for each change that cannot be made now.
    pub fn postponed(&self) -> &[String] {
        &self.postponed
    }

    /// Makes the changes. Workers can keep running.
    ///
    /// # Errors
    /// [`MigrationError::Setup`] if the user lacks a permission, [`MigrationError::Refused`] and
    /// [`MigrationError::NotEmpty`]. Changes that were made before the error stay.
    pub async fn apply(self, broker: impl Into<Broker>, settings: &StreamSettings) -> Result<(), MigrationError> {
        let broker = broker.into();
        let jetstream = &broker.jetstream;
        if let Some((name, config)) = self.consumer {
            let refused = |reason| MigrationError::Refused { what: format!("consumer {name}"), reason };
            jetstream
                .update_consumer_on_stream(config, settings.jobs.as_str())
                .await
                .map_err(|error| refused(causes(&error)))?;
        }
        for config in [self.stream, self.failed, self.annotations, self.events, self.reopened].into_iter().flatten() {
            let refused = |reason| MigrationError::Refused { what: format!("stream {}", config.name), reason };
            jetstream.update_stream(&config).await.map_err(|error| refused(causes(&error)))?;
        }
        match self.retries {
            Some((wanted, consumer)) => replace_retries(&broker, wanted, consumer).await,
            None => Ok(()),
        }
    }
}

/// Replaces the empty retries stream. It takes its subjects away first, so that no retry is stored between the check that it
/// is empty and its deletion; workers keep jobs in the jobs stream meanwhile.
async fn replace_retries(
    broker: &Broker,
    wanted: stream::Config,
    consumer: Option<pull::Config>,
) -> Result<(), MigrationError> {
    let jetstream = &broker.jetstream;
    let refused = |reason| MigrationError::Refused { what: format!("stream {}", wanted.name), reason };
    check_permissions(broker, &wanted.name).await?;
    let opened = stream::Config { retention: RetentionPolicy::WorkQueue, ..wanted.clone() };
    // A stream without subjects has its own name as its subject.
    let closed = stream::Config { subjects: Vec::new(), ..opened.clone() };
    jetstream.update_stream(&closed).await.map_err(|error| refused(causes(&error)))?;
    if let Err(error) = delete_empty(jetstream, &wanted).await {
        jetstream.update_stream(&opened).await.map_err(|error| refused(causes(&error)))?;
        return Err(error);
    }
    let created = jetstream.create_stream(wanted.clone()).await.map_err(|error| refused(causes(&error)))?;
    if let Some(consumer) = consumer {
        created.create_consumer(consumer).await.map_err(|error| refused(causes(&error)))?;
    }
    Ok(())
}

/// Deletes the closed stream if it has no retries.
async fn delete_empty(jetstream: &Context, stream: &stream::Config) -> Result<(), MigrationError> {
    let name = &stream.name;
    let refused = |reason| MigrationError::Refused { what: format!("stream {name}"), reason };
    // The servers of a cluster may have a retry that was sent before the stream was closed and is not stored yet. All such
    // retries are stored, or dropped, once a later message is.
    let marker = async { jetstream.publish(name.clone(), "".into()).await?.await };
    let marker = marker.await.map_err(|error| refused(causes(&error)))?.sequence;
    let found = jetstream.get_stream(name).await.map_err(|error| refused(causes(&error)))?;
    if found.cached_info().state.messages > 1 || found.cached_info().config.retention != RetentionPolicy::WorkQueue {
        let deleted = delete_message(jetstream, name, marker).await;
        deleted.map_err(|error| refused(causes(error.as_ref())))?;
        return Err(MigrationError::NotEmpty(name.clone()));
    }
    jetstream.delete_stream(name).await.map_err(|error| refused(causes(&error)))?;
    Ok(())
}

/// Finds out whether this user may do what replacing the stream takes, without changing anything.
async fn check_permissions(broker: &Broker, name: &str) -> Result<(), MigrationError> {
    let (what, jetstream) = (format!("stream {name}"), &broker.jetstream);
    // The server refuses a request to delete a stream if it has contents.
    let delete = format!("STREAM.DELETE.{name}");
    let request = jetstream.request::<_, _, serde_json::Value>(delete.clone(), "not empty");
    let answer = broker.if_permitted(&what, broker.api_subject(&delete), request).await?;
    answer.map_err(|error| MigrationError::Refused { what: what.clone(), reason: causes(&error) })?;
    // No stream takes it before this one is closed.
    let client = jetstream.client();
    match broker.if_permitted(&what, name.to_owned(), client.request(name.to_owned(), "".into())).await? {
        Err(error) if error.kind() != async_nats::client::RequestErrorKind::NoResponders => {
            Err(MigrationError::Refused { what, reason: causes(&error) })
        }
        _ => Ok(()),
    }
}
