//! What is wrong with settings of connection and streams, all of it at once.

use std::time::Duration;

use crate::settings::{NatsSettings, StreamSettings};
use crate::stream_rules::SHORTEST_ACK_WAIT;
use crate::stream_sizes::size_problems;

impl NatsSettings {
    /// The addresses in `url`, one by one.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.url.split(',').map(str::trim).filter(|address| !address.is_empty())
    }

    /// The subject below which JetStream takes requests.
    pub fn api_subject(&self) -> String {
        match (&self.jetstream_domain, &self.api_prefix) {
            (Some(domain), _) => format!("$JS.{domain}.API"),
            (None, Some(prefix)) => prefix.clone(),
            (None, None) => "$JS.API".to_owned(),
        }
    }

    /// What is wrong with this section.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Problems::default();
        found.unless(
            self.addresses().next().is_some(),
            "nats.url is empty: give the server's address, for example nats://127.0.0.1:4222",
        );
        for address in self.addresses() {
            match address.parse::<async_nats::ServerAddr>() {
                // The address itself may hold the secret, so it is not repeated.
                Ok(server) if server.has_user_pass() || address.contains('@') => {
                    found.add("nats.url holds a user or password, and addresses get logged: put them into nats.user and nats.password");
                }
                Ok(server) if server.is_websocket() => found.add(format!(
                    "nats.url: {address:?} is an address for WebSockets, which workers do not speak: give the server's own, nats://host:4222 or tls://host:4222"
                )),
                Ok(_) => {}
                Err(_) if address.contains('@') => {
                    found.add("nats.url cannot be read as an address like nats://host:4222")
                }
                Err(error) => found
                    .add(format!("nats.url: {address:?} cannot be read as an address like nats://host:4222: {error}")),
            }
        }
        found.unless(
            self.user.is_some() == self.password.is_some(),
            "nats.user and nats.password are only of use together: give both or neither",
        );
        let ways = [self.user.is_some(), self.token.is_some(), self.nkey.is_some(), self.credentials_file.is_some()];
        found.unless(
            ways.iter().filter(|given| **given).count() <= 1,
            "nats: more than one of user, token, nkey and credentials_file is given: keep the one that the server asks for",
        );
        found.unless(
            self.tls.certificate_file.is_some() == self.tls.key_file.is_some(),
            "nats.tls.certificate_file and nats.tls.key_file are only of use together: give both or neither",
        );
        found.unless(
            is_subject(&self.inbox_prefix),
            format!(
                "nats.inbox_prefix is {:?}: give a subject without wildcards, for example _INBOX",
                self.inbox_prefix
            ),
        );
        if let Some(domain) = &self.jetstream_domain {
            found.unless(
                is_subject(domain) && !domain.contains('.'),
                format!(
                    "nats.jetstream_domain is {domain:?}: give the domain's name, without blanks, '.', '*' and '>'"
                ),
            );
        }
        if let Some(prefix) = &self.api_prefix {
            found.unless(
                is_subject(prefix),
                format!("nats.api_prefix is {prefix:?}: give a subject without wildcards, for example JS.HUB.API"),
            );
        }
        found.unless(
            self.jetstream_domain.is_none() || self.api_prefix.is_none(),
            "nats.jetstream_domain and nats.api_prefix exclude each other: keep one",
        );
        found.positive("nats.connect_timeout", self.connect_timeout);
        found.positive("nats.request_timeout", self.request_timeout);
        found.positive("nats.ping_interval", self.ping_interval);
        found.0
    }
}

impl StreamSettings {
    /// What is wrong with this section.
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
            ("streams.consumer", &self.consumer),
        ];
        for (setting, name) in names {
            let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
            found.unless(
                !name.is_empty() && name.chars().all(legal),
                format!("{setting} is {name:?}: give a name without blanks, '.', '*', '>' and slashes"),
            );
        }
        found.unless(
            self.jobs != self.annotations && self.jobs != self.failed && self.annotations != self.failed,
            "streams.jobs, streams.annotations and streams.failed must be three different names",
        );
        found.unless(
            [1, 3, 5].contains(&self.replicas),
            format!("streams.replicas is {}: take 1, 3 or 5", self.replicas),
        );
        found.unless(
            self.ack_wait >= SHORTEST_ACK_WAIT,
            "streams.ack_wait is below 3s: a busy worker could not give its signs of life in time",
        );
        for (setting, age) in [
            ("streams.annotations_max_age", self.annotations_max_age),
            ("streams.failed_max_age", self.failed_max_age),
            ("streams.outcomes_max_age", self.outcomes_max_age),
        ] {
            found.unless(
                age.is_zero() || age >= self.duplicate_window,
                format!("{setting} is shorter than streams.duplicate_window, which NATS refuses: make it longer, or 0s for ever"),
            );
        }
        found.0.extend(size_problems(self));
        found.unless(
            self.max_ack_pending > 0,
            "streams.max_ack_pending is not above 0: no job would ever be handed out",
        );
        found.unless(
            self.max_deliver == -1 || self.max_deliver > 0,
            format!("streams.max_deliver is {}: give a number above 0, or -1 for no end", self.max_deliver),
        );
        found.0
    }
}

/// Whether a text can be the beginning of a subject: tokens between dots, and no wildcard.
fn is_subject(text: &str) -> bool {
    let legal = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>');
    text.chars().all(legal) && text.split('.').all(|token| !token.is_empty())
}

/// Problems found in settings, each one sentence that begins with the name of the setting.
#[derive(Debug, Default)]
pub struct Problems(pub Vec<String>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Adds one, unless all is well.
    pub fn unless(&mut self, fine: bool, problem: impl Into<String>) {
        if !fine {
            self.add(problem);
        }
    }

    /// Adds one for a duration of zero.
    pub fn positive(&mut self, setting: &str, duration: Duration) {
        self.unless(!duration.is_zero(), format!("{setting} is zero: give a duration like \"10s\""));
    }
}
