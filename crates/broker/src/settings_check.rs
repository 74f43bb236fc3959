//! Checks of the settings of connection and streams.

use std::time::Duration;

use crate::settings::{NatsSettings, StreamSettings};
use crate::stream_rules::SHORTEST_ACK_WAIT;
use crate::stream_sizes::size_problems;

impl NatsSettings {
    /// The addresses in `url`.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim).filter(|address| !address.is_empty())
    }

    /// The prefix of requests to JetStream.
    pub fn api_subject(&self) -> String {
        match (&self.jetstream_domain, &self.api_prefix) {
            (Some(domain), _) => format!("$JS.{domain}.API"),
            (None, Some(prefix)) => prefix.clone(),
            (None, None) => "$JS.API".to_owned(),
        }
    }

    /// All problems of this section, each one sentence that begins with the name of the setting.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        found.require(
            self.addresses().next().is_some(),
            "nats.url is empty: give the server's address, for example nats://127.0.0.1:4222",
        );
        for address in self.addresses() {
            match address.parse::<async_nats::ServerAddr>() {
                // The address may contain a password, so it is not printed.
                Ok(server) if server.has_user_pass() || address.contains('@') => {
                    found.add("nats.url contains a user or password, and addresses are logged: put them into nats.user and nats.password");
                }
                Ok(server) if server.is_websocket() => found.add(format!(
                    "nats.url: {address:?} is a WebSocket address, which is not supported: give one like nats://host:4222 or tls://host:4222"
                )),
                Ok(_) => {}
                Err(_) if address.contains('@') => {
                    found.add("nats.url cannot be read as an address like nats://host:4222")
                }
                Err(error) => found
                    .add(format!("nats.url: {address:?} cannot be read as an address like nats://host:4222: {error}")),
            }
        }
        found.require(
            self.user.is_some() == self.password.is_some(),
            "nats.user and nats.password belong together: set both or neither",
        );
        let ways = [self.user.is_some(), self.token.is_some(), self.nkey.is_some(), self.credentials_file.is_some()];
        found.require(
            ways.iter().filter(|given| **given).count() <= 1,
            "nats: more than one of user, token, nkey and credentials_file is given: keep the one that the server asks for",
        );
        found.require(
            self.tls.certificate_file.is_some() == self.tls.key_file.is_some(),
            "nats.tls.certificate_file and nats.tls.key_file belong together: set both or neither",
        );
        found.require(
            is_subject(&self.inbox_prefix),
            format!(
                "nats.inbox_prefix is {:?}: give a subject without wildcards, for example _INBOX",
                self.inbox_prefix
            ),
        );
        if let Some(domain) = &self.jetstream_domain {
            found.require(
                is_subject(domain) && !domain.contains('.'),
                format!(
                    "nats.jetstream_domain is {domain:?}: give the domain's name, without blanks, '.', '*' and '>'"
                ),
            );
        }
        if let Some(prefix) = &self.api_prefix {
            found.require(
                is_subject(prefix),
                format!("nats.api_prefix is {prefix:?}: give a subject without wildcards, for example JS.HUB.API"),
            );
        }
        found.require(
            self.jetstream_domain.is_none() || self.api_prefix.is_none(),
            "nats.jetstream_domain and nats.api_prefix exclude each other: remove one",
        );
        found.require_nonzero("nats.connect_timeout", self.connect_timeout);
        found.require_nonzero("nats.request_timeout", self.request_timeout);
        found.require_nonzero("nats.ping_interval", self.ping_interval);
        found.0
    }
}

impl StreamSettings {
    /// All problems of this section, each one sentence that begins with the name of the setting.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        let names = [
            ("streams.jobs", &self.jobs),
            ("streams.annotations", &self.annotations),
            ("streams.failed", &self.failed),
            ("streams.outcomes", &self.outcomes),
            ("streams.attempts", &self.attempts),
            ("streams.retries", &self.retries),
            ("streams.advisories", &self.advisories),
            ("streams.events", &self.events),
            ("streams.events_consumer", &self.events_consumer),
            ("streams.consumer", &self.consumer),
        ];
        for (setting, name) in names {
            let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
            found.require(
                !name.is_empty() && name.chars().all(legal),
                format!("{setting} is {name:?}: give a name without blanks, '.', '*', '>' and slashes"),
            );
        }
        found.require(
            self.jobs != self.annotations && self.jobs != self.failed && self.annotations != self.failed,
            "streams.jobs, streams.annotations and streams.failed must be three different names",
        );
        found.require(
            [1, 3, 5].contains(&self.replicas),
            format!("streams.replicas is {}: take 1, 3 or 5", self.replicas),
        );
        found.require(
            self.ack_wait >= SHORTEST_ACK_WAIT,
            "streams.ack_wait is below 3s: a busy worker could not send its progress acks in time",
        );
        for (setting, age) in [
            ("streams.annotations_max_age", self.annotations_max_age),
            ("streams.failed_max_age", self.failed_max_age),
            ("streams.outcomes_max_age", self.outcomes_max_age),
        ] {
            found.require(
                age.is_zero() || age >= self.duplicate_window,
                format!("{setting} is shorter than streams.duplicate_window, which NATS refuses: make it longer, or 0s to keep messages forever"),
            );
        }
        found.0.extend(size_problems(self));
        found.require(self.max_ack_pending > 0, "streams.max_ack_pending is not above 0: no job would be delivered");
        found.require(
            self.max_deliver == -1 || self.max_deliver > 0,
            format!("streams.max_deliver is {}: give a number above 0, or -1 for no maximum", self.max_deliver),
        );
        found.0
    }
}

/// Whether a string can be a prefix of subjects: tokens separated by dots, without wildcards.
fn is_subject(text: &str) -> bool {
    let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>');
    text.chars().all(legal) && text.split('.').all(|token| !token.is_empty())
}

/// Problems of settings, each one sentence that begins with the name of the setting.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<String>);

impl Problems {
    /// Adds a problem.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Adds a problem unless the condition holds.
    pub fn require(&mut self, holds: bool, problem: impl Into<String>) {
        if !holds {
            self.add(problem);
        }
    }

    /// Adds a problem if the duration is zero.
    pub fn require_nonzero(&mut self, setting: &str, duration: Duration) {
        self.require(!duration.is_zero(), format!("{setting} is zero: give a duration like \"10s\""));
    }
}
