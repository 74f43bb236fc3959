//! The connection to NATS, by the settings.

use std::path::Path;

use async_nats::{Client, ConnectOptions, Event, jetstream};

use crate::settings::NatsSettings;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The file with user and seed cannot be used.
    #[error("the NATS credentials file {path} cannot be used: {source}")]
    Credentials {
        /// The file.
        path: String,
        /// What was wrong with it.
        source: std::io::Error,
    },
    /// A file of the TLS settings cannot be read.
    #[error("the file {path} of nats.tls cannot be read: {source}")]
    TlsFile {
        /// The file.
        path: String,
        /// What was wrong with it.
        source: std::io::Error,
    },
    /// The server does not answer, or does not let this client in.
    #[error("no connection to NATS at {url}: {source}; check nats.url and the credentials, and that the server runs")]
    Connect {
        /// The addresses tried.
        url: String,
        /// What went wrong.
        source: async_nats::ConnectError,
    },
}

/// Connects. Afterwards the connection keeps itself up: a lost one is made anew for as long as the client lives.
///
/// `name` is shown by the server's own tools.
///
/// # Errors
/// [`ConnectionError`]; the first connection is not tried again, so that a wrong address shows at once.
pub async fn connect(settings: &NatsSettings, name: &str) -> Result<Client, ConnectionError> {
    let options = options(settings, name).await?;
    let addresses: Vec<&str> = settings.addresses().collect();
    let servers: Vec<async_nats::ServerAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    options.connect(servers).await.map_err(|source| ConnectionError::Connect { url: addresses.join(", "), source })
}

/// JetStream on a connection, with the settings' patience.
pub fn jetstream(client: &Client, settings: &NatsSettings) -> jetstream::Context {
    jetstream::ContextBuilder::new().timeout(settings.request_timeout).build(client.clone())
}

async fn options(settings: &NatsSettings, name: &str) -> Result<ConnectOptions, ConnectionError> {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(settings.connect_timeout)
        .request_timeout(Some(settings.request_timeout))
        .ping_interval(settings.ping_interval)
        .custom_inbox_prefix(settings.inbox_prefix.clone())
        .require_tls(settings.tls.required)
        .event_callback(|event| async move {
            match event {
                Event::Connected => tracing::info!("connected to NATS"),
                Event::Draining | Event::Closed => tracing::info!("the connection to NATS is being closed"),
                Event::Disconnected => tracing::warn!("the connection to NATS is lost; connecting again"),
                other => tracing::warn!("NATS: {other}"),
            }
        });
    if settings.tls.first {
        options = options.tls_first();
    }
    if let Some(file) = &settings.tls.ca_file {
        options = options.add_root_certificates(readable(file).await?);
    }
    if let (Some(certificate), Some(key)) = (&settings.tls.certificate_file, &settings.tls.key_file) {
        options = options.add_client_certificate(readable(certificate).await?, readable(key).await?);
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
            .map_err(|source| ConnectionError::Credentials { path: file.display().to_string(), source })?;
    }
    Ok(options)
}

/// The path, known to be of a readable file: the client itself would only say "TLS error".
async fn readable(file: &Path) -> Result<std::path::PathBuf, ConnectionError> {
    match tokio::fs::File::open(file).await {
        Ok(_) => Ok(file.to_owned()),
        Err(source) => Err(ConnectionError::TlsFile { path: file.display().to_string(), source }),
    }
}
