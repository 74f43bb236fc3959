//! Which permissions of a worker the NATS server denies, found without changing anything.
//!
//! The server checks the permission to publish before it looks at a message, so messages that change nothing show it:
//! those to a stream name another stream, which makes the server refuse them, and requests to JetStream are malformed or
//! concern messages that do not exist.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::client::PublishError;
use async_nats::header::NATS_EXPECTED_STREAM;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use wire::subjects::{
    ANNOTATIONS_WILDCARD, ATTEMPTS_WILDCARD, FAILED_WILDCARD, OUTCOMES_WILDCARD, RETRIES_WILDCARD, attempts_subject,
};

use crate::connection::Connection;
use crate::permissions::PermissionViolation;
use crate::settings::{NatsSettings, StreamSettings};

/// A name that no stream has, and that no dataset should have.
const NAME: &str = "groundling-dry-run";
/// Not JSON, but the beginning of an object, so that no request takes it for an empty one.
const MALFORMED: &str = "{";
/// How long a violation may take to be recorded after the answer to a later request.
const RECORDED_WITHIN: Duration = Duration::from_millis(300);

/// A message that shows whether a permission is there.
struct Probe {
    subject: String,
    payload: Bytes,
    headers: HeaderMap,
}

impl Probe {
    fn request(subject: String, payload: impl Into<Bytes>) -> Self {
        Self { subject, payload: payload.into(), headers: HeaderMap::new() }
    }

    /// A message to a stream, which refuses it because it is meant for another one.
    fn refused(subject: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, NAME);
        Self { subject, payload: Bytes::new(), headers }
    }
}

/// The probes that were sent.
pub struct PermissionProbe {
    waiting: Vec<BoxFuture<'static, PermissionViolation>>,
}

impl PermissionProbe {
    /// Sends a message for every permission of a worker.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(
        connection: &Connection,
        nats: &NatsSettings,
        streams: &StreamSettings,
    ) -> Result<Self, PublishError> {
        let mut waiting = Vec::new();
        for Probe { subject, payload, headers } in probes(&nats.api_subject(), streams) {
            let denied = subject.clone();
            waiting.push(connection.permission_violations().next(move |violation| violation.is_publish_to(&denied)));
            connection.client.publish_with_headers(subject, headers, payload).await?;
        }
        Ok(Self { waiting })
    }

    /// The number of permissions that are checked.
    pub fn count(&self) -> usize {
        self.waiting.len()
    }

    /// The permissions that the server denied. Call it after the answer to a request that was sent later.
    pub async fn denied(self) -> Vec<PermissionViolation> {
        tokio::time::sleep(RECORDED_WITHIN).await;
        let mut denied: Vec<PermissionViolation> =
            self.waiting.into_iter().filter_map(FutureExt::now_or_never).collect();
        // A denied inbox is reported for each of them.
        denied.dedup();
        denied
    }
}

/// The messages for all permissions of deploy/nats/worker-permissions.conf.
fn probes(api: &str, streams: &StreamSettings) -> Vec<Probe> {
    let StreamSettings { jobs, annotations, failed, outcomes, attempts, retries, advisories, consumer, .. } = streams;
    let written = [ANNOTATIONS_WILDCARD, FAILED_WILDCARD, OUTCOMES_WILDCARD, ATTEMPTS_WILDCARD, RETRIES_WILDCARD];
    let mut probes: Vec<Probe> = written.map(|subjects| Probe::refused(subjects.replace(['*', '>'], NAME))).into();
    let mut request = |subject: String, payload: String| probes.push(Probe::request(subject, payload));
    for stream in [jobs, annotations, failed, outcomes, attempts, retries, advisories] {
        request(format!("{api}.STREAM.INFO.{stream}"), String::new());
    }
    let urgent_consumer = &streams.urgent_consumer();
    for (stream, consumer) in [(jobs, consumer), (jobs, urgent_consumer), (retries, consumer), (advisories, consumer)] {
        request(format!("{api}.CONSUMER.INFO.{stream}.{consumer}"), String::new());
        request(format!("{api}.CONSUMER.MSG.NEXT.{stream}.{consumer}"), MALFORMED.to_owned());
        // Progress of message 0, which does not exist.
        request(format!("$JS.ACK.{stream}.{consumer}.1.0.0.0.0"), "+WPI".to_owned());
    }
    for stream in [jobs, retries, outcomes, attempts, annotations, failed] {
        request(format!("{api}.STREAM.MSG.GET.{stream}"), MALFORMED.to_owned());
    }
    for stream in [jobs, retries, attempts] {
        request(format!("{api}.STREAM.MSG.DELETE.{stream}"), MALFORMED.to_owned());
    }
    // Of message 0, which does not exist.
    request(format!("{api}.STREAM.PURGE.{attempts}"), format!("{{\"filter\":\"{}\"}}", attempts_subject(0, 0)));
    for stream in [annotations, failed] {
        request(format!("{api}.CONSUMER.CREATE.{stream}.{NAME}"), MALFORMED.to_owned());
        request(format!("{api}.CONSUMER.MSG.NEXT.{stream}.{NAME}"), MALFORMED.to_owned());
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_of_deploy_is_probed_and_no_other() {
        let conf = include_str!("../../../deploy/nats/worker-permissions.conf");
        let allowed: Vec<&str> =
            conf.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"')).collect();
        assert!(allowed.len() > 20, "{allowed:?}");
        let fits = |allowed: &str, subject: &str| {
            let (mut allowed, mut subject) = (allowed.split('.'), subject.split('.'));
            loop {
                match (allowed.next(), subject.next()) {
                    (Some(">"), Some(_)) | (None, None) => return true,
                    (Some(pattern), Some(token)) if pattern == "*" || pattern == token => {}
                    _ => return false,
                }
            }
        };
        let probes = probes("$JS.API", &StreamSettings::default());
        for allowed in &allowed {
            // Acknowledgements with a domain have subjects that the server chooses.
            let is_probed = probes.iter().any(|probe| fits(allowed, &probe.subject));
            assert!(is_probed || allowed.starts_with("$JS.ACK.*"), "{allowed}");
        }
        for probe in &probes {
            assert!(allowed.iter().any(|allowed| fits(allowed, &probe.subject)), "{}", probe.subject);
        }
    }
}
