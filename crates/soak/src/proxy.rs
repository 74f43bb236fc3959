//! A TCP proxy that breaks the connections that go through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Pause after each chunk of a throttled connection.
const THROTTLE_PAUSE: Duration = Duration::from_millis(40);
/// Bytes of a chunk, and of a throttled one.
const FULL_CHUNK: usize = 64 * 1024;
const THROTTLED_CHUNK: usize = 512;

/// What a proxy does with the bytes of its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Forwards them.
    Pass,
    /// Discards them and keeps the connections open.
    BlackHole,
    /// Forwards them slowly.
    Throttle,
}

/// How connections are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Both directions are closed.
    Cut,
    /// The direction from client to server is closed; the other one stays open.
    HalfClose,
    /// Half of the next chunk is forwarded, then both directions are closed.
    Truncate,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    mode: watch::Sender<Mode>,
    breaks: watch::Sender<(u64, Break)>,
}

impl Proxy {
    /// Listens on a free loopback port and forwards to `target`.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, breaks) = (watch::Sender::new(Mode::Pass), watch::Sender::new((0, Break::Cut)));
        let state = Arc::new(State { target, mode, breaks });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, accepting })
    }

    /// The address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the mode of all connections, existing and new ones.
    pub fn set(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// Breaks all existing connections.
    pub fn break_all(&self, how: Break) {
        self.state.breaks.send_modify(|(count, last)| (*count, *last) = (*count + 1, how));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            // If the server is down, the client's connection is closed.
            if let Ok(server) = TcpStream::connect(state.target).await {
                // Do not delay small messages.
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                forward(client, server, &state).await;
            }
        });
    }
}

async fn forward(client: TcpStream, server: TcpStream, state: &State) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = Direction {
        from: from_client,
        to: to_server,
        is_up: true,
        mode: state.mode.subscribe(),
        breaks: state.breaks.subscribe(),
    };
    let down = Direction {
        from: from_server,
        to: to_client,
        is_up: false,
        mode: state.mode.subscribe(),
        breaks: state.breaks.subscribe(),
    };
    // When one direction ends, so does the other, except after a half-close.
    let (up, down) = (up.forward(), down.forward());
    tokio::pin!(up, down);
    tokio::select! {
        half_closed = &mut up => if half_closed { down.await; },
        _ = &mut down => {}
    }
}

struct Direction {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    is_up: bool,
    mode: watch::Receiver<Mode>,
    breaks: watch::Receiver<(u64, Break)>,
}

impl Direction {
    /// Forwards until the connection ends; `true` if the other direction stays open.
    async fn forward(mut self) -> bool {
        let mut chunk = vec![0; FULL_CHUNK];
        let (mut truncate, mut has_gap) = (false, false);
        self.breaks.mark_unchanged();
        loop {
            let size = if *self.mode.borrow() == Mode::Throttle { THROTTLED_CHUNK } else { FULL_CHUNK };
            let read = tokio::select! {
                broken = self.breaks.changed() => {
                    let how = self.breaks.borrow_and_update().1;
                    match (broken, how, self.is_up) {
                        (Ok(()), Break::Truncate, _) => truncate = true,
                        (Ok(()), Break::HalfClose, true) => {
                            let _ = self.to.shutdown().await;
                            return true;
                        }
                        (Ok(()), Break::HalfClose, false) => {}
                        _ => return false,
                    }
                    continue;
                }
                read = self.from.read(&mut chunk[..size]) => read,
            };
            let Ok(count @ 1..) = read else { return false };
            if truncate {
                let _ = self.to.write_all(&chunk[..count / 2]).await;
                return false;
            }
            let mode = *self.mode.borrow();
            match mode {
                Mode::BlackHole => {
                    has_gap = true;
                    continue;
                }
                // Bytes are missing before these.
                _ if has_gap => return false,
                Mode::Throttle => tokio::time::sleep(THROTTLE_PAUSE).await,
                Mode::Pass => {}
            }
            if self.to.write_all(&chunk[..count]).await.is_err() {
                return false;
            }
        }
    }
}
