//! Who may send events to the webhook server.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use wire::identity::sha256_hex;

use crate::ingest::settings::EventsSettings;

/// The accepted credentials.
#[derive(Debug, Clone)]
pub(in crate::ingest) struct Access {
    /// Their digests. All have the same length, so that a comparison takes the same time whatever was sent.
    accepted: Vec<String>,
}

impl Access {
    pub(in crate::ingest) fn new(settings: &EventsSettings) -> Self {
        let token = settings.token.as_ref().map(|token| digest("bearer", token.expose()));
        let password = settings.user.as_ref().zip(settings.password.as_ref());
        let password = password.map(|(user, password)| digest("basic", &format!("{user}:{}", password.expose())));
        Self { accepted: token.into_iter().chain(password).collect() }
    }

    /// Whether everyone may send events.
    pub(in crate::ingest) fn is_open(&self) -> bool {
        self.accepted.is_empty()
    }

    /// Whether these headers have accepted credentials.
    pub(super) fn allows(&self, headers: &HeaderMap) -> bool {
        self.is_open() || sent(headers).is_some_and(|sent| self.accepts(&sent))
    }

    fn accepts(&self, sent: &str) -> bool {
        // Compares with all of them, and to the end.
        self.accepted.iter().fold(false, |found, accepted| {
            let different = accepted.bytes().zip(sent.bytes()).fold(0, |different, (a, b)| different | (a ^ b));
            found | (std::hint::black_box(different) == 0)
        })
    }
}

/// The digest of the credentials in the headers.
fn sent(headers: &HeaderMap) -> Option<String> {
    let (scheme, credentials) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let credentials = credentials.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(digest("bearer", credentials));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(BASE64_STANDARD.decode(credentials).ok()?).ok()?;
        return Some(digest("basic", &decoded));
    }
    None
}

fn digest(scheme: &str, credentials: &str) -> String {
    sha256_hex(format!("{scheme} {credentials}").as_bytes())
}

#[cfg(test)]
mod tests {
    use broker::settings::Secret;

    use super::*;

    fn allows(access: &Access, value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        access.allows(&headers)
    }

    #[test]
    fn only_the_token_and_the_password_are_accepted() {
        let access = Access::new(&EventsSettings {
            token: Some(Secret::new("t0ken")),
            user: Some("u".into()),
            password: Some(Secret::new("p:w")),
            ..EventsSettings::default()
        });
        for good in ["Bearer t0ken", "bearer  t0ken", "Basic dTpwOnc=", "BASIC dTpwOnc="] {
            assert!(allows(&access, good), "{good}");
        }
        for bad in [
            "Bearer t0keN",
            "Bearer ",
            "Bearer t0ken2",
            "t0ken",
            "Basic dTpw",
            "Basic !",
            "Basic t0ken",
            "Digest t0ken",
        ] {
            assert!(!allows(&access, bad), "{bad}");
        }
        assert!(!access.is_open() && !access.allows(&HeaderMap::new()));
    }

    #[test]
    fn without_credentials_in_the_settings_everyone_is_accepted() {
        let access = Access::new(&EventsSettings::default());
        assert!(access.is_open() && access.allows(&HeaderMap::new()) && allows(&access, "Bearer x"));
    }
}
