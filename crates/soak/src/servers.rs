//! The NATS servers of a run: one, or a cluster of three, each behind a proxy.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use async_nats::jetstream;
use sandbox::{NatsCluster, NatsOptions, NatsServer, SandboxError};

use crate::proxy::Proxy;
use crate::retry::retry;
use crate::routes::Routes;
use crate::streams;

/// Attempts to start a cluster: another program may take a port between its choice and its use.
const START_ATTEMPTS: u32 = 4;
/// Prefix of the client names of workers.
const WORKER_NAMES: &str = "groundling worker";
/// In lame duck mode, a server closes connections only after this minute: a worker that leaves sooner has left on its own.
const LAME_DUCK: &str = "lame_duck_grace_period: \"60s\"\nlame_duck_duration: \"90s\"\n";
/// How long workers may take to leave such a server. They leave between two pull requests, which last 3 s at most.
const LEAVE_LIMIT: Duration = Duration::from_secs(40);
/// How long a server may take to bring its replicas up to date.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a server may take to reload its configuration. It usually takes milliseconds.
const RELOAD_LIMIT: Duration = Duration::from_secs(5);

/// The servers, and the proxies in front of them in the same order.
#[derive(Debug)]
pub struct Servers {
    nodes: Vec<NatsServer>,
    /// One for each server. Workers and the submitter connect to them.
    pub proxies: Vec<Proxy>,
    /// The proxies between the servers of a cluster.
    pub routes: Option<Routes>,
}

impl Servers {
    /// Starts one server or a cluster, with logs in the directory `logs`. Every message is synced to the disk before it is
    /// acknowledged.
    ///
    /// # Errors
    /// If a server does not start.
    pub async fn start(size: usize, logs: &Path) -> anyhow::Result<Self> {
        let extra_config = format!("{LAME_DUCK}{}", account(None));
        let log = Some(std::path::absolute(logs)?.join("nats-server.log"));
        let options = NatsOptions { sync_always: true, log, extra_config, ..NatsOptions::default() };
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

    /// The number of servers.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The addresses of the proxies, separated by commas.
    pub fn proxied_url(&self) -> String {
        let urls: Vec<String> = self.proxies.iter().map(|proxy| format!("nats://{}", proxy.address())).collect();
        urls.join(",")
    }

    /// A connection that bypasses the proxies.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn direct(&self) -> anyhow::Result<jetstream::Context> {
        let servers: Vec<async_nats::ServerAddr> =
            self.nodes.iter().filter_map(|node| node.client_url().parse().ok()).collect();
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(servers).await?;
        Ok(jetstream::ContextBuilder::new().timeout(Duration::from_secs(10)).build(client))
    }

    /// The index of the server that leads a stream; 0 if there is one server, or no leader.
    pub async fn leader(&self, jetstream: &jetstream::Context, stream: &str) -> usize {
        let leader = match jetstream.get_stream(stream).await {
            Ok(stream) => stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone()),
            Err(_) => None,
        };
        leader.and_then(|name| name.strip_prefix('n')?.parse().ok()).filter(|node| *node < self.size()).unwrap_or(0)
    }

    /// Kills a server (SIGKILL) and starts it again after `down`, with its files.
    ///
    /// # Errors
    /// If it does not start again.
    pub async fn crash(&mut self, node: usize, down: Duration) -> anyhow::Result<()> {
        let server = self.nodes.get_mut(node).context("no such server")?;
        server.kill();
        tokio::time::sleep(down).await;
        server.restart().await?;
        Ok(())
    }

    /// Stops a server (SIGTERM) and starts it again with its files.
    ///
    /// # Errors
    /// If it does not start again.
    pub async fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        self.nodes.get_mut(node).context("no such server")?.restart().await?;
        Ok(())
    }

    /// Sets or removes the storage limit of the account, in bytes, by reloading the configuration of each server. A server
    /// that is down has the limit when it starts.
    ///
    /// # Errors
    /// If a server does not reload. The other servers have reloaded then.
    pub async fn limit_storage(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        let mut result = Ok(());
        for node in &self.nodes {
            let mut options = node.options().clone();
            options.extra_config = options.extra_config.replace(&account(None), &account(bytes));
            let reload = retry("the reload of a server's configuration", async || reload(node, &options).await);
            result = result.and(reload.await);
        }
        result
    }

    /// One step of a rolling restart: puts a server into lame duck mode, waits until the workers have left it, restarts it,
    /// and waits until its replicas are up to date. Returns whether the workers had left.
    ///
    /// # Errors
    /// If the server does not start again, or does not catch up with the others.
    pub async fn roll(&mut self, node: usize, jetstream: &jetstream::Context) -> anyhow::Result<bool> {
        let alone = self.size() == 1;
        let server = self.nodes.get_mut(node).context("no such server")?;
        server.lame_duck();
        let announced = Instant::now();
        let has_workers = async |server: &NatsServer| {
            let names = server.client_names().await.unwrap_or_default();
            names.iter().any(|name| name.starts_with(WORKER_NAMES))
        };
        // Without another server they stay.
        while !alone && has_workers(server).await && announced.elapsed() < LEAVE_LIMIT {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let left = !has_workers(server).await;
        server.restart().await?;
        let started = Instant::now();
        while !(self.nodes[node].is_healthy().await && is_current(jetstream).await) {
            if started.elapsed() > CATCH_UP_LIMIT {
                bail!("the server n{node} did not catch up with the others within {CATCH_UP_LIMIT:?}");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(left)
    }
}

/// Configuration of the account of all clients, with its storage limit in bytes.
fn account(max_bytes: Option<u64>) -> String {
    let jetstream = max_bytes.map_or_else(|| "enabled".to_owned(), |bytes| format!("{{ max_file: {bytes} }}"));
    let users = "[ { user: soak, password: soak } ]";
    format!("accounts {{\n  SOAK {{\n    jetstream: {jetstream}\n    users: {users}\n  }}\n}}\nno_auth_user: soak\n")
}

/// Reloads a server with other options, and waits until it has loaded them.
async fn reload(node: &NatsServer, options: &NatsOptions) -> anyhow::Result<()> {
    let before = node.config_load_time().await;
    node.reload(options)?;
    let started = Instant::now();
    while node.process_id().is_some() && matches!(node.config_load_time().await, now if now.is_none() || now == before)
    {
        if started.elapsed() > RELOAD_LIMIT {
            bail!("{} has not reloaded its configuration within {RELOAD_LIMIT:?}", node.client_url());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Whether every stream has a leader, and all replicas are up to date.
async fn is_current(jetstream: &jetstream::Context) -> bool {
    for name in streams::ALL {
        let Ok(stream) = jetstream.get_stream(name).await else { return false };
        let Some(cluster) = &stream.cached_info().cluster else { continue };
        if cluster.leader.is_none() && cluster.name.is_some() || cluster.replicas.iter().any(|replica| !replica.current)
        {
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
    url.strip_prefix("nats://")
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| anyhow!("{url} is not an address"))
}
