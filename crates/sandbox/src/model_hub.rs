//! A server that speaks the file routes of the Hugging Face hub, with the faults that tests need.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};

use crate::error::SandboxError;

/// Largest head of a request.
const MAX_HEAD: usize = 64 << 10;

/// A hub on 127.0.0.1 with one repository, and a second host for its large files. It stops when this value is dropped.
#[derive(Debug)]
pub struct ModelHub {
    endpoint: String,
    state: Arc<Mutex<HubState>>,
    stalled: Arc<Notify>,
    servers: [JoinHandle<()>; 2],
}

/// What the hub has, and how it answers.
#[derive(Debug, Clone, Default)]
pub struct HubState {
    /// `owner/name`.
    pub repository: String,
    /// An earlier name, which is redirected.
    pub renamed_from: Option<String>,
    /// The commits of branches and tags. Full commits are revisions, too.
    pub revisions: BTreeMap<String, String>,
    /// The files of every commit, by path.
    pub files: BTreeMap<String, HubFile>,
    /// Requests to the hub need this token.
    pub token: Option<String>,
    /// Whether the repository is gated.
    pub is_gated: bool,
    /// The status of all answers of the hub.
    pub status: Option<u16>,
    /// Whether listings lack sizes and digests, as without `blobs=true`.
    pub lists_names_only: bool,
    /// Whether ranges are ignored.
    pub ignores_ranges: bool,
    /// The bytes of a body after which its connection ends. Each entry is for one answer, in this order.
    pub cut_after: Vec<usize>,
    /// The bytes of a body after which nothing is sent any more.
    pub stall_after: Option<usize>,
    /// All requests so far.
    pub requests: Vec<HubRequest>,
}

/// A file of the repository.
#[derive(Debug, Clone)]
pub struct HubFile {
    /// What is sent.
    pub bytes: Vec<u8>,
    /// Whether it is on the host for large files.
    pub is_large: bool,
    /// What the hub states: the SHA-256 of a large file, otherwise git's id.
    pub digest: String,
}

/// A request to one of the hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRequest {
    /// Whether it came to the hub itself, and not to the host for large files.
    pub is_hub: bool,
    /// Method, such as `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header `Authorization`.
    pub authorization: Option<String>,
    /// Header `Range`.
    pub range: Option<String>,
}

impl HubFile {
    /// A file with its right digest.
    pub fn new(bytes: Vec<u8>, is_large: bool) -> Self {
        let digest = match is_large {
            true => hex::encode(Sha256::digest(&bytes)),
            false => {
                let blob = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(&bytes);
                hex::encode(blob.finalize())
            }
        };
        Self { bytes, is_large, digest }
    }
}

impl ModelHub {
    /// Serves the files of a directory as the commit `commit` of the branch `main`. Weights are large files.
    ///
    /// # Errors
    /// If a file cannot be read, or no port is free.
    pub async fn start(repository: &str, dir: &Path, commit: &str) -> Result<Self, SandboxError> {
        let read = || {
            let mut files = BTreeMap::new();
            for entry in std::fs::read_dir(dir)? {
                let path = entry?.path();
                let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|_| path.is_file()) else {
                    continue;
                };
                files.insert(name.to_owned(), HubFile::new(std::fs::read(&path)?, name.ends_with(".safetensors")));
            }
            Ok::<_, std::io::Error>(files)
        };
        let files = read().map_err(SandboxError::io(format!("read {}", dir.display())))?;
        let revisions = BTreeMap::from([("main".to_owned(), commit.to_owned())]);
        let state = HubState { repository: repository.to_owned(), revisions, files, ..HubState::default() };
        let state = Arc::new(Mutex::new(state));
        let bind = || TcpListener::bind(("127.0.0.1", 0));
        let hub = bind().await.map_err(SandboxError::io("bind a port for the hub"))?;
        let storage = bind().await.map_err(SandboxError::io("bind a port for the hub's files"))?;
        let port = |listener: &TcpListener| listener.local_addr().map_err(SandboxError::io("get a port of the hub"));
        let endpoint = format!("http://{}", port(&hub)?);
        let large = format!("http://{}", port(&storage)?);
        let stalled = Arc::new(Notify::new());
        let host =
            |is_hub| Host { is_hub, large: large.clone(), state: Arc::clone(&state), stalled: Arc::clone(&stalled) };
        let servers = [tokio::spawn(serve(hub, host(true))), tokio::spawn(serve(storage, host(false)))];
        Ok(Self { endpoint, state, stalled, servers })
    }

    /// The address of the hub: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its state, which can be changed.
    pub fn state(&self) -> MutexGuard<'_, HubState> {
        locked(&self.state)
    }

    /// Takes the requests so far.
    pub fn take_requests(&self) -> Vec<HubRequest> {
        std::mem::take(&mut self.state().requests)
    }

    /// Waits until an answer has stalled.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }
}

impl Drop for ModelHub {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

fn locked(state: &Mutex<HubState>) -> MutexGuard<'_, HubState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the two hosts.
#[derive(Clone)]
struct Host {
    is_hub: bool,
    /// The address of the host for large files.
    large: String,
    state: Arc<Mutex<HubState>>,
    stalled: Arc<Notify>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// Whether the body is that of a file, to which faults apply.
    is_file: bool,
}

impl Answer {
    fn error(status: u16, code: &str) -> Self {
        Self { status, headers: vec![("X-Error-Code", code.to_owned())], body: code.into(), is_file: false }
    }
}

async fn serve(listener: TcpListener, host: Host) {
    // Dropped, and so closed, with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => drop(connections.spawn(answer(socket, host.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "the hub failed to accept a connection");
                    tokio::time::sleep(crate::process::POLL).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one request and closes the connection.
async fn answer(mut socket: TcpStream, host: Host) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) if head.len() < MAX_HEAD => head.push(byte),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let Some(request) = HubRequest::parse(&head, host.is_hub) else { return };
    let (answer, cut, stall) = {
        let mut state = locked(&host.state);
        state.requests.push(request.clone());
        let answer = if host.is_hub { state.of_hub(&request, &host.large) } else { state.of_storage(&request) };
        let is_body = answer.is_file && request.method == "GET";
        let cut = if is_body && !state.cut_after.is_empty() { Some(state.cut_after.remove(0)) } else { None };
        (answer, cut, state.stall_after.filter(|_| is_body))
    };
    let mut text =
        format!("HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    answer.headers.iter().for_each(|(name, value)| text += &format!("{name}: {value}\r\n"));
    text += "\r\n";
    let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
    let sent = &body[..cut.or(stall).map_or(body.len(), |limit| limit.min(body.len()))];
    // A client that closes the connection has what it wanted.
    let is_sent = socket.write_all(text.as_bytes()).await.is_ok() && socket.write_all(sent).await.is_ok();
    let _ = socket.flush().await;
    if is_sent && stall.is_some() && cut.is_none() && sent.len() < body.len() {
        host.stalled.notify_one();
        // Until the client closes the connection.
        let _ = socket.read_u8().await;
    }
}

impl HubRequest {
    fn parse(head: &str, is_hub: bool) -> Option<Self> {
        let (line, headers) = head.split_once("\r\n")?;
        let mut parts = line.split(' ');
        let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let header = |wanted: &str| {
            let mut lines = headers.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.trim().to_owned())
        };
        Some(Self { is_hub, method, path, authorization: header("authorization"), range: header("range") })
    }
}

impl HubState {
    fn of_hub(&self, request: &HubRequest, large: &str) -> Answer {
        if let Some(status) = self.status {
            return Answer::error(status, "");
        }
        if let Some(old) = self.renamed_from.as_ref().filter(|old| request.path.contains(&format!("/{old}/"))) {
            let location = request.path.replacen(old, &self.repository, 1);
            return Answer { status: 307, headers: vec![("Location", location)], body: Vec::new(), is_file: false };
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let listed = path.strip_prefix("/api/models/").and_then(|rest| rest.split_once("/revision/"));
        let file = path.strip_prefix('/').and_then(|rest| rest.split_once("/resolve/"));
        let Some((repository, rest)) = listed.or(file) else { return Answer::error(404, "") };
        let wanted = self.token.as_ref().map(|token| format!("Bearer {token}"));
        if wanted.is_some() && request.authorization.is_some() && request.authorization != wanted {
            return Answer::error(401, "");
        }
        if repository != self.repository || (wanted.is_some() && request.authorization.is_none()) {
            return Answer::error(401, "RepoNotFound");
        }
        if self.is_gated {
            return Answer::error(403, "GatedRepo");
        }
        let (revision, file) = match listed {
            Some(_) => (rest.replace("%2F", "/"), None),
            None => rest
                .split_once('/')
                .map_or((rest.to_owned(), None), |(revision, file)| (revision.to_owned(), Some(file))),
        };
        let is_commit = self.revisions.values().any(|commit| *commit == revision);
        let commit = self.revisions.get(&revision).cloned().or(is_commit.then_some(revision));
        let Some(commit) = commit else { return Answer::error(404, "RevisionNotFound") };
        let Some(file) = file else { return self.listing(&commit) };
        let Some(found) = self.files.get(file) else { return Answer::error(404, "EntryNotFound") };
        let mut headers = vec![("X-Repo-Commit", commit)];
        if found.is_large {
            headers.push(("X-Linked-Etag", format!("\"{}\"", found.digest)));
            headers.push(("X-Linked-Size", found.bytes.len().to_string()));
            headers.push(("Location", format!("{large}/{}?signature=secret", found.digest)));
            return Answer { status: 302, headers, body: Vec::new(), is_file: false };
        }
        headers.push(("ETag", format!("\"{}\"", found.digest)));
        self.contents(found, request, headers)
    }

    fn of_storage(&self, request: &HubRequest) -> Answer {
        let digest = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        match self.files.values().find(|file| file.is_large && file.digest == digest) {
            Some(file) => self.contents(file, request, Vec::new()),
            None => Answer::error(404, ""),
        }
    }

    fn contents(&self, file: &HubFile, request: &HubRequest, mut headers: Vec<(&'static str, String)>) -> Answer {
        let start =
            request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start: usize = start.filter(|_| !self.ignores_ranges).unwrap_or(0);
        let Some(body) = file.bytes.get(start..) else { return Answer::error(416, "") };
        if start > 0 {
            headers.push(("Content-Range", format!("bytes {start}-{}/{}", file.bytes.len() - 1, file.bytes.len())));
        }
        Answer { status: if start > 0 { 206 } else { 200 }, headers, body: body.to_vec(), is_file: true }
    }

    fn listing(&self, commit: &str) -> Answer {
        let sibling = |(path, file): (&String, &HubFile)| match (self.lists_names_only, file.is_large) {
            (true, _) => serde_json::json!({"rfilename": path}),
            (false, true) => serde_json::json!({
                "rfilename": path, "size": file.bytes.len(), "blobId": "0".repeat(40),
                "lfs": {"sha256": file.digest, "size": file.bytes.len(), "pointerSize": 134},
            }),
            (false, false) => serde_json::json!({"rfilename": path, "size": file.bytes.len(), "blobId": file.digest}),
        };
        let siblings: Vec<_> = self.files.iter().map(sibling).collect();
        let body = serde_json::json!({"id": self.repository, "sha": commit, "siblings": siblings});
        let headers = vec![("Content-Type", "application/json".to_owned())];
        Answer { status: 200, headers, body: body.to_string().into_bytes(), is_file: false }
    }
}
