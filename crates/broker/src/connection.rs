//! The connection to NATS, by the settings.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError, jetstream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{RwLock, RwLockReadGuard, watch};

use crate::api::Broker;
use crate::backoff::{Backoff, Delays};
use crate::causes::causes;
use crate::refusals::Refusals;
use crate::settings::NatsSettings;

/// Wait before the first connection is tried again.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(5));
/// How long a move to another server is waited for.
const MOVE: Duration = Duration::from_secs(3);
/// How often the client is asked whether it is connected while it is not: it tells of a connection a moment before it
/// says the same when asked.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Why there is no connection, in one sentence with all causes. They are not sources too: whoever prints an error with
/// its sources would repeat them.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The file with user and seed cannot be used.
    #[error("the NATS credentials file {path} cannot be used: {cause}")]
    Credentials {
        /// The file.
        path: String,
        /// What was wrong with it.
        cause: std::io::Error,
    },
    /// A file of the TLS settings cannot be read, or holds something else.
    #[error("the file {path} of nats.tls cannot be used: {cause}")]
    TlsFile {
        /// The file.
        path: String,
        /// What was wrong with it.
        cause: std::io::Error,
    },
    /// The server does not answer, or does not let this client in.
    #[error(
        "no connection to NATS at {url}: {}; check nats.url and the credentials, and that the server runs",
        causes(cause)
    )]
    Connect {
        /// The addresses tried.
        url: String,
        /// What went wrong.
        cause: async_nats::ConnectError,
    },
}

impl ConnectionError {
    /// Whether the same may go well later: nobody answers, or a name is not known yet. A server that does not let this
    /// client in, or whose certificate is not trusted, goes on like that.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connect { cause, .. } => match cause.kind() {
                ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io => !is_of_tls(cause),
                _ => false,
            },
            Self::Credentials { .. } | Self::TlsFile { .. } => false,
        }
    }
}

/// Whether this is what the client says of a connection that a server refused for its credentials: it tells the kind of
/// error alone, and only in words.
fn is_refusal(why: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication]
        .iter()
        .any(|kind| kind.to_string() == why)
}

/// Whether encryption is what failed: a refused certificate only shows when the first bytes are read.
fn is_of_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        // An error within an input/output error is not among its sources.
        let within = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || within.is_some_and(|within| is_of_tls(within)) {
            return true;
        }
        next = error.source();
    }
    false
}

/// A connection that knows when its server is about to end, and how often it was made anew.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The connection itself.
    pub client: Client,
    told: Told,
    /// Read by pull requests, written by a move to another server.
    pulling: Arc<RwLock<()>>,
}

/// What the client has told of a connection.
#[derive(Debug, Clone, Default)]
struct Told {
    /// Set while the server has said that it will end.
    lame: Arc<watch::Sender<bool>>,
    /// Touched whenever the connection is made or lost.
    changed: Arc<watch::Sender<()>>,
    /// What the server does not permit.
    refusals: Refusals,
    /// Since when no server has let this client in, if that is why there is no connection.
    refused: Arc<watch::Sender<Option<Instant>>>,
}

impl Told {
    fn hear(&self, event: &Event) {
        match event {
            Event::LameDuckMode => drop(self.lame.send_replace(true)),
            Event::Connected => {
                self.lame.send_replace(false);
                self.refusals.forget();
                self.refused.send_replace(None);
                self.changed.send_replace(());
            }
            Event::ClientError(ClientError::Other(why)) if is_refusal(why) => {
                self.refused.send_modify(|since| {
                    since.get_or_insert_with(Instant::now);
                });
            }
            Event::Disconnected => self.changed.send_replace(()),
            _ => {}
        }
    }
}

impl Connection {
    /// JetStream on this connection, for `setup` and for a start: it says what the user may not do.
    pub fn broker(&self, settings: &NatsSettings) -> Broker {
        Broker::new(jetstream(&self.client, settings), self.told.refusals.clone(), settings.api_subject())
    }

    /// What the server does not permit.
    pub fn refusals(&self) -> &Refusals {
        &self.told.refusals
    }

    /// Whether it stands, as far as is known: a server that falls silent is noticed by pings.
    pub fn is_up(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Which connection it is, counted from 1. What a server was asked on an earlier one it has forgotten.
    pub fn number(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Waits until it stands, and tells which one it is.
    pub async fn up(&self) -> u64 {
        let mut changed = self.told.changed.subscribe();
        while !self.is_up() {
            // Fails only without a sender, and this is one; a word that is lost costs no more than this.
            drop(tokio::time::timeout(ASK_AGAIN, changed.changed()).await);
        }
        self.number()
    }

    /// Waits until it is another one than that of this number.
    pub async fn made_anew(&self, number: u64) {
        drop(self.told.changed.subscribe().wait_for(|()| self.number() != number).await);
    }

    /// Waits until servers have refused this client's credentials for this long, without a connection in between. Zero
    /// stands for no end.
    pub fn refused_for(&self, longest: Duration) -> impl Future<Output = ()> + use<> {
        let mut refused = self.told.refused.subscribe();
        async move {
            loop {
                let since = *refused.borrow_and_update();
                let over = since.filter(|_| !longest.is_zero()).and_then(|since| since.checked_add(longest));
                let changed = async {
                    if refused.changed().await.is_err() {
                        // The connection is closed for good.
                        std::future::pending().await
                    }
                };
                match over {
                    None => changed.await,
                    Some(over) => tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep_until(over.into()) => return,
                    },
                }
            }
        }
    }

    /// Waits until the server says that it is about to end.
    pub async fn is_told_to_leave(&self) {
        // Fails only without a sender, and this is one.
        drop(self.told.lame.subscribe().wait_for(|lame| *lame).await);
    }

    /// Held while jobs may be on their way, so that no intake leaves the connection under the other.
    pub async fn pulling(&self) -> RwLockReadGuard<'_, ()> {
        self.pulling.read().await
    }

    /// Connects to another server of the cluster if this one has said that it will end. To be called while nothing is
    /// on its way that would have to be waited for again. Where there is no other server, the connection stays until it
    /// is closed, and is made anew then.
    pub async fn move_if_told(&self) {
        let _no_pull = self.pulling.write().await;
        if !self.told.lame.send_replace(false) {
            return;
        }
        match self.client.server_pool().await {
            Ok(servers) if servers.len() > 1 => {
                tracing::info!("the NATS server is about to end: connecting to another one");
                // What was said so far still goes to this one.
                if let Err(error) = self.client.flush().await {
                    tracing::debug!(%error, "not all was sent to a server that ends");
                }
                let number = self.number();
                if let Err(error) = self.client.force_reconnect().await {
                    tracing::debug!(%error, "the connection was not made anew");
                }
                // What is said before that can be lost with the old one.
                drop(tokio::time::timeout(MOVE, self.made_anew(number)).await);
            }
            _ => tracing::info!("the only known NATS server is about to end: staying until it closes the connection"),
        }
    }
}

/// As [`connect`], but waits for as long as no server answers; `waiting` is told why, at the first try that fails and
/// whenever the reason changes.
///
/// # Errors
/// [`ConnectionError`], where trying again is of no use.
pub async fn connect_when_there(
    settings: &NatsSettings,
    name: &str,
    mut waiting: impl FnMut(&ConnectionError),
) -> Result<Connection, ConnectionError> {
    let (mut delays, mut told) = (Delays::of(RECONNECT), String::new());
    loop {
        let error = match open(settings, name).await {
            Ok(connection) => return Ok(connection),
            Err(error) if !error.may_pass() => return Err(error),
            Err(error) => error,
        };
        let reason = error.to_string();
        if reason != told {
            waiting(&error);
            told = reason;
        }
        tokio::time::sleep(delays.after_failure()).await;
    }
}

/// Connects. Afterwards the connection keeps itself up: a lost one is made anew for as long as the client lives.
///
/// `name` is shown by the server's own tools.
///
/// # Errors
/// [`ConnectionError`]; the first connection is not tried again, so that a wrong address shows at once.
pub async fn connect(settings: &NatsSettings, name: &str) -> Result<Client, ConnectionError> {
    Ok(open(settings, name).await?.client)
}

/// As [`connect`], with all that the client tells of the connection.
///
/// # Errors
/// [`ConnectionError`].
pub async fn open(settings: &NatsSettings, name: &str) -> Result<Connection, ConnectionError> {
    let told = Told { refusals: Refusals::new(&settings.inbox_prefix), ..Told::default() };
    let options = options(settings, name, told.clone()).await?;
    let addresses: Vec<&str> = settings.addresses().collect();
    let servers: Vec<async_nats::ServerAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    match options.connect(servers).await {
        Ok(client) => Ok(Connection { client, told, pulling: Arc::default() }),
        Err(cause) => Err(ConnectionError::Connect { url: addresses.join(", "), cause }),
    }
}

/// JetStream on a connection, with the settings' patience.
pub fn jetstream(client: &Client, settings: &NatsSettings) -> jetstream::Context {
    let context = jetstream::ContextBuilder::new().timeout(settings.request_timeout);
    match (&settings.jetstream_domain, &settings.api_prefix) {
        (Some(domain), _) => context.domain(domain).build(client.clone()),
        (None, Some(prefix)) => context.api_prefix(prefix).build(client.clone()),
        (None, None) => context.build(client.clone()),
    }
}

async fn options(settings: &NatsSettings, name: &str, told: Told) -> Result<ConnectOptions, ConnectionError> {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(settings.connect_timeout)
        .request_timeout(Some(settings.request_timeout))
        .ping_interval(settings.ping_interval)
        .custom_inbox_prefix(settings.inbox_prefix.clone())
        .require_tls(settings.tls.required)
        .event_callback(move |event| {
            // In order and at once: a word of the last server must not be taken for one of the next.
            told.hear(&event);
            let refused = match &event {
                Event::ServerError(ServerError::Other(error)) => told.refusals.hear(error),
                _ => None,
            };
            async move {
                match (event, refused) {
                    // Whoever waits for it says it.
                    (_, Some((refused, true))) => tracing::debug!("{refused}"),
                    (_, Some((refused, false))) => tracing::warn!("{refused}: add it to the user's permissions"),
                    (Event::Connected, _) => tracing::info!("connected to NATS"),
                    (Event::Draining | Event::Closed, _) => tracing::info!("the connection to NATS is being closed"),
                    (Event::Disconnected, _) => tracing::warn!("the connection to NATS is lost; connecting again"),
                    (other, _) => tracing::warn!("NATS: {other}"),
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

/// The path, known to be of a file with a certificate: the client itself would only say "TLS error".
async fn with_certificate(file: &Path) -> Result<PathBuf, ConnectionError> {
    let holds = |pem: &[u8]| matches!(CertificateDer::pem_slice_iter(pem).next(), Some(Ok(_)));
    holding(file, "it holds no certificate in PEM form", holds).await
}

/// The path, known to be of a file with a private key.
async fn with_key(file: &Path) -> Result<PathBuf, ConnectionError> {
    let holds = |pem: &[u8]| PrivateKeyDer::from_pem_slice(pem).is_ok();
    holding(file, "it holds no private key in PEM form", holds).await
}

async fn holding(file: &Path, otherwise: &str, holds: fn(&[u8]) -> bool) -> Result<PathBuf, ConnectionError> {
    let unusable = |cause| ConnectionError::TlsFile { path: file.display().to_string(), cause };
    let pem = tokio::fs::read(file).await.map_err(unusable)?;
    if holds(&pem) { Ok(file.to_owned()) } else { Err(unusable(std::io::Error::other(otherwise))) }
}
