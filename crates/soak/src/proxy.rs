//! A TCP proxy that breaks the connections that go through it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Pause after each chunk of a throttled connection.
const THROTTLE_PAUSE: Duration = Duration::from_millis(40);
/// Bytes of a chunk: small ones where they are to be slow.
const FULL_CHUNK: usize = 64 * 1024;
const SLOW_CHUNK: usize = 512;

/// What happens to the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// They are swallowed while the connection stays open; new connections are accepted and lead nowhere.
    BlackHole,
    /// They pass slowly.
    Throttle,
}

/// What happens to connections once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Both sides are closed.
    Cut,
    /// The way from client to server is closed, the other one stays.
    HalfClose,
    /// Half of the next chunk passes, then both sides are closed.
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
    target: Mutex<SocketAddr>,
    mode: watch::Sender<Mode>,
    breaks: watch::Sender<(u64, Break)>,
}

impl Proxy {
    /// Listens on a free loopback port and leads to `target`.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (mode, breaks) = (watch::Sender::new(Mode::Pass), watch::Sender::new((0, Break::Cut)));
        let state = Arc::new(State { target: Mutex::new(target), mode, breaks });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self { address, state, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections elsewhere.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Changes what happens to the bytes of all connections, old and new.
    pub fn set(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// Breaks all connections that there are.
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
            // Out of descriptors for a moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let target = *state.target.lock().unwrap_or_else(PoisonError::into_inner);
            // A server that is away shows as a connection that closes at once.
            if let Ok(server) = TcpStream::connect(target).await {
                // Small messages must not wait for company.
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                carry(client, server, &state).await;
            }
        });
    }
}

async fn carry(client: TcpStream, server: TcpStream, state: &State) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let up = Way {
        from: from_client,
        to: to_server,
        is_up: true,
        mode: state.mode.subscribe(),
        breaks: state.breaks.subscribe(),
    };
    let down = Way {
        from: from_server,
        to: to_client,
        is_up: false,
        mode: state.mode.subscribe(),
        breaks: state.breaks.subscribe(),
    };
    // The first way that ends in a cut takes the other with it; one that was half-closed lets it go on.
    let (up, down) = (up.carry(), down.carry());
    tokio::pin!(up, down);
    tokio::select! {
        half = &mut up => if half { down.await; },
        _ = &mut down => {}
    }
}

struct Way {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    is_up: bool,
    mode: watch::Receiver<Mode>,
    breaks: watch::Receiver<(u64, Break)>,
}

impl Way {
    /// True if the other way is to go on.
    async fn carry(mut self) -> bool {
        let mut chunk = vec![0; FULL_CHUNK];
        let (mut truncate, mut swallowed) = (false, false);
        self.breaks.mark_unchanged();
        loop {
            let size = if *self.mode.borrow() == Mode::Throttle { SLOW_CHUNK } else { FULL_CHUNK };
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
                    swallowed = true;
                    continue;
                }
                // What would come now does not follow on what has passed.
                _ if swallowed => return false,
                Mode::Throttle => tokio::time::sleep(THROTTLE_PAUSE).await,
                Mode::Pass => {}
            }
            if self.to.write_all(&chunk[..count]).await.is_err() {
                return false;
            }
        }
    }
}
