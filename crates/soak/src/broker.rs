//! The NATS servers of a run: one, or three as a cluster, each behind a proxy.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream;
use sandbox::{NatsCluster, NatsOptions, NatsServer, SandboxError};

use crate::insist::insist;
use crate::proxy::Proxy;
use crate::routes::Routes;
use crate::streams;

/// Tries to start a cluster: its ports are chosen before they are bound.
const START_ATTEMPTS: u32 = 4;
/// What the names of workers begin with on the server.
const WORKERS: &str = "groundling worker";
/// A server that is about to end begins to close connections only after this minute: who leaves sooner has left by
/// itself.
const LAME_DUCK: &str = "lame_duck_grace_period: \"60s\"\nlame_duck_duration: \"90s\"\n";
/// How long workers have to leave such a server. They leave between two pull requests, each of which lasts 3 s at most.
const LEAVE_LIMIT: Duration = Duration::from_secs(40);
/// How long a server may take until its copies of the streams are as new as the others.
const CURRENT_LIMIT: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);
/// How long a server may take to read its configuration again. It takes some milliseconds.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);

/// The servers and the proxies in front of them, in the same order.
#[derive(Debug)]
pub struct Broker {
    nodes: Vec<NatsServer>,
    /// One for each server: all that workers and the submitter know.
    pub proxies: Vec<Proxy>,
    /// Those between the servers of a cluster.
    pub routes: Option<Routes>,
}

impl Broker {
    /// Starts one server or a cluster of them; every message is written through before it is acknowledged.
    ///
    /// # Errors
    /// When a server does not start.
    pub async fn start(size: usize) -> anyhow::Result<Self> {
        let extra_config = format!("{LAME_DUCK}{}", account(None));
        let options = NatsOptions { sync_always: true, extra_config, ..NatsOptions::default() };
        let (nodes, routes) = match size {
            1 => (vec![NatsServer::start(&options).await?], None),
            size => start_cluster(size, &options).await.map(|(nodes, routes)| (nodes, Some(routes)))?,
        };
        let mut proxies = Vec::new();
        for node in &nodes {
            proxies.push(Proxy::start(address(node)?).await?);
        }
        Ok(Self { nodes, proxies, routes })
    }

    /// Number of servers.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The address that goes by way of the proxies.
    pub fn proxied_url(&self) -> String {
        let urls: Vec<String> = self.proxies.iter().map(|proxy| format!("nats://{}", proxy.address())).collect();
        urls.join(",")
    }

    /// A connection past the proxies, for the oracle.
    ///
    /// # Errors
    /// When no server answers.
    pub async fn direct(&self) -> anyhow::Result<jetstream::Context> {
        let servers: Vec<async_nats::ServerAddr> =
            self.nodes.iter().filter_map(|node| node.client_url().parse().ok()).collect();
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(servers).await?;
        Ok(jetstream::ContextBuilder::new().timeout(Duration::from_secs(10)).build(client))
    }

    /// Which server leads a stream; the only one where there is one.
    pub async fn leader(&self, jetstream: &jetstream::Context, stream: &str) -> usize {
        let leader = match jetstream.get_stream(stream).await {
            Ok(stream) => stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
            Err(_) => None,
        };
        leader.and_then(|name| name.strip_prefix('n')?.parse().ok()).filter(|node| *node < self.size()).unwrap_or(0)
    }

    /// SIGKILL to one server; it stays down for `down`, then starts again on its files.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn crash(&mut self, node: usize, down: Duration) -> anyhow::Result<()> {
        let server = self.nodes.get_mut(node).context("no such server")?;
        server.kill();
        tokio::time::sleep(down).await;
        server.restart().await?;
        Ok(())
    }

    /// SIGTERM to one server, and a new start on its files.
    ///
    /// # Errors
    /// When it does not start again.
    pub async fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes.get_mut(node).context("no such server")?.restart().await?;
        Ok(())
    }

    /// Sets the most bytes that the streams of all clients may have together, or lifts that limit: by a reload of each
    /// server's configuration. A server that is down has the limit when it starts.
    ///
    /// # Errors
    /// When a server does not reload. The others have then.
    pub async fn limit_storage(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        let mut result = Ok(());
        for node in &self.nodes {
            let mut options = node.options().clone();
            options.extra_config = options.extra_config.replace(&account(None), &account(bytes));
            let reload = insist("the reload of a server's configuration", async || reload(node, &options).await);
            result = result.and(reload.await);
        }
        result
    }

    /// Tells one server to end by and by, waits until the workers have left it, stops it, starts it again on its files
    /// and waits until its copies of the streams are as new as the others: one step of a rolling restart. Gives whether
    /// the workers had left by themselves.
    ///
    /// # Errors
    /// When it does not start again, or does not come up to the others.
    pub async fn roll(&mut self, node: usize, jetstream: &jetstream::Context) -> anyhow::Result<bool> {
        let alone = self.size() == 1;
        let server = self.nodes.get_mut(node).context("no such server")?;
        server.lame_duck();
        let told = Instant::now();
        let has_workers = async |server: &NatsServer| {
            let names = server.client_names().await.unwrap_or_default();
            names.iter().any(|name| name.starts_with(WORKERS))
        };
        // With nowhere to go to they stay.
        while !alone && has_workers(server).await && told.elapsed() < LEAVE_LIMIT {
            tokio::time::sleep(LOOK).await;
        }
        let left = !has_workers(server).await;
        server.restart().await?;
        let started = Instant::now();
        while !(self.nodes[node].is_healthy().await && is_current(jetstream).await) {
            if started.elapsed() > CURRENT_LIMIT {
                bail!("the server n{node} did not come up to the others within {CURRENT_LIMIT:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(left)
    }
}

/// Configuration of the account that all clients are in, with the most bytes that its streams may have.
fn account(max_bytes: Option<u64>) -> String {
    let jetstream = max_bytes.map_or_else(|| "enabled".to_owned(), |bytes| format!("{{ max_file: {bytes} }}"));
    let users = "[ { user: soak, password: soak } ]";
    format!("accounts {{\n  SOAK {{\n    jetstream: {jetstream}\n    users: {users}\n  }}\n}}\nno_auth_user: soak\n")
}

/// Has a server read other options, and waits until it has.
async fn reload(node: &NatsServer, options: &NatsOptions) -> anyhow::Result<()> {
    let before = node.config_load_time().await;
    node.reload(options)?;
    let started = Instant::now();
    while node.process_id().is_some() && matches!(node.config_load_time().await, now if now.is_none() || now == before)
    {
        if started.elapsed() > RELOAD_LIMIT {
            bail!("{} has not read its configuration again within {RELOAD_LIMIT:?}", node.client_url());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Whether every stream has a leader, and copies as new as the leader's.
async fn is_current(jetstream: &jetstream::Context) -> bool {
    for name in streams::ALL {
        let Ok(stream) = jetstream.get_stream(name).await else { return false };
        let Some(cluster) = &stream.cached_info().cluster else { continue };
        if cluster.leader.is_none() && cluster.name.is_some() || cluster.replicas.iter().any(|copy| !copy.current) {
            return false;
        }
    }
    true
}

async fn start_cluster(size: usize, options: &NatsOptions) -> anyhow::Result<(Vec<NatsServer>, Routes)> {
    let mut attempt = 1;
    loop {
        let ports = sandbox::free_ports(size)?;
        let routes = Routes::start(&ports).await?;
        match NatsCluster::start_routed(routes.nodes(&ports), options).await {
            Ok(cluster) => return Ok((cluster.nodes, routes)),
            Err(SandboxError::EndedEarly { .. }) if attempt < START_ATTEMPTS => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

fn address(node: &NatsServer) -> anyhow::Result<SocketAddr> {
    let url = node.client_url();
    url.strip_prefix("nats://").and_then(|address| address.parse().ok()).ok_or_else(|| anyhow!("{url} is no address"))
}
