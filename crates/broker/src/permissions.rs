//! Permission violations that the NATS server reports.
//!
//! A server answers a publish or a subscription without permission with an error of the whole connection. The request
//! itself only times out. [`PermissionViolations`] matches the two, so that a request fails at once and with its reason.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// A publish or a subscription that the server denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PermissionViolation {
    action: Action,
    subject: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Publish,
    Subscribe,
}

impl fmt::Display for PermissionViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        };
        write!(f, "the NATS user has no permission to {action} to {}", self.subject)
    }
}

impl PermissionViolation {
    /// Parses an error of the server; `None` if it is not a permission violation.
    fn parse(error: &str) -> Option<Self> {
        let lower = error.to_ascii_lowercase();
        let text = lower.strip_prefix("permissions violation for ")?;
        let action = match text.split(' ').next()? {
            "publish" => Action::Publish,
            "subscription" => Action::Subscribe,
            _ => return None,
        };
        let subject = error.split('"').nth(1)?.to_owned();
        Some(Self { action, subject })
    }

    /// Whether the denied subject is a request about this stream.
    pub fn is_about_stream(&self, stream: &str) -> bool {
        match self.action {
            Action::Publish => self.subject.split('.').any(|token| token == stream),
            Action::Subscribe => false,
        }
    }

    /// Whether the denied subject is the request for the account's limits.
    pub(crate) fn is_about_account(&self) -> bool {
        // The only request without a stream in its subject.
        self.action == Action::Publish && self.subject.ends_with(".INFO")
    }

    /// Whether the denied subject is a pull request to a consumer of this stream.
    pub fn is_pull_from(&self, stream: &str) -> bool {
        self.is_about_stream(stream) && self.subject.contains(".MSG.NEXT.")
    }

    pub(crate) fn is_publish_to(&self, subject: &str) -> bool {
        self.action == Action::Publish && self.subject == subject
    }

    fn is_inbox_of(&self, prefix: &str) -> bool {
        let rest = self.subject.strip_prefix(prefix);
        self.action == Action::Subscribe && rest.is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The permission violations of one connection, and the requests that wait for them. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct PermissionViolations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inbox_prefix: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiters: Vec<Waiter>,
    /// The client subscribes to its inbox once for each connection, so the server denies it once.
    inbox: Option<PermissionViolation>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}

struct Waiter {
    is_relevant: Box<dyn Fn(&PermissionViolation) -> bool + Send>,
    sender: oneshot::Sender<PermissionViolation>,
}

impl PermissionViolations {
    /// For a client with this inbox prefix.
    pub(crate) fn new(inbox_prefix: &str) -> Self {
        Self(Arc::new(Shared { inbox_prefix: inbox_prefix.to_owned(), state: Mutex::default() }))
    }

    /// Records an error of the connection; `None` if it is not a permission violation. Otherwise returns the violation,
    /// and whether a request waited for it.
    pub(crate) fn record(&self, error: &str) -> Option<(PermissionViolation, bool)> {
        let violation = PermissionViolation::parse(error)?;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_inbox = violation.is_inbox_of(&self.0.inbox_prefix);
        if is_inbox {
            state.inbox = Some(violation.clone());
        }
        let (notified, others): (Vec<Waiter>, Vec<Waiter>) =
            state.waiters.drain(..).partition(|waiter| is_inbox || (waiter.is_relevant)(&violation));
        state.waiters = others;
        let mut was_awaited = false;
        for waiter in notified {
            was_awaited |= waiter.sender.send(violation.clone()).is_ok();
        }
        Some((violation, was_awaited))
    }

    /// Forgets what an earlier connection was denied: a new one has its own permissions.
    pub(crate) fn clear(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).inbox = None;
    }

    /// Waits for the next violation that `is_relevant` accepts, counted from this call, or for a denied inbox: then no
    /// answer can arrive at all.
    pub fn next(
        &self,
        is_relevant: impl Fn(&PermissionViolation) -> bool + Send + 'static,
    ) -> BoxFuture<'static, PermissionViolation> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.inbox.clone();
        state.waiters.retain(|waiter| !waiter.sender.is_closed());
        state.waiters.push(Waiter { is_relevant: Box::new(is_relevant), sender });
        Box::pin(async move {
            match known {
                Some(violation) => violation,
                None => match receiver.await {
                    Ok(violation) => violation,
                    // Dropped with all clones of this value: nothing more will be recorded.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }

    /// Waits for `request`, or for the violation that denies it.
    pub(crate) async fn or_violation<T>(
        &self,
        is_relevant: impl Fn(&PermissionViolation) -> bool + Send + 'static,
        request: impl Future<Output = T>,
    ) -> Result<T, PermissionViolation> {
        let violation = self.next(is_relevant);
        tokio::select! {
            biased;
            answer = request => Ok(answer),
            violation = violation => Err(violation),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const PUBLISH: &str = "Permissions Violation for Publish to \"$JS.API.STREAM.INFO.JOBS\"";
    const INBOX: &str = "Permissions Violation for Subscription to \"_INBOX.abc.*\"";

    #[test]
    fn a_refusal_reaches_who_waits_for_it_and_nobody_else() {
        let violations = PermissionViolations::new("_INBOX");
        let jobs = violations.next(|violation| violation.is_about_stream("JOBS"));
        let other = violations.next(|violation| violation.is_about_stream("OTHER"));
        assert!(matches!(violations.record(PUBLISH), Some((_, true))));
        let said = jobs.now_or_never().expect("the waiter is notified").to_string();
        assert_eq!(said, "the NATS user has no permission to publish to $JS.API.STREAM.INFO.JOBS");
        assert!(other.now_or_never().is_none());
        assert!(matches!(violations.record(PUBLISH), Some((_, false))), "no waiter is left");
        assert_eq!(violations.record("stale connection"), None);
    }

    #[test]
    fn without_an_inbox_no_answer_can_come_until_the_next_connection() {
        let violations = PermissionViolations::new("_INBOX");
        let first = violations.next(|_| false);
        assert!(matches!(violations.record(INBOX), Some((_, true))));
        assert!(
            first.now_or_never().is_some_and(|violation| violation.to_string().contains("subscribe to _INBOX.abc.*"))
        );
        assert!(violations.next(|_| false).now_or_never().is_some());
        violations.clear();
        assert!(violations.next(|_| false).now_or_never().is_none());
        let waiting = violations.next(|_| false);
        assert!(matches!(
            violations.record("Permissions Violation for Subscription to \"_INBOX2.abc\""),
            Some((_, false))
        ));
        assert!(waiting.now_or_never().is_none());
    }
}
