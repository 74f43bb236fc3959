//! The connection to NATS.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, Server, ServerError, jetstream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{RwLock, RwLockReadGuard, watch};

use crate::api::Broker;
use crate::backoff::{Backoff, Delays};
use crate::causes::causes;
use crate::outages::Outages;
use crate::permissions::PermissionViolations;
use crate::settings::NatsSettings;

/// Delays between the attempts to make the first connection.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
/// How long to wait for the connection to another server.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the client's state is polled while it is not connected: its event comes a moment before its state changes.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why a connection cannot be made. The text includes all causes, so they are not sources of the error as well: they
/// would be printed twice.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The credentials file cannot be used.
    #[error("the NATS credentials file {path} cannot be used: {cause}")]
    Credentials {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: std::io::Error,
    },
    /// A file of the TLS settings cannot be read, or does not have the expected contents.
    #[error("the file {path} of nats.tls cannot be used: {cause}")]
    TlsFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: std::io::Error,
    },
    /// The server does not answer, or rejects the client.
    #[error(
        "no connection to NATS at {url}: {}; check nats.url and the credentials, and that the server runs",
        causes(cause)
    )]
    Connect {
        /// The addresses that were tried.
        url: String,
        /// What went wrong.
        cause: async_nats::ConnectError,
    },
}

impl ConnectionError {
    /// Whether another attempt may succeed: no server answered, or a name could not be resolved. Rejected credentials and
    /// untrusted certificates are permanent.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { cause, .. } => match cause.kind() {
                ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io => !is_tls_error(cause),
                _ => false,
            },
            Self::Credentials { .. } | Self::TlsFile { .. } => false,
        }
    }
}

/// Whether a client error means that a server rejected the credentials. The client's event has only the text of the
/// error's kind.
fn is_rejection(error: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| kind.to_string() == error)
}

/// Whether TLS failed: a rejected certificate shows as an I/O error when the first bytes are read.
fn is_tls_error(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // The error inside an I/O error is not one of its sources.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls_error(inner)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A connection that also knows whether its server is about to shut down (lame duck mode), which permissions it denied,
/// and how often the connection was made.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The NATS client.
    pub client: Client,
    events: Events,
    /// Read by pull requests, written while moving to another server.
    pulls: Arc<RwLock<()>>,
}

/// What the client's events said about the connection.
#[derive(Debug, Clone, Default)]
struct Events {
    /// Whether the server has announced its shutdown.
    lame_duck: Arc<watch::Sender<bool>>,
    /// Notified when the connection is made or lost.
    changed: Arc<watch::Sender<()>>,
    violations: PermissionViolations,
    /// Since when servers have rejected the credentials, if that is why there is no connection.
    rejected_since: Arc<watch::Sender<Option<Instant>>>,
    outages: Outages,
}

impl Events {
    fn record(&self, event: &Event) {
        match event {
            Event::LameDuckMode => drop(self.lame_duck.send_replace(true)),
            Event::Connected => {
                self.lame_duck.send_replace(false);
                self.violations.clear();
                self.rejected_since.send_replace(None);
                self.changed.send_replace(());
            }
            Event::ClientError(ClientError::Other(error)) if is_rejection(error) => {
                self.rejected_since.send_modify(|since| {
                    since.get_or_insert_with(Instant::now);
                });
            }
            Event::Disconnected => self.changed.send_replace(()),
            _ => {}
        }
    }
}

impl Connection {
    /// JetStream on this connection, for [`setup`](crate::setup::setup): a denied request fails with the missing
    /// permission.
    pub fn broker(&self, settings: &NatsSettings) -> Broker {
        Broker::new(jetstream(&self.client, settings), self.events.violations.clone(), settings.api_subject())
    }

    /// The permissions that the server denied.
    pub fn permission_violations(&self) -> &PermissionViolations {
        &self.events.violations
    }

    /// Whether the client is connected. A server that stops responding is detected by pings.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The number of the current connection, as [`number`] returns it.
    pub fn number(&self) -> u64 {
        number(&self.client)
    }

    /// Waits until the client is connected, and returns the number of the connection.
    pub async fn wait_until_up(&self) -> u64 {
        let mut changed = self.events.changed.subscribe();
        while !self.is_connected() {
            // `changed` fails only without a sender, which `self` holds. A missed event costs one interval.
            drop(tokio::time::timeout(POLL_INTERVAL, changed.changed()).await);
        }
        self.number()
    }

    /// Waits until the current connection is not the one with this number.
    pub async fn reconnected(&self, number: u64) {
        drop(self.events.changed.subscribe().wait_for(|()| self.number() != number).await);
    }

    /// Waits until servers have rejected the credentials for this long without a successful connection in between. Zero
    /// waits forever.
    pub fn credentials_refused_for(&self, limit: Duration) -> impl Future<Output = ()> + use<> {
        let mut rejected_since = self.events.rejected_since.subscribe();
        async move {
            loop {
                let since = *rejected_since.borrow_and_update();
                let deadline = since.filter(|_| !limit.is_zero()).and_then(|since| since.checked_add(limit));
                let changed = async {
                    if rejected_since.changed().await.is_err() {
                        // The client is gone.
                        std::future::pending().await
                    }
                };
                match deadline {
                    None => changed.await,
                    Some(deadline) => tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(deadline.into()) => return,
                    },
                }
            }
        }
    }

    /// Waits until the server announces its shutdown (lame duck mode).
    pub async fn lame_duck_announced(&self) {
        // Fails only without a sender, which `self` holds.
        drop(self.events.lame_duck.subscribe().wait_for(|lame_duck| *lame_duck).await);
    }

    /// Held while jobs may be on their way to this client, so that no intake closes the connection during a pull of the
    /// other.
    pub async fn pull_guard(&self) -> RwLockReadGuard<'_, ()> {
        self.pulls.read().await
    }

    /// Connects to another server of the cluster if the current one has announced its shutdown. Waits for all
    /// [`pull_guard`](Self::pull_guard)s, since messages on their way would be lost. Without another server, the
    /// connection stays until the server closes it, and is then made again.
    pub async fn leave_lame_duck_server(&self) {
        let _no_pull = self.pulls.write().await;
        if !self.events.lame_duck.send_replace(false) {
            return;
        }
        match self.client.server_pool().await {
            Ok(servers) if servers.len() > 1 => {
                tracing::info!("the NATS server is shutting down: connecting to another one");
                // What was published so far still goes to this server.
                if let Err(error) = self.client.flush().await {
                    tracing::debug!(%error, "could not flush to the server that is shutting down");
                }
                let number = self.number();
                if let Err(error) = self.client.force_reconnect().await {
                    tracing::debug!(%error, "could not reconnect");
                }
                // What is published before the new connection can be lost with the old one.
                drop(tokio::time::timeout(RECONNECT_TIMEOUT, self.reconnected(number)).await);
            }
            _ => tracing::info!(
                "the NATS server is shutting down and no other server is known: keeping the connection until the server closes it"
            ),
        }
    }
}

/// The number of a client's current connection, counted from 1. The server forgets the requests of earlier ones.
pub fn number(client: &Client) -> u64 {
    client.statistics().connects.load(Ordering::Relaxed)
}

/// Like [`open`], but retries while no server answers. `on_error` is called for the first failed attempt, and whenever
/// the error changes.
///
/// # Errors
/// [`ConnectionError`], if another attempt cannot succeed ([`ConnectionError::is_temporary`]).
pub async fn connect_with_retries(
    settings: &NatsSettings,
    name: &str,
    mut on_error: impl FnMut(&ConnectionError),
) -> Result<Connection, ConnectionError> {
    let (mut delays, mut reported) = (Delays::of(RECONNECT), String::new());
    loop {
        let error = match open(settings, name).await {
            Ok(connection) => return Ok(connection),
            Err(error) if !error.is_temporary() => return Err(error),
            Err(error) => error,
        };
        let text = error.to_string();
        if text != reported {
            on_error(&error);
            reported = text;
        }
        tokio::time::sleep(delays.after_failure()).await;
    }
}

/// Connects to NATS. A connection that is lost later is made again for as long as the client lives.
///
/// `name` identifies the client in the server's monitoring.
///
/// ```no_run
/// use broker::connection::{connect, jetstream};
/// use broker::settings::NatsSettings;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = NatsSettings { url: "nats://127.0.0.1:4222".to_owned(), ..NatsSettings::default() };
/// let client = connect(&settings, "my program").await?;
/// let context = jetstream(&client, &settings);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`ConnectionError`]. The first connection is not retried, so a wrong address fails at once.
pub async fn connect(settings: &NatsSettings, name: &str) -> Result<Client, ConnectionError> {
    Ok(open(settings, name).await?.client)
}

/// Like [`connect`], but returns the connection with what its events report.
///
/// # Errors
/// [`ConnectionError`], as for [`connect`].
pub async fn open(settings: &NatsSettings, name: &str) -> Result<Connection, ConnectionError> {
    let events = Events { violations: PermissionViolations::new(&settings.inbox_prefix), ..Events::default() };
    let options = options(settings, name, events.clone()).await?;
    let addresses: Vec<&str> = settings.addresses().collect();
    let servers: Vec<async_nats::ServerAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    match options.connect(servers).await {
        Ok(client) => Ok(Connection { client, events, pulls: Arc::default() }),
        Err(cause) => Err(ConnectionError::Connect { url: addresses.join(", "), cause }),
    }
}

/// JetStream on a connection, with the settings' request timeout, domain and API prefix.
pub fn jetstream(client: &Client, settings: &NatsSettings) -> jetstream::Context {
    let context = jetstream::ContextBuilder::new().timeout(settings.request_timeout);
    match (&settings.jetstream_domain, &settings.api_prefix) {
        (Some(domain), _) => context.domain(domain).build(client.clone()),
        (None, Some(prefix)) => context.api_prefix(prefix).build(client.clone()),
        (None, None) => context.build(client.clone()),
    }
}

async fn options(settings: &NatsSettings, name: &str, events: Events) -> Result<ConnectOptions, ConnectionError> {
    let outages = events.outages.clone();
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(settings.connect_timeout)
        .request_timeout(Some(settings.request_timeout))
        .ping_interval(settings.ping_interval)
        .custom_inbox_prefix(settings.inbox_prefix.clone())
        .require_tls(settings.tls.required)
        // The client's events have no address and no cause. It is asked for a server before each attempt, and chooses one
        // itself if there is no answer.
        .reconnect_to_server_callback(move |servers, _| {
            let errors = servers
                .into_iter()
                .map(|Server { addr, last_error, .. }| (format!("{}:{}", addr.host(), addr.port()), last_error));
            if let Some(cause) = outages.new_cause(&errors.collect::<Vec<_>>()) {
                tracing::warn!("the connection to NATS is lost, and a new one cannot be made: {cause}; trying again");
            }
            std::future::ready(None)
        })
        .event_callback(move |event| {
            // Synchronously and in order: an event of the last server must not be taken for one of the next.
            events.record(&event);
            let violation = match &event {
                Event::ServerError(ServerError::Other(error)) => events.violations.record(error),
                _ => None,
            };
            let (mut downtime, mut is_failed_attempt) = (None, false);
            match &event {
                Event::Disconnected => events.outages.begin(),
                Event::Connected => downtime = events.outages.end(),
                Event::ClientError(ClientError::Other(kind)) => is_failed_attempt = events.outages.attempt_failed(kind),
                _ => {}
            }
            async move {
                match (event, violation) {
                    // The request that waited for it reports it.
                    (_, Some((violation, true))) => tracing::debug!("{violation}"),
                    (_, Some((violation, false))) => tracing::warn!("{violation}: add it to the user's permissions"),
                    (Event::Connected, _) => match downtime {
                        None => tracing::info!("connected to NATS"),
                        Some(time) => tracing::info!("connected to NATS again after {:.1} s", time.as_secs_f64()),
                    },
                    (Event::Draining | Event::Closed, _) => tracing::info!("closing the connection to NATS"),
                    (Event::Disconnected, _) => tracing::debug!("the connection to NATS is lost"),
                    (event, _) if is_failed_attempt => tracing::debug!("an attempt to connect to NATS failed: {event}"),
                    (other, _) => tracing::warn!("the NATS client reports: {other}"),
                }
            }
        });
    if settings.tls.first {
        options = options.tls_first();
    }
    if let Some(file) = &settings.tls.ca_file {
        options = options.add_root_certificates(with_certificate(file).await?);
    }
    if let (Some(certificate), Some(key)) = (&settings.tls.certificate_file, &settings.tls.key_file) {
        options = options.add_client_certificate(with_certificate(certificate).await?, with_key(key).await?);
    }
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        options = options.user_and_password(user.clone(), password.expose().to_owned());
    }
    if let Some(token) = &settings.token {
        options = options.token(token.expose().to_owned());
    }
    if let Some(seed) = &settings.nkey {
        options = options.nkey(seed.expose().to_owned());
    }
    if let Some(file) = &settings.credentials_file {
        options = options
            .credentials_file(file)
            .await
            .map_err(|cause| ConnectionError::Credentials { path: file.display().to_string(), cause })?;
    }
    Ok(options)
}

/// Returns the path after checking that the file holds a certificate: the client's own error would be "TLS error".
async fn with_certificate(file: &Path) -> Result<PathBuf, ConnectionError> {
    let is_expected = |pem: &[u8]| matches!(CertificateDer::pem_slice_iter(pem).next(), Some(Ok(_)));
    with_contents(file, "it holds no certificate in PEM format", is_expected).await
}

/// Returns the path after checking that the file holds a private key.
async fn with_key(file: &Path) -> Result<PathBuf, ConnectionError> {
    let is_expected = |pem: &[u8]| PrivateKeyDer::from_pem_slice(pem).is_ok();
    with_contents(file, "it holds no private key in PEM format", is_expected).await
}

async fn with_contents(
    file: &Path,
    otherwise: &str,
    is_expected: fn(&[u8]) -> bool,
) -> Result<PathBuf, ConnectionError> {
    let unusable = |cause| ConnectionError::TlsFile { path: file.display().to_string(), cause };
    let pem = tokio::fs::read(file).await.map_err(unusable)?;
    if is_expected(&pem) { Ok(file.to_owned()) } else { Err(unusable(std::io::Error::other(otherwise))) }
}
