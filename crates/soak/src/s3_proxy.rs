//! A proxy in front of the S3 store with faults that depend on the object's key.
//!
//! Requests for `flaky-<fault>-<times>/…` have the fault that many times and succeed afterwards, those for
//! `poisoned-<fault>/…` always have it, and those for `down/…` are always answered with 503. Everything else is forwarded
//! unchanged, so that signatures stay valid.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Longer than the workers' `s3.read_timeout`.
const SLOW: Duration = Duration::from_secs(3);
/// Delays before and within each response of a slow store: shorter than that timeout.
const SLOW_STORE: Duration = Duration::from_millis(1400);
/// Delay after each byte of a dripping response: a picture takes half a minute.
const DRIP: Duration = Duration::from_millis(100);

/// A fault of one response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum S3Fault {
    /// Status 503.
    Unavailable,
    /// A long delay before the response.
    Slow,
    /// Half of the body, then the connection is closed.
    Truncated,
    /// Half of the body, with a matching Content-Length.
    WrongLength,
    /// Another ETag.
    ChangedEtag,
    /// Status 403.
    Forbidden,
    /// Status 404.
    NotFound,
    /// No response; the connection stays open.
    Stall,
    /// The head of the response, then nothing.
    StallInBody,
    /// A few bytes per second.
    Drip,
}

impl S3Fault {
    /// Faults of flaky objects, with their names in keys.
    pub const TEMPORARY: [(Self, &str); 7] = [
        (Self::Unavailable, "503"),
        (Self::Slow, "slow"),
        (Self::Truncated, "truncated"),
        (Self::WrongLength, "length"),
        (Self::ChangedEtag, "etag"),
        (Self::Forbidden, "403"),
        (Self::NotFound, "404"),
    ];

    /// Faults of poisoned objects, with their names in keys.
    pub const PERMANENT: [(Self, &str); 4] = [
        (Self::Stall, "stall"),
        (Self::StallInBody, "stall-in-body"),
        (Self::Drip, "drip"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// A running proxy.
#[derive(Debug)]
pub struct S3Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The number of requests for each key.
    counts: Mutex<HashMap<String, u32>>,
    /// The number of [`SlowStore`]s.
    slow: AtomicUsize,
}

/// Makes the store slow until it is dropped.
#[derive(Debug)]
pub struct SlowStore(Arc<State>);

impl Drop for SlowStore {
    fn drop(&mut self) {
        self.0.slow.fetch_sub(1, Ordering::Relaxed);
    }
}

impl S3Proxy {
    /// Listens on a free loopback port and forwards to the store at `target`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, state) = (listener.local_addr()?, Arc::new(State::default()));
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(serve(client, target, Arc::clone(&shared)))),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Ok(Self { address, state, accepting })
    }

    /// The address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Delays every response by a few seconds, so that jobs stay active for longer. No request fails because of it.
    pub fn slow(&self) -> SlowStore {
        self.state.slow.fetch_add(1, Ordering::Relaxed);
        SlowStore(Arc::clone(&self.state))
    }

    /// The number of requests that had a fault so far.
    pub fn injected(&self) -> u64 {
        let counts = self.state.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(key, count)| u64::from((*count).min(fault_of(key).map_or(0, |(_, times)| times)))).sum()
    }
}

impl Drop for S3Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The fault of a key, and the number of requests that have it.
pub fn fault_of(key: &str) -> Option<(S3Fault, u32)> {
    let folder = key.split('/').next()?;
    if folder == "down" {
        return Some((S3Fault::Unavailable, u32::MAX));
    }
    if let Some(name) = folder.strip_prefix("poisoned-") {
        let (fault, _) = S3Fault::PERMANENT.into_iter().find(|(_, known)| *known == name)?;
        return Some((fault, u32::MAX));
    }
    let (name, times) = folder.strip_prefix("flaky-")?.split_once('-')?;
    let (fault, _) = S3Fault::TEMPORARY.into_iter().find(|(_, known)| *known == name)?;
    Some((fault, times.parse().ok()?))
}

impl State {
    /// The fault of the next request for a key.
    fn next(&self, key: &str) -> Option<S3Fault> {
        let (fault, times) = fault_of(key)?;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        (*count <= times).then_some(fault)
    }
}

async fn serve(client: TcpStream, target: SocketAddr, state: Arc<State>) {
    // An error closes the connection.
    let _ = exchange(client, target, &state).await;
}

/// Forwards requests one after the other. They have no body, because workers only read.
async fn exchange(client: TcpStream, target: SocketAddr, state: &State) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (mut client, mut server) = (BufReader::new(client), BufReader::new(TcpStream::connect(target).await?));
    loop {
        let request = head(&mut client).await?;
        let fault = key_of(&request).and_then(|key| state.next(key));
        match fault {
            Some(S3Fault::Unavailable) => refuse(&mut client, "503 Service Unavailable", "ServiceUnavailable").await?,
            Some(S3Fault::Forbidden) => refuse(&mut client, "403 Forbidden", "AccessDenied").await?,
            Some(S3Fault::NotFound) => refuse(&mut client, "404 Not Found", "NoSuchKey").await?,
            Some(S3Fault::Stall) => return hold(client).await,
            fault => {
                let pause = (state.slow.load(Ordering::Relaxed) > 0).then_some(SLOW_STORE);
                server.write_all(request.as_bytes()).await?;
                let answer = head(&mut server).await?;
                let length = header(&answer, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                let mut body = vec![0; length];
                server.read_exact(&mut body).await?;
                match fault {
                    Some(S3Fault::StallInBody) => {
                        client.write_all(answer.as_bytes()).await?;
                        return hold(client).await;
                    }
                    Some(S3Fault::Drip) => drip(&mut client, &answer, &body).await?,
                    fault if !respond(&mut client, answer, &body, fault, pause).await? => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// Sends a response; `false` if the connection must be closed.
async fn respond(
    client: &mut BufReader<TcpStream>,
    answer: String,
    body: &[u8],
    fault: Option<S3Fault>,
    pause: Option<Duration>,
) -> std::io::Result<bool> {
    let half = body.get(..body.len() / 2).unwrap_or_default();
    let (answer, body, keep_alive) = match fault {
        Some(S3Fault::Slow) => {
            tokio::time::sleep(SLOW).await;
            (answer, body, true)
        }
        Some(S3Fault::Truncated) => (answer, half, false),
        Some(S3Fault::WrongLength) => (with_header(&answer, "content-length", &half.len().to_string()), half, true),
        Some(S3Fault::ChangedEtag) => {
            (with_header(&answer, "etag", "\"00000000000000000000000000000000\""), body, true)
        }
        _ => (answer, body, true),
    };
    let (first, rest) = body.split_at(body.len() / 2);
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
    }
    client.write_all(answer.as_bytes()).await?;
    client.write_all(first).await?;
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
    }
    client.write_all(rest).await?;
    client.flush().await?;
    Ok(keep_alive)
}

/// Sends nothing more and waits until the client closes the connection.
async fn hold(mut client: BufReader<TcpStream>) -> std::io::Result<()> {
    let mut sent = [0; 1024];
    while client.read(&mut sent).await? > 0 {}
    Ok(())
}

async fn drip(client: &mut BufReader<TcpStream>, answer: &str, body: &[u8]) -> std::io::Result<()> {
    client.write_all(answer.as_bytes()).await?;
    for byte in body {
        client.write_all(&[*byte]).await?;
        tokio::time::sleep(DRIP).await;
    }
    Ok(())
}

async fn refuse(client: &mut BufReader<TcpStream>, status: &str, code: &str) -> std::io::Result<()> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the proxy</Message></Error>");
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n\r\n{body}");
    client.write_all(answer.as_bytes()).await?;
    client.flush().await
}

/// Reads a head, including the empty line at its end.
async fn head(from: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

/// The key of a path-style request: the path after the bucket.
fn key_of(request: &str) -> Option<&str> {
    let path = request.split(' ').nth(1)?.split('?').next()?;
    Some(path.strip_prefix('/')?.split_once('/')?.1)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
}

fn with_header(head: &str, name: &str, value: &str) -> String {
    let line = |line: &str| match line.split_once(": ") {
        Some((n, _)) if n.eq_ignore_ascii_case(name) => format!("{n}: {value}\r\n"),
        _ => format!("{line}\r\n"),
    };
    head.lines().map(line).collect()
}
