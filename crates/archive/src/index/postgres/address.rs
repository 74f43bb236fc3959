//! Addresses of PostgreSQL, and connections.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use broker::causes::causes;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, Connection, Socket};
use url::form_urlencoded;

use super::parameters;
use super::passwords::Passwords;
use super::tls::{Tls, TlsStream};
use crate::index::target::TargetError;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent data may stay unacknowledged, so that a server that vanished is noticed.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);
/// The server's default port.
const PORT: u16 = 5432;

/// A server, a database and how to connect. Does not print its password.
#[derive(Clone)]
pub struct Address {
    config: Config,
    tls: Tls,
    passwords: Passwords,
}

impl Address {
    /// Reads `postgres://…` or `host=… dbname=…` with the parameters of libpq. `sslmode` is `disable` or one of those that
    /// check the server's certificate: `require`, `verify-ca` and `verify-full` all mean the last one. Without it, TLS is
    /// used unless the server is on this machine. As with libpq, it does not apply to sockets.
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        let (mut mode, mut roots, mut passfile) = (None, None, None);
        // Whether the parameter is for this program: the client does not know it.
        let mut takes = |name: &str, value: &str| {
            match name {
                "sslmode" => mode = Some(value.to_owned()),
                "sslrootcert" => roots = Some(PathBuf::from(value)),
                "passfile" => passfile = Some(PathBuf::from(value)),
                _ => return false,
            }
            true
        };
        let text = match parameters::pairs(text) {
            Some(pairs) => {
                let pairs = pairs.map_err(|problem| TargetError::Address(problem.to_owned()))?;
                parameters::joined(pairs.into_iter().filter(|(name, value)| !takes(name, value)))
            }
            None => {
                let (text, query) = split(text);
                let rest = form_urlencoded::parse(query.as_bytes()).filter(|(name, value)| !takes(name, value));
                let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(rest).finish();
                if query.is_empty() { text.to_owned() } else { format!("{text}?{}", query.replace('+', "%20")) }
            }
        };
        let config = text.parse::<Config>();
        let mut config = config.map_err(|error| TargetError::Address(causes(&error)))?;
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        let is_local = config.get_hosts().iter().all(is_local);
        let is_socket = config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let mode = match mode.as_deref() {
            _ if is_socket => SslMode::Disable,
            Some("disable") => SslMode::Disable,
            Some("require" | "verify-ca" | "verify-full") => SslMode::Require,
            Some(other) => return Err(TargetError::SslMode(other.to_owned())),
            None if is_local && roots.is_none() => SslMode::Disable,
            None => SslMode::Require,
        };
        config.ssl_mode(mode);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        config
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("groundling index");
        }
        let tls = if mode == SslMode::Disable { Tls::unused()? } else { Tls::new(roots.as_deref())? };
        Ok(Self { config, tls, passwords: Passwords::new(passfile) })
    }

    /// Whether connections are encrypted.
    pub(crate) fn asks_for_tls(&self) -> bool {
        self.config.get_ssl_mode() != SslMode::Disable
    }

    /// Connects. The password is read each time, because it may have changed.
    pub(crate) async fn connect(
        &self,
    ) -> Result<(Client, Connection<Socket, TlsStream<Socket>>), tokio_postgres::Error> {
        let mut config = self.config.clone();
        if config.get_password().is_none() {
            let (host, port) = self.first_host();
            let user = config.get_user().unwrap_or_default();
            let database = config.get_dbname().unwrap_or(user);
            if let Some(password) = self.passwords.find([&host, &port.to_string(), database, user]) {
                config.password(password);
            }
        }
        config.connect(self.tls.clone()).await
    }

    fn first_host(&self) -> (String, u16) {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            // The name of local servers in files of passwords.
            Some(Host::Unix(_)) | None => "localhost".to_owned(),
        };
        (host, self.config.get_ports().first().copied().unwrap_or(PORT))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = self.first_host();
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        write!(f, "{host}:{port}")?;
        match self.config.get_dbname() {
            Some(database) => write!(f, "/{database}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The address and its parameters.
fn split(text: &str) -> (&str, &str) {
    // A password may contain a question mark.
    let start = text.find('@').filter(|at| text.get(*at..).is_some_and(|rest| rest.contains('?'))).unwrap_or(0);
    match text.get(start..).and_then(|rest| rest.find('?')) {
        Some(place) => (text.get(..start + place).unwrap_or(text), text.get(start + place + 1..).unwrap_or_default()),
        None => (text, ""),
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_left_out_only_on_this_machine_or_if_told_so() {
        let tls = |text: &str| Address::parse(text).map(|address| address.asks_for_tls());
        for local in ["postgres://u@localhost/d", "postgres://127.0.0.1:6543/d", "postgres://[::1]/d", "postgres:///d"]
        {
            assert!(!tls(local).unwrap(), "{local}");
            assert!(tls(&format!("{local}?sslmode=verify-full")).unwrap(), "{local}");
        }
        assert!(tls("postgres://db.example/d").unwrap());
        assert!(tls("postgres://localhost,db.example/d?sslmode=require").unwrap());
        assert!(!tls("postgres://db.example/d?connect_timeout=3&sslmode=disable").unwrap());
        for socket in
            ["postgres:///d?host=/tmp&sslmode=require", "postgres://%2Ftmp/d", "host=/tmp dbname=d sslmode=prefer"]
        {
            assert!(!tls(socket).unwrap(), "{socket}");
        }
        assert!(tls("host=db.example dbname=d").unwrap() && !tls("host = db.example sslmode = 'disable'").unwrap());
        for mode in ["prefer", "allow", "full"] {
            let error = tls(&format!("postgres://u:secret@db.example/d?sslmode={mode}")).unwrap_err().to_string();
            assert!(error.contains("use sslmode=verify-full") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn passwords_are_never_shown() {
        let address = Address::parse("postgres://u:se?cret@127.0.0.1:6543/d?application_name=a%20b").unwrap();
        assert_eq!(address.config.get_password(), Some(&b"se?cret"[..]));
        assert_eq!(address.config.get_application_name(), Some("a b"));
        assert_eq!(address.to_string(), "postgres://u@127.0.0.1:6543/d");
        assert_eq!(format!("{address:?}"), "postgres://u@127.0.0.1:6543/d");
        for bad in [
            "postgres://u:secret@h/d?colour=red",
            "postgres://u:secret@h:port/d",
            "postgres://u:secret@h/d?connect_timeout=soon",
        ] {
            let error = Address::parse(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
