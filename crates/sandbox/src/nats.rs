//! A NATS server with JetStream.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::error::SandboxError;
use crate::http_probe;
use crate::process::ServerProcess;
use crate::tools::SearchPaths;

const NAME: &str = "nats-server";
/// A start takes about 50 ms, and longer on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Attempts to bind the old ports at a restart: a client that dials a closed loopback port can be assigned that port as
/// its own for a moment.
const RESTART_ATTEMPTS: u32 = 5;
/// Otherwise it is three quarters of the free disk space at the start, and on a disk that is almost full the reservations
/// of the streams exceed it.
const FILE_STORE: &str = "1TB";

/// Messages between a server and its clients, and the bytes of their payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatsTraffic {
    /// Messages that the server received.
    pub in_messages: u64,
    /// Messages that the server sent.
    pub out_messages: u64,
    /// Bytes that the server received.
    pub in_bytes: u64,
    /// Bytes that the server sent.
    pub out_bytes: u64,
}

/// Options of a server.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// The directory of JetStream's files. By default a temporary one, which is deleted with the server.
    pub data_dir: Option<PathBuf>,
    /// The server's log, which is appended to. By default it is with the server's files and deleted with them. The servers of
    /// a cluster add their names.
    pub log: Option<PathBuf>,
    /// Sync every message to the disk before it is acknowledged.
    pub sync_always: bool,
    /// The JetStream domain, if any.
    pub domain: Option<String>,
    /// Run without JetStream.
    pub without_jetstream: bool,
    /// Further lines for the server's configuration file, such as users and their permissions.
    pub extra_config: String,
}

/// A running NATS server on 127.0.0.1.
#[derive(Debug)]
pub struct NatsServer {
    // Before the folder, so that the process is dropped first.
    process: Option<ServerProcess>,
    options: NatsOptions,
    executable: PathBuf,
    ports: Ports,
    client_url: String,
    monitoring_url: String,
    /// The path that responds with 200 when the server is ready.
    ready_path: &'static str,
    home: TempDir,
}

/// -1 lets the server choose a port and write it to a file, so that no other program can take it in between.
#[derive(Clone, Copy, Debug)]
struct Ports {
    client: i32,
    monitoring: i32,
}

impl NatsServer {
    /// Starts a server and waits until it is ready, with JetStream unless that is disabled.
    ///
    /// # Errors
    /// [`SandboxError`] if `nats-server` is not installed or does not become ready.
    pub async fn start(options: &NatsOptions) -> Result<Self, SandboxError> {
        let executable = SearchPaths::from_environment().executable(NAME)?;
        let home = TempDir::with_prefix("groundling-nats-").map_err(SandboxError::io("create a folder for NATS"))?;
        let config = config_text(options, home.path())?;
        fs::write(home.path().join("nats.conf"), config).map_err(SandboxError::io("write the NATS configuration"))?;
        let mut server = Self {
            process: None,
            options: options.clone(),
            executable,
            ports: Ports { client: -1, monitoring: -1 },
            client_url: String::new(),
            monitoring_url: String::new(),
            ready_path: if options.without_jetstream {
                "/healthz?js-server-only=true"
            } else {
                "/healthz?js-enabled-only=true"
            },
            home,
        };
        server.launch().await?;
        tracing::debug!(url = server.client_url, "NATS server ready");
        Ok(server)
    }

    /// The address for clients: `nats://127.0.0.1:PORT`.
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// The address of the monitoring endpoints (`/healthz`, `/jsz`): `http://127.0.0.1:PORT`.
    pub fn monitoring_url(&self) -> &str {
        &self.monitoring_url
    }

    /// The process id; `None` while the server is down.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::id)
    }

    /// Kills the server (SIGKILL), as in a crash.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Puts the server into lame duck mode: it accepts no more connections, transfers its leaderships, notifies its clients,
    /// and closes their connections after a while. (SIGUSR2, like `nats-server --signal ldm`.)
    pub fn lame_duck(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::USR2);
        }
    }

    /// Reloads the running server with other options. It applies what does not need a restart, such as users and their
    /// passwords. (SIGHUP, like `nats-server --signal reload`.)
    ///
    /// # Errors
    /// If the configuration file cannot be written.
    pub fn reload(&self, options: &NatsOptions) -> Result<(), SandboxError> {
        let config = config_text(options, self.home.path())?;
        fs::write(self.home.path().join("nats.conf"), config)
            .map_err(SandboxError::io("write the NATS configuration"))?;
        if let Some(process) = &self.process {
            process.signal(Signal::HUP);
        }
        Ok(())
    }

    /// The options that the server was started with.
    pub fn options(&self) -> &NatsOptions {
        &self.options
    }

    /// When the server last loaded its configuration, as it reports it. Changes with every reload. `None` if it does not
    /// respond.
    pub async fn config_load_time(&self) -> Option<String> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/varz").await?;
        let response: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(response.get("config_load_time")?.as_str()?.to_owned())
    }

    /// The messages that clients have sent and received since the start; `None` if the server does not respond.
    pub async fn traffic(&self) -> Option<NatsTraffic> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/varz").await?;
        let response: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let count = |name: &str| response.get(name)?.as_u64();
        Some(NatsTraffic {
            in_messages: count("in_msgs")?,
            out_messages: count("out_msgs")?,
            in_bytes: count("in_bytes")?,
            out_bytes: count("out_bytes")?,
        })
    }

    /// The names of the connected clients; `None` if the server does not respond.
    pub async fn client_names(&self) -> Option<Vec<String>> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/connz?limit=1024").await?;
        let response: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let names = response.get("connections")?.as_array()?.iter();
        Some(names.filter_map(|connection| Some(connection.get("name")?.as_str()?.to_owned())).collect())
    }

    /// The number of connected leaf nodes; `None` if the server does not respond.
    pub async fn leaf_count(&self) -> Option<u64> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/leafz").await?;
        let response: serde_json::Value = serde_json::from_slice(&body).ok()?;
        response.get("leafnodes")?.as_u64()
    }

    /// Whether the server reports itself healthy, with up-to-date replicas of its streams.
    pub async fn is_healthy(&self) -> bool {
        match port_of(&self.monitoring_url) {
            Some(port) => http_probe::status(port, "GET", "/healthz", "").await == Some(200),
            None => false,
        }
    }

    /// Restarts the server with the same store and ports. Stops it first if it is running.
    ///
    /// # Errors
    /// [`SandboxError`] if it does not become ready.
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.stop().await?;
        let mut attempt = 1;
        loop {
            match self.launch().await {
                Err(SandboxError::EndedEarly { log, .. }) if attempt < RESTART_ATTEMPTS => {
                    tracing::debug!(attempt, log, "NATS server did not restart");
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// Stops the server (SIGTERM, and SIGKILL if that takes too long). The store stays until this value is dropped.
    ///
    /// # Errors
    /// If waiting for the process fails.
    pub async fn stop(&mut self) -> Result<(), SandboxError> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    async fn launch(&mut self) -> Result<(), SandboxError> {
        let home = self.home.path();
        let mut command = Command::new(&self.executable);
        command
            .args(["-a", "127.0.0.1", "-p", &self.ports.client.to_string(), "-m", &self.ports.monitoring.to_string()])
            .arg("-c")
            .arg(home.join("nats.conf"))
            .arg("--ports_file_dir")
            .arg(home);
        let log = self.options.log.clone().unwrap_or_else(|| home.join(format!("{NAME}.log")));
        let mut process = ServerProcess::spawn_with_log(NAME, &mut command, home, log)?;
        let ports_file = format!("_{}.ports", process.id());
        let (client_url, monitoring_url) =
            process.wait_until(READY_LIMIT, async || read_urls(home, &ports_file)).await?;
        let (client, monitoring) = (port_of(&client_url), port_of(&monitoring_url));
        let ready_path = self.ready_path;
        process
            .wait_until(READY_LIMIT, async || {
                let status = http_probe::status(monitoring?, "GET", ready_path, "").await?;
                (status == 200).then_some(())
            })
            .await?;
        self.ports = Ports { client: client.map_or(-1, i32::from), monitoring: monitoring.map_or(-1, i32::from) };
        self.client_url = client_url;
        self.monitoring_url = monitoring_url;
        self.process = Some(process);
        Ok(())
    }
}

fn config_text(options: &NatsOptions, home: &Path) -> Result<String, SandboxError> {
    let store = match &options.data_dir {
        // The server runs in its own folder, so the path must be absolute.
        Some(dir) => std::path::absolute(dir).map_err(SandboxError::io(format!("resolve {}", dir.display())))?,
        None => home.to_path_buf(),
    };
    // A JSON string is also a valid string of the configuration language.
    let store = serde_json::Value::from(store.to_string_lossy().as_ref());
    if options.without_jetstream {
        return Ok(format!("{}\n", options.extra_config));
    }
    let sync = if options.sync_always { "\n  sync_interval: always" } else { "" };
    let domain = options.domain.as_ref().map(|name| format!("\n  domain: \"{name}\"")).unwrap_or_default();
    Ok(format!(
        "jetstream {{\n  store_dir: {store}\n  max_file_store: {FILE_STORE}{sync}{domain}\n}}\n{}\n",
        options.extra_config
    ))
}

/// The addresses in the ports file that the server writes; `None` while it is missing or incomplete.
fn read_urls(home: &Path, file_end: &str) -> Option<(String, String)> {
    let entry =
        fs::read_dir(home).ok()?.flatten().find(|entry| entry.file_name().to_string_lossy().ends_with(file_end))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
    let first = |kind: &str| Some(ports.get(kind)?.get(0)?.as_str()?.to_string());
    Some((first("nats")?, first("monitoring")?))
}

fn port_of(url: &str) -> Option<u16> {
    url.rsplit_once(':')?.1.parse().ok()
}
