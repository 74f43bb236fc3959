//! A NATS server with JetStream.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::ServerProcess;
use crate::rig::Places;
use crate::{SandboxError, http_probe};

const NAME: &str = "nats-server";
/// A start takes some 50 ms; the limit is for machines that are busy with builds.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Attempts to get the old ports back at a restart: a client that dials a closed loopback port may for a moment be
/// given that very port as its own.
const RESTART_ATTEMPTS: u32 = 5;

/// How the server is to run.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// Where JetStream keeps its files. Without it they go with the server.
    pub data_dir: Option<PathBuf>,
    /// Write every message through to the disk before it is acknowledged.
    pub sync_always: bool,
    /// The domain of its JetStream, where it is to have one.
    pub domain: Option<String>,
    /// Run without JetStream.
    pub without_jetstream: bool,
    /// Further lines for the server's configuration file, such as users and their permissions.
    pub extra_config: String,
}

/// A running NATS server on 127.0.0.1.
#[derive(Debug)]
pub struct NatsServer {
    // Before the folder, so that a drop ends the process first.
    process: Option<ServerProcess>,
    options: NatsOptions,
    executable: PathBuf,
    ports: Ports,
    client_url: String,
    monitoring_url: String,
    /// Where it says that it can be used.
    ready_path: &'static str,
    home: TempDir,
}

/// -1 lets the server choose; it writes its choice to a file, so no other program can take a port in between.
#[derive(Clone, Copy, Debug)]
struct Ports {
    client: i32,
    monitoring: i32,
}

impl NatsServer {
    /// Starts a server and waits until it, and its JetStream, answer.
    pub async fn start(options: &NatsOptions) -> Result<Self, SandboxError> {
        let executable = Places::from_environment().executable(NAME)?;
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
        tracing::debug!(url = server.client_url, "NATS server is ready");
        Ok(server)
    }

    /// Where clients connect: `nats://127.0.0.1:PORT`.
    pub fn client_url(&self) -> &str {
        &self.client_url
    }

    /// Where `/healthz`, `/jsz` and the like answer: `http://127.0.0.1:PORT`.
    pub fn monitoring_url(&self) -> &str {
        &self.monitoring_url
    }

    /// The process, for signals of a test's own; nothing while the server is down.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::id)
    }

    /// SIGKILL, as a crash would be: nothing is flushed, no client is told.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Tells the server to end by and by: it takes no more connections, hands over what it leads, tells its clients, and
    /// closes their connections after a while. (SIGUSR2, as `nats-server --signal ldm`.)
    pub fn lame_duck(&self) {
        if let Some(process) = &self.process {
            process.signal(Signal::USR2);
        }
    }

    /// Has the running server read another configuration, as far as it can without a restart: users and their passwords
    /// above all. (SIGHUP, as `nats-server --signal reload`.)
    pub fn reload(&self, options: &NatsOptions) -> Result<(), SandboxError> {
        let config = config_text(options, self.home.path())?;
        fs::write(self.home.path().join("nats.conf"), config)
            .map_err(SandboxError::io("write the NATS configuration"))?;
        if let Some(process) = &self.process {
            process.signal(Signal::HUP);
        }
        Ok(())
    }

    /// The options that it was started with: what [`NatsServer::reload`] goes back to.
    pub fn options(&self) -> &NatsOptions {
        &self.options
    }

    /// When it read its configuration last, in its own words, which change with every reload; nothing where it does not
    /// answer.
    pub async fn config_load_time(&self) -> Option<String> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/varz").await?;
        let told: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(told.get("config_load_time")?.as_str()?.to_owned())
    }

    /// The names that its clients gave themselves; nothing where it does not answer.
    pub async fn client_names(&self) -> Option<Vec<String>> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/connz?limit=1024").await?;
        let told: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let names = told.get("connections")?.as_array()?.iter();
        Some(names.filter_map(|connection| Some(connection.get("name")?.as_str()?.to_owned())).collect())
    }

    /// The number of leaf nodes that are connected to it; nothing where it does not answer.
    pub async fn leaf_count(&self) -> Option<u64> {
        let body = http_probe::body(port_of(&self.monitoring_url)?, "/leafz").await?;
        let told: serde_json::Value = serde_json::from_slice(&body).ok()?;
        told.get("leafnodes")?.as_u64()
    }

    /// Whether it calls itself healthy in everything: the copies of streams that it keeps are as new as the others.
    pub async fn is_healthy(&self) -> bool {
        match port_of(&self.monitoring_url) {
            Some(port) => http_probe::status(port, "GET", "/healthz", "").await == Some(200),
            None => false,
        }
    }

    /// Starts the server again on the same store and the same ports, after stopping it if it still runs.
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.stop().await?;
        let mut attempt = 1;
        loop {
            match self.launch().await {
                Err(SandboxError::EndedEarly { log, .. }) if attempt < RESTART_ATTEMPTS => {
                    tracing::debug!(attempt, log, "NATS server did not come back");
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// SIGTERM, then SIGKILL when that takes too long. The store stays until this value is dropped.
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
        let mut process = ServerProcess::spawn(NAME, &mut command, home)?;
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
        // The server runs in its own folder, so a relative name would mean another place to it.
        Some(dir) => std::path::absolute(dir).map_err(SandboxError::io(format!("resolve {}", dir.display())))?,
        None => home.to_path_buf(),
    };
    // A JSON string is a valid string of the configuration language, whatever the path contains.
    let store = serde_json::Value::from(store.to_string_lossy().as_ref());
    if options.without_jetstream {
        return Ok(format!("{}\n", options.extra_config));
    }
    let sync = if options.sync_always { "\n  sync_interval: always" } else { "" };
    let domain = options.domain.as_ref().map(|name| format!("\n  domain: \"{name}\"")).unwrap_or_default();
    Ok(format!("jetstream {{\n  store_dir: {store}{sync}{domain}\n}}\n{}\n", options.extra_config))
}

/// The addresses that the server wrote to its ports file; nothing while that is absent or half written.
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
