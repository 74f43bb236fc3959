//! What the NATS server does not let this user do.
//!
//! A server answers a publication or a subscription without permission with an error of the whole connection, which comes
//! by itself, and the request it belongs to only times out. Here the two are brought together.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::oneshot;

/// One thing that is not permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    action: Action,
    subject: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Publish,
    Subscribe,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Publish => "publish",
            Action::Subscribe => "subscribe",
        };
        write!(f, "the NATS user has no permission to {action} to {}", self.subject)
    }
}

impl Refused {
    /// Reads the server's error; `None` if it is another one.
    fn parse(error: &str) -> Option<Self> {
        let lower = error.to_ascii_lowercase();
        let said = lower.strip_prefix("permissions violation for ")?;
        let action = match said.split(' ').next()? {
            "publish" => Action::Publish,
            "subscription" => Action::Subscribe,
            _ => return None,
        };
        let subject = error.split('"').nth(1)?.to_owned();
        Some(Self { action, subject })
    }

    /// Whether it is a request about this stream.
    pub(crate) fn concerns_stream(&self, stream: &str) -> bool {
        match self.action {
            Action::Publish => self.subject.split('.').any(|token| token == stream),
            Action::Subscribe => false,
        }
    }

    /// Whether it is the request for the account's limits.
    pub(crate) fn concerns_account(&self) -> bool {
        // The only request without a stream in its subject.
        self.action == Action::Publish && self.subject.ends_with(".INFO")
    }

    /// Whether it is a pull request to a consumer of this stream.
    pub fn is_pull_from(&self, stream: &str) -> bool {
        self.concerns_stream(stream) && self.subject.contains(".MSG.NEXT.")
    }

    fn is_inbox_of(&self, prefix: &str) -> bool {
        let rest = self.subject.strip_prefix(prefix);
        self.action == Action::Subscribe && rest.is_some_and(|rest| rest.starts_with('.'))
    }
}

/// Hears what is refused, and tells those who wait for it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    inbox_prefix: String,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    waiting: Vec<Waiting>,
    /// The inbox for all answers is subscribed to once for each connection, so it is refused once.
    inbox: Option<Refused>,
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heard").field("inbox", &self.inbox).finish_non_exhaustive()
    }
}

struct Waiting {
    concerns: Box<dyn Fn(&Refused) -> bool + Send>,
    tell: oneshot::Sender<Refused>,
}

impl Refusals {
    /// Those of a client with this prefix of inboxes.
    pub(crate) fn new(inbox_prefix: &str) -> Self {
        Self(Arc::new(Shared { inbox_prefix: inbox_prefix.to_owned(), heard: Mutex::default() }))
    }

    /// Takes an error of the connection in; `None` if it is no refusal. Else gives it, and whether somebody waited for it.
    pub(crate) fn hear(&self, error: &str) -> Option<(Refused, bool)> {
        let refused = Refused::parse(error)?;
        let mut heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_inbox = refused.is_inbox_of(&self.0.inbox_prefix);
        if is_inbox {
            heard.inbox = Some(refused.clone());
        }
        let (told, left) = heard.waiting.drain(..).partition(|waiting| is_inbox || (waiting.concerns)(&refused));
        heard.waiting = left;
        let told: Vec<Waiting> = told;
        let mut is_told = false;
        for waiting in told {
            is_told |= waiting.tell.send(refused.clone()).is_ok();
        }
        Some((refused, is_told))
    }

    /// A new connection has its own permissions.
    pub(crate) fn forget(&self) {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner).inbox = None;
    }

    /// Waits, from this call on, until something is refused that `concerns` the caller, or no answer can come at all.
    pub fn next(&self, concerns: impl Fn(&Refused) -> bool + Send + 'static) -> BoxFuture<'static, Refused> {
        let (tell, told) = oneshot::channel();
        let mut heard = self.0.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let known = heard.inbox.clone();
        heard.waiting.retain(|waiting| !waiting.tell.is_closed());
        heard.waiting.push(Waiting { concerns: Box::new(concerns), tell });
        Box::pin(async move {
            match known {
                Some(refused) => refused,
                None => match told.await {
                    Ok(refused) => refused,
                    // Dropped with all clones of this value: nothing will be heard any more.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }

    /// Waits for `request`, or for the word that it is refused.
    pub(crate) async fn unless_refused<T>(
        &self,
        concerns: impl Fn(&Refused) -> bool + Send + 'static,
        request: impl Future<Output = T>,
    ) -> Result<T, Refused> {
        let refused = self.next(concerns);
        tokio::select! {
            biased;
            answer = request => Ok(answer),
            refused = refused => Err(refused),
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
        let refusals = Refusals::new("_INBOX");
        let jobs = refusals.next(|refused| refused.concerns_stream("JOBS"));
        let other = refusals.next(|refused| refused.concerns_stream("OTHER"));
        assert!(matches!(refusals.hear(PUBLISH), Some((_, true))));
        let said = jobs.now_or_never().expect("it is told").to_string();
        assert_eq!(said, "the NATS user has no permission to publish to $JS.API.STREAM.INFO.JOBS");
        assert!(other.now_or_never().is_none());
        assert!(matches!(refusals.hear(PUBLISH), Some((_, false))), "nobody waits any more");
        assert_eq!(refusals.hear("stale connection"), None);
    }

    #[test]
    fn without_an_inbox_no_answer_can_come_until_the_next_connection() {
        let refusals = Refusals::new("_INBOX");
        let first = refusals.next(|_| false);
        assert!(matches!(refusals.hear(INBOX), Some((_, true))));
        assert!(first.now_or_never().is_some_and(|refused| refused.to_string().contains("subscribe to _INBOX.abc.*")));
        assert!(refusals.next(|_| false).now_or_never().is_some());
        refusals.forget();
        assert!(refusals.next(|_| false).now_or_never().is_none());
        let waiting = refusals.next(|_| false);
        assert!(matches!(refusals.hear("Permissions Violation for Subscription to \"_INBOX2.abc\""), Some((_, false))));
        assert!(waiting.now_or_never().is_none());
    }
}
