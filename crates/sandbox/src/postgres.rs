//! A PostgreSQL server.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::error::SandboxError;
use crate::ports::free_address;
use crate::process::ServerProcess;
use crate::tools::SearchPaths;

const NAME: &str = "postgres";
/// A start takes about 100 ms, and longer on a busy machine or after a crash.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Attempts to start: another program may take the port, and after a crash the last processes of the killed server may
/// still end.
const START_ATTEMPTS: u32 = 8;
/// The user `nobody` of Linux. PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;

/// Options of a server.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// The password of the user. Without it, everyone on this machine may connect.
    pub password: Option<String>,
    /// Certificate and key (PEM), for TLS.
    pub tls: Option<(String, String)>,
    /// Whether clients can also connect through a Unix socket in [`PostgresServer::socket_dir`].
    pub has_socket: bool,
}

/// A running PostgreSQL server on 127.0.0.1, with the user `groundling`, who may do everything.
#[derive(Debug)]
pub struct PostgresServer {
    // Before the folder, so that the process is dropped first.
    process: Option<ServerProcess>,
    executables: PathBuf,
    port: u16,
    /// Whether clients may know the port.
    was_ready: bool,
    options: PostgresOptions,
    home: TempDir,
}

impl PostgresServer {
    /// The user.
    pub const USER: &str = "groundling";

    /// Creates a server and waits until it is ready.
    ///
    /// # Errors
    /// [`SandboxError`] if PostgreSQL is not installed or does not become ready.
    pub async fn start(options: &PostgresOptions) -> Result<Self, SandboxError> {
        let found = SearchPaths::from_environment().executable(NAME)?;
        let found = found.canonicalize().map_err(SandboxError::io(format!("resolve {}", found.display())))?;
        let home =
            TempDir::with_prefix("groundling-postgres-").map_err(SandboxError::io("create a folder for PostgreSQL"))?;
        let executables = prepare(&found, home.path())?;
        let mut server = Self { process: None, executables, port: 0, was_ready: false, options: options.clone(), home };
        let initdb = server.initdb()?;
        let created = tokio::task::spawn_blocking(move || create(initdb)).await;
        created.map_err(|error| SandboxError::Io { what: "run initdb".into(), cause: error.into() })??;
        server.launch().await?;
        tracing::debug!(port = server.port, "PostgreSQL server ready");
        Ok(server)
    }

    /// The address of a database, without a password: `postgres://groundling@127.0.0.1:PORT/postgres`.
    pub fn url(&self) -> String {
        format!("postgres://{}@127.0.0.1:{}/postgres", Self::USER, self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.home.path()
    }

    /// Kills the server (SIGKILL), as in a crash.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Restarts the server with the same data and port. Stops it first if it is running.
    ///
    /// # Errors
    /// [`SandboxError`] if it does not become ready.
    pub async fn restart(&mut self) -> Result<(), SandboxError> {
        self.stop().await?;
        self.launch().await
    }

    /// Stops the server without waiting for its clients. The data stay until this value is dropped.
    ///
    /// # Errors
    /// If waiting for the process fails.
    pub async fn stop(&mut self) -> Result<(), SandboxError> {
        match self.process.take() {
            Some(process) => {
                // SIGTERM alone waits for clients.
                process.signal(Signal::INT);
                process.stop().await
            }
            None => Ok(()),
        }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A program of PostgreSQL, not run as root.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.executables.join(name));
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command.env_clear().current_dir(self.home.path());
        command
    }

    fn initdb(&self) -> Result<Command, SandboxError> {
        let mut command = self.program("initdb");
        command.arg("-D").arg(self.data()).args(["-U", Self::USER, "--locale=C", "--encoding=UTF8"]);
        // Files outlive the processes, not the machine.
        command.args(["--no-sync", "--no-instructions"]);
        match &self.options.password {
            Some(password) => {
                let file = self.home.path().join("password");
                self.write(&file, password)?;
                command.arg("--auth=scram-sha-256").arg(format!("--pwfile={}", file.display()));
            }
            None => drop(command.arg("--auth=trust")),
        }
        Ok(command)
    }

    /// Writes a file that only the server can read.
    fn write(&self, file: &Path, text: &str) -> Result<(), SandboxError> {
        let written = fs::write(file, text).and_then(|()| fs::set_permissions(file, fs::Permissions::from_mode(0o600)));
        written.and_then(|()| own(file)).map_err(SandboxError::io(format!("write {}", file.display())))
    }

    async fn launch(&mut self) -> Result<(), SandboxError> {
        let mut attempt = 1;
        loop {
            if !self.was_ready {
                self.port = free_address().map_err(SandboxError::io("find a free port"))?.port();
            }
            match self.try_launch().await {
                Err(SandboxError::EndedEarly { log, .. }) if attempt < START_ATTEMPTS => {
                    tracing::debug!(attempt, log, "PostgreSQL did not start");
                    attempt += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                ended => return ended,
            }
        }
    }

    async fn try_launch(&mut self) -> Result<(), SandboxError> {
        let mut command = self.program(NAME);
        command.arg("-D").arg(self.data());
        let mut settings = vec![
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            match self.options.has_socket {
                true => format!("unix_socket_directories={}", self.home.path().display()),
                false => "unix_socket_directories=".to_owned(),
            },
            "fsync=off".to_owned(),
        ];
        if let Some((certificate, key)) = &self.options.tls {
            for (name, setting, text) in
                [("server.crt", "ssl_cert_file", certificate), ("server.key", "ssl_key_file", key)]
            {
                let file = self.home.path().join(name);
                self.write(&file, text)?;
                settings.push(format!("{setting}={}", file.display()));
            }
            settings.push("ssl=on".to_owned());
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        let mut process = ServerProcess::spawn(NAME, &mut command, self.home.path())?;
        let (state, id) = (self.data().join("postmaster.pid"), process.id().to_string());
        process.wait_until(READY_LIMIT, async || is_ready(&state, &id).then_some(())).await?;
        self.process = Some(process);
        self.was_ready = true;
        Ok(())
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // The process is told to end by SIGTERM next, which alone would wait for clients.
            process.signal(Signal::INT);
        }
    }
}

/// Makes the folder and the programs accessible to the user that the server runs as. Returns the folder of the programs.
fn prepare(executable: &Path, home: &Path) -> Result<PathBuf, SandboxError> {
    let executables = executable.parent().unwrap_or(Path::new("/"));
    if !geteuid().is_root() {
        return Ok(executables.to_path_buf());
    }
    // The checkout may be in a folder that only root can read.
    let installation = executables.parent().unwrap_or(Path::new("/"));
    let copy = home.join("installation");
    for part in ["bin", "lib", "share"] {
        copy_folder(&installation.join(part), &copy.join(part))
            .map_err(SandboxError::io(format!("copy {}", installation.join(part).display())))?;
    }
    own(home).map_err(SandboxError::io(format!("hand over {}", home.display())))?;
    Ok(copy.join("bin"))
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// Hands a file or folder to the user that the server runs as.
fn own(path: &Path) -> std::io::Result<()> {
    if geteuid().is_root() { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) }
}

/// Creates the files of a server.
fn create(mut initdb: Command) -> Result<(), SandboxError> {
    let output = initdb.output().map_err(SandboxError::io("start initdb"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    Err(SandboxError::EndedEarly { name: "initdb", status: output.status.to_string(), log })
}

/// Whether the file says that the process with this id accepts connections. A killed server leaves its file.
fn is_ready(state: &Path, id: &str) -> bool {
    let Ok(text) = fs::read_to_string(state) else { return false };
    let lines: Vec<&str> = text.lines().collect();
    // Source: `miscadmin.h` of PostgreSQL, "LOCK_FILE_LINE_PM_STATUS".
    lines.first() == Some(&id) && lines.get(7).is_some_and(|state| state.trim() == "ready")
}
