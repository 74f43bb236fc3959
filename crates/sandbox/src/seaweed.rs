//! SeaweedFS as an S3 store, with versions, conditional requests and permissions, which the embedded store lacks.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::error::SandboxError;
use crate::process::ServerProcess;
use crate::s3_access::S3Access;
use crate::tools::SearchPaths;
use crate::{http_probe, ports};

const NAME: &str = "weed";
/// A start takes about 1 s, and longer on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// The ports are chosen before the server binds them, so another program may take one.
const START_ATTEMPTS: u32 = 4;
/// The ports of all listeners. All are given, because gRPC ports default to 10000 above the others, which may exceed 65535.
const PORT_FLAGS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
];

/// Index of `filer.port`.
const FILER_PORT: usize = 6;
/// The maintenance worker expects the admin's gRPC port at this offset, regardless of `admin.port.grpc`.
const ADMIN_GRPC_OFFSET: u16 = 10_000;

/// A running SeaweedFS on 127.0.0.1 with one bucket.
#[derive(Debug)]
pub struct SeaweedFs {
    // Before the folder, so that the process is dropped first.
    process: Option<ServerProcess>,
    executable: PathBuf,
    admin: S3Access,
    read_only: S3Access,
    // After the process: sockets in use are not removed.
    sockets: Sockets,
    home: TempDir,
}

/// Where a store posts the changes of its files.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The address, with `http://`.
    pub endpoint: String,
    /// The token that it sends.
    pub token: String,
    /// How long it waits for an answer, in seconds. Then, or after another answer than 200, the event is lost.
    pub timeout_seconds: u32,
}

impl Webhook {
    fn to_toml(&self) -> String {
        let Self { endpoint, token, timeout_seconds } = self;
        format!(
            "[notification.webhook]\nenabled = true\nendpoint = {}\nbearer_token = {}\ntimeout_seconds = {timeout_seconds}\n",
            json!(endpoint),
            json!(token)
        )
    }
}

/// Removes the sockets that SeaweedFS leaves in `/tmp`, regardless of the temporary folder. Holds the ports in their names.
#[derive(Debug)]
struct Sockets(Vec<u16>);

impl Drop for Sockets {
    fn drop(&mut self) {
        for port in &self.0 {
            for part in ["master-grpc", "volume-grpc", "filer-grpc", "admin-grpc", "s3"] {
                let socket = format!("/tmp/seaweedfs-{part}-{port}.sock");
                // Another store may use the port by now. Most of the sockets never existed.
                if UnixStream::connect(&socket).is_err() {
                    let _ = fs::remove_file(socket);
                }
            }
        }
    }
}

impl SeaweedFs {
    /// Starts a store in a folder of its own and waits until its bucket is writable.
    ///
    /// # Errors
    /// [`SandboxError`] if `weed` is not installed or does not become ready.
    pub async fn start() -> Result<Self, SandboxError> {
        Self::start_with(None).await
    }

    /// Like [`SeaweedFs::start`], and posts the changes of its files to a webhook.
    ///
    /// # Errors
    /// [`SandboxError`] if `weed` is not installed or does not become ready.
    pub async fn start_with_webhook(webhook: &Webhook) -> Result<Self, SandboxError> {
        Self::start_with(Some(webhook)).await
    }

    async fn start_with(webhook: Option<&Webhook>) -> Result<Self, SandboxError> {
        let executable = SearchPaths::from_environment().executable(NAME)?;
        let mut attempt = 1;
        loop {
            match Self::launch(&executable, webhook).await {
                Err(SandboxError::EndedEarly { log, .. } | SandboxError::NotReady { log, .. })
                    if attempt < START_ATTEMPTS && (is_port_taken(&log) || is_socket_lost(&log)) =>
                {
                    tracing::debug!(attempt, "a port or socket of SeaweedFS was taken");
                    attempt += 1;
                }
                ended => return ended,
            }
        }
    }

    /// The address of the store: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.admin.endpoint
    }

    /// The process id; `None` while the store is down.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::id)
    }

    /// An identity with all permissions.
    pub fn admin(&self) -> &S3Access {
        &self.admin
    }

    /// An identity that may read and list the bucket.
    pub fn read_only(&self) -> &S3Access {
        &self.read_only
    }

    /// Stops the store (SIGTERM, and SIGKILL if that takes too long).
    ///
    /// # Errors
    /// If waiting for the process fails.
    pub async fn stop(&mut self) -> Result<(), SandboxError> {
        match self.process.take() {
            Some(process) => process.stop().await,
            None => Ok(()),
        }
    }

    /// Kills the store (SIGKILL), as in a crash.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Restarts the store with the same files and ports, and waits until its bucket is writable. Stops it first if it is
    /// running.
    ///
    /// # Errors
    /// [`SandboxError`] if it does not become ready.
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.stop().await?;
        self.process = Some(launch(&self.executable, self.home.path(), &self.sockets.0).await?);
        Ok(())
    }

    async fn launch(executable: &Path, webhook: Option<&Webhook>) -> Result<Self, SandboxError> {
        let home = TempDir::with_prefix("groundling-s3-").map_err(SandboxError::io("create a folder for SeaweedFS"))?;
        let ports = free_ports().map_err(SandboxError::io("find free ports for SeaweedFS"))?;
        let admin = S3Access::with_new_keys(format!("http://127.0.0.1:{}", ports[0]));
        let read_only = S3Access::with_new_keys(admin.endpoint.clone());
        fs::write(home.path().join("s3.json"), identities(&admin, &read_only).to_string())
            .map_err(SandboxError::io("write the identities of SeaweedFS"))?;
        if let Some(webhook) = webhook {
            // It is read from the working directory.
            fs::write(home.path().join("notification.toml"), webhook.to_toml())
                .map_err(SandboxError::io("write the notifications of SeaweedFS"))?;
        }

        let sockets = Sockets(ports.clone());
        let process = Some(launch(executable, home.path(), &ports).await?);
        Ok(Self { process, executable: executable.to_owned(), admin, read_only, sockets, home })
    }
}

async fn launch(executable: &Path, home: &Path, ports: &[u16]) -> Result<ServerProcess, SandboxError> {
    let (s3_port, filer_port) = (ports[0], ports[FILER_PORT]);
    let mut process = ServerProcess::spawn(NAME, &mut command(executable, home, ports), home)?;
    process.wait_until(READY_LIMIT, async || is_ready(s3_port, filer_port).await.then_some(())).await?;
    Ok(process)
}

/// Whether the bucket exists and is writable. The S3 endpoint responds before that, so the filer is asked.
async fn is_ready(s3_port: u16, filer_port: u16) -> bool {
    let bucket = format!("/buckets/{}/", crate::s3_access::BUCKET);
    http_probe::status(s3_port, "GET", "/healthz", "").await == Some(200)
        && http_probe::status(filer_port, "GET", &bucket, "").await == Some(200)
        && http_probe::status(filer_port, "PUT", "/ready", "ready").await == Some(201)
}

/// Free ports in the order of [`PORT_FLAGS`].
fn free_ports() -> std::io::Result<Vec<u16>> {
    let mut ports = ports::free_ports(PORT_FLAGS.len() - 2)?;
    loop {
        let admin = ports::free_address()?.port();
        if let Some(grpc) = admin.checked_add(ADMIN_GRPC_OFFSET)
            && ports::is_free(grpc)
        {
            ports.extend([admin, grpc]);
            return Ok(ports);
        }
    }
}

fn command(executable: &Path, home: &Path, ports: &[u16]) -> Command {
    let mut command = Command::new(executable);
    command
        .arg(format!("-logdir={}", home.display()))
        .args(["-logtostderr=true", "mini"])
        .arg(format!("-dir={}", home.join("data").display()))
        // Otherwise it listens on all addresses.
        .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
        .arg(format!("-s3.config={}", home.join("s3.json").display()))
        .arg(format!("-bucket={}", crate::s3_access::BUCKET))
        .arg(format!("-filer.localSocket={}", home.join("filer.sock").display()))
        // Otherwise both follow the free disk space, and on a disk that is almost full a new bucket gets no volumes.
        .args(["-volume.max=200", "-master.volumeSizeLimitMB=128"])
        // Telemetry is on by default.
        .arg("-master.telemetry=false")
        .args(["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
        .args(PORT_FLAGS.iter().zip(ports).map(|(flag, port)| format!("-{flag}={port}")));
    command
}

/// Whether a port was in use, according to its own check or the error of the system.
fn is_port_taken(log: &str) -> bool {
    log.contains("is not available on") || log.contains("address already in use")
}

/// Whether a socket is missing: another store that tried the same port removes it at its start.
fn is_socket_lost(log: &str) -> bool {
    log.contains(".sock: connect: no such file or directory")
}

/// The configuration of the identities. Without any, everyone has all permissions.
fn identities(admin: &S3Access, read_only: &S3Access) -> serde_json::Value {
    let identity = |name: &str, access: &S3Access, actions: serde_json::Value| {
        json!({
            "name": name,
            "credentials": [{"accessKey": access.access_key, "secretKey": access.secret_key}],
            "actions": actions,
        })
    };
    let bucket = &read_only.bucket;
    json!({"identities": [
        identity("admin", admin, json!(["Admin", "Read", "List", "Tagging", "Write"])),
        identity("read-only", read_only, json!([format!("Read:{bucket}"), format!("List:{bucket}")])),
    ]})
}
